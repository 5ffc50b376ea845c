"""Write the pages that follow from the code: `python scripts/write_docs.py`.

- docs/keys.md: every key of the YAML, from the source that `--help-all` reads
- docs/api.md: the classes and functions to import, with their docstrings
- docs/drawings/*.svg: which token states go into the vector of each pooling

A test compares them with what this script would write.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from litpool.command_line import help, options, toolbox
from litpool.command_line.options import Option
from litpool.model.markers import MarkerPooling
from litpool.model.pooling import (
    AttentionPooling,
    ClsPooling,
    ConcatPooling,
    FirstLastPooling,
    LastNPooling,
    LastTokenPooling,
    LayerMixPooling,
    MaxPooling,
    MeanPooling,
    MeanSqrtLenPooling,
    MinPooling,
    PoolerOutput,
    Pooling,
    WeightedMeanPooling,
)

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "litpool"
BY_SCRIPT = "<!-- python scripts/write_docs.py writes this page -->"


def pages() -> dict[str, str]:
    """Return the content of each file, by its path in docs."""
    drawings = {f"drawings/{name}.svg": draw(name) for name in DRAWN}
    return {"keys.md": keys(), "api.md": api(), **drawings}


# ---- every key


def keys() -> str:
    """Return the page with all options: those of a job, of each class, of each command."""
    found = options.read("fit")
    lines = [
        BY_SCRIPT,
        "# Every key",
        "",
        "Each key, with its default in brackets. In YAML, a dot is a level: `model.recipe.lr` is",
        "`lr` in `recipe` in `model`. On the command line it is `--model.recipe.lr`.",
        "`python cli.py COMMAND --help-all` prints the same, from the same source.",
    ]
    section = {
        name: [o for o in found if o.key.startswith(f"{name}.")] for name in ("data", "model")
    }
    lines += ["", "## The job", ""]
    lines += _table([o for o in found if o.key in ("seed_everything", "task")])
    lines += [
        "",
        "## Tasks",
        "",
        "The options of a task are under `task.init_args` in YAML, and `--task.NAME` on the",
    ]
    lines += ["command line."]
    for name in options.subclasses("tasks"):
        lines += ["", f"### {name}", "", *_table(options.class_options("tasks", name))]
    lines += ["", "## Data", "", *_table(section["data"])]
    lines += ["", "## Model", "", *_table(section["model"])]
    lines += [
        "",
        "## Poolings",
        "",
        "A pooling without options is not listed; [poolings](poolings.md) has all of them.",
    ]
    for name in options.subclasses("model"):
        if own := options.class_options("model", name):
            lines += ["", f"### {name}", "", *_table(own)]
    lines += ["", "## Commands", "", "What a command takes besides the job."]
    for command in toolbox.commands():
        places = options.positional(command)
        own = [o for o in options.read(command) if not _is_of_the_job(o.key)]
        if own:
            own = [o._replace(key=o.key.upper() if o.key in places else o.key) for o in own]
            lines += ["", f"### {command}", "", *_table(own)]
    lines += [
        "",
        "## Trainer",
        "",
        "Lightning's Trainer has more to say about its options than fits here.",
    ]
    trainer = [o._replace(text=help.plain(o.text)) for o in options.trainer_options()]
    lines += ["", *_table(trainer)]
    return "\n".join([*lines, ""])


def _is_of_the_job(key: str) -> bool:
    return key.partition(".")[0] in ("task", "data", "model", "trainer", "seed_everything")


def _table(found: Iterable[Option]) -> Iterator[str]:
    yield "| key | |"
    yield "|---|---|"
    for option in found:
        default = f" [`{option.default}`]" if option.default else ""
        yield f"| `{option.key}` | {_cell(option.text)}{default} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# ---- API

MODULES = {
    "": "In Python",
    "model.pooling": "Poolings",
    "model.markers": "Entity markers",
    "model.encoder": "Encoder",
    "model.network": "Network",
    "tasks.task": "Task",
    "tasks.classification": "Classification",
    "tasks.multilabel": "Several labels",
    "tasks.regression": "Regression",
    "tasks.similarity": "Similarity",
    "tasks.question_answering": "Question answering",
    "data.module": "Data",
    "data.batches": "Batches",
    "loops.optimizer": "Optimizer",
    "loops.job": "Job of a loop",
    "loops.log": "Log of a loop",
    "commands": "Commands",
}


def api() -> str:
    """Return the page with the public classes and functions of the modules above."""
    lines = [
        BY_SCRIPT,
        "# API",
        "",
        "What a project imports, with the docstrings of the source. Shapes: B rows, T tokens, D",
        "the hidden size.",
    ]
    for module, title in MODULES.items():
        name = f"{PACKAGE.name}.{module}".rstrip(".")
        lines += ["", f"## {title}", "", f"`{name}`"]
        for node in _public(module):
            lines += _describe(node)
    return "\n".join([*lines, ""])


def _public(module: str) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    """Yield what a module defines; for the package, also what it imports when it is used."""
    files = [PACKAGE / f"{module.replace('.', '/')}.py"]
    if not module:
        files = [PACKAGE / "__init__.py", PACKAGE / "predictor.py"]
    for file in files:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            is_definition = isinstance(node, ast.ClassDef | ast.FunctionDef)
            if not is_definition or node.name.startswith("_"):
                continue
            if file.stem != "predictor" or node.name in ("load", "Predictor"):
                yield node


def _describe(node: ast.ClassDef | ast.FunctionDef) -> Iterator[str]:
    """Yield the lines about a class with its methods, or about a function."""
    yield from ["", f"### {node.name}", "", "```text"]
    if isinstance(node, ast.FunctionDef):
        yield f"{node.name}{_signature(node)}"
    else:
        yield f"class {node.name}({', '.join(map(ast.unparse, node.bases))})".replace("()", "")
        methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
        for method in methods:
            if not method.name.startswith("_"):
                yield f"    .{method.name}{_signature(method)}"
    yield "```"
    if text := ast.get_docstring(node):
        yield ""
        yield from _docstring(text)


def _signature(node: ast.FunctionDef) -> str:
    arguments = re.sub(r"^self(, )?|^cls(, )?", "", ast.unparse(node.args))
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({arguments}){result}"


def _docstring(text: str) -> Iterator[str]:
    """Yield a Google-style docstring as Markdown: sections in bold, arguments as a list."""
    section = ""
    for line in text.splitlines():
        if match := re.fullmatch(r"(Args|Returns|Raises|Yields):", line):
            section = match[1]
            yield f"**{section}**"
            yield ""
        elif section and (match := re.match(r"    (\w+): (.*)", line)):
            yield f"- `{match[1]}`: {match[2]}"
        elif section and line.startswith("    "):
            yield f"  {line.strip()}" if section != "Returns" else line.strip()
        else:
            section = section if line else ""
            yield line


# ---- drawings

TOKENS = ["[CLS]", "[S1]", "Ada", "taught", "[S2]", "Bob", "[SEP]", "[PAD]"]
LAYERS = 4
TEXTS, SIZE = 64, 256  # random ones; so many that each token has the largest value as often


def _mean(hidden_size: int, num_layers: int) -> Pooling:
    return MeanPooling(hidden_size, num_layers)


DRAWN = {
    "ClsPooling": (ClsPooling, {}, "the state of the first token"),
    "PoolerOutput": (PoolerOutput, {}, "[CLS], a dense layer, tanh"),
    "MeanPooling": (MeanPooling, {}, "mean"),
    "MeanPooling_words": (MeanPooling, {"special_tokens": False}, "mean, special_tokens: false"),
    "MaxPooling": (MaxPooling, {}, "largest value of each feature"),
    "MinPooling": (MinPooling, {}, "smallest value of each feature"),
    "MeanSqrtLenPooling": (MeanSqrtLenPooling, {}, "sum / square root of the number"),
    "WeightedMeanPooling": (WeightedMeanPooling, {}, "mean with weights 1, 2, 3, ..."),
    "LastTokenPooling": (LastTokenPooling, {}, "the state of the last token"),
    "AttentionPooling": (AttentionPooling, {}, "mean with learned weights"),
    "FirstLastPooling": (FirstLastPooling, {}, "mean over tokens and two layers"),
    "LastNPooling": (LastNPooling, {"n": 2}, "mean over tokens and n layers (2)"),
    "LayerMixPooling": (LayerMixPooling, {"pooling": _mean}, "learned mix of layers, then mean"),
    "MarkerPooling": (MarkerPooling, {"markers": ["[S1]", "[S2]"]}, "two states, side by side"),
    "ConcatPooling": (
        ConcatPooling,
        {"poolings": [ClsPooling, _mean]},
        "two poolings, side by side",
    ),
}


def weights(name: str) -> Tensor:
    """Return how much each state changes the vector, 0 to 1, (layers + 1, T): from gradients."""
    kind, arguments, _ = DRAWN[name]
    torch.manual_seed(0)
    pooling = kind(SIZE, LAYERS, **arguments).eval()
    if isinstance(pooling, MarkerPooling):
        pooling.ids.copy_(torch.tensor([1, 4]))
    shape = (TEXTS, len(TOKENS), SIZE)
    states = [torch.randn(shape, requires_grad=True) for _ in range(LAYERS + 1)]
    ids = torch.arange(len(TOKENS)).expand(TEXTS, -1)
    mask = (ids < len(TOKENS) - 1).long()
    special = torch.tensor([1, 1, 0, 0, 1, 0, 1, 1]).expand(TEXTS, -1)
    pooled = pooling(states, mask, special, torch.tanh(states[-1][:, 0]), ids)
    gradients = torch.autograd.grad(pooled.sum(), states, allow_unused=True)
    none = torch.zeros(len(TOKENS))
    sizes = [none if g is None else g.abs().mean((0, 2)) for g in gradients]
    stacked = torch.stack(sizes)
    return stacked / stacked.max()


def draw(name: str) -> str:
    """Return a drawing: a column for each token, a row for each layer, the states used in blue."""
    cell, gap, left, top = 30, 5, 62, 50
    step = cell + gap
    width = left + step * len(TOKENS) + 14
    bottom = top + step * (LAYERS + 1)
    strength = weights(name)
    font = 'font-family="sans-serif"'
    title = DRAWN[name][0].__name__
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 58}"'
        f' width="{width}" height="{bottom + 58}" role="img">',
        f"<title>{title}: {DRAWN[name][2]}</title>",
        f'<rect width="{width}" height="{bottom + 58}" rx="8" fill="#ffffff"/>',
        f'<text x="14" y="24" {font} font-size="15" font-weight="bold" fill="#16324f">',
        f"{title}</text>",
        f'<text x="14" y="41" {font} font-size="12" fill="#444444">{DRAWN[name][2]}</text>',
    ]
    for row in range(LAYERS + 1):
        layer = LAYERS - row  # the last layer is on top
        y = top + step * row
        label = f"layer {layer}" if layer else "embed."
        parts.append(
            f'<text x="14" y="{y + 20}" {font} font-size="11" fill="#444444">{label}</text>'
        )
        for column in range(len(TOKENS)):
            share = float(strength[layer, column])
            fill = f'fill="#2f6f9f" fill-opacity="{0.25 + 0.75 * share:.1f}"'
            fill = fill if share > 1e-6 else 'fill="#eeeeee"'
            x = left + step * column
            parts.append(f'<rect x="{x}" y="{y}" width="{cell}" height="{cell}" rx="4" {fill}/>')
    for column, token in enumerate(TOKENS):
        x = left + step * column + cell // 2
        color = "#aaaaaa" if token == "[PAD]" else "#16324f"
        parts.append(
            f'<text x="{x}" y="{bottom + 14}" {font} font-size="10" text-anchor="middle"'
            f' fill="{color}">{token}</text>'
        )
    parts.append(
        f'<text x="14" y="{bottom + 42}" {font} font-size="11" fill="#444444">'
        "blue: goes into the vector; the darker, the more</text>"
    )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    for path, content in pages().items():
        file = ROOT / "docs" / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(content, encoding="utf-8")
        print(f"wrote docs/{path}")
