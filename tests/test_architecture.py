"""Imports: the wall around the tools, no cycles, loops that keep apart, and declared packages."""

import ast
import re
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]
SOURCES = sorted((HERE / "src" / "litpool").rglob("*.py"))
PROJECT = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = packages_distributions()
LOOPS = {f"litpool.loops.{name}" for name in ("lightning", "huggingface", "plain")}


def module_of(path: Path) -> str:
    parts = path.relative_to(HERE / "src").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in SOURCES}


def imports(source: str) -> set[str]:
    """The modules of litpool that a source imports, at its top or within functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & MODULES) or {
                str(node.module)
            }  # `from litpool.loops import outputs` imports a module
            if names - MODULES:
                found.add(str(node.module))
    return {name for name in found if name.split(".")[0] == "litpool"}


def tool_of(module: str) -> str | None:
    """The tool that a module belongs to."""
    parts = module.split(".")
    return parts[2] if parts[1:2] == ["tools"] and len(parts) > 2 else None


IMPORTS = {module_of(path): imports(path.read_text()) for path in SOURCES}
IMPORTS["litpool"] -= {"litpool.predictor"}  # for the type checker; `__getattr__` imports it later


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_imports_a_tool_but_the_tool_itself(module: str) -> None:
    foreign = {name for name in IMPORTS[module] if tool_of(name) not in (None, tool_of(module))}
    assert not foreign


def test_there_are_no_cycles() -> None:
    TopologicalSorter(IMPORTS).prepare()  # raises CycleError


def test_the_loops_do_not_import_each_other() -> None:
    assert not {(loop, name) for loop in LOOPS for name in IMPORTS[loop] & LOOPS}


def third_party(source: str) -> set[str]:
    """The packages that a source imports, except litpool and the standard library."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
    return {name.split(".")[0] for name in names} - {"litpool"} - sys.stdlib_module_names


def canonical(requirement: str) -> str:
    """The name in a requirement, or a distribution's own, as package indexes compare names."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_every_package_that_is_imported_is_declared(path: Path) -> None:
    requirements = list(PROJECT["dependencies"])
    if tool_of(module_of(path)):  # a tool may need an extra
        extras = PROJECT["optional-dependencies"]
        requirements += [line for name in extras if name != "dev" for line in extras[name]]
    declared = {canonical(requirement) for requirement in requirements}
    for package in third_party(path.read_text()):
        names = {canonical(name) for name in DISTRIBUTIONS.get(package, [package])}
        assert names & declared, f"{package}: declare it in pyproject.toml"


def test_cli_has_30_lines_at_most() -> None:
    assert len((HERE / "cli.py").read_text().splitlines()) <= 30
