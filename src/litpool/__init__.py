"""litpool: fine-tune Hugging Face text encoders with PyTorch Lightning and the pooling that a task needs.

This file holds only what every room shares and what must be had without a slow import.
"""

import os
from pathlib import Path

__version__ = "0.1.0"

CACHE = Path(os.environ.get("LITPOOL_CACHE", "~/.cache/litpool")).expanduser()
"""Where the embedded corpus and tokenized texts are kept; the environment variable LITPOOL_CACHE moves it."""

COMMANDS = {
    "fit": "Train on the train split, keep the best checkpoint, score it on the test split.",
    "fit_hf": "Train as `fit` does, with the Hugging Face Trainer around the same network.",
    "fit_plain": "Train as `fit` does, with a loop written by hand.",
    "compare": "Train with all loops, one after the other: the same job step by step, and what it costs.",
    "study": "Tell which pooling of which layer represents a text: all of them, frozen, with their uncertainty.",
    "check": "Look at data, tokenizer and encoder before a run: a table of what is well, and of what is not.",
    "validate": "Score a checkpoint (or the untrained network) on the validation split.",
    "test": "Score a checkpoint (or the untrained network) on the test split.",
    "predict": "Answer the rows of a file (CSV, TSV, JSON, JSONL, Parquet, TXT) or of standard input.",
}
"""The commands of `python cli.py`, each with the line that its help shows."""


class InputError(ValueError):
    """An argument or data that cannot be used.

    The message is one line: the value, what is allowed, how to mend it. The command line prints it and exits with 2.
    """


class JobError(RuntimeError):
    """A job that has failed, such as a training that diverged.

    The message is one line: what happened, and how to mend it. The command line prints it and exits with 1.
    """
