"""The README: its commands run on small data, and what it says about the files and the make targets is true."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_docs import Cli, missing_links, run_page, write_files

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "README.md"
README = PAGE.read_text()
READING_PATH = re.findall(r"^\| `(src/[\w/]+\.py)` \| (\d+) \|", README, re.MULTILINE)


@pytest.mark.filterwarnings(
    "ignore:.*:UserWarning"
)  # what litpool and the libraries say about so little data
def test_every_command_runs(cli: Cli) -> None:
    write_files(PAGE, cli)
    assert {"fit", "predict"} <= set(run_page(PAGE, cli))


def test_the_reading_path_gives_the_files_lengths() -> None:
    assert READING_PATH, (
        "README.md, The reading path: no line such as | `src/litpool/model/pooling.py` | 250 | ... |"
    )
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path, _ in READING_PATH}
    outdated = [
        f"{path} has {lengths[path]} lines"
        for path, listed in READING_PATH
        if lengths[path] != int(listed)
    ]
    assert not outdated, f"README.md, The reading path: update the table: {'; '.join(outdated)}"
    total = sum(lengths.values())
    assert total <= 2000, (
        f"README.md, The reading path: the core has {total} lines, 2,000 are allowed; move what is not core out of it"
    )


def test_the_readme_has_200_lines_at_most() -> None:
    assert len(README.splitlines()) <= 200


def test_the_table_of_commands_is_complete() -> None:
    table = README.partition("## Commands")[2].partition("##")[0]
    shown = subprocess.run(
        [sys.executable, "cli.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    commands = re.findall(r"^  (\w+) +\S", shown.stdout, re.MULTILINE)
    assert "fit" in commands
    for command in commands:
        assert f"`{command}`" in table, command


@pytest.mark.parametrize(
    ("target", "recipe"),
    [
        ("quickstart", "cli.py fit --config configs/quickstart.yaml"),
        ("test", '-m pytest -m "not slow"'),
        ("check", "-m mypy src cli.py"),
        ("tensorboard", "-m tensorboard.main --logdir logs"),
    ],
)
def test_make_does_what_the_readme_says(target: str, recipe: str) -> None:
    assert f"make {target}" in README
    made = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert recipe in made.stdout


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_every_link_leads_somewhere(name: str) -> None:
    assert not missing_links(ROOT / name)
