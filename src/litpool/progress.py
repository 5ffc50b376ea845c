"""How far long work is: a bar in a terminal, otherwise a line now and then."""

import sys
import time

from tqdm import tqdm

SECONDS = 60  # between two lines


class Progress:
    """Counts rows; what it shows goes to standard error.

    Args:
        total: How many rows there are.
        name: What is done, such as `predicting`.
        bar: Whether to draw a bar. Without, work of a minute and more gets a line each minute.
        silent: Whether to show nothing at all.
    """

    def __init__(self, total: int, name: str, bar: bool, silent: bool = False) -> None:
        self.total = total
        self.name = name
        self.silent = silent
        self.bar = tqdm(total=total, desc=name, unit="row", disable=silent or not bar)
        self.done = 0
        self.start = self.last = time.monotonic()

    def advance(self, rows: int) -> None:
        """Count rows that are done."""
        self.done += rows
        self.bar.update(rows)
        now = time.monotonic()
        if self.silent or not self.bar.disable or now - self.last < SECONDS:
            return
        self.last = now
        speed = self.done / (now - self.start)
        minutes = (self.total - self.done) / speed / 60
        print(
            f"{self.name}: {self.done:,} of {self.total:,} rows, {speed:,.0f} a second, "
            f"{minutes:.0f} minutes left",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        """Finish the bar."""
        self.bar.close()
