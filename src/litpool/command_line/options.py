"""The options of each command, read from the sources: importing them would take 10 seconds.

So `--help` and the error for an unknown option come at once. The parser in app.py reads the same
signatures and docstrings; a test compares the two.
"""

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from litpool.command_line import toolbox
from litpool.command_line.toolbox import HERE

TRAINER_DEFAULTS = {
    "use_distributed_sampler": False,  # the data module shares the batches between devices
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "enable_autolog_hparams": False,  # written once at the end, with the final metrics
    "log_every_n_steps": 10,
}

INTERNAL = ("self", "run", "task", "data", "saved", "initial", "config")
"""Parameters that the command line sets itself."""


class Option(NamedTuple):
    """An option: its dotted key, its default as one would type it, and its description."""

    key: str
    default: str
    text: str


class Definition(NamedTuple):
    """A class, a function or a value, and the file that defines it."""

    node: ast.AST
    file: Path


def read(command: str, task: str = "Classification") -> list[Option]:
    """Return all options of a command; with a job, those of a task and of the trainer included."""
    function = _definition(toolbox.file(command), command)
    if not needs_job(command):
        return _parameters("", function)
    names = ", ".join(subclasses("tasks"))
    choice = Option("task", "Classification", f"The kind of task: {names}, or a class of yours.")
    return [
        Option("seed_everything", "42", "The seed of weights, dropout and the order of the rows."),
        *_parameters("", function),
        choice,
        *class_options("tasks", task),
        *_parameters("data.", _definition(HERE / "data/module.py", "TextDataModule")),
        *_parameters("model.", _definition(HERE / "loops/lightning.py", "TextModule")),
        *trainer_options(),
    ]


def needs_job(command: str) -> bool:
    """Return whether a command works on a job: task, data, model and trainer."""
    function = _definition(toolbox.file(command), command)
    return "run" in [name for name, _, _ in _signature(function.node)]


def positional(command: str) -> list[str]:
    """Return what follows a command without a job by its place: the options without a default."""
    if needs_job(command):
        return []
    function = _definition(toolbox.file(command), command)
    return [name for name, _, default in _signature(function.node) if default is None]


def trainer_options() -> list[Option]:
    """Return the options of Lightning's Trainer, with litpool's defaults."""
    spec = importlib.util.find_spec("lightning")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    file = Path(spec.submodule_search_locations[0], "pytorch/trainer/trainer.py")
    trainer = _find(file, "Trainer")
    assert trainer is not None
    changed = {f"trainer.{name}": _typed(value) for name, value in TRAINER_DEFAULTS.items()}
    return [
        Option(key, changed.get(key, default), text)
        for key, default, text in _parameters("trainer.", trainer)
    ]


def class_options(package: str, name: str) -> list[Option]:
    """Return the options of a task or a pooling; none for a class that is not litpool's own."""
    prefix = {"tasks": "task.", "model": "model.pooling."}[package]
    given = ("hidden_size", "num_layers")
    known = subclasses(package)
    options = _parameters(prefix, known[name]) if name in known else []
    return [option for option in options if option.key.removeprefix(prefix) not in given]


def subclasses(package: str) -> dict[str, Definition]:
    """Return litpool's tasks or its poolings, by name."""
    base = {"tasks": "Task", "model": "Pooling"}[package]
    return {
        node.name: Definition(node, file)
        for file in sorted((HERE / package).glob("*.py"))
        for node in toolbox.parse(file).body
        if isinstance(node, ast.ClassDef) and base in map(ast.unparse, node.bases)
    }


def keys(command: str) -> list[str]:
    """Return the keys of a command's options, those of every task and pooling included."""
    places = positional(command)
    found = [option.key for option in read(command) if option.key not in places]
    for package in ("tasks", "model") if needs_job(command) else ():
        for name in subclasses(package):
            found += [option.key for option in class_options(package, name)]
    return list(dict.fromkeys(found))


def summary(command: str) -> str:
    """Return a command's docstring without the part about its arguments."""
    function = _definition(toolbox.file(command), command)
    text, _, _ = _docstring(function.node).partition("\nArgs:")
    return " ".join(text.split())


# ---- reading a signature


def _parameters(prefix: str, definition: Definition) -> list[Option]:
    """Return the options of a function, a class or a dataclass, nested dataclasses included."""
    node, file = definition
    texts = _argument_texts(_docstring(node))
    found = []
    for name, annotation, default in _signature(node):
        if name in INTERNAL and not _is_dataclass(node):
            continue
        nested = _find(file, annotation.id) if isinstance(annotation, ast.Name) else None
        if nested and _is_dataclass(nested.node):
            found += _parameters(f"{prefix}{name}.", nested)
        else:
            text = texts.get(name) or texts.get(f"{name}s", "")
            found.append(Option(f"{prefix}{name}", _default(default, file), text))
    for other in _keyword_target(definition):
        found += _parameters(prefix, other)
    return found


