"""What a loop does, step by step, seen from outside: through hooks on the network and on the optimizer."""

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

from litpool.loops.log import Log, Number


class Recorder(Log, Callback):
    """Records each step of a training, and the weights at its end, for `compare`.

    To Lightning it is a callback, to the other loops a log.

    Args:
        file: The JSON file to write at the end.
    """

    every = 1

    def __init__(self, file: str) -> None:
        self.file = file
        self.records: list[dict[str, Any]] = []
        self.groups: list[dict[str, Any]] = []
        self.loss: Tensor | float = (
            0.0  # of the batches since the last step, as Lightning gives them
        )
        self._clear()

    def _clear(self) -> None:
        self.rows, self.tokens, self.training = hashlib.sha256(), 0, True

    def start(self, network: nn.Module, optimizer: Optimizer) -> None:
        """Look on from here; called when training starts."""
        self.network, self.optimizer = network, optimizer
        for group in optimizer.param_groups:
            vectors = sum(weight.ndim < 2 for weight in group["params"])
            settings = {key: group[key] for key in ("weight_decay", "betas", "eps")}
            lr = group.get("initial_lr", group["lr"])
            self.groups.append(
                {"weights": len(group["params"]), "vectors": vectors, "lr": lr, **settings}
            )
        self.handles: list[Any] = [
            network.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            optimizer.register_step_post_hook(self._after_step),
        ]
        self.clock = time.perf_counter()

    def _before_forward(
        self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Note which rows a batch holds, and whether dropout acts on them."""
        if not torch.is_grad_enabled():  # an evaluation
            return
        start = time.perf_counter()
        batch = args[0] if args else kwargs
        self.tokens += int(batch["attention_mask"].sum())
        if "index" in batch:
            self.rows.update(batch["index"].cpu().numpy().tobytes())
        self.training = self.training and all(module.training for module in network.modules())
        self.clock += time.perf_counter() - start  # the time of looking on is not the loop's

    def _after_step(self, optimizer: Optimizer, *_: object) -> None:
        """Note what the optimizer went by. Its gradients are still there, clipped if they were."""
        now = time.perf_counter()
        gradients = [
            w.grad
            for group in optimizer.param_groups
            for w in group["params"]
            if w.grad is not None
        ]
        self.records.append(
            {
                "rows": self.rows.hexdigest()[:16],
                "training": self.training,
                "lr": float(optimizer.param_groups[0]["lr"]),
                "clipped_norm": float(torch.nn.utils.get_total_norm(gradients)),
                "tokens": self.tokens,
                "seconds": now - self.clock,
            }
        )
        self._clear()
        self.clock = time.perf_counter()

    def step(self, step: int, loss: Number, window: Number, lr: float, grad_norm: Number) -> None:
        """Complete the step with its loss and the norm of its gradient."""
        self.records[-1] |= {"loss": float(window), "grad_norm": float(grad_norm)}

    def finish(self) -> None:
        """Write the file; called when training ends."""
        for handle in self.handles:
            handle.remove()
        record = {
            "steps": self.records,
            "groups": self.groups,
            "sha256": weights_digest(self.network),
            "peak_memory": peak_memory(),
        }
        Path(self.file).parent.mkdir(parents=True, exist_ok=True)
        Path(self.file).write_text(json.dumps(record), encoding="utf-8")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning starts."""
        self.start(pl_module.network, trainer.optimizers[0])  # type: ignore[arg-type]

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Lightning has a batch behind it, and with the last one of a window a step."""
        self.loss = self.loss + outputs["loss"]
        if self.records and "loss" not in self.records[-1]:
            self.step(trainer.global_step, self.loss, self.loss, 0.0, pl_module.grad_norm)  # type: ignore[arg-type]
            self.loss = 0.0

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning is done."""
        self.finish()


def weights_digest(network: nn.Module) -> str:
    """The sha256 of all weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, weight in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def peak_memory() -> int:
    """The most memory so far in bytes: of the GPU if there is one in use, else of this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    import resource  # late: not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
