"""Which commands there are: the template's, and one for each folder in tools/. Listing them imports nothing."""

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def commands() -> dict[str, str]:
    """All commands, each with the line that its help shows."""
    found = ast.parse((HERE / "commands.py").read_text(encoding="utf-8"))
    functions = [node for node in found.body if isinstance(node, ast.FunctionDef)]
    own = {
        function.name: _help(function)
        for function in functions
        if function.args.args[:1] and _takes_run(function)
    }
    return own | tools()


def _takes_run(function: ast.FunctionDef) -> bool:
    """Whether a function of commands.py is a command."""
    return function.args.args[0].arg == "run" and function.name[0] != "_"


def tools() -> dict[str, str]:
    """The tools that are there, each with its line of help."""
    files = sorted(HERE.glob("tools/*/__init__.py"))
    return {file.parent.name: _help(ast.parse(file.read_text(encoding="utf-8"))) for file in files}


def _help(node: ast.Module | ast.FunctionDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0]


def function(name: str) -> Callable[..., Any]:
    """The function of a command."""
    module = f"litpool.tools.{name}.command" if name in tools() else "litpool.commands"
    return getattr(importlib.import_module(module), name)
