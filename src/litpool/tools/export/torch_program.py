"""The format torch: torch.export's program of the network, pooling and head inside."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from litpool.tools.export import onnx_graph, tokens
from litpool.tools.export.golden import Golden
from litpool.tools.export.graph import Graph, Model

FILE = "model.pt2"


def check(model: Model) -> None:
    """Refuse a tokenizer that needs Python."""
    tokens.check(model)


def write(model: Model, graph: Graph, folder: Path) -> None:
    """Write the program, the tokenizer and the labels."""
    inputs = onnx_graph.example(model, graph)
    batch = length = torch.export.Dim.DYNAMIC  # an error if one cannot vary
    shapes = {name: {0: batch, 1: length} for name in inputs}
    try:
        with onnx_graph.quiet(), torch.no_grad():
            program = torch.export.export(graph, (), kwargs=inputs, dynamic_shapes=shapes)
    except (RuntimeError, TypeError, ValueError) as error:  # for a pooling that cannot be traced
        raise onnx_graph.refusal("torch", error, "--format huggingface") from error
    torch.export.save(program, folder / FILE)
    onnx_graph.write_tokens(model, folder)


def load(folder: Path) -> Any:
    """Return the program as a module, and the names of its inputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(folder / FILE)
    names = list(program.call_spec.in_spec.child(1).context)
    return program.module(), names


def run(
    folder: Path, golden: Golden, trusted: Sequence[str]
) -> tuple[list[list[int]], list[list[float]]]:
    """Return the token ids and the outputs of the golden texts, from the program."""
    module, names = load(folder)
    ids: list[list[int]] = []
    outputs: list[list[float]] = []
    for encodings, arrays in onnx_graph.feed(names, folder, golden):
        with torch.no_grad():
            output = module(**{name: torch.from_numpy(array) for name, array in arrays.items()})
        part = onnx_graph.collect(encodings, output.numpy())
        ids += part[0]
        outputs += part[1]
    return ids, outputs


def network(
    folder: Path, golden: Golden, trusted: Sequence[str]
) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Return the program as a function of a batch."""
    module, names = load(folder)
    return lambda batch: module(**{name: batch[name] for name in names})
