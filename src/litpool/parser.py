"""The command line's parser: whole option names only, and one line that says what is wrong and what would be right."""

import difflib
import inspect
import re
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from litpool import InputError, trust
from litpool.loops.checkpoint import short_names
from litpool.model.pooling import Pooling
from litpool.tasks.task import Task

CLASSES = {
    "model.pooling": Pooling,
    "study.poolings": Pooling,
    "study.tuned": Pooling,
    "task": Task,
}
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
WRONG_TYPE = re.compile(
    r"^(\S+): (?:Expected a|Does not .* Subtypes:) (.*?)[.\]] .*(?:Got|Given) value: (.*)"
)


class Parser(LightningArgumentParser):
    """LightningCLI's parser; errors are raised as InputError."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def _apply_actions(self, cfg: Any, *args: Any, **kwargs: Any) -> Namespace:
        """Apply a config's values. Version 0.1.0 named classes by modules that have moved since."""
        return super()._apply_actions(short_names(cfg, __package__), *args, **kwargs)

    def add_method_arguments(
        self, theclass: type, themethod: str, *args: Any, **kwargs: Any
    ) -> list[str]:
        """Add a command's options without a group: it would have the command's name, and `study` has such an option."""
        return super().add_method_arguments(theclass, themethod, *args, **kwargs, as_group=False)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message as an InputError, with what is allowed where the parser does not say it."""
        raise InputError(self._explain(" ".join(message.split()))) from ex

    def _explain(self, message: str) -> str:
        if denied := re.search(r"Importing '([\w.]+)' is not allowed", message):
            return trust.refusal(denied[1])
        unknown = re.search(
            r"does not accept option '([^']+)'|unrecognized arguments: --([\w.]+)", message
        )
        if unknown:
            name = unknown[1] or unknown[2]
            return f"{name}: no such option; {_nearest(name, self._option_names())}"
        for key, base in CLASSES.items():
            classes = {c.__name__: c for c in _subclasses(base)}
            if wrong := re.search(rf'"{key}".* dot import path string: (\w+)', message):
                near = _nearest(wrong[1], list(classes))
                return f"{key}={wrong[1]}: no such class; {near} There are {', '.join(classes)}"
            if wrong := re.search(rf"\"{key}\".* Option '(\w+)' is not accepted", message):
                owners: dict[str, list[str]] = {}
                for name, known in (
                    (n, o) for n, c in classes.items() for o in inspect.signature(c).parameters
                ):
                    owners.setdefault(known, []).append(name)
                if wrong[1] in owners:
                    return f"{key}.{wrong[1]}: an option of {', '.join(owners[wrong[1]])}, not of the class that is set"
                return f"{key}.{wrong[1]}: no such option; {_nearest(wrong[1], sorted(owners))}"
        message = re.sub(r'(Parser key "([^"]+)": )+', r"\2: ", message)
        if wrong := WRONG_TYPE.search(message):
            return f"{wrong[1]}={wrong[3]}: give {_wanted(wrong[2])}"
        return message[:500]

    def _option_names(self) -> list[str]:
        subcommands = getattr(self, "_subcommands_action", None)
        parsers = [self, *(subcommands._name_parser_map.values() if subcommands else [])]
        return [action.dest for parser in parsers for action in parser._actions]


def _wanted(types: str) -> str:
    """Python's names of types in the words of a person who writes YAML."""
    told = [literals or TYPES[name] for literals, name in TYPE.findall(types)]
    return " or ".join(dict.fromkeys(told)) or types


def _subclasses(base: type) -> list[type]:
    classes: list[type] = base.__subclasses__()
    return [c for c in classes if c.__module__.startswith("litpool.")]


def _nearest(name: str, known: list[str]) -> str:
    return f"did you mean {difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]!r}?"
