"""README.md: the model card of an export, with the program that uses it."""

import json
from pathlib import Path
from typing import Any

from litpool import trust
from litpool.tasks.multilabel import MultiLabelClassification
from litpool.tools.export.golden import CARD, Golden
from litpool.tools.export.graph import Model
from litpool.tools.export.scores import Cost, Scores

TAGS = {
    "vectors": "sentence-similarity",
    "logits": "text-classification",
    "scores": "text-classification",
    "spans": "question-answering",
}
LIBRARIES = {
    "onnx": "onnx",
    "torch": "pytorch",
    "sentence-transformers": "sentence-transformers",
    "huggingface": "transformers",
}
FIELDS = {  # of the tokenizers library
    "input_ids": "ids",
    "attention_mask": "attention_mask",
    "token_type_ids": "type_ids",
    "special_tokens_mask": "special_tokens_mask",
}


def write(
    folder: Path,
    model: Model,
    golden: Golden,
    scores: Scores,
    license: str,
    reason: str,
    cost: Cost | None,
    inputs: list[str],
) -> None:
    """Write the model card.

    Args:
        folder: The export.
        model: What is exported.
        golden: What golden.json will contain.
        scores: The metrics of the test split.
        license: The license to name.
        reason: Why an encoder is exported without a task model; empty if that is not so.
        cost: What 8 bits cost.
        inputs: The inputs of a graph.
    """
    format = golden["format"]
    parts = [
        _front_matter(model, golden, license),
        f"# {golden['task']} with {_name(model.config['model']['encoder']['name'])}",
        _summary(model, golden),
        "## How to use it",
        _usage(model, format, golden["stock"], reason, inputs),
        "## Metrics",
        _metrics(model, scores, cost),
        "## Certificate",
        _certificate(golden),
        "## Versions",
        "\n".join(f"- {name} {version}" for name, version in golden["versions"].items()),
    ]
    (folder / CARD).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _front_matter(model: Model, golden: Golden, license: str) -> str:
    name = model.config["model"]["encoder"]["name"]
    lines = [
        f"license: {json.dumps(license)}",
        f"library_name: {LIBRARIES[golden['format']]}",
        f"pipeline_tag: {_tag(model, golden)}",
        "tags: [litpool]",
    ]
    if name.count("/") == 1 and not Path(name).exists():
        lines.append(f"base_model: {json.dumps(name)}")
    return "\n".join(["---", *lines, "---"])


def _tag(model: Model, golden: Golden) -> str:
    """Return what the Hub offers: with an encoder alone, a classifier would have a random head."""
    if golden["format"] == "huggingface" and not golden["stock"]:
        return "feature-extraction"
    return TAGS[model.output]


def _summary(model: Model, golden: Golden) -> str:
    data = model.config["data"]
    rows = [
        f"- task: {golden['task']}, which gives {model.output}",
        f"- encoder: {_name(model.config['model']['encoder']['name'])}",
        f"- pooling: {golden['pooling'] or 'none, the head reads every token'}",
        f"- data: {_source(data.get('source'))}",
        f"- text: {', '.join(model.task.texts)}; at most {model.max_length} tokens",
    ]
    if model.task.labels:
        rows.append(f"- labels: {', '.join(model.task.labels)}")
    prefixes = {name: text for name, text in model.prefixes.items() if text}
    if prefixes:
        rows.append(f"- prefix: {json.dumps(prefixes, ensure_ascii=False)}")
    if model.output == "vectors" and any(True for _ in model.network.head.parameters()):
        rows.append("- the classifier of pairs that the training used is not in this export")
    return "\n".join(rows)


def _source(source: Any) -> str:
    """Return the names of the data's files, without folders, or of the data set."""
    if isinstance(source, dict):
        return ", ".join(f"{split}: {_source(files)}" for split, files in source.items())
    if isinstance(source, list):
        return " ".join(map(_source, source))
    return _name(str(source))


def _name(path: str) -> str:
    """Return the name of a file or folder, or a name on the Hub as it is."""
    return Path(path).name if Path(path).exists() or path.startswith((".", "/")) else path


