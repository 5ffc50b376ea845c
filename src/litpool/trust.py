"""Which classes a config may name. jsonargparse checks each name before it imports anything.

Anyone may have written a checkpoint: it may name this package's poolings and tasks, and a fixed
list of Lightning's classes. YAML and the command line come from the user: they may also name
Lightning's other plugins and the user's own modules, but only classes, never functions.
`--trust MODULE` adds a module to both.
"""

import argparse
import functools
import inspect
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from jsonargparse import Namespace, set_parsing_settings
from jsonargparse import Path as PathType

from litpool import InputError


def _names(*classes: type) -> set[str]:
    """Return the full names of Lightning's classes, such as lightning.pytorch.callbacks.Timer."""
    names = set()
    for kind in classes:
        parts = kind.__module__.split(".")  # a class is also in the packages that hold its module
        packages = [".".join(parts[:length]) for length in range(3, len(parts) + 1)]
        names |= {f"{package}.{kind.__name__}" for package in packages}
    return names


PACKAGE = ("litpool.model", "litpool.tasks")

DENIED = re.compile(r"Importing '([\w.]+)' is not allowed")  # in a message of jsonargparse


@functools.cache  # the import takes seconds, and loading a model in Python needs no Lightning
def lightning_names() -> set[str]:
    """Return what the config of a run may name of Lightning: what only trains, logs and saves.

    DDPStrategy and FSDPStrategy have options for functions, but no function is on any list.
    """
    from lightning.pytorch import callbacks, loggers, strategies
    from lightning.pytorch.plugins import environments

    return _names(
        callbacks.DeviceStatsMonitor,
        callbacks.EarlyStopping,
        callbacks.GradientAccumulationScheduler,
        callbacks.LearningRateMonitor,
        callbacks.ModelCheckpoint,
        callbacks.ModelSummary,
        callbacks.RichModelSummary,
        callbacks.RichProgressBar,
        callbacks.Timer,
        callbacks.TQDMProgressBar,
        loggers.CSVLogger,
        loggers.TensorBoardLogger,
        strategies.DDPStrategy,
        strategies.FSDPStrategy,
        strategies.SingleDeviceStrategy,
        environments.SLURMEnvironment,
    )


PLUGINS = (  # for the user's own YAML
    "lightning.pytorch.accelerators",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.plugins",
    "lightning.pytorch.profilers",
    "lightning.pytorch.strategies",
    "lightning.fabric.plugins",
    "litpool",
)

TAKES_FUNCTIONS = {
    "lightning.pytorch.callbacks.LambdaCallback",
    "lightning.pytorch.callbacks.lambda_function.LambdaCallback",
}

_ever_allowed: set[str] = set()
"""jsonargparse has one policy per process, so a command takes back what earlier ones allowed."""


def allow_in_model(trusted: Sequence[str]) -> None:
    """From now on, allow only the names that a model consists of: poolings, tasks, `trusted`."""
    _allow({*PACKAGE, *trusted})


def allow_in_checkpoint(trusted: list[str]) -> None:
    """From now on, allow only the names that a checkpoint may contain."""
    _allow({*PACKAGE, *lightning_names(), *trusted})


def allow_in_yaml(trusted: list[str]) -> None:
    """From now on, also allow the names that the user's YAML may contain."""
    _allow({*PACKAGE, *lightning_names(), *trusted, *PLUGINS, *_own_modules()})


def _allow(names: set[str]) -> None:
    denied = {"*", *TAKES_FUNCTIONS, *_ever_allowed} - names
    _ever_allowed.update(names)
    set_parsing_settings(
        # A dictionary in a config stays a dictionary, even if it looks like a class to build.
        instantiate_subclass_spec_in_any=False,
        import_path_denylist=sorted(denied),
        import_path_allowlist=sorted(names),
    )


