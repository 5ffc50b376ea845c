"""The commands: those in commands.py, and the tools'. Listing imports nothing."""

import ast
import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]


def commands() -> dict[str, str]:
    """Return the name of each command and the first line of its docstring."""
    nodes = parse(HERE / "commands.py").body
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    own = {node.name: _summary(node) for node in functions if not node.name.startswith("_")}
    others = {name: _summary(parse(file)) for name, file in _other_commands().items()}
    return own | tools() | others


def tools() -> dict[str, str]:
    """Return the name of each tool and the first line of its docstring."""
    files = sorted(HERE.glob("tools/*/__init__.py"))
    return {file.parent.name: _summary(parse(file)) for file in files}


def function(command: str) -> Callable[..., Any]:
    """Import the function of a command."""
    module = ".".join(file(command).relative_to(HERE).with_suffix("").parts)
    return getattr(importlib.import_module(f"litpool.{module}"), command)


def file(command: str) -> Path:
    """Return the file that defines a command."""
    if command in tools():
        return HERE / "tools" / command / "command.py"
    return _other_commands().get(command, HERE / "commands.py")


def _other_commands() -> dict[str, Path]:
    """Return the file of each command that is not the one that its tool is named after."""
    files = sorted(HERE.glob("tools/*/command_*.py"))
    return {file.stem.removeprefix("command_"): file for file in files}


@cache
def parse(file: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(file.read_text(encoding="utf-8"))


def _summary(node: ast.Module | ast.FunctionDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0]