def _metrics(model: Model, scores: Scores, cost: Cost | None) -> str:
    lines = []
    if scores.scores:
        lines.append(f"The test split, {scores.rows:,} rows, with 95% intervals:\n")
        lines += ["| metric | value | interval |", "|---|---|---|"]
        for score in scores.scores:
            interval = "too few rows"
            if score.interval:
                interval = f"{score.interval[0]:.4f} to {score.interval[1]:.4f}"
            lines.append(f"| {score.name} | {score.value:.4f} | {interval} |")
    else:
        lines.append(f"The test split has no metrics here: {scores.reason}.")
    stored = {name: value for name, value in model.metrics.items() if name.count("/") == 1}
    if stored:
        values = ", ".join(f"{name} {value:.4f}" for name, value in stored.items())
        lines.append(f"\nWhen the checkpoint was written: {values}.")
    if cost:
        lines.append(f"\nWith weights in 8 bits: {cost}.")
        if cost.warning:
            lines.append(f"When it was exported, {cost.warning}.")
    return "\n".join(lines)


def _certificate(golden: Golden) -> str:
    return (
        f"`golden.json` holds {len(golden['rows'])} texts, none of them from the training data, "
        "with their token ids and outputs, and the sha256 of every file. "
        "`python cli.py verify FOLDER` runs them through this folder, and "
        "`python cli.py verify URL --golden FOLDER` through a server; both name what is wrong. "
        f"Outputs may differ by {golden['tolerance']:g}."
    )


def _usage(model: Model, format: str, stock: bool, reason: str, inputs: list[str]) -> str:
    if format == "onnx":
        return (
            "This needs only `pip install onnxruntime tokenizers`. In this folder:\n\n"
            + _fenced(program(model, inputs, "onnx"))
        )
    if format == "torch":
        return "This needs only `pip install torch tokenizers`. In this folder:\n\n" + _fenced(
            program(model, inputs, "torch")
        )
    if format == "sentence-transformers":
        return _fenced(_sentence_transformer(model))
    return _transformers(model, stock, reason)


def program(model: Model, inputs: list[str], runtime: str) -> str:
    """Return a program that answers two texts with a graph.

    Args:
        model: What is exported.
        inputs: The inputs of the graph.
        runtime: `onnx` or `torch`.
    """
    array = "np.array" if runtime == "onnx" else "torch.tensor"
    lines = [
        "import json",
        "import numpy as np",
        "import onnxruntime" if runtime == "onnx" else "import torch",
        "from tokenizers import Tokenizer",
        f"texts = {json.dumps(_texts(model), ensure_ascii=False)}",
        'rows = Tokenizer.from_file("tokenizer.json").encode_batch(texts)',
        f"fields = {json.dumps({name: FIELDS[name] for name in inputs})}",
        f"inputs = {{name: {array}([getattr(row, field) for row in rows])"
        " for name, field in fields.items()}",
    ]
    if model.output == "spans":  # 1 outside the context
        mask = "[[int(part != 1) for part in row.sequence_ids] for row in rows]"
        lines.append(f'inputs["special_tokens_mask"] = {array}({mask})')
    if runtime == "onnx":
        lines.append('output = onnxruntime.InferenceSession("model.onnx").run(None, inputs)[0]')
    else:
        lines.append('output = torch.export.load("model.pt2").module()(**inputs).detach().numpy()')
    return "\n".join([*lines, *_answers(model, 'json.load(open("labels.json"))["labels"]')])


def _texts(model: Model) -> list[Any]:
    if model.output == "spans":
        return [["Who plays?", "A man plays the guitar."]]
    texts = ["a good film", "a bad film"]
    before = [model.prefixes.get(name, "") for name in model.columns]
    if len(before) == 2:
        return [[before[0] + texts[0], before[1] + texts[1]], [before[0] + texts[0]] * 2]
    return [before[0] + text for text in texts]


