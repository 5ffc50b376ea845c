"""The embedded corpus: what the docstrings of Python packages say, and which package says it.

A training job has to start on a machine that cannot download anything, so the rows are gathered from packages that
litpool's dependencies bring along anyway. The sources are parsed, never imported.
"""

import ast
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
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Value

import litpool
from litpool import InputError

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
"""`python` is the standard library; torch, transformers and datasets require the others, so all are always there."""

SPLITS = ["train", "validation", "test"]
COLUMNS = ["text", "label", "signature", "file", "split"]
PER_FILE = 20  # so that one long file (numpy's ma/core.py has over a hundred) cannot fill a split on its own

SKIPPED_FOLDERS = {  # tests, and code that was copied from elsewhere and would carry the wrong label
    "test", "tests", "testing", "_vendor", "_vendored", "vendor", "third_party", "externals", "idlelib", "lib2to3",
    "encodings", "turtledemo", "__pycache__", "_numpy", "site-packages", "dist-packages",
}  # fmt: skip
SECTION = re.compile(  # what follows is no summary but a list of parameters, an example or a licence
    r"(args?|arguments|parameters?|params|returns?|yields?|raises|inputs?|outputs?|shape|examples?|usage|notes?|"
    r"references|attributes|see also)\s*:*$|(args|arguments|parameters|params|example):|>>>|```|:param |@|\$|\||"
    r"copyright|licen[sc]ed? |\**\w+ \(`",
    re.IGNORECASE,
)
UNDERLINE = re.compile(r"[=~*#^-]{4,}$")
NOT_PROSE = re.compile(
    r"\W*$|\.\. |:\w+:\s|[\w.]+\s*\([^()]*(\([^()]*\)[^()]*)*\)\s*(->.*|:|--)?$|[\w.]+$|<[^>]*>$"
)


def docstring_splits(per_label: int = 750) -> dict[str, Dataset]:
    """Read the embedded corpus, building it on first use (some ten seconds) for the installed versions.

    Args:
        per_label: at most so many rows of each label, a tenth of them in validation and a tenth in test.

    Returns:
        `train`, `validation` and `test`, each with the columns `text` (summary paragraph), `label` (package),
        `signature` (of what the text describes) and `file` (path that begins with the package's name, except in the
        standard library). No file and no text is in two splits.

    Raises:
        InputError: if a package is missing, or has too little text for a row in every split.
    """
    if per_label < 10:
        raise InputError(
            f"per_label {per_label}: must be 10 or more, so that every split gets rows of every label"
        )
    path = litpool.CACHE / "docstrings" / f"{_key(per_label)}.parquet"
    table = _read(path)
    if table is None:
        table = pa.Table.from_pylist(_build(per_label))
        _write(table, path)
    return {
        split: _dataset([row for row in table.to_pylist() if row["split"] == split])
        for split in SPLITS
    }


def _dataset(rows: list[dict[str, str]]) -> Dataset:
    kinds = {"text": Value("string"), "label": ClassLabel(names=LABELS)}
    features = Features(kinds | {"signature": Value("string"), "file": Value("string")})
    return Dataset.from_dict(
        {name: [row[name] for row in rows] for name in features}, features=features
    )


def _key(per_label: int) -> str:
    """Name the corpus by all that it is made from: the versions of the packages, and this very file."""
    try:
        versions = {label: importlib.metadata.version(label) for label in LABELS[1:]}
    except importlib.metadata.PackageNotFoundError as error:
        raise _missing(error.name) from error
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    made_from = json.dumps([versions, platform.python_version(), code, per_label], sort_keys=True)
    return hashlib.sha256(made_from.encode()).hexdigest()[:16]


def _read(path: Path) -> pa.Table | None:
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
    except (OSError, pa.ArrowException):  # not there yet, cut short, or damaged: built anew
        return None
    return table if table.column_names == COLUMNS else None


