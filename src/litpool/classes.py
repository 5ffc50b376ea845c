"""The task and the pooling that a config names, built from plain values without Lightning."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from litpool import InputError, model, tasks, trust
from litpool.model.pooling import MeanPooling, Pooling
from litpool.tasks.task import Task

PoolingFactory = Callable[[int, int], Pooling]


def import_classes() -> None:
    """Import all poolings and tasks, so that a config may name them without their modules."""
    for package in (model, tasks):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


def class_name(part: Any) -> str:
    """Return the name, without its module, of the class that a part of a config names."""
    path = part.get("class_path") if isinstance(part, Mapping | Namespace) else part
    return str(path).rpartition(".")[2]


def build_classes(config: Mapping[str, Any], trusted: Sequence[str]) -> tuple[Task, PoolingFactory]:
    """Return the task and the pooling that a checkpoint's config names; its values are checked.

    Raises:
        InputError: The config names anything but a task and a pooling, or gives them wrong values.
    """
    import_classes()
    trust.allow_in_model(trusted)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "task")
    parser.add_argument("--pooling", type=PoolingFactory, default=MeanPooling)
    pooling = config["model"].get("pooling")
    values = {"task": config["task"]} | ({} if pooling is None else {"pooling": pooling})
    try:
        parsed = parser.parse_object(values)
        trust.check_classes(Namespace(task=parsed.task))
        built = parser.instantiate_classes(parsed)
    except (ArgumentError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())
        raise InputError(trust.refusal(reason) or f"bad config ({reason[:300]})") from error
    return built.task, built.pooling
