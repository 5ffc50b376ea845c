"""What a look at the rows finds: missing texts, duplicates, the balance of the labels, which tokens they use."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from litpool.tools.check.tokens import Finding, Status

if TYPE_CHECKING:  # slow to import, and not needed until there are rows
    from datasets import Dataset

Key = tuple[str, ...]  # the texts of a row

WITHIN = 0.1  # share of a split's rows: people do write the same short text twice
ACROSS = 0.05  # share of a held-out split: beyond it a score tells what was learned by heart
CLASHING = 0.02  # share of the rows: the same text with another label caps what any model can reach
MAJORITY = (
    0.9  # share of the commonest label: guessing it is hard to beat, and accuracy tells nothing
)
FEW = 10  # rows of a label in train: fewer are hardly learned


def check_empty(warnings: Iterable[str], bare: int, sampled: int) -> Finding:
    """Rows left out as they were read, by the warnings of that, and texts of which the tokenizer leaves nothing.

    Args:
        warnings: What reading the rows warned of.
        bare: Texts with nothing but special tokens.
        sampled: Texts that were looked at for that.
    """
    found = [re.search(r"(\d+) of (\d+) rows lack", text) for text in warnings]
    dropped, rows = (sum(int(match[group]) for match in found if match) for group in (1, 2))
    message = (
        f"{dropped:,} of {rows:,} rows lacked a text or a label and were left out"
        if dropped
        else "none"
    )
    message += f"; of {bare:,} of {sampled:,} texts the tokenizer leaves nothing" if bare else ""
    advice = "see where they come from; a file may be read with the wrong quoting or delimiter"
    figures = {"dropped": dropped, "without_tokens": bare}
    bad = bare > 0 or dropped > 0.01 * max(
        rows, 1
    )  # a few empty reviews among thousands are no fault
    return Finding("empty texts", "warning" if bad else "ok", message, advice * bad, figures)


def check_duplicates(
    splits: Mapping[str, "Dataset"], columns: Sequence[str], label: str
) -> list[Finding]:
    """Rows whose texts are all equal: within a split, with clashing labels, and in another split than train."""
    keys = {split: _keys(rows, columns) for split, rows in splits.items()}
    within = {split: 1 - len(set(found)) / len(found) for split, found in keys.items()}
    train = set(keys.get("train", ()))
    across = {
        split: sum(key in train for key in found) / len(found)
        for split, found in keys.items()
        if split != "train"
    }
    lines = [
        _shares(
            "duplicates within",
            within,
            WITHIN,
            "leave repeated rows out, or they weigh more than the others",
        ),
        _shares(
            "duplicates across",
            across,
            ACROSS,
            "leave them out of train, or the score tells what was learned by heart",
        ),
    ]
    if label:
        clashing = {split: _clashing(keys[split], rows[label][:]) for split, rows in splits.items()}
        message = "decide on one label for equal texts; no model can give them two"
        lines.append(_shares("equal texts, other label", clashing, CLASHING, message))
    return lines


def _keys(rows: "Dataset", columns: Sequence[str]) -> list[Key]:
    return list(
        zip(*([text.strip() for text in rows[column][:]] for column in columns), strict=True)
    )


def _clashing(keys: Sequence[Key], labels: Sequence[Any]) -> float:
    """The share of rows whose texts come with another label as well."""
    found: dict[Key, set[str]] = {}
    for key, label in zip(keys, labels, strict=True):
        found.setdefault(key, set()).add(str(label))
    return sum(len(found[key]) > 1 for key in keys) / len(keys)


def _shares(name: str, shares: Mapping[str, float], most: float, advice: str) -> Finding:
    message = (
        ", ".join(f"{split} {share:.1%}" for split, share in shares.items()) or "one split only"
    )
    bad = any(share > most for share in shares.values())
    return Finding(name, "warning" if bad else "ok", message, advice * bad, dict(shares))


def check_labels(
    splits: Mapping[str, "Dataset"], column: str, names: Sequence[str]
) -> list[Finding]:
    """The balance of the labels and which a split lacks; of scores, their range.

    Args:
        splits: The rows.
        column: Where the labels stand; empty if there are none.
        names: The labels that were learned; none for scores.
    """
    if not column:
        return []
    values = {split: rows[column][:] for split, rows in splits.items()}
    if not names:
        return _scores(values)
    known = set(names)
    counts = {
        split: Counter(name for value in found for name in _split_labels(value, known))
        for split, found in values.items()
    }
    lines = [_balance(split, found) for split, found in counts.items() if split == "train"]
    missing = {
        split: [name for name in names if not found[name]] for split, found in counts.items()
    }
    lacking = {split: found for split, found in missing.items() if found}
    message = "; ".join(f"{split} lacks {_list_few(found)}" for split, found in lacking.items())
    advice = "a label that a split lacks is not learned or not scored; divide the rows anew, or leave the label out"
    status: Status = "warning" if lacking else "ok"
    return [
        *lines,
        Finding(
            "missing labels",
            status,
            message or "none",
            advice * bool(lacking),
            {"missing": lacking},
        ),
    ]


def _split_labels(value: Any, known: set[str]) -> list[str]:
    """The labels of a row: one, a list, or several with `|` between them."""
    if isinstance(value, list):
        return [str(part) for part in value]
    return (
        [str(value)]
        if str(value) in known
        else [part.strip() for part in str(value).split("|") if part.strip()]
    )


def _balance(split: str, counts: Counter[str]) -> Finding:
    ranked, total = counts.most_common(), counts.total()
    shown = ranked if len(ranked) <= 6 else [*ranked[:3], *ranked[-3:]]
    parts = [f"{name} {count / total:.1%}" for name, count in shown]
    parts[3:3] = ["..."] if len(shown) < len(ranked) else []
    message = f"{len(ranked)} labels in {split}: {', '.join(parts)}"
    rare = [name for name, count in ranked if count < FEW]
    advice = ""
    if ranked[0][1] > MAJORITY * total:
        advice = f"{ranked[0][0]!r} alone is {ranked[0][1] / total:.0%}: set class_weights and look at F1, not accuracy"
    elif rare and total >= FEW * FEW * len(ranked):  # in a small data set every label is rare
        advice = f"fewer than {FEW} rows in {split} have {_list_few(rare)}: add rows, or join the label with another"
    return Finding(
        "label balance", "warning" if advice else "ok", message, advice, {"counts": dict(ranked)}
    )


def _scores(values: Mapping[str, Sequence[Any]]) -> list[Finding]:
    try:
        numbers = {split: [float(value) for value in found] for split, found in values.items()}
    except (TypeError, ValueError):  # answers to questions and the like
        return []
    message = ", ".join(
        f"{split} {min(n):g} to {max(n):g}, mean {fmean(n):.2f}" for split, n in numbers.items()
    )
    constant = [split for split, found in numbers.items() if min(found) == max(found)]
    advice = f"all scores of {_list_few(constant)} are equal, and no correlation can be message; see task.label"
    figures = {split: [min(n), fmean(n), max(n)] for split, n in numbers.items()}
    return [
        Finding(
            "scores", "warning" if constant else "ok", message, advice * bool(constant), figures
        )
    ]


def _list_few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def check_vocabulary_use(counts: NDArray[np.int64], texts: int) -> Finding:
    """How much of the vocabulary so many texts use; `counts` (V,) says how often each id occurs in them."""
    used, size = int((counts > 0).sum()), len(counts)
    message = f"{used:,} of {size:,} ids occur in {texts:,} tokenized texts"
    return Finding(
        "vocabulary use", "ok", message, "", {"used": used, "size": size, "texts": texts}
    )


def check_added(count: int, absent: list[str]) -> list[Finding]:
    """Whether the tokens that were added, so many, stand in the texts; no line where there are none."""
    if not count:
        return []
    message = f"{count} added, of which {len(absent)} never occur in the texts"
    message += f": {', '.join(map(repr, absent))}" if absent else ""
    advice = "what never occurs learns nothing: leave it out, or see how the texts spell it"
    status: Status = "warning" if absent else "ok"
    return [Finding("added tokens", status, message, advice * bool(absent), {"absent": absent})]
