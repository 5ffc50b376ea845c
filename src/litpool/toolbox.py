"""The commands: those in commands.py and one for each folder in tools/. Listing imports nothing."""

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def commands() -> dict[str, str]:
    """Return the name of each command and the first line of its docstring."""
    nodes = _parse(HERE / "commands.py").body
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    own = {node.name: _summary(node) for node in functions if not node.name.startswith("_")}
    return own | tools()


def tools() -> dict[str, str]:
    """Return the name of each tool and the first line of its docstring."""
    files = sorted(HERE.glob("tools/*/__init__.py"))
    return {file.parent.name: _summary(_parse(file)) for file in files}


def function(command: str) -> Callable[..., Any]:
    """Import the function of a command."""
    module = f"tools.{command}.command" if command in tools() else "commands"
    return getattr(importlib.import_module(f"litpool.{module}"), command)


def file(command: str) -> Path:
    """Return the file that defines a command."""
    return HERE / (f"tools/{command}/command.py" if command in tools() else "commands.py")


def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _summary(node: ast.Module | ast.FunctionDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0]
