"""The network: encoder, pooling, task head."""
