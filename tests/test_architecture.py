"""The house keeps its plan: who imports whom."""

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]
SOURCES = sorted((HERE / "src" / "litpool").rglob("*.py"))

# What a room may import, as patterns of whole module names. The first line that matches a file's module is its own.
SHARED = r"litpool|litpool\.(demo|interrupt|trust)"
TASK = r"litpool\.tasks\.task"
MODEL = r"litpool\.model\.\w+"
DATA = r"litpool\.data\.(added|module)"
LOOPS = "(lightning|huggingface|plain|compare)$"  # the loops themselves; the other files of their room serve them all
RULES = {
    r"litpool|litpool\.(demo|interrupt|trust)": SHARED,
    r"litpool\.data(\..+)?": rf"{SHARED}|{TASK}|litpool\.data\.\w+",
    r"litpool\.tasks\.question_answering": rf"{SHARED}|{TASK}|litpool\.tasks\.(answers|spans)",
    r"litpool\.tasks\.similarity": rf"{SHARED}|{TASK}|litpool\.tasks\.retrieval",
    r"litpool\.tasks(\..+)?": rf"{SHARED}|{TASK}",
    r"litpool\.model|litpool\.model\.(overrides|packing|pooling|rows)": SHARED,
    r"litpool\.model\.markers": rf"{SHARED}|litpool\.model\.pooling",
    r"litpool\.model\.encoder": rf"{SHARED}|litpool\.model\.(overrides|packing|rows)",
    r"litpool\.model\.network": rf"{SHARED}|litpool\.model\.(encoder|packing|pooling)|litpool\.tasks\.\w+",
    r"litpool\.loops\.compare": rf"{SHARED}|{TASK}|{MODEL}|{DATA}|litpool\.loops(\.\w+)?",
    r"litpool\.loops(\..+)?": rf"{SHARED}|{TASK}|{MODEL}|{DATA}|litpool\.loops(\.(?!{LOOPS})\w+)?",
    r"litpool\.study(\..+)?": rf"{SHARED}|{MODEL}|litpool\.(tasks|data|loops|study)(\.\w+)?",
    r"litpool\.export": rf"{SHARED}|{MODEL}|litpool\.(tasks|data|loops)(\.\w+)?",
    r"litpool\.check": rf"{SHARED}|{MODEL}|litpool\.(tasks|data|loops)(\.\w+)?",
    r"litpool\.commands": rf"{SHARED}|{MODEL}|litpool\.check|litpool\.(tasks|data|loops|study|export)(\.\w+)?",
    r"litpool\.(parser|terminal)": rf"{SHARED}|{TASK}|litpool\.model\.pooling",
    r"litpool\.app": r"litpool(\..+)?",
}


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
            found |= (names & MODULES) or {str(node.module)}  # `from litpool.loops import run` imports a module
            if names - MODULES:
                found.add(str(node.module))
    return {name for name in found if name.split(".")[0] == "litpool"}


def allowed(module: str) -> str:
    matching = [rule for name, rule in RULES.items() if re.fullmatch(name, module)]
    assert matching, f"{module} is in no room of DESIGN.md: give it a rule"
    return matching[0]


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_a_room_imports_only_from_the_rooms_it_may(path: Path) -> None:
    module = module_of(path)
    wrong = {name for name in imports(path.read_text()) if not re.fullmatch(allowed(module), name)}
    assert not wrong, f"{module} may import {allowed(module)}"


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("litpool.data.batches", "from litpool.model.network import TextModel"),
        ("litpool.data.module", "from litpool.tasks.classification import Classification"),
        ("litpool.model.encoder", "from litpool.model.pooling import Pooling"),
        ("litpool.model.overrides", "from litpool.model.encoder import EncoderOptions"),
        ("litpool.model.pooling", "import litpool.data.module"),
        ("litpool.tasks.task", "from litpool.tasks.classification import Classification"),
        ("litpool.loops.lightning", "from litpool.loops import plain"),
        ("litpool.loops.huggingface", "from litpool.loops.lightning import TextModule"),
        ("litpool.loops.recipe", "import litpool.loops.compare"),
        ("litpool.commands", "from litpool.app import main"),
        ("litpool.study.frozen", "from litpool.app import main"),
        ("litpool.data.inspection", "from litpool.model.encoder import Encoder"),
        ("litpool.check", "from litpool.commands import Trainer"),
    ],
)
def test_the_rules_forbid_what_design_forbids(module: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.MODULES", MODULES | {"litpool.loops.plain"})
    assert not all(re.fullmatch(allowed(module), name) for name in imports(f"def late():\n    {line}\n"))


def test_cli_imports_litpool_and_its_app_only() -> None:
    assert imports((HERE / "cli.py").read_text()) == {"litpool", "litpool.app", "litpool.interrupt"}


def test_cli_has_30_lines_at_most() -> None:
    assert len((HERE / "cli.py").read_text().splitlines()) <= 30


def test_there_is_no_lumber_room() -> None:
    assert not {path.name for path in SOURCES} & {"utils.py", "base.py", "helpers.py", "common.py", "registry.py"}
