"""Tell which pooling of which layer represents a text: all of them, frozen, with their uncertainty."""
