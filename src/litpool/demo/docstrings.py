"""The embedded corpus: docstrings of Python packages, labeled with the package.

It lets a training job start on a machine that cannot download anything: the rows come from packages
that litpool's dependencies install anyway. Their source files are parsed, never imported.
"""

import ast
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import sys
import sysconfig
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Value

import litpool
from litpool import InputError

# torch, transformers and datasets require all of these; `python` is the standard library.
LABELS = [
    "python",
    "numpy",
    "pandas",
    "torch",
    "transformers",
    "sympy",
    "networkx",
    "huggingface_hub",
]

SPLITS = ["train", "validation", "test"]
COLUMNS = ["text", "label", "signature", "file", "split"]
PER_FILE = 20  # so that no long file fills a split on its own; numpy's ma/core.py has over 100

# Tests, and code copied from elsewhere, which would get the wrong label.
SKIPPED_FOLDERS = {
    "test", "tests", "testing", "_vendor", "_vendored", "vendor", "third_party", "externals",
    "idlelib", "lib2to3", "encodings", "turtledemo", "__pycache__", "_numpy", "site-packages",
    "dist-packages",
}  # fmt: skip

# The start of something that is not a summary: parameters, an example, a license.
SECTION = re.compile(
    r"(args?|arguments|parameters?|params|returns?|yields?|raises|inputs?|outputs?|shape|"
    r"examples?|usage|notes?|references|attributes|see also)\s*:*$|"
    r"(args|arguments|parameters|params|example):|>>>|```|:param |@|\$|\||"
    r"copyright|licen[sc]ed? |\**\w+ \(`",
    re.IGNORECASE,
)
UNDERLINE = re.compile(r"[=~*#^-]{4,}$")
NOT_PROSE = re.compile(
    r"\W*$|\.\. |:\w+:\s|"
    r"[\w.]+\s*\([^()]*(\([^()]*\)[^()]*)*\)\s*(->.*|:|--)?$|"  # a signature
    r"[\w.]+$|<[^>]*>$"
)


Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstring_splits(per_label: int = 750) -> dict[str, Dataset]:
    """Read the embedded corpus; on first use, build it for the installed versions (ten seconds).

    Args:
        per_label: Rows of each label at most, a tenth of them in validation and a tenth in test.

    Returns:
        `train`, `validation` and `test`, each with the columns `text` (the summary paragraph),
        `label` (the package), `signature` (of what the text describes) and `file` (a path that
        begins with the package's name, except in the standard library). No file and no text is in
        two splits.

    Raises:
        InputError: A package is missing, or has too few docstrings for a row in every split.
    """
    if per_label < 10:
        raise InputError(
            f"per_label={per_label}: give 10 or more, so that every split has rows of every label"
        )
    path = litpool.CACHE / "docstrings" / f"{_key(per_label)}.parquet"
    table = _read(path)
    if table is None:
        table = pa.Table.from_pylist(_build(per_label))
        _write(table, path)
    features = Features(
        {
            "text": Value("string"),
            "label": ClassLabel(names=LABELS),
            "signature": Value("string"),
            "file": Value("string"),
        }
    )
    splits = {}
    for split in SPLITS:
        rows = table.filter(pc.field("split") == split).select(list(features))
        splits[split] = Dataset.from_dict(rows.to_pydict(), features=features)
    return splits


