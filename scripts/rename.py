"""Rename the package: `make rename NAME=myproject`, or `python scripts/rename.py myproject`.

This moves the folder in src and replaces the name in every file that git tracks: in imports,
configs, docs, tests, pyproject.toml and the Makefile. The prefix of environment variables, such as
LITPOOL_CACHE, changes too. LICENSE, CHANGELOG.md, URLs and the files that tests read as fixtures
stay as they are. Checkpoints name classes without the package, so those that exist still load.

The git tree must be clean, so `git diff` shows what has changed and `git stash -u` takes it back.
"""

import builtins
import importlib.metadata
import importlib.util
import io
import keyword
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

KEPT = ("LICENSE", "CHANGELOG.md")
FIXTURES = "tests/fixtures/"  # data that older versions wrote; only its Python files change
ROW = re.compile(r"^\| `(src/[\w/]+\.py)` \| \d+ \|", re.MULTILINE)


class Refusal(Exception):
    """The name or the state of the folder does not allow it; one line says why."""


def main() -> int:
    """Rename the package of this project; return the exit status."""
    root = Path(__file__).resolve().parents[1]
    try:
        if len(sys.argv) != 2 or not sys.argv[1]:
            raise Refusal("give one name, as in `make rename NAME=myproject`")
        new = sys.argv[1]
        old = current_name(root)
        check_spelling(new)
        check_is_free(new, old, root)
        files = tracked_files(root)
        check_is_unused(new, files, root)
    except Refusal as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 2
    changed = sum([replace_in(root, file, old, new) for file in files])
    (root / "src" / old).rename(root / "src" / new)
    remove_metadata(root / "src" / f"{old}.egg-info")
    tidy(root)
    update_line_counts(root / "README.md", root)
    print(f"renamed {old} to {new}: {changed} files changed, src/{old} moved to src/{new}")
    print("next: `make check test`, look at `git diff`, then `git add -A` and commit")
    return 0


# ---- what is refused


def current_name(root: Path) -> str:
    """Return the name of the one package in src."""
    names = [path.parent.name for path in root.glob("src/*/__init__.py")]
    if len(names) != 1:
        raise Refusal(f"src contains {len(names)} packages, {sorted(names)}; leave one there")
    return names[0]


def check_spelling(name: str) -> None:
    """Refuse what Python cannot import, or what pip and file systems may confuse."""
    if not re.fullmatch(r"[a-z]([a-z0-9_]*[a-z0-9])?", name):
        proposal = re.sub(r"\W+|_+", "_", name.lower(), flags=re.ASCII).strip("_0123456789")
        hint = f", such as {proposal}" if proposal else ""
        raise Refusal(
            f"{name!r} is no name for a Python package; use lower-case letters, digits and "
            f"underscores, with a letter first{hint}"
        )
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise Refusal(f"{name!r} is a keyword of Python; choose another name")
    if hasattr(builtins, name):
        raise Refusal(f"{name!r} is a built-in name of Python; choose another name")


def check_is_free(name: str, old: str, root: Path) -> None:
    """Refuse the name of a folder or module here, of the standard library, or of a package."""
    if name == old:
        raise Refusal(f"the package is called {name!r} already")
    if name in sys.stdlib_module_names:
        raise Refusal(f"{name!r} is a module of Python's standard library; choose another name")
    for path in (root / "src" / name, root / name, root / f"{name}.py"):
        if path.exists():
            place = path.relative_to(root)
            raise Refusal(f"{name!r} is taken: {place} exists; choose another name")
    distributions = importlib.metadata.distributions()
    installed = {re.sub(r"[-.]", "_", item.name).lower(): item.name for item in distributions}
    if name in installed or importlib.util.find_spec(name):
        package = installed.get(name, name)
        raise Refusal(f"{name!r} is the name of an installed package, {package}; choose another")


def check_is_unused(name: str, files: list[str], root: Path) -> None:
    """Refuse a name that the code uses for something else."""
    for file in files:
        if not file.endswith(".py"):
            continue
        if name == Path(file).stem:
            raise Refusal(f"{name!r} is taken: {file} exists; choose another name")
        source = io.BytesIO((root / file).read_bytes())
        for token in tokenize.tokenize(source.readline):
            if token.type == tokenize.NAME and token.string == name:
                line = token.start[0]
                raise Refusal(f"{name!r} is a name in {file}, line {line}; choose another name")


def tracked_files(root: Path) -> list[str]:
    """Return the files that git tracks, if none of them has changed and there are no others."""
    status = git(root, "status", "--porcelain", "--untracked-files=all", "--", ".")
    if status:
        others = " and others" if status[1:] else ""
        raise Refusal(
            f"not committed: {status[0][3:]}{others}; commit, ignore or stash first "
            "(`git stash --include-untracked`), so that the change can be taken back"
        )
    return git(root, "ls-files", "-z")[0].rstrip("\0").split("\0")


def git(root: Path, *arguments: str) -> list[str]:
    """Return the lines that git prints."""
    if not shutil.which("git"):
        raise Refusal("git is not installed; install it, so that the change can be taken back")
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().partition("\n")[0]
        raise Refusal(
            f"git fails in {root} ({reason}); in a folder without history run `git init`, "
            "`git add -A` and `git commit`, so that the change can be taken back"
        )
    return done.stdout.splitlines()


# ---- what changes


def replace_in(root: Path, file: str, old: str, new: str) -> bool:
    """Replace the name in a file; return whether it has changed."""
    path = root / file
    is_fixture = file.startswith(FIXTURES) and path.suffix != ".py"
    if file in KEPT or is_fixture or path.is_symlink() or not path.is_file():
        return False
    content = path.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return False  # a picture
    renamed = replace(text, old, new)
    if renamed == text:
        return False
    path.write_bytes(renamed.encode())
    return True


def replace(text: str, old: str, new: str) -> str:
    """Replace a name where it is a word, or a word between underscores, but not within a URL."""
    word = rf"(?<![A-Za-z0-9]){old}(?![A-Za-z0-9])"
    variable = rf"(?<![A-Za-z0-9]){old.upper()}(?=_)"

    def change(match: re.Match[str]) -> str:
        if match["word"]:
            return new
        return new.upper() if match["variable"] else match[0]

    return re.sub(rf"https?://\S+|(?P<word>{word})|(?P<variable>{variable})", change, text)


def remove_metadata(folder: Path) -> None:
    """Remove what pip wrote about the old name; the next installation writes it anew."""
    if folder.is_dir():
        shutil.rmtree(folder)


def tidy(root: Path) -> None:
    """Sort imports and break lines again; mark the comments and texts that are too long now."""
    if not importlib.util.find_spec("ruff"):
        print("ruff is not installed here: `make check` names the imports and lines to mend")
        return
    for command in (
        "check --select I --fix",
        "format",
        "check --select E501 --add-noqa",
    ):
        arguments = [sys.executable, "-m", "ruff", *command.split(), "--quiet", "."]
        subprocess.run(arguments, cwd=root, check=True, stderr=subprocess.DEVNULL)


def update_line_counts(page: Path, root: Path) -> None:
    """Write the lengths of the files on the README's reading path, which may have changed."""

    def row(match: re.Match[str]) -> str:
        lines = (root / match[1]).read_text(encoding="utf-8").splitlines()
        return f"| `{match[1]}` | {len(lines)} |"

    text = page.read_text(encoding="utf-8")
    page.write_text(ROW.sub(row, text), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