def _write(table: pa.Table, path: Path) -> None:
    """Write beside the target, then rename: of two processes that build at once, neither reads half a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{uuid.uuid4().hex}")
        pq.write_table(table, beside, write_page_checksum=True)
        os.replace(beside, path)
    except OSError as error:
        warnings.warn(
            f"{path}: not written ({error.strerror}); set LITPOOL_CACHE to a writable folder",
            stacklevel=2,
        )


def _build(per_label: int) -> list[dict[str, str]]:
    tenth = per_label // 10
    quotas = {"train": per_label - 2 * tenth, "validation": tenth, "test": tenth}
    seen: set[str] = (
        set()
    )  # of all labels: a text that two packages share stays with the first, once
    rows = []
    for label in LABELS:
        mine = _gather(label, quotas, seen)
        if {row["split"] for row in mine} != set(SPLITS):
            raise InputError(
                f"package {label!r}: too few docstrings for three splits; reinstall it with its .py files"
            )
        if len(mine) < per_label:
            warnings.warn(
                f"docstrings: {label} has {len(mine)} rows of the {per_label} asked for",
                stacklevel=3,
            )
        rows += mine
    return rows


def _gather(label: str, quotas: dict[str, int], seen: set[str]) -> list[dict[str, str]]:
    """Read the files of a package in the order of their hashes until every split has its quota."""
    root, files = _files(label)
    room = dict(quotas)
    rows: list[dict[str, str]] = []
    for file in sorted(files, key=_hash):
        split = {0: "validation", 1: "test"}.get(_hash(file) % 10, "train")
        if not room[split]:
            continue
        fresh: dict[str, tuple[str, str]] = {}
        for signature, text in _documented(root / file, _dotted(file)):
            key = " ".join(re.findall(r"\w+", text.casefold()))
            if key not in seen:
                fresh.setdefault(key, (signature, text))
        for key in sorted(fresh, key=_hash)[: min(PER_FILE, room[split])]:
            seen.add(key)
            signature, text = fresh[key]
            rows.append(
                {"text": text, "label": label, "signature": signature, "file": file, "split": split}
            )
            room[split] -= 1
        if not any(room.values()):
            break
    return rows


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _dotted(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _files(label: str) -> tuple[Path, list[str]]:
    """Find a package's folder without importing it. The paths are relative to what holds the package."""
    if label == "python":
        root = Path(sysconfig.get_path("stdlib"))
        names = sorted(
            {path.name for path in root.iterdir() if path.stem in sys.stdlib_module_names}
            - SKIPPED_FOLDERS
        )
    else:
        spec = importlib.util.find_spec(label)
        if spec is None or spec.origin is None:
            raise _missing(label)
        root, names = Path(spec.origin).parent.parent, [label]
    return root, [file for name in names for file in _walk(root, name)]


def _walk(root: Path, name: str) -> Iterator[str]:
    if name.endswith(".py"):
        yield name
    for folder, inner, files in os.walk(root / name):
        inner[:] = [sub for sub in inner if sub not in SKIPPED_FOLDERS]
        yield from (
            (Path(folder) / file).relative_to(root).as_posix()
            for file in files
            if file.endswith(".py")
        )


def _missing(package: str) -> InputError:
    return InputError(
        f"data.source 'docstrings' needs the package {package!r}: pip install {package}, or name a file"
    )


def _documented(path: Path, dotted: str) -> Iterator[tuple[str, str]]:
    """Yield (signature, summary) of everything in the file whose docstring begins with prose."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # a SyntaxWarning about another project's escapes helps no one here
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # a template, or for another Python
            return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = summary(ast.get_docstring(node) or "")
            if len(text.split()) >= 4:
                yield _signature(node, dotted), text


def summary(docstring: str) -> str:
    """Take the first paragraph of prose, on one line; "" if there is none before the sections begin."""
    for paragraph in re.split(r"\n\s*\n", docstring.strip()):
        lines = [line.strip() for line in paragraph.splitlines()]
        text = " ".join(" ".join(_prose(lines)).split())
        if text and not NOT_PROSE.match(
            text
        ):  # joined, because a signature may run over several lines
            return text
        if any(SECTION.match(line) for line in lines):
            return ""
    return ""


def _prose(lines: list[str]) -> list[str]:
    """Drop titles, markup and signatures before the prose, and all from the next section or directive on."""
    kept: list[str] = []
    for line in lines:
        if UNDERLINE.match(line):
            kept = []  # what came before was a title
        elif SECTION.match(line) or (kept and line.startswith(".. ")):
            break
        elif kept or not NOT_PROSE.match(line):
            kept.append(line)
    return kept


def _signature(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, dotted: str
) -> str:
    if isinstance(node, ast.Module):
        return dotted
    if isinstance(node, ast.ClassDef):
        return f"class {node.name}({', '.join(ast.unparse(base) for base in node.bases)})".removesuffix(
            "()"
        )
    known = node.args
    names = [
        argument.arg
        for argument in known.posonlyargs + known.args
        if argument.arg not in ("self", "cls")
    ]
    names += [f"*{known.vararg.arg}"] if known.vararg else []
    names += [argument.arg for argument in known.kwonlyargs]
    names += [f"**{known.kwarg.arg}"] if known.kwarg else []
    return f"{node.name}({', '.join(names)})"
