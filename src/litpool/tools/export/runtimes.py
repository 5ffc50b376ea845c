"""The modules that write and run each format."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal, assert_never

from litpool import InputError
from litpool.tools.export.golden import Golden

RUNTIMES = ("onnxruntime", "sentence_transformers")
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


def check_installed(folder: Path, error: Exception) -> None:
    """Turn the error of an import into advice, if it is the runtime that is not installed.

    Raises:
        InputError: It is.
    """
    if isinstance(error, ModuleNotFoundError) and error.name in RUNTIMES:
        raise InputError(
            f"{folder}: needs the package {error.name}; install litpool's extra `export`, in a "
            "clone with pip install -c constraints.txt -e '.[export]'"
        ) from error


def check_trust(folder: Path, golden: Golden, trusted: Sequence[str]) -> None:
    """Refuse to load a program of torch.export unless the user trusts it.

    Such a file may hold pickled objects and expressions that torch evaluates, so that whoever wrote
    it can run code. The other formats hold data only.

    Raises:
        InputError: `torch.export` is not among the trusted modules.
    """
    if golden["format"] == "torch" and "torch.export" not in trusted:
        raise InputError(
            f"{folder}: model.pt2 is a program, which can run any code when torch loads it; if you "
            "trust whoever wrote it, add --trust torch.export "
            '(in Python, litpool.load(..., trust=["torch.export"]))'
        )
