"""Progress without a terminal: a line a minute."""

import sys
import time
from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from litpool.loops.log import Log, Number

MINUTE = 60.0


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # standard output may be the predictions


class Pace:
    """How fast one stretch of work goes: training, an evaluation, or a prediction.

    Args:
        clock: Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.first: tuple[float, int] | None = None  # the time and the count at the first call
        self.restart()

    def restart(self) -> None:
        """Start to measure the speed again, such as after an evaluation."""
        self.rows = 0
        self.since = self.clock()

    def describe(self, done: int, total: int) -> str:
        """Return the speed since the restart and the time left, pauses included, if known."""
        now = self.clock()
        text = ""
        if self.rows:
            speed = self.rows / max(now - self.since, 1e-9)
            text += f", {speed:,.{1 if speed < 10 else 0}f} rows/s"
        if self.first is not None and done > self.first[1]:
            began, count = self.first
            left = (now - began) / (done - count) * (total - done)
            text += f", {tqdm.format_interval(left)} left"
        return text

    def note(self, done: int) -> None:
        """Count from here, if this is the first call."""
        if self.first is None:
            self.first = self.clock(), done


class ProgressLines(Log):
    """Prints how far training, an evaluation or a prediction is, when a minute has passed.

    Args:
        steps: Optimizer steps of the whole training run.
        every: The log needs `step` once in so many steps.
        print_line: Prints a line.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        steps: int = 0,
        every: int = 1,
        print_line: Callable[[str], None] = _print,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.steps = steps
        self.every = every
        self.print_line = print_line
        self.clock = clock
        self.last = clock()  # when there was a line
        self.training = Pace(clock)
        self.scoring: Pace | None = None  # of the evaluation under way

    def _is_due(self) -> bool:
        if self.clock() - self.last < MINUTE:
            return False
        self.last = self.clock()
        return True

    def start(self, network: nn.Module, optimizer: Optimizer) -> None:
        self.last = self.clock()
        self.training.restart()

    def batch(self, batch: Mapping[str, Tensor]) -> None:
        if self.scoring is not None:  # an evaluation has ended
            self.scoring = None
            self.training.restart()
        self.training.rows += len(batch["input_ids"])

    def step(self, step: int, loss: Number, window: Number, lr: float, grad_norm: Number) -> None:
        self.training.note(step)
        if not self._is_due():
            return
        pace = self.training.describe(step, self.steps)
        share = step / max(self.steps, 1)
        self.print_line(
            f"training    step {step:,} of {self.steps:,} ({share:.0%}), "
            f"loss {float(loss):.3f}{pace}"  # the loss waits for the device
        )
        self.training.restart()

    def scored(self, name: str, number: int, total: int, rows: int, unit: str = "batch") -> None:
        if self.scoring is None or number == 1:
            self.scoring = Pace(self.clock)  # the time of the first batch is not known
        else:
            self.scoring.rows += rows
        self.scoring.note(number)
        if self._is_due():
            pace = self.scoring.describe(number, total)
            share = number / max(total, 1)
            self.print_line(f"{name:<11} {unit} {number:,} of {total:,} ({share:.0%}){pace}")
