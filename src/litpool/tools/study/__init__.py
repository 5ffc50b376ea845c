"""Find out which pooling of which layer represents your texts best, and how certain that is."""
