"""Which pooling of which layer represents a text on a task."""
