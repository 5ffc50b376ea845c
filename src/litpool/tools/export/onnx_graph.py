"""The format onnx: one graph with pooling and head inside, for ONNX Runtime without PyTorch."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from litpool import InputError
from litpool.tools.export import tokens
from litpool.tools.export.golden import Golden
from litpool.tools.export.graph import BATCH, Graph, Model

FILE = "model.onnx"
LABELS = "labels.json"
PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def check(model: Model) -> None:
    """Refuse a missing package, or a tokenizer that needs Python."""
    for package in PACKAGES:
        if find_spec(package) is None:
            raise InputError(
                f"format=onnx: needs the package {package}; "
                "pip install -c constraints.txt -e '.[export]'"
            )
    tokens.check(model)


def write(model: Model, graph: Graph, folder: Path) -> None:
    """Write the graph, the tokenizer and the labels."""
    inputs = example(model, graph)
    try:
        with quiet():
            torch.onnx.export(
                graph,
                (),
                folder / FILE,
                kwargs=inputs,
                input_names=list(inputs),
                output_names=["output"],
                dynamo=True,  # the older exporter fixes the batch size in some poolings
                dynamic_shapes={name: {0: "batch", 1: "length"} for name in inputs},
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise refusal("onnx", error, "--format torch or huggingface") from error
    write_tokens(model, folder)


def refusal(format: str, error: Exception, instead: str) -> InputError:
    """Return the error for a network with an operation that a format does not have."""
    cause: BaseException = error
    while cause.__cause__ is not None:  # the first one names the operation
        cause = cause.__cause__
    reason = " ".join(str(cause).split())[:200]
    return InputError(f"format={format}: cannot express this network ({reason}); use {instead}")


def write_tokens(model: Model, folder: Path) -> None:
    """Write the tokenizer, and the labels with what the output means."""
    tokens.write(model, folder)
    settings = {
        "task": type(model.task).__name__,
        "output": model.output,
        "labels": model.task.labels,
        "range": list(getattr(model.task, "bounds", None) or []),
        "prefixes": [model.prefixes.get(name, "") for name in model.columns],
        "max_length": model.max_length,
    }
    text = json.dumps(settings, indent=2, ensure_ascii=False)
    (folder / LABELS).write_text(text + "\n", encoding="utf-8")


def example(model: Model, graph: Graph) -> dict[str, Tensor]:
    """Return a padded batch with the inputs that the graph depends on."""
    texts = [["a good film", "it is good"], ["good", "a"], ["this was not so bad", "so, why not?"]]
    rows = [row[: len(model.columns)] for row in texts]
    batch = model.batches(model.encode(rows))[0]
    return {name: batch[name] for name in graph.input_names(batch)}


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what exporters say about themselves, not about the user's network."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def feed(names: list[str], folder: Path, golden: Golden) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield batches of golden texts: their encodings, and the inputs as NumPy arrays."""
    import numpy as np

    prefixes = golden["prefixes"]
    for start in range(0, len(golden["rows"]), BATCH):
        rows = golden["rows"][start : start + BATCH]
        texts = [
            [before + text for before, text in zip(prefixes, row["texts"], strict=True)]
            for row in rows
        ]
        if golden["output"] == "spans":
            texts = [[question.strip(), context] for question, context in texts]
        encodings = tokens.encode(folder, texts)
        masks = [encoding.special_tokens_mask for encoding in encodings]
        if golden["output"] == "spans":  # 1 outside the context; golden.json has no padding
            masks = [
                _fill(encoding.attention_mask, row["special_tokens_mask"])
                for encoding, row in zip(encodings, rows, strict=True)
            ]
        arrays = {
            "input_ids": [encoding.ids for encoding in encodings],
            "attention_mask": [encoding.attention_mask for encoding in encodings],
            "token_type_ids": [encoding.type_ids for encoding in encodings],
            "special_tokens_mask": masks,
        }
        yield encodings, {name: np.array(arrays[name], dtype=np.int64) for name in names}


def _fill(attention_mask: list[int], values: list[int]) -> list[int]:
    """Put the values of real tokens into a padded row of ones."""
    rest = iter(values)
    return [next(rest, 1) if real else 1 for real in attention_mask]


def collect(encodings: Any, output: Any) -> tuple[list[list[int]], list[list[float]]]:
    """Return the token ids and the output of each row, without padding."""
    lowest = -3e38  # of tokens that cannot be in an answer
    ids, outputs = [], []
    for encoding, row in zip(encodings, output, strict=True):
        mask = [bool(real) for real in encoding.attention_mask]
        ids.append([number for number, real in zip(encoding.ids, mask, strict=True) if real])
        if row.ndim == 2:
            row = row[mask]
            row = row[row[:, 0] > lowest]
        outputs.append([float(number) for number in row.reshape(-1)])
    return ids, outputs


def run(
    folder: Path, golden: Golden, trusted: Sequence[str]
) -> tuple[list[list[int]], list[list[float]]]:
    """Return the token ids and the outputs of the golden texts, from ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / FILE), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    ids: list[list[int]] = []
    outputs: list[list[float]] = []
    for encodings, arrays in feed(names, folder, golden):
        part = collect(encodings, session.run(None, arrays)[0])
        ids += part[0]
        outputs += part[1]
    return ids, outputs


def network(
    folder: Path, golden: Golden, trusted: Sequence[str]
) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Return the graph as a function of a batch."""
    return OnnxGraph(folder / FILE)


class OnnxGraph:
    """ONNX Runtime as a function from a batch, each tensor (B, T), to the output.

    Args:
        file: The graph.
    """

    def __init__(self, file: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(str(file), options, providers=providers)
        self.names = [entry.name for entry in self.session.get_inputs()]

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        arrays = {name: batch[name].numpy() for name in self.names}
        return torch.from_numpy(self.session.run(None, arrays)[0])


class OnnxNetwork:
    """ONNX Runtime in place of a TextModel: from a batch to the same output.

    Args:
        file: The graph.
        model: Its task and network; the head of a bi-encoder is not in the graph.
    """

    def __init__(self, file: Path, model: Model) -> None:
        self.graph = OnnxGraph(file)
        self.model = model

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        shape = batch["input_ids"].shape[:-1]  # (B,) or (B, K)
        output = self.graph({name: batch[name].flatten(0, -2) for name in self.graph.names})
        if self.model.output == "vectors":
            return self.model.network.head(output.unflatten(0, shape))
        if self.model.output == "scores":
            task: Any = self.model.task
            return (output - task.shift) / task.scale
        return output