def _answers(model: Model, names: str) -> list[str]:
    """Return the lines that turn `output` into what `predict` answers, as JSON lines.

    Args:
        model: What is exported.
        names: Python for the list of labels.
    """
    labels = f"labels = {names}"
    show = "print(json.dumps(dict(zip(labels, map(float, row)))))"
    if model.output == "spans":
        length = model.config["task"].get("init_args", {}).get("max_answer_length", 30)
        return [
            "for (_, context), row, (start, end) in zip(texts, rows, output.transpose(0, 2, 1)):",
            "    allowed = np.triu(np.ones((len(start), len(end))))"
            f" - np.triu(np.ones((len(start), len(end))), {length})",
            "    scores = np.where(allowed > 0, start[:, None] + end, -np.inf)",
            "    first, last = np.unravel_index(scores[1:].argmax(), scores[1:].shape)",
            "    print(context[row.offsets[first + 1][0] : row.offsets[last][1]])",
        ]
    if model.output == "vectors":
        return [
            "output /= np.linalg.norm(output, axis=1, keepdims=True)",
            "print(float(output[0] @ output[1]))  # their cosine",
        ]
    if model.output == "scores":
        bounds = getattr(model.task, "bounds", None)
        clip = f".clip({bounds[0]}, {bounds[1]})" if bounds else ""
        return [f"print(output[:, 0]{clip}.tolist())"]
    if isinstance(model.task, MultiLabelClassification):
        return [labels, "for row in 1 / (1 + np.exp(-output)):", f"    {show}"]
    return [
        labels,
        "powers = np.exp(output - output.max(1, keepdims=True))",
        "for row in powers / powers.sum(1, keepdims=True):",
        f"    {show}",
    ]


def _sentence_transformer(model: Model) -> str:
    texts: list[Any] = ["a good film", "a bad film"]
    if len(model.columns) == 2:
        texts = [texts, texts[::-1]]
    answers = ["print(model.similarity(output[0], output[1]))  # their cosine"]
    if model.output != "vectors":
        answers = _answers(model, json.dumps(model.task.labels, ensure_ascii=False))
    used = "\n".join(answers)
    imports = {"json.": "import json", "np.": "import numpy as np"}
    lines = [
        *(line for name, line in imports.items() if name in used),
        "from sentence_transformers import SentenceTransformer",
        'model = SentenceTransformer(".")  # this folder',
        f"output = model.encode({json.dumps(texts)})",
        *answers,
    ]
    prefixes = {name: text for name, text in model.prefixes.items() if text}
    if len(set(prefixes.values())) > 1:
        names = ", ".join(prefixes)
        lines.append(f"# or model.encode(texts, prompt_name=...), which knows {names}")
    return "\n".join(lines)


def _transformers(model: Model, stock: bool, reason: str) -> str:
    if stock and model.output == "spans":
        kind = "AutoModelForQuestionAnswering"
        return _fenced(
            f"from transformers import AutoTokenizer, {kind}\n"
            'tokenizer = AutoTokenizer.from_pretrained(".")  # this folder\n'
            f'model = {kind}.from_pretrained(".")\n'
            'inputs = tokenizer("Who plays?", "A man plays.", truncation="only_second", '
            'return_tensors="pt")\n'
            "output = model(**inputs)  # start_logits and end_logits, for tokens of the context"
        )
    if stock:
        return _fenced(
            "from transformers import pipeline\n"
            'classify = pipeline("text-classification", model=".", top_k=None)  # this folder\n'
            'print(classify(["a good film"], truncation=True))'
        )
    return (
        f"This is the encoder without a task model, because {reason}. With transformers alone, "
        "it gives the states of the tokens:\n\n"
        + _fenced(
            "from transformers import AutoModel, AutoTokenizer\n"
            'tokenizer = AutoTokenizer.from_pretrained(".")  # this folder\n'
            'encoder = AutoModel.from_pretrained(".")\n'
            'inputs = tokenizer(["a good film"], truncation=True, return_tensors="pt")\n'
            "tokens = encoder(**inputs).last_hidden_state  # before pooling and head\n"
            "print(tokens.shape)"
        )
        + "\n\nAs it loads, transformers may report weights of a pooler as missing; nothing here "
        "uses them. The pooling and the head, whose weights, if any, are in `head.safetensors`, "
        f"are:\n\n```text\n{model.network.pooling!r}\n{model.network.head!r}\n```\n\n"
        "`litpool.load` computes all of it:\n\n" + _fenced(_litpool(model))
    )


def _litpool(model: Model) -> str:
    """Return the program that answers with litpool, which adds the prefixes itself."""
    modules = trust.modules(model.config)
    trusted = f", trust={json.dumps(modules)}" if modules else ""
    call, rows = "predict", '["a good film"]'
    if model.output == "vectors":
        call = "encode"
    elif model.output == "spans":
        rows = '[("Who plays?", "A man plays the guitar.")]'
    elif len(model.columns) == 2:
        rows = '[("a good film", "a bad film")]'
    return (
        "import litpool\n"
        f'model = litpool.load("."{trusted})  # this folder\n'
        f"print(model.{call}({rows}))"
    )


def _fenced(code: str) -> str:
    return f"```python\n{code}\n```"
