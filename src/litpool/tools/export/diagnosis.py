"""What is wrong with the outputs of an export or of a server: the first explanation that fits.

Only NumPy is needed. N rows, F numbers of an output.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litpool.tools.export.golden import Golden, is_close

Floats = NDArray[np.float64]

MATCH = 2e-3
"""How far an output may be from that of a mistake, so that a server in half precision counts."""

HALF = 3e-2
"""How far half precision may be from single precision, relative to the length of the output."""


def flat(output: Sequence[Any]) -> list[float]:
    """Return an output as one list of numbers, without tokens that cannot be in an answer."""
    if output and isinstance(output[0], list | None):
        return [number for token in output if token is not None for number in token]
    return list(output)


def diagnose(golden: Golden, outputs: Sequence[Sequence[float]]) -> list[str]:
    """Return what is wrong, in words; nothing if every output is within the tolerance.

    Args:
        golden: What golden.json contains.
        outputs: The output for each row, as flat lists.
    """
    expected = [flat(row["output"]) for row in golden["rows"]]
    wrong = [
        number
        for number, output in enumerate(outputs)
        if not is_close(output, expected[number], golden["tolerance"])
    ]
    if not wrong:
        return []
    if any(not np.isfinite(output).all() for output in outputs):
        return ["outputs are not finite: overflow in half precision, or damaged weights"]
    same_size = all(len(a) == len(b) for a, b in zip(outputs, expected, strict=True))
    if same_size and (reason := _order(golden, outputs, expected)):
        return [reason]
    if same_size and (reason := _activation(golden, outputs, expected)):
        return [reason]
    if reason := _mistake(golden, outputs, expected, normalized=False):
        return [reason]
    if same_size and (reason := _scale(golden, outputs, expected)):
        return [reason]
    if reason := _mistake(golden, outputs, expected, normalized=True):
        return [reason]
    if same_size and (reason := _precision(outputs, expected)):
        return [reason]
    return [_which_rows(golden, wrong, same_size, outputs, expected)]


def _order(
    golden: Golden, outputs: Sequence[Sequence[float]], expected: list[list[float]]
) -> str | None:
    """Recognize logits whose labels are in another order."""
    if golden["output"] != "logits" or len(golden["labels"]) < 2:
        return None
    got, right = np.array(outputs), np.array(expected)  # each (N, C)
    distance = np.abs(got[:, :, None] - right[:, None, :]).max(0)  # (C, C)
    order = distance.argmin(1)
    scale = max(1.0, float(np.abs(right).max()))
    if sorted(order) != list(range(len(order))) or distance.min(1).max() > MATCH * scale:
        return None
    if (order == np.arange(len(order))).all():
        return None
    names = [golden["labels"][place] for place in order]
    return f"the labels are in another order: {names} instead of {golden['labels']}"


def _activation(
    golden: Golden, outputs: Sequence[Sequence[float]], expected: list[list[float]]
) -> str | None:
    """Recognize probabilities in place of logits."""
    if golden["output"] != "logits":
        return None
    got, right = np.array(outputs), np.array(expected)
    powers = np.exp(right - right.max(1, keepdims=True))
    sigmoid = 1 / (1 + np.exp(-right))
    for name, values in (("softmax", powers / powers.sum(1, keepdims=True)), ("sigmoid", sigmoid)):
        if np.abs(got - values).max() < MATCH:
            return f"these are probabilities ({name}), not logits"
    return None


def _scale(
    golden: Golden, outputs: Sequence[Sequence[float]], expected: list[list[float]]
) -> str | None:
    """Recognize vectors that point in the right direction, but have another length."""
    if golden["output"] != "vectors":
        return None
    got, right = np.array(outputs), np.array(expected)
    lengths, true = np.linalg.norm(got, axis=1), np.linalg.norm(right, axis=1)
    if not (lengths.all() and true.all()):
        return None
    gap = np.abs(got / lengths[:, None] - right / true[:, None]).max()
    if gap > MATCH or np.allclose(lengths, true, rtol=MATCH):
        return None
    if np.allclose(lengths, 1, atol=MATCH):
        return "vectors are normalized, but the model does not normalize (their cosines are equal)"
    if np.allclose(true, 1, atol=MATCH):
        return "the normalization is missing: vectors are not of length 1"
    return "vectors have another length, with equal cosines: one module too many or too few"


def _mistake(
    golden: Golden,
    outputs: Sequence[Sequence[float]],
    expected: list[list[float]],
    normalized: bool,
) -> str | None:
    """Recognize a mistake whose outputs are in golden.json; the nearest one, if several match.

    Args:
        golden: What golden.json contains.
        outputs: The outputs.
        expected: What they should be.
        normalized: Whether to compare vectors of length 1, as some servers return them.
    """
    if normalized and golden["output"] != "vectors":
        return None
    got = [_unit(np.array(output)) if normalized else np.array(output) for output in outputs]
    right = [_unit(np.array(output)) if normalized else np.array(output) for output in expected]
    before = _distance(got, [(v[:16], float(np.linalg.norm(v)), len(v)) for v in right])
    best, nearest = None, before
    for name, made in golden["faults"].items():
        marks = list(zip(made["first"], made["norm"], made["size"], strict=True))
        if normalized:
            marks = [(np.array(first) / (n or 1), 1.0, size) for first, n, size in marks]
        distance = _distance(got, marks)
        if distance < nearest:
            best, nearest = name, distance
    return best if nearest < MATCH and nearest < before / 3 else None


def _unit(vector: Floats) -> Floats:
    return vector / (np.linalg.norm(vector) or 1.0)


def _distance(outputs: list[Floats], marks: list[tuple[Any, float, int]]) -> float:
    """Return the largest distance between outputs and stored numbers, relative to their size."""
    worst = 0.0
    for output, (first, norm, size) in zip(outputs, marks, strict=True):
        if len(output) != size:
            return float("inf")
        scale = max(norm / np.sqrt(size), 1e-6)
        gap = np.abs(output[: len(first)] - np.array(first)).max(initial=0)
        worst = max(worst, float(gap / scale), abs(float(np.linalg.norm(output)) - norm) / scale)
    return worst


def _precision(outputs: Sequence[Sequence[float]], expected: list[list[float]]) -> str | None:
    """Recognize half precision: nearly every output is off, and each by very little."""
    gaps = []
    for output, right in zip(outputs, expected, strict=True):
        length = float(np.linalg.norm(right)) or 1.0
        gaps.append(float(np.linalg.norm(np.subtract(output, right))) / length)
    if max(gaps) > HALF or np.median(gaps) < max(gaps) / 50:
        return None
    return f"half precision: outputs are off by {np.median(gaps):.1e} of their length"


def _which_rows(
    golden: Golden,
    wrong: list[int],
    same_size: bool,
    outputs: Sequence[Sequence[float]],
    expected: list[list[float]],
) -> str:
    """Say what the rows that are wrong have in common."""
    if not same_size:
        sizes = len(outputs[wrong[0]]), len(expected[wrong[0]])
        return f"{sizes[0]} numbers instead of {sizes[1]}: another model, or a module is missing"
    rows = golden["rows"]
    count = f"{len(wrong)} of {len(rows)} outputs differ"
    right = [rows[n] for n in range(len(rows)) if n not in wrong]
    bad = [rows[n] for n in wrong]
    if right and all(row["truncated"] for row in bad):
        return f"{count}, all of truncated texts: texts are cut off elsewhere"
    if right and all(_text(row) != _text(row).lower() for row in bad):
        return f"{count}, all with upper case: another casing"
    if right and all(not _text(row).isascii() for row in bad):
        return f"{count}, all outside ASCII: another tokenizer or normalization of characters"
    if right:
        return f"{count}, the others are right: another tokenizer"
    return f"{count}: other or damaged weights, or another tokenizer"


def _text(row: dict[str, Any]) -> str:
    return " ".join(row["texts"])
