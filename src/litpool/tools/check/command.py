"""The command `check`."""

from litpool.commands import Run
from litpool.tools.check import report


def check(run: Run) -> int:
    """Look at data, tokenizer and encoder before a run: a table of what is well, and of what is not.

    The exit status is 1 where a line is an error.
    """
    return int(report.run_checks(run.model, run.folder))
