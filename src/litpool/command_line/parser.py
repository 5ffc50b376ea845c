"""The command line's parser: no abbreviations, and one-line errors with the nearest valid name."""

import difflib
import inspect
import re
import sys
from collections import defaultdict
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from litpool import InputError, trust
from litpool.command_line import plugins, spelling
from litpool.loops.checkpoint import short_names
from litpool.model.pooling import Pooling
from litpool.tasks.task import Task

PACKAGE = __name__.partition(".")[0]

TYPES = {
    "bool": "true or false",
    "dict": "a mapping such as {key: value}",
    "float": "a number",
    "int": "a whole number",
    "list": "a list such as [a, b]",
    "NoneType": "null",
    "PositiveInt": "a whole number over 0",
    "str": "text",
}
TYPE = re.compile(rf"Literal\[([^]]*)\]|\b({'|'.join(TYPES)})\b(?:\[[^]]*\]+)?")

# What jsonargparse's messages look like
UNKNOWN = re.compile(r"does not accept option '([^']+)'|unrecognized arguments: --([\w.]+)")
LOOSE = re.compile(r"unrecognized arguments: (?!-)(\S+)")
WRONG_TYPE = re.compile(
    r"^(\S+): (?:Expected a|Does not .* Subtypes:) (.*?)[.\]] .*(?:Got|Given) value: (.*)"
)


class Parser(LightningArgumentParser):
    """LightningCLI's parser; errors are raised as InputError."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def _apply_actions(self, cfg: Any, *args: Any, **kwargs: Any) -> Namespace:
        """Apply a config's values; a class of version 0.1.0 may have moved to another module."""
        return super()._apply_actions(short_names(cfg, PACKAGE, _has_moved), *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise an InputError that also says what is allowed."""
        raise InputError(self._explain(" ".join(message.split()))) from ex

    def _explain(self, message: str) -> str:
        if reason := trust.refusal(message):
            return reason
        if match := UNKNOWN.search(message):
            return spelling.unknown(self._command(), match[1] or match[2])
        if match := LOOSE.search(message):
            return f"{match[1]}: belongs to no option; put a value with spaces in quotes"
        for key, base in self._class_options():
            if explanation := _explain_class(message, key, base):
                return explanation
        message = re.sub(r'(Parser key "([^"]+)": )+', r"\2: ", message)
        if reason := plugins.explain(message):
            return reason
        if match := WRONG_TYPE.search(message):
            return f"{match[1]}={match[3]}: give {_in_words(match[2])}"
        return message[:500]

    def _command(self) -> str:
        """Return the command, which is the only one that the parser knows."""
        subcommands = self._subcommands_action
        return next(iter(subcommands._name_parser_map)) if subcommands else self.prog.split()[-1]

    def _class_options(self) -> list[tuple[str, type]]:
        """Return the options that name a pooling or a task, each with its base class."""
        subcommands = getattr(self, "_subcommands_action", None)
        parsers = [self, *(subcommands._name_parser_map.values() if subcommands else [])]
        return [
            (option.dest, base)
            for parser in parsers
            for option in parser._actions
            for base in (Pooling, Task)
            if f"{base.__module__}.{base.__name__}" in str(getattr(option, "_typehint", ""))
        ]


def _has_moved(path: str) -> bool:
    """Return whether the module that a class path names does not have the class."""
    module, _, name = path.rpartition(".")
    return not hasattr(sys.modules.get(module), name)


def _explain_class(message: str, key: str, base: type) -> str | None:
    """Explain an unknown class, or an option that the class lacks, in a key that names a class."""
    subclasses: list[type] = base.__subclasses__()
    places = ("litpool.model.", "litpool.tasks.")
    kinds = [kind for kind in subclasses if kind.__module__.startswith(places)]
    if match := re.search(rf'"{key}".* dot import path string: (\w+)', message):
        names = [kind.__name__ for kind in kinds]
        nearest = _nearest(match[1], names)
        return f"{key}={match[1]}: unknown class; {nearest} There are {', '.join(names)}"
    if match := re.search(rf"\"{key}\".* Option '(\w+)' is not accepted", message):
        option = match[1]
        owners: dict[str, list[str]] = defaultdict(list)
        for kind in kinds:
            for name in inspect.signature(kind).parameters:
                owners[name].append(kind.__name__)
        if option in owners:
            return f"{key}.{option}: only {', '.join(owners[option])} has this option"
        return f"{key}.{option}: unknown option; {_nearest(option, sorted(owners))}"
    return None


def _in_words(types: str) -> str:
    """Say Python's type names in the words of a person who writes YAML."""
    words = [literals or TYPES[name] for literals, name in TYPE.findall(types)]
    return " or ".join(dict.fromkeys(words)) or types


def _nearest(name: str, names: list[str]) -> str:
    return f"did you mean {difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]!r}?"