def _signature(node: ast.AST) -> Iterator[tuple[str, ast.expr | None, ast.expr | None]]:
    """Yield name, annotation and default of each parameter."""
    if isinstance(node, ast.ClassDef) and _is_dataclass(node):
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                yield field.target.id, field.annotation, field.value
        return
    function = _function(node)
    if function is None:
        return
    arguments = [*function.args.posonlyargs, *function.args.args]
    missing: list[ast.expr | None] = [None] * (len(arguments) - len(function.args.defaults))
    defaults = [*missing, *function.args.defaults]
    arguments += function.args.kwonlyargs
    for argument, default in zip(arguments, [*defaults, *function.args.kw_defaults], strict=True):
        yield argument.arg, argument.annotation, default


def _function(node: ast.AST) -> ast.FunctionDef | None:
    """Return the function itself, or a class's __init__."""
    if isinstance(node, ast.ClassDef):
        inits = [part for part in node.body if isinstance(part, ast.FunctionDef)]
        return next((part for part in inits if part.name == "__init__"), None)
    return node if isinstance(node, ast.FunctionDef) else None


def _keyword_target(definition: Definition) -> Iterator[Definition]:
    """Yield the class that a function passes its `**options` to."""
    function = _function(definition.node)
    if function is None or function.args.kwarg is None:
        return
    for call in ast.walk(function):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            passed = [word.value for word in call.keywords if word.arg is None]
            is_passed = any(ast.unparse(value) == function.args.kwarg.arg for value in passed)
            if is_passed and (target := _find(definition.file, call.func.id)):
                yield target


def _is_dataclass(node: ast.AST) -> bool:
    decorators = node.decorator_list if isinstance(node, ast.ClassDef) else []
    names = [ast.unparse(decorator).partition("(")[0] for decorator in decorators]
    return not {"dataclass", "dataclasses.dataclass"}.isdisjoint(names)


def _default(node: ast.expr | None, file: Path) -> str:
    """Return a default as one would type it; empty if there is none."""
    if node is None:
        return ""
    if isinstance(node, ast.Call):  # field(default_factory=...)
        factory = next((word.value for word in node.keywords), None)
        if isinstance(factory, ast.Lambda):
            return _default(factory.body, file)
        if isinstance(factory, ast.Attribute):  # of a list's copy
            return _default(factory.value, file)
        return {"dict": "{}", "list": "[]"}.get(ast.unparse(factory) if factory else "", "")
    if isinstance(node, ast.Name):
        constant = _find(file, node.id)
        if constant and isinstance(constant.node, ast.expr):
            return _default(constant.node, constant.file)
        return node.id
    try:
        return _typed(ast.literal_eval(node))
    except ValueError:
        return ast.unparse(node)


def _typed(value: object) -> str:
    """Return a value as one would type it in YAML."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_typed, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


# ---- reading a file


def _definition(file: Path, name: str) -> Definition:
    definition = _find(file, name)
    assert definition is not None
    return definition


def _find(file: Path, name: str) -> Definition | None:
    """Return what a file calls by this name, in the file itself or in another one of litpool."""
    for node in toolbox.parse(file).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return Definition(node, file)
        if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets):
            return Definition(node.value, file)
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name and node.value:
            return Definition(node.value, file)
        if isinstance(node, ast.ImportFrom) and name in (alias.name for alias in node.names):
            return _find_in_package(node.module or "", name)
    return None


def _find_in_package(module: str, name: str) -> Definition | None:
    package, _, path = module.partition(".")
    if package != HERE.name:
        return None
    file = HERE / f"{path.replace('.', '/')}.py"
    return _find(file, name) if file.is_file() else None


def _docstring(node: ast.AST) -> str:
    """Return the docstring; that of a class without Args may be its __init__'s."""
    text = ast.get_docstring(node) if isinstance(node, ast.ClassDef | ast.FunctionDef) else None
    if isinstance(node, ast.ClassDef) and "Args:" not in (text or ""):
        function = _function(node)
        text = (ast.get_docstring(function) if function else None) or text
    return text or ""


def _argument_texts(docstring: str) -> dict[str, str]:
    """Return the description of each argument in a Google-style docstring."""
    _, _, rest = docstring.partition("Args:\n")
    texts: dict[str, list[str]] = {}
    section = re.split(r"\n(?=\S)", rest)[0]
    for line in inspect.cleandoc(f"\n{section}").splitlines():
        if match := re.match(r"(\w+)(?: \([^)]*\))?: ?(.*)", line):
            texts[match[1]] = [match[2]]
        elif texts:
            texts[list(texts)[-1]].append(line)
    return {name: " ".join(" ".join(lines).split()) for name, lines in texts.items()}
