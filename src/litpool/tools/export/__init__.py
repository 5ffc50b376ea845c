"""Export a checkpoint for ONNX Runtime, PyTorch, sentence-transformers or transformers."""
