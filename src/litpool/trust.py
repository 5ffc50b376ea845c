"""Which classes a config may name. jsonargparse checks every name before it imports anything.

A checkpoint may come from anyone: it may name the poolings and tasks of this package, and a fixed list of Lightning's
classes. The command line and the YAML files come from the user: they may also name Lightning's other plugins and the
user's own modules, but only classes, never functions. `--trust MODULE` adds a module to both.
"""

import inspect
import sys
import sysconfig
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from jsonargparse import Namespace, set_parsing_settings
from jsonargparse import Path as PathType
from lightning.pytorch import callbacks, loggers, strategies

from litpool import InputError


def _names(found: type) -> set[str]:
    """The full names under which a class of Lightning is known."""
    kind = ".".join(found.__module__.split(".")[:3])  # such as lightning.pytorch.callbacks
    return {f"{kind}.{found.__name__}", f"{found.__module__}.{found.__name__}"}


PACKAGE = ("litpool.model", "litpool.tasks")

LIGHTNING = (  # what a run's config may have set, and does nothing but train, log and save
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
    strategies.DDPStrategy,  # functions cannot be set: no function's name is on any list
    strategies.FSDPStrategy,
    strategies.SingleDeviceStrategy,
)

PLUGINS = (  # for the user's own YAML
    *(
        f"lightning.pytorch.{kind}"
        for kind in ("accelerators", "callbacks", "loggers", "plugins", "profilers")
    ),
    "lightning.pytorch.strategies",
    "lightning.fabric.plugins",
    "litpool",
)

HELP = "--trust MODULE: let a checkpoint, or a class path in YAML, name classes of this module."

TAKES_FUNCTIONS = _names(callbacks.LambdaCallback)

_once_allowed: set[str] = set()
"""Modules that an earlier command in this process has trusted: jsonargparse's policy is one for the process."""


def only_known(trusted: list[str]) -> None:
    """From now on allow the names that a checkpoint may hold, and no others.

    Args:
        trusted: The modules of `--trust`.
    """
    allowed = [*PACKAGE, *(name for found in LIGHTNING for name in _names(found)), *trusted]
    denied = {"*", *TAKES_FUNCTIONS, *PLUGINS, *_own_modules(), *_once_allowed}.difference(allowed)
    _once_allowed.update(trusted)
    # A config's dictionaries stay dictionaries, even where they look like a class to build.
    set_parsing_settings(
        instantiate_subclass_spec_in_any=False,
        import_path_denylist=sorted(denied),
        import_path_allowlist=allowed,
    )


def own_code(trusted: list[str]) -> None:
    """From now on allow the names that a user's YAML may hold as well.

    Args:
        trusted: The modules of `--trust`.
    """
    only_known(trusted)
    set_parsing_settings(import_path_allowlist=[*PLUGINS, *_own_modules()])


def _own_modules() -> list[str]:
    """The user's modules: what Python finds first in a folder that is not its own or a package's.

    A folder of data that has the name of an installed package does not hide that package.
    """
    python = Path(sysconfig.get_paths()["stdlib"]).resolve()
    found = set()
    for entry in sys.path:
        folder = Path(entry or ".").resolve()
        installed = {"site-packages", "dist-packages"}.intersection(folder.parts)
        if folder.is_dir() and not installed and python not in (folder, *folder.parents):
            for path in folder.iterdir():
                name = path.stem if path.suffix == ".py" else path.name
                if (
                    name.isidentifier()
                    and name not in sys.stdlib_module_names
                    and _lies_in(folder, name)
                ):
                    found.add(name)
    return sorted(found - {"jsonargparse"})


def _lies_in(folder: Path, name: str) -> bool:
    """Whether importing a top-level module would take it from a folder; nothing is imported."""
    spec = PathFinder.find_spec(name)
    if spec is None:
        return False
    files = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
    return all(folder in Path(file).resolve().parents for file in files)


def check_classes(config: Any, key: str = "") -> None:
    """Refuse a parsed config that holds anything but plain values and classes.

    Raises:
        InputError: A value is a function, or what `class_path` names is one.
    """
    if isinstance(config, Namespace | Mapping):
        for name, value in (vars(config) if isinstance(config, Namespace) else config).items():
            if name == "class_path" and not _is_class(value):
                raise InputError(f"{key}={value}: not a class; a config may name classes only")
            check_classes(value, f"{key}.{name}".lstrip("."))
    elif isinstance(config, list | tuple | set):
        for value in config:
            check_classes(value, key)
    elif callable(config) and not inspect.isclass(config) and not isinstance(config, PathType):
        name = getattr(config, "__qualname__", type(config).__qualname__)
        raise InputError(f"{key}={config.__module__}.{name}: a config may not name a function")


def _is_class(name: Any) -> bool:
    """Whether a name that the parser has already imported is a class; anything may stand in a free-form dictionary."""
    module, _, attribute = str(name).rpartition(".")
    return module not in sys.modules or inspect.isclass(
        getattr(sys.modules[module], attribute, None)
    )


def options(config: Any) -> str:
    """What the commands that read this config's checkpoint need: ` --trust MODULE` for each class of the user's own."""
    known = {name for found in LIGHTNING for name in _names(found)}
    modules = {
        name.rpartition(".")[0]
        for name in _class_paths(config)
        if name not in known and not name.startswith(PACKAGE)
    }
    return "".join(f" --trust {module}" for module in sorted(modules))


def _class_paths(config: Any) -> set[str]:
    """All values of `class_path` in a config of plain values."""
    if isinstance(config, Mapping):
        own = {config["class_path"]} if isinstance(config.get("class_path"), str) else set()
        return own.union(*map(_class_paths, config.values()))
    return set().union(*map(_class_paths, config)) if isinstance(config, list | tuple) else set()


def denied(name: str) -> str:
    """What the user reads of a name that is on no list, such as `os.system`."""
    return (
        f"{name}: not allowed here, so it was not imported. A checkpoint may name litpool's poolings and "
        "tasks and a few Lightning classes; your own YAML also Lightning's plugins and modules of your own. "
        f"If you trust it, add --trust {name.rpartition('.')[0]}"
    )


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The command line without `--trust MODULE`, and the modules: no YAML file and no checkpoint may name them.

    Raises:
        InputError: A module's name is missing, or is no name.
    """
    rest, trusted = [], []
    remaining = iter(arguments)
    for argument in remaining:
        option, equals, value = argument.partition("=")
        if option != "--trust":
            rest.append(argument)
            continue
        module = value if equals else next(remaining, "")
        if not module or not all(part.isidentifier() for part in module.split(".")):
            raise InputError(
                f"trust={module}: give the name of a module, such as --trust my_poolings"
            )
        if module.split(".")[0] == "jsonargparse":
            raise InputError(
                f"trust={module}: a config could then change this very list; name another module"
            )
        trusted.append(module)
    return rest, trusted
