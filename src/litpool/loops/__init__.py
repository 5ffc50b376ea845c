"""The training loops around the one network."""
