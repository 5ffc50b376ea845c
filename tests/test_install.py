"""`pip install .` gives the command `litpool`, which does the same as `python cli.py`."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from litpool.__main__ import main

ROOT = Path(__file__).parent.parent
NAME = "litpool"


def test_the_command_is_the_function_that_cli_py_calls():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == NAME
    assert EntryPoint(NAME, project["scripts"][NAME], "console_scripts").load() is main


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with an installation that is a copy, not a link to this working tree."""
    pytest.importorskip("setuptools", minversion="77")
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", source / "src", ignore=ignored)
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    pip += ["--no-index", "--no-deps", "--no-build-isolation", "--target", target, source]
    done = subprocess.run([*map(str, pip)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def run(folder, package, *command):
    environment = {**os.environ, "PYTHONPATH": str(package)}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
def test_all_files_of_the_package_are_installed(installed):
    def files(folder):
        found = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        return {path for path in found if "__pycache__" not in path.parts}

    assert files(installed / NAME) == files(ROOT / "src" / NAME)


@pytest.mark.slow
def test_the_command_says_and_does_what_cli_py_does(installed, tmp_path):
    command = installed / "bin" / NAME
    for options in (["--help"], ["fit", "--help"], ["nonsense"], ["fit", "--lr", "1"]):
        ours = run(tmp_path, installed, command, *options)
        other = run(tmp_path, ROOT / "src", ROOT / "cli.py", *options)
        assert ours.returncode == other.returncode
        assert ours.stdout == other.stdout.replace("python cli.py", NAME)
        assert ours.stderr == other.stderr

    done = run(tmp_path, installed, command, "fit", "--config", ROOT / "configs/debug.yaml")
    assert done.returncode == 0, done.stderr
    best = "logs/debug/version_0/checkpoints/best.ckpt"
    assert f"{NAME} predict --ckpt_path {best} --input FILE" in done.stdout
    (tmp_path / "texts.txt").write_text("draw a line\n")
    done = run(tmp_path, installed, command, "predict", "--ckpt_path", best, "--input", "texts.txt")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "predictions.jsonl").read_text())["text"] == "draw a line"
