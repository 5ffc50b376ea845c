"""A log that records every step of a training run, to see whether two loops did the same."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from litpool.loops.log import Log


class Steps(Log, Callback):
    """Records the steps. To Lightning it is a callback."""

    every = 1

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.rows: list[int] = []
        self.loss: Any = 0.0

    def start(self, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.network = network
        optimizer.register_step_post_hook(self._after_step)
        network.register_forward_pre_hook(self._before_forward, with_kwargs=True)

    def _before_forward(self, network: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        batch: Mapping[str, Tensor] = args[0] if args else kwargs
        if torch.is_grad_enabled():
            self.rows += batch["index"].tolist()

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        lr = float(optimizer.param_groups[0]["lr"])
        self.steps.append({"rows": self.rows, "lr": lr, "clipped_norm": norm})
        self.rows = []

    def step(self, step: int, loss: Any, window: Any, lr: float, grad_norm: Any) -> None:
        self.steps[-1] |= {"loss": float(window), "grad_norm": float(grad_norm)}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.start(pl_module.network, trainer.optimizers[0])

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.loss = self.loss + outputs["loss"]
        if self.steps and "loss" not in self.steps[-1]:
            self.step(trainer.global_step, 0, self.loss, 0.0, pl_module.grad_norm)
            self.loss = 0.0

    @property
    def record(self) -> dict[str, Any]:
        """The steps, and the sha256 of the last weights (after a test, those of best.ckpt)."""
        digest = hashlib.sha256()
        for name, weight in sorted(self.network.state_dict().items()):
            digest.update(name.encode() + weight.detach().cpu().numpy().tobytes())
        return {"steps": self.steps, "sha256": digest.hexdigest()}


def scores(folder: Path) -> dict[str, float]:
    metrics = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in metrics.items() if name.startswith(("val/", "test/"))}
