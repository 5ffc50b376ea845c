"""A recorder: observes a loop step by step, through hooks on the network and on the optimizer."""

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Optimizer

from litpool.disk import write_text
from litpool.loops.log import Log, Number


class Recorder(Log, Callback):
    """Records each step of a training, and the final weights.

    It is a callback for Lightning, and a log for the other loops.

    Args:
        file: The JSON file to write at the end.
    """

    every = 1

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        self.steps: list[dict[str, Any]] = []
        self.groups: list[dict[str, Any]] = []
        self.loss: Tensor | float = 0.0  # Lightning's, summed over the batches of a step
        self._clear()

    def _clear(self) -> None:
        """Forget the batches of the previous step."""
        self.rows = hashlib.sha256()
        self.tokens = 0
        self.training = True

    def start(self, network: nn.Module, optimizer: Optimizer) -> None:
        self.network = network
        for group in optimizer.param_groups:
            weights = group["params"]
            self.groups.append(
                {
                    "weights": len(weights),
                    "vectors": sum(weight.ndim < 2 for weight in weights),
                    "lr": group.get("initial_lr", group["lr"]),
                    "weight_decay": group["weight_decay"],
                    "betas": group["betas"],
                    "eps": group["eps"],
                }
            )
        network.register_forward_pre_hook(self._before_forward, with_kwargs=True)
        optimizer.register_step_post_hook(self._after_step)
        self.clock = time.perf_counter()

    def _before_forward(
        self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Note the rows of a batch, and whether dropout is on."""
        if not torch.is_grad_enabled():  # an evaluation
            return
        start = time.perf_counter()
        batch = args[0] if args else kwargs
        self.tokens += int(batch["attention_mask"].sum())
        if "index" in batch:
            self.rows.update(batch["index"].cpu().numpy().tobytes())
        self.training = self.training and all(module.training for module in network.modules())
        self.clock += time.perf_counter() - start  # do not count the recorder's own time

    def _after_step(self, optimizer: Optimizer, *_: object) -> None:
        """Note what the optimizer used; the gradients are still there, after clipping."""
        seconds = time.perf_counter() - self.clock
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        self.steps.append(
            {
                "rows": self.rows.hexdigest()[:16],
                "training": self.training,
                "lr": float(optimizer.param_groups[0]["lr"]),
                "clipped_norm": float(torch.nn.utils.get_total_norm(gradients)),
                "tokens": self.tokens,
                "seconds": seconds,
            }
        )
        self._clear()
        self.clock = time.perf_counter()

    def step(self, step: int, loss: Number, window: Number, lr: float, grad_norm: Number) -> None:
        self.steps[-1] |= {"loss": float(window), "grad_norm": float(grad_norm)}

    def finish(self) -> None:
        record = {
            "steps": self.steps,
            "groups": self.groups,
            "sha256": _weights_digest(self.network),
            "peak_memory": _peak_memory(),
        }
        write_text(self.file, json.dumps(record))

    # ---- Lightning's hooks

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.start(pl_module.network, trainer.optimizers[0])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.loss = self.loss + outputs["loss"]
        if self.steps and "loss" not in self.steps[-1]:  # this batch ended a step
            self.step(trainer.global_step, self.loss, self.loss, 0.0, pl_module.grad_norm)
            self.loss = 0.0

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.finish()


def _weights_digest(network: nn.Module) -> str:
    """Return the sha256 of all weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, weight in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _peak_memory() -> int:
    """Return the peak memory in bytes: of the GPU if one is in use, else of this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    import resource  # does not exist on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
