"""Serve a checkpoint over HTTP: predictions, vectors, OpenAI's embeddings, and a page."""
