"""What a loop reports at each step, and the log that draws it as curves."""

import time
from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.optim import Optimizer

Number = Tensor | float


class Log:
    """Receives every step of a training run. This one ignores them; a subclass records some."""

    every: int = 0  # the log needs `step` once in so many steps; 0: never

    def start(self, network: nn.Module, optimizer: Optimizer) -> None:
        """Training starts."""

    def batch(self, batch: Mapping[str, Tensor]) -> None:
        """The loop is about to train on a batch."""

    def step(self, step: int, loss: Number, window: Number, lr: float, grad_norm: Number) -> None:
        """The optimizer has taken a step.

        Args:
            step: How many steps it has taken so far.
            loss: The loss of the last batch.
            window: The mean loss of the step's batches, as scaled for accumulation.
            lr: The highest learning rate of the next step.
            grad_norm: The gradient norm before clipping.
        """

    def scored(self, name: str, number: int, total: int, rows: int) -> None:
        """A batch of an evaluation or a prediction is done.

        Args:
            name: Of what, such as `validation`.
            number: Which batch, counted from 1.
            total: How many batches there are.
            rows: How many rows the batch has.
        """

    def finish(self) -> None:
        """Training has ended."""


class Logs(Log):
    """Several logs as one.

    Args:
        logs: The logs, each of which receives everything.
    """

    def __init__(self, *logs: Log) -> None:
        self.logs = logs
        self.every = min((log.every for log in logs if log.every), default=0)

    def start(self, network: nn.Module, optimizer: Optimizer) -> None:
        for log in self.logs:
            log.start(network, optimizer)

    def batch(self, batch: Mapping[str, Tensor]) -> None:
        for log in self.logs:
            log.batch(batch)

    def step(self, step: int, loss: Number, window: Number, lr: float, grad_norm: Number) -> None:
        for log in self.logs:
            log.step(step, loss, window, lr, grad_norm)

    def scored(self, name: str, number: int, total: int, rows: int) -> None:
        for log in self.logs:
            log.scored(name, number, total, rows)

    def finish(self) -> None:
        for log in self.logs:
            log.finish()


class Curves(Log):
    """Draws loss, learning rate, gradient norm and tokens per second.

    Args:
        write: Draws named values at a step; None to draw nothing.
        every: Steps from one point of a curve to the next.
        devices: How many devices train, each on as many tokens as this one.
    """

    def __init__(
        self,
        write: Callable[[Mapping[str, float], int], None] | None,
        every: int,
        devices: int = 1,
    ) -> None:
        self.write = write
        self.every = every
        self.devices = devices
        self.restart()

    def restart(self) -> None:
        """Start to count tokens and time again, such as at the start of an epoch."""
        self.tokens: Tensor | int = 0
        self.slots = 0  # tokens and padding
        self.last_tokens = 0  # at the last point
        self.clock = self.last_step = time.perf_counter()
        self.paused = False

    def pause(self) -> None:
        """Leave out the time from the last step to the next batch, such as an evaluation's."""
        self.paused = True

    @property
    def padding(self) -> Number:
        """The share of padding in the batches since the restart."""
        return 1 - self.tokens / self.slots

    def batch(self, batch: Mapping[str, Tensor]) -> None:
        if self.paused:
            self.clock += time.perf_counter() - self.last_step
            self.paused = False
        self.tokens += batch["attention_mask"].sum()
        self.slots += batch["attention_mask"].numel()

    def step(self, step: int, loss: Number, window: Number, lr: float, grad_norm: Number) -> None:
        self.draw(step, loss, lr, grad_norm)

    def scored(self, name: str, number: int, total: int, rows: int) -> None:
        self.pause()

    def draw(self, step: int, loss: Number, lr: float, grad_norm: Number) -> None:
        """Draw a point of each curve, if one is due at this step."""
        self.last_step = time.perf_counter()
        if self.write is None or not self.every or step % self.every:
            return
        now = time.perf_counter()
        tokens = int(self.tokens)  # waits for the device, so only here
        values = {
            "train/loss": float(loss),
            "train/lr": lr,
            "train/grad_norm": float(grad_norm),
            "train/tokens_per_second": (tokens - self.last_tokens)
            / (now - self.clock)
            * self.devices,
        }
        self.write(values, step)
        self.last_tokens = tokens
        self.clock = now
