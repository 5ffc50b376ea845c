"""Rows, tokens and batches: everything before the network."""
