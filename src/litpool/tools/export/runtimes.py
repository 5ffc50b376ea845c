"""The modules that write and run each format."""

from types import ModuleType
from typing import Literal, assert_never

Format = Literal["onnx", "torch", "sentence-transformers", "huggingface"]


def module_of(format: Format) -> ModuleType:
    """Import the module of a format: it has the functions `check`, `write` and `run`."""
    from litpool.tools.export import huggingface, onnx_graph, sentence_transformer, torch_program

    match format:
        case "onnx":
            return onnx_graph
        case "torch":
            return torch_program
        case "sentence-transformers":
            return sentence_transformer
        case "huggingface":
            return huggingface
        case _:
            assert_never(format)
