"""The weights that a new run starts from: those of a checkpoint, as far as they fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from litpool import InputError, listed, reason
from litpool.classes import class_name
from litpool.loops.checkpoint import network_weights
from litpool.model.network import TextModel
from litpool.model.pooling import Pooling
from litpool.tasks.task import Task


@dataclass(frozen=True)
class Initial:
    """A checkpoint to start from: its encoder, and its pooling and head where they fit.

    Args:
        path: The checkpoint.
        checkpoint: What `load` returned.
    """

    path: str
    checkpoint: Mapping[str, Any]

    @property
    def saved(self) -> dict[str, Any]:
        """The part of the job that a new run takes over: encoder and tokenizer, but no progress."""
        keys = ("encoder", "tokenizer", "new_ids")
        return {key: value for key, value in self.checkpoint["job"].items() if key in keys}

    def describe(self, task: Task, pooling: Pooling, head: nn.Module) -> str:
        """Return a sentence about what is taken over, and what is new.

        Args:
            task: The task, which has learned its labels.
            pooling: The new run's pooling; it may be on the meta device.
            head: Its head; it may be on the meta device.
        """
        kept = "encoder and pooling are kept"
        if not self._fits("pooling", pooling):
            name = type(pooling).__name__
            kept = f"the encoder is kept; the pooling is new: {name}, not {self._pooling()}"
        parts = [f"starting from {self.path}: {kept}"]
        reason = self._new_head(task, head)
        if reason and head.state_dict():
            parts.append(f"the head is new: {reason}")
        elif head.state_dict():
            parts.append(f"the head is kept, with the same {'labels' if task.labels else 'task'}")
        return "; ".join(parts)

    def load_into(self, network: TextModel, task: Task) -> None:
        """Load the weights of encoder, pooling and head; what does not fit stays new.

        Raises:
            InputError: The encoder's weights do not fit.
        """
        parts = ["encoder."]
        if self._fits("pooling", network.pooling):
            parts.append("pooling.")
        if not self._new_head(task, network.head):
            parts.append("head.")
        weights = network_weights(self.checkpoint)
        names = [name for name in network.state_dict() if name.startswith(tuple(parts))]
        if missing := [name for name in names if name not in weights]:
            raise InputError(f"init_from={self.path}: it has no weights {missing[0]}")
        try:
            network.load_state_dict({name: weights[name] for name in names}, strict=False)
        except RuntimeError as error:
            raise InputError(
                f"init_from={self.path}: its weights do not fit this network ({reason(error)})"
            ) from error

    def _fits(self, part: str, module: nn.Module) -> bool:
        """Return whether the checkpoint has exactly the weights of a part, in the same shapes."""
        ours = {f"{part}.{name}": weight.shape for name, weight in module.state_dict().items()}
        theirs = {
            name: weight.shape
            for name, weight in network_weights(self.checkpoint).items()
            if name.startswith(f"{part}.")
        }
        is_same_class = part != "pooling" or type(module).__name__ == self._pooling()
        return is_same_class and ours == theirs

    def _pooling(self) -> str:
        """Return the name of the checkpoint's pooling."""
        return class_name(self.checkpoint["job"]["config"]["model"].get("pooling"))

    def _new_head(self, task: Task, head: nn.Module) -> str:
        """Return why the head cannot be taken over; an empty text if it can."""
        job = self.checkpoint["job"]
        stored = class_name(job["config"]["task"])
        if stored != type(task).__name__:
            return f"the checkpoint's task is {stored}"
        labels = job["task"].get("labels", [])
        if labels != task.labels:
            return f"the labels were {_listed(labels)}, and are {_listed(task.labels)}"
        return "" if self._fits("head", head) else "its weights have other shapes"


def _listed(labels: Any) -> str:
    """Return the first labels; a checkpoint may hold anything in their place."""
    return listed(labels) if isinstance(labels, list) else str(labels)[:80]
