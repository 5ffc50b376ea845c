"""`make rename`: the project works under another name, and names that cannot work are refused."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OLD = "litpool"
NEW = f"my{OLD}"  # holds in a renamed project as well, where OLD is the new name
LONG = f"with13more13{OLD}"  # longer by 13, so that lines break in other places

GIT = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A clean repository with the files of the working tree."""
    folder = tmp_path_factory.mktemp("rename") / "original"
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("needs a git repository")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for arguments in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "copy"]):
        subprocess.run([*GIT, *arguments], cwd=folder, check=True)
    return folder


@pytest.fixture
def copy(original, tmp_path):
    """A copy of it in which a test may change files."""
    return Path(shutil.copytree(original, tmp_path / "copy"))


def run(folder, *command, name=OLD):
    """Run Python in a folder, with the package of that folder."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    environment[f"{name.upper()}_CACHE"] = os.environ[f"{OLD.upper()}_CACHE"]
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=3000,
    )


def rename(folder, name):
    done = run(folder, "scripts/rename.py", name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"renamed {OLD} to {name}")


def words_left(folder):
    """Return the lines of tracked files that still name the package by its old name."""
    command = ["git", "grep", "-nIiwE", rf"{OLD}|{OLD}_\w+|\w+_{OLD}\w*"]
    excluded = [":!LICENSE", ":!CHANGELOG.md", ":!tests/fixtures/*.json"]
    done = subprocess.run(
        [*command, "--", ".", *excluded], cwd=folder, capture_output=True, text=True
    )
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_renamed_project_trains_and_reads_checkpoints_from_before(cli, copy, tmp_path):
    status, out, err = cli("fit", "--config", ROOT / "configs/debug.yaml")
    assert status == 0, err
    best = tmp_path / out.split()[-1] / "checkpoints/best.ckpt"
    history = {name: (copy / name).read_bytes() for name in ("LICENSE", "CHANGELOG.md")}

    rename(copy, NEW)

    assert not (copy / "src" / OLD).exists()
    assert history == {name: (copy / name).read_bytes() for name in history}
    done = run(copy, "cli.py", "fit", "--config", "configs/debug.yaml", name=NEW)
    assert done.returncode == 0, done.stderr
    (copy / "texts.txt").write_text("draw a line\nsum the rows\n")
    options = ["--input", "texts.txt", "--output", "answers.jsonl"]
    done = run(copy, "cli.py", "predict", "--ckpt_path", best, *options, name=NEW)
    assert done.returncode == 0, done.stderr
    assert len((copy / "answers.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("name", [NEW, LONG])
def test_a_renamed_project_keeps_the_style_and_starts(copy, name):
    pytest.importorskip("ruff")
    rename(copy, name)
    assert words_left(copy) == []
    for command in (["check"], ["format", "--check"]):
        done = run(copy, "-m", "ruff", *command, ".")
        assert done.returncode == 0, done.stdout
    done = run(copy, "cli.py", "--help", name=name)
    assert f"Run {name}: `python cli.py COMMAND" in done.stdout


@pytest.mark.slow
def test_a_long_name_keeps_the_rules_about_length(copy):
    """The README's line counts, the sum of the reading path, and the help on one page."""
    rename(copy, LONG)
    tests = ["tests/test_architecture.py", "tests/test_readme.py", "tests/command_line"]
    options = ["-q", "-p", "no:cacheprovider", "-m", "not slow", "-k", "not command_runs"]
    done = run(copy, "-m", "pytest", *options, *tests, name=LONG)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
def test_the_tests_of_a_renamed_project_pass(copy):
    rename(copy, NEW)
    subprocess.run(["git", "add", "--all"], cwd=copy, check=True)
    subprocess.run([*GIT, "commit", "--quiet", "-m", "rename"], cwd=copy, check=True)
    tests = ["tests", "--ignore=tests/test_wall.py", "--ignore=tests/test_ddp.py"]
    options = ["-m", "not slow", "-q", "-n", "2", "-p", "no:cacheprovider"]
    done = run(copy, "-m", "pytest", *options, *tests, name=NEW)
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_word_is_replaced_and_a_part_of_a_word_or_an_address_is_not(copy):
    text = f"{OLD} {OLD}'s {OLD}.load x_{OLD}_y {OLD.upper()}_CACHE {OLD}s my{OLD} {OLD.upper()}"
    link = f"https://host.org/{OLD}/{OLD}.git"
    (copy / "docs/page.md").write_text(f"{text} <{link}> `{OLD}`\n")
    for arguments in (["add", "--all"], ["commit", "--quiet", "-m", "page"]):
        subprocess.run([*GIT, *arguments], cwd=copy, check=True)
    rename(copy, "abcd")
    expected = f"abcd abcd's abcd.load x_abcd_y ABCD_CACHE {OLD}s my{OLD} {OLD.upper()}"
    assert (copy / "docs/page.md").read_text() == f"{expected} <{link}> `abcd`\n"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "give one name"),
        ("my-project", "'my-project' is no name for a Python package; .* such as my_project"),
        ("MyProject", "'MyProject' is no name for a Python package; .* such as myproject"),
        ("3d", "'3d' is no name for a Python package; .* such as d"),
        ("käse", "'käse' is no name for a Python package"),
        ("a.b", "'a.b' is no name for a Python package"),
        ("../up", "'../up' is no name for a Python package"),
        ("class", "'class' is a keyword of Python"),
        ("match", "'match' is a keyword of Python"),
        ("print", "'print' is a built-in name of Python"),
        ("json", "'json' is a module of Python's standard library"),
        ("torch", "'torch' is the name of an installed package"),
        ("pyyaml", "'pyyaml' is the name of an installed package, PyYAML"),
        ("configs", "'configs' is taken: configs exists"),
        ("cli", "'cli' is taken: cli.py exists"),
        ("screenshots", "'screenshots' is taken: bench/screenshots.py exists"),
        ("hidden_states", "'hidden_states' is a name in .*, line "),
        (OLD, f"the package is called '{OLD}' already"),
    ],
)
def test_a_name_that_cannot_work_is_refused_in_one_line(original, name, reason):
    done = run(original, "scripts/rename.py", name)
    assert done.returncode == 2
    assert re.match(f"error: {reason}", done.stderr), done.stderr
    assert done.stderr.count("\n") == 1
    status = subprocess.check_output(["git", "status", "--porcelain"], cwd=original)
    assert status == b""


def test_make_passes_the_refusal_on(original):
    python = f"BIN={Path(sys.executable).parent}"
    command = ["make", "-o", "README.md", "INSTALLED=README.md", python, "rename", "NAME=my-name"]
    done = subprocess.run(command, cwd=original, capture_output=True, text=True)
    assert done.returncode == 2
    assert "error: 'my-name' is no name for a Python package" in done.stderr


def test_a_change_that_is_not_committed_is_not_buried(copy):
    (copy / "notes.txt").write_text("mine")
    done = run(copy, "scripts/rename.py", NEW)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "not committed: notes.txt; commit, ignore or stash" in done.stderr
    (copy / "notes.txt").unlink()
    (copy / "README.md").write_text("changed")
    done = run(copy, "scripts/rename.py", NEW)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "not committed: README.md;" in done.stderr


def test_a_folder_without_history_is_refused(copy):
    shutil.rmtree(copy / ".git")
    done = run(copy, "scripts/rename.py", NEW)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "run `git init`" in done.stderr
