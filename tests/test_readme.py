"""The README: its commands run on small data; what it says about files and make targets is true."""

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


# litpool and the libraries warn that there is so little data
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_every_command_runs(cli: Cli) -> None:
    write_files(PAGE, cli)
    assert {"fit", "predict"} <= set(run_page(PAGE, cli))


def test_the_reading_path_gives_the_files_lengths() -> None:
    listed = {path: int(lines) for path, lines in READING_PATH}
    assert len(listed) >= 10
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in listed}
    assert listed == lengths, "update the table in the README's section The reading path"
    assert sum(lengths.values()) <= 2000, "move what is not core out of the reading path"


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
