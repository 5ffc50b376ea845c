"""litpool: fine-tune Hugging Face text encoders with PyTorch Lightning and a choice of poolings.

This file holds what every module may need, and must import fast.

Some libraries take a second or more to import: datasets, matplotlib, scikit-learn, transformers'
models and Trainer. They are imported inside the function that needs them, or under TYPE_CHECKING,
so that `--help` and the error for bad input come fast.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from litpool.predictor import Predictor as Predictor
    from litpool.predictor import load as load

__version__ = "0.2.0"

CACHE = Path(os.environ.get("LITPOOL_CACHE", "~/.cache/litpool")).expanduser()
"""The folder for the embedded corpus and tokenized texts; set LITPOOL_CACHE to move it."""


class InputError(ValueError):
    """The user passed an argument or data that cannot be used.

    The message is one line: the value, what is allowed, and how to fix it. The command line prints
    it and exits with status 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))  # a value in it may contain line ends


class JobError(RuntimeError):
    """A job failed, for example because training diverged.

    The message is one line: what happened, and how to fix it. The command line prints it and exits
    with status 1.
    """


def reason(error: BaseException, length: int = 200) -> str:
    """Return an exception's message on one line; if there is none, the exception's kind."""
    return " ".join(str(error).split())[:length] or type(error).__name__


def listed(values: Sequence[Any], limit: int = 5) -> str:
    """Return the first values, and how many more there are, for a message."""
    more = f" and {len(values) - limit:,} more" if len(values) > limit else ""
    return ", ".join(map(str, values[:limit])) + more


def program() -> str:
    """Return how the command line was started, for messages that show a command."""
    started = {"litpool": "litpool", "__main__": "python -m litpool"}
    return started.get(Path(sys.argv[0]).stem, "python cli.py")


def __getattr__(name: str) -> Any:
    """Import `load` and `Predictor` when they are used, because torch takes seconds."""
    if name in ("load", "Predictor"):
        return getattr(importlib.import_module("litpool.predictor"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
