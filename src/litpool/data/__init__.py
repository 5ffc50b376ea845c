"""Rows, tokens, batches: everything that stands before the network."""
