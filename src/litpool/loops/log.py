"""What a loop reports of each step, and the log that draws it in TensorBoard."""

import time
from collections.abc import Mapping

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

Number = Tensor | float


class Log:
    """Gets every step of a training. This one ignores them; a subclass records what it is interested in."""

    every: int = 0  # how many steps apart it wants to see `step`; 0: never

    def start(self, network: nn.Module, optimizer: Optimizer) -> None:
        """Training starts."""

    def batch(self, batch: Mapping[str, Tensor]) -> None:
        """A batch is about to be trained on."""

    def step(self, step: int, loss: Number, window: Number, lr: float, grad_norm: Number) -> None:
        """An optimizer step has been taken.

        Args:
            step: Steps taken so far.
            loss: Of the last batch.
            window: The mean over the step's batches, as scaled for accumulation: what the step reduces.
            lr: The highest learning rate of the next step.
            grad_norm: The norm of the gradient before clipping.
        """

    def finish(self) -> None:
        """Training has ended."""


class Logs(Log):
    """Several logs as one.

    Args:
        logs: Those that are told everything.
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

    def finish(self) -> None:
        for log in self.logs:
            log.finish()


class Curves(Log):
    """Draws loss, learning rate, gradient norm and tokens per second in TensorBoard.

    Args:
        writer: Where to.
        every: How many steps apart.
    """

    def __init__(self, writer: SummaryWriter, every: int) -> None:
        self.writer, self.every = writer, every
        self.tokens: Tensor | int = 0
        self.clock = time.perf_counter()

    def batch(self, batch: Mapping[str, Tensor]) -> None:
        self.tokens = self.tokens + batch["attention_mask"].sum()

    def step(self, step: int, loss: Number, window: Number, lr: float, grad_norm: Number) -> None:
        if step % self.every:
            return
        now = time.perf_counter()
        values = {
            "train/loss": float(loss),
            "train/lr": lr,
            "train/grad_norm": float(grad_norm),
            "train/tokens_per_second": int(self.tokens) / (now - self.clock),
        }
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.tokens, self.clock = 0, now
