"""The command `check`."""

from litpool.commands import Run
from litpool.tools.check import report


def check(run: Run) -> int:
    """Check the data, the tokenizer and the encoder before a run, and print a table with advice.

    The exit status is 1 if the table contains an error.
    """
    return int(report.run_checks(run.model, run.folder))
