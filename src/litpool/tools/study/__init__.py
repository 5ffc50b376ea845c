"""The tool `study`: which pooling of which layer represents a text best, with its uncertainty."""
