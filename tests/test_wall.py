"""Delete tools/, or any one folder in it: everything else still works, and its tests still pass."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = sorted(path.parent.name for path in ROOT.glob("src/litpool/tools/*/__init__.py"))
COPIED = """
    cli.py configs docs bench scripts pyproject.toml constraints.txt Makefile README.md
    CONTRIBUTING.md CHANGELOG.md SECURITY.md LICENSE
""".split()


@pytest.fixture
def without(tmp_path):
    """A function that copies the project without some tools, and returns the folder."""

    def copy(*tools):
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
        for tool in tools or ["."]:
            shutil.rmtree(tmp_path / "src/litpool/tools" / tool)
            shutil.rmtree(tmp_path / "tests/tools" / tool)
        return tmp_path

    return copy


def run(folder, *command):
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    arguments = [sys.executable, *map(str, command)]
    return subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=1800
    )


def test_fit_and_predict_work_without_the_tools(without):
    folder = without()
    overview = run(folder, "cli.py", "--help").stdout
    assert "fit_plain" in overview
    assert not [tool for tool in TOOLS if f"  {tool} " in overview]
    done = run(folder, "cli.py", "fit", "--config", "configs/debug.yaml")
    assert done.returncode == 0, done.stderr
    (folder / "texts.txt").write_text("draw a line\nsum the rows\n")
    best = "logs/debug/version_0/checkpoints/best.ckpt"
    done = run(folder, "cli.py", "predict", "--ckpt_path", best, "--input", "texts.txt")
    assert done.returncode == 0, done.stderr
    assert len((folder / "predictions.jsonl").read_text().splitlines()) == 2
    done = run(folder, "cli.py", "study", "--config", "configs/debug.yaml")
    assert (done.returncode, done.stderr.partition(";")[0]) == (2, "error: unknown command 'study'")


# What could miss a single tool: the other tools, and whatever lists, documents or runs them all.
# The rest knows no tool, as it passes without any.
NEAR = """
    tests/tools tests/command_line tests/test_app.py tests/test_architecture.py
    tests/test_bad_input.py tests/test_configs.py tests/test_docs.py tests/test_extend.py
    tests/test_fixtures.py tests/test_install.py tests/test_predictor.py tests/test_readme.py
    tests/test_rename.py tests/test_scale.py
""".split()


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["all", *TOOLS])
def test_all_other_tests_pass_without_a_tool(without, tool):
    folder = without(*([] if tool == "all" else [tool]))
    tests = ["tests", "--ignore=tests/test_wall.py"] if tool == "all" else NEAR
    options = ["-m", "not slow", "-q", "-n", "2", "-p", "no:cacheprovider"]
    done = run(folder, "-m", "pytest", *options, *tests)
    assert done.returncode == 0, done.stdout[-3000:]