def _key(per_label: int) -> str:
    """Name the corpus by what it depends on: the versions of the packages, and this file."""
    try:
        versions = {label: importlib.metadata.version(label) for label in LABELS[1:]}
    except importlib.metadata.PackageNotFoundError as error:
        raise _missing(error.name) from error
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    parts = json.dumps([versions, platform.python_version(), code, per_label], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def _read(path: Path) -> pa.Table | None:
    """Read the cached corpus; None if it does not exist or is damaged, and has to be built."""
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
    except (OSError, pa.ArrowException):
        return None
    return table if table.column_names == COLUMNS else None


def _write(table: pa.Table, path: Path) -> None:
    """Write under another name, then rename, so that no other process reads half a file."""
    temporary = path.with_suffix(f".{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, temporary, write_page_checksum=True)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # there may be none
            temporary.unlink()
        warnings.warn(
            f"{path}: not written ({error.strerror}); set LITPOOL_CACHE to a writable folder",
            stacklevel=2,
        )


def _build(per_label: int) -> list[dict[str, str]]:
    tenth = per_label // 10
    quotas = {"train": per_label - 2 * tenth, "validation": tenth, "test": tenth}
    seen: set[str] = set()  # a text that two packages share belongs to the first
    rows = []
    for label in LABELS:
        label_rows = _gather(label, quotas, seen)
        if {row["split"] for row in label_rows} != set(SPLITS):
            raise InputError(
                f"package {label!r}: too few docstrings for three splits; "
                "reinstall it with its .py files"
            )
        if len(label_rows) < per_label:
            warnings.warn(
                f"docstrings: {label} has only {len(label_rows)} of {per_label} rows", stacklevel=3
            )
        rows += label_rows
    return rows


def _gather(label: str, quotas: dict[str, int], seen: set[str]) -> list[dict[str, str]]:
    """Read a package's files, in the order of their hashes, until every split has its quota."""
    root, files = _files(label)
    room = dict(quotas)
    rows: list[dict[str, str]] = []
    for file in sorted(files, key=_hash):
        split = {0: "validation", 1: "test"}.get(_hash(file) % 10, "train")
        if not room[split]:
            continue
        new: dict[str, dict[str, str]] = {}  # by the words of the text
        for signature, text in _documented(root, file):
            key = " ".join(re.findall(r"\w+", text.casefold()))
            if key not in seen:
                row = {"text": text, "label": label, "signature": signature, "file": file}
                new.setdefault(key, row | {"split": split})
        chosen = sorted(new, key=_hash)[: min(PER_FILE, room[split])]
        rows += [new[key] for key in chosen]
        seen.update(chosen)
        room[split] -= len(chosen)
        if not any(room.values()):
            break
    return rows


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _files(label: str) -> tuple[Path, list[str]]:
    """Find a package's files without importing it, relative to the folder that contains it."""
    if label == "python":
        root = Path(sysconfig.get_path("stdlib"))
        tops = [path for path in root.iterdir() if path.stem in sys.stdlib_module_names]
    else:
        spec = importlib.util.find_spec(label)
        if spec is None or spec.origin is None:
            raise _missing(label)
        root = Path(spec.origin).parent.parent
        tops = [root / label]
    paths = [path for top in tops for path in [top, *top.rglob("*.py")]]
    files = [path.relative_to(root) for path in paths if path.suffix == ".py"]
    return root, [file.as_posix() for file in files if not SKIPPED_FOLDERS.intersection(file.parts)]


def _missing(package: str) -> InputError:
    return InputError(
        f"data.source 'docstrings' needs the package {package!r}: "
        f"pip install {package}, or name a file"
    )


def _documented(root: Path, file: str) -> Iterator[tuple[str, str]]:
    """Yield signature and summary of everything in a file whose docstring begins with prose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SyntaxWarnings about other projects' code
        try:
            tree = ast.parse((root / file).read_bytes())
        except (SyntaxError, ValueError):  # a template, or code for another Python
            return
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for node in ast.walk(tree):
        if isinstance(node, Definition):
            text = summary(ast.get_docstring(node) or "")
            if len(text.split()) >= 4:
                yield _signature(node, module), text


def summary(docstring: str) -> str:
    """Return the first paragraph of prose on one line, or "" if a section begins before it."""
    for paragraph in re.split(r"\n\s*\n", docstring.strip()):
        lines = [line.strip() for line in paragraph.splitlines()]
        text = " ".join(" ".join(_prose(lines)).split())
        # Checked again once joined, because a signature may extend over several lines.
        if text and not NOT_PROSE.match(text):
            return text
        if any(SECTION.match(line) for line in lines):
            return ""
    return ""


def _prose(lines: list[str]) -> list[str]:
    """Drop titles, markup and signatures before the prose, and sections and directives after."""
    prose: list[str] = []
    for line in lines:
        if UNDERLINE.match(line):
            prose = []  # the lines above were a title
        elif SECTION.match(line) or (prose and line.startswith(".. ")):
            break
        elif prose or not NOT_PROSE.match(line):
            prose.append(line)
    return prose


def _signature(node: Definition, module: str) -> str:
    if isinstance(node, ast.Module):
        return module
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {node.name}({bases})" if bases else f"class {node.name}"
    arguments = node.args
    names = [argument.arg for argument in arguments.posonlyargs + arguments.args]
    names = [name for name in names if name not in ("self", "cls")]
    if arguments.vararg:
        names.append(f"*{arguments.vararg.arg}")
    names += [argument.arg for argument in arguments.kwonlyargs]
    if arguments.kwarg:
        names.append(f"**{arguments.kwarg.arg}")
    return f"{node.name}({', '.join(names)})"
