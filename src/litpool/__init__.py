"""litpool: fine-tune Hugging Face text encoders with PyTorch Lightning and the pooling that a task needs.

This file holds only what every room shares and what must be had without a slow import.
"""

import os
from pathlib import Path

__version__ = "0.1.0"

CACHE = Path(os.environ.get("LITPOOL_CACHE", "~/.cache/litpool")).expanduser()
"""Where the embedded corpus and tokenized texts are kept; the environment variable LITPOOL_CACHE moves it."""


class InputError(ValueError):
    """An argument or data that cannot be used.

    The message is one line: the value, what is allowed, how to mend it. The command line prints it and exits with 2.
    """


class JobError(RuntimeError):
    """A job that has failed, such as a training that diverged.

    The message is one line: what happened, and how to mend it. The command line prints it and exits with 1.
    """