def _own_modules() -> set[str]:
    """Return the user's modules: those outside the standard library and the installed packages.

    A data folder with the name of an installed package does not hide that package.
    """
    standard_library = Path(sysconfig.get_paths()["stdlib"]).resolve()
    modules = set()
    for entry in sys.path:
        folder = Path(entry or ".").resolve()
        installed = {"site-packages", "dist-packages"}.intersection(folder.parts)
        if folder.is_dir() and not installed and not folder.is_relative_to(standard_library):
            names = {path.name.removesuffix(".py") for path in folder.iterdir()}
            modules |= {name for name in names if name.isidentifier() and _is_in(folder, name)}
    return modules - {"jsonargparse", *sys.stdlib_module_names}


def _is_in(folder: Path, module: str) -> bool:
    """Return whether Python would import a module from this folder. Nothing is imported."""
    spec = PathFinder.find_spec(module)
    if spec is None:
        return False
    files = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
    return all(folder in Path(file).resolve().parents for file in files)


def check_classes(config: Any) -> None:
    """Refuse a parsed config that holds anything but plain values and classes.

    Raises:
        InputError: A value is a function, or `class_path` names one.
    """
    for key, value in walk(config):
        owner, _, name = key.rpartition(".")
        if name == "class_path" and not _is_class(value):
            raise InputError(f"{owner}={value}: not a class; name a class instead")
        if callable(value) and not inspect.isclass(value) and not isinstance(value, PathType):
            function = getattr(value, "__qualname__", type(value).__qualname__)
            raise InputError(
                f"{key}={value.__module__}.{function}: a function; name a class instead"
            )


def walk(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value in a config, sections included, each with its key without `init_args`."""
    yield key, config
    if isinstance(config, Namespace | Mapping):
        items = vars(config) if isinstance(config, Namespace) else config
        for name, value in items.items():
            yield from walk(value, key if name == "init_args" else f"{key}.{name}".lstrip("."))
    elif isinstance(config, list | tuple | set):
        for value in config:
            yield from walk(value, key)


def _is_class(name: Any) -> bool:
    """Return whether a name is a class. The parser has imported all that it takes for one."""
    module, _, attribute = str(name).rpartition(".")
    return module not in sys.modules or inspect.isclass(
        getattr(sys.modules[module], attribute, None)
    )


def options(config: Any) -> str:
    """Return ` --trust MODULE` for each module that a checkpoint with this config needs."""
    return "".join(f" --trust {module}" for module in modules(config))


def modules(config: Any) -> list[str]:
    """Return the modules that a user must trust to read a checkpoint with this config.

    This package's own classes may be named without their modules.
    """
    names = set()
    for key, value in walk(config):
        *sections, last = key.split(".")
        # An override of the encoder is a plain value, even if it looks like a class.
        if last == "class_path" and isinstance(value, str) and "overrides" not in sections:
            names.add(value)
    names = {name for name in names if "." in name and not name.startswith(PACKAGE)}
    return sorted({name.rpartition(".")[0] for name in names - lightning_names()})


def refusal(message: str) -> str | None:
    """Return the error for a name that is on no list, such as `os.system`.

    Args:
        message: What jsonargparse says. None is returned if it says something else.
    """
    match = DENIED.search(message)
    if match is None:
        return None
    name = match[1]
    module = name.rpartition(".")[0]
    if name in TAKES_FUNCTIONS:
        return f"{name}: not supported, since it calls any function; write a callback of your own"
    return (
        f"{name}: not allowed here, so it was not imported. A checkpoint may name litpool's "
        "poolings and tasks and some of Lightning's classes; your YAML may also name Lightning's "
        "plugins and your own modules. "
        f'If you trust it, add --trust {module} (in Python, trust=["{module}"])'
    )


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split off `--trust MODULE`, which only the command line may set, never YAML or a checkpoint.

    Returns:
        The other arguments, and the trusted modules.

    Raises:
        InputError: The name of a module is missing or not valid.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--trust", action="append", nargs="?", const="", default=[])
    known, rest = parser.parse_known_args(arguments)
    for module in known.trust:
        if not all(part.isidentifier() for part in module.split(".")):
            raise InputError(f"trust={module}: name a module, such as --trust my_poolings")
        if module.split(".")[0] == "jsonargparse":
            raise InputError(f"trust={module}: it could change this very list; name another module")
    return rest, known.trust
