"""Weights of an ONNX graph in 8 bits."""

import logging
from pathlib import Path

from litpool.commands import Run
from litpool.tools.export import onnx_graph
from litpool.tools.export.golden import Golden
from litpool.tools.export.graph import Model
from litpool.tools.export.scores import Cost, cost

TOLERANCE = 2e-2  # processors round 8-bit products differently


def to_int8(folder: Path, model: Model, run: Run) -> Cost:
    """Replace a graph by one with 8-bit weights, and return what that costs.

    Raises:
        JobError: The test metric is more than one point worse.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    file = folder / onnx_graph.FILE
    part = folder / f"{onnx_graph.FILE}.part"
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it advises to preprocess, which does not help here
    try:
        quantize_dynamic(file, part, weight_type=QuantType.QInt8, per_channel=True)
    finally:
        logging.root.setLevel(level)
    size = file.stat().st_size, part.stat().st_size
    part.replace(file)
    return cost(run, model, onnx_graph.OnnxNetwork(file, model), size)


def recertify(folder: Path, golden: Golden) -> None:
    """Make golden.json expect what the 8-bit graph answers, within a wider tolerance."""
    _, outputs = onnx_graph.run(folder, golden, trusted=())
    golden["tolerance"] = TOLERANCE
    golden["quantized"] = "int8"
    for row, output in zip(golden["rows"], outputs, strict=True):
        if golden["output"] == "spans":
            pairs = iter(zip(output[::2], output[1::2], strict=True))
            row["output"] = [
                None if token is None else list(next(pairs)) for token in row["output"]
            ]
        else:
            row["output"] = output
