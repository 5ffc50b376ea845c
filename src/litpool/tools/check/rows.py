"""Checks of the rows: empty texts, duplicates, labels, and which tokens occur."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from litpool import listed
from litpool.tasks.labels import are_alike
from litpool.tasks.task import Task
from litpool.tools.check.finding import Finding, problem_if

if TYPE_CHECKING:
    from datasets import Dataset

Key = tuple[str, ...]  # the texts of a row, normalized

DROPPED = 0.01  # share of the rows; a few empty reviews among thousands are fine
WITHIN = 0.1  # share of a split's rows; people do write the same short text twice
ACROSS = 0.02  # share of a held-out split; as much as better models are apart
CLASHING = 0.02  # share of the rows; equal texts with different labels limit every model
# Share of the most common label. Always predicting it is hard to beat, and accuracy says nothing.
MAJORITY = 0.8
RARE = 0.02  # share of a label's rows; the loss hardly notices them
PAIRED = 1000  # labels to compare with each other; with more, that would take seconds
FEW = 10  # rows of a label in train; fewer are hardly learned


def check_empty(warnings: Iterable[str], empty: int, tokenized: int) -> Finding:
    """Check for rows that were left out and for texts without tokens.

    Args:
        warnings: What was raised when the rows were read.
        empty: Texts with special tokens only.
        tokenized: Texts that were tokenized.
    """
    dropped = total = 0
    for text in warnings:
        if match := re.search(r"(\d+) of (\d+) rows", text):
            dropped += int(match[1])
            total += int(match[2])
    message = "none"
    if dropped:
        message = f"{dropped:,} of {total:,} rows had no text or no label and were left out"
    if empty:
        message += f"; {empty:,} of {tokenized:,} texts contain only special tokens"
    advice = "find out why; perhaps data.quoting or data.delimiter is wrong for this file"
    figures = {"dropped": dropped, "without_tokens": empty}
    bad = empty > 0 or dropped > DROPPED * total
    return problem_if(bad, "empty texts", message, advice, figures)


def check_duplicates(
    splits: Mapping[str, "Dataset"], columns: Sequence[str], label: str
) -> list[Finding]:
    """Check for rows with equal texts: within a split, also in train, and with different labels."""
    keys = {split: _keys(rows, columns) for split, rows in splits.items()}
    within, clashing = {}, {}
    for split, texts in keys.items():
        within[split] = 1 - len(set(texts)) / len(texts)
        if label:
            clashing[split] = _clashing(texts, splits[split][label][:])
    advice = "remove repeated rows; they count more than the others"
    findings = [
        _check_shares("duplicates within", within, WITHIN, advice),
        _check_across(keys),
    ]
    if label:
        advice = "choose one label for equal texts; no model can predict both"
        findings += [_check_shares("equal texts, other label", clashing, CLASHING, advice)]
    return findings


def _keys(rows: "Dataset", columns: Sequence[str]) -> list[Key]:
    texts = [[_normalize(text) for text in rows[column][:]] for column in columns]
    return list(zip(*texts, strict=True))


def _normalize(text: str) -> str:
    """Return a text without differences in case, blanks and the form of characters."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _check_across(keys: Mapping[str, Sequence[Key]]) -> Finding:
    """Check for rows of the other splits whose texts are in train, too."""
    train = set(keys.get("train", ()))
    shares = {}
    parts = []
    for split, texts in keys.items():
        if split != "train":
            count = sum(key in train for key in texts)
            shares[split] = count / len(texts)
            parts.append(f"{split} {shares[split]:.1%} ({count:,} of {len(texts):,} rows)")
    message = f"also in train: {', '.join(parts)}" if train and parts else "one split only"
    advice = (
        "the score rewards memorization: remove these rows from train, or name the files as one "
        "list in data.source: litpool divides them and keeps equal texts, and rows with an equal "
        "data.group, in one split"
    )
    bad = any(share >= ACROSS for share in shares.values())
    return problem_if(bad, "duplicates across", message, advice, shares)


def _clashing(keys: Sequence[Key], labels: Sequence[Any]) -> float:
    """Return the share of rows whose texts also occur with another label."""
    labels_of: dict[Key, set[str]] = {}
    for key, label in zip(keys, labels, strict=True):
        labels_of.setdefault(key, set()).add(str(label))
    return sum(len(labels_of[key]) > 1 for key in keys) / len(keys)


def _check_shares(name: str, shares: Mapping[str, float], limit: float, advice: str) -> Finding:
    message = ", ".join(f"{split} {share:.1%}" for split, share in shares.items())
    bad = any(share > limit for share in shares.values())
    return problem_if(bad, name, message or "one split only", advice, dict(shares))


def check_labels(splits: Mapping[str, "Dataset"], task: Task) -> list[Finding]:
    """Check the balance of the labels and which ones a split lacks; for scores, check their range.

    Args:
        splits: The rows.
        task: Knows the column with the labels, if there is one, and their names, if they have any.
    """
    if not task.label:
        return []
    names = task.labels
    values = {split: rows[task.label][:] for split, rows in splits.items()}
    if not names:
        return _check_scores(values)
    known = set(names)
    counts = {
        split: Counter(name for value in labels for name in _split_labels(value, known))
        for split, labels in values.items()
    }
    lacking = {}
    for split, count in counts.items():
        if missing := [name for name in names if not count[name]]:
            lacking[split] = missing
    message = "; ".join(f"{split} lacks {listed(missing)}" for split, missing in lacking.items())
    advice = (
        "a label that a split lacks cannot be learned or scored; "
        "split the rows again, or remove the label"
    )
    balance = []
    if "train" in counts:
        balance = [_check_balance(counts["train"], len(values["train"]), task)]
    return [
        *balance,
        _check_spelling(values, names),
        problem_if(
            bool(lacking), "missing labels", message or "none", advice, {"missing": lacking}
        ),
    ]


def _split_labels(value: Any, known: set[str]) -> list[str]:
    """Return the labels of a row: a name, a list, or several names separated by `|`."""
    if isinstance(value, list):
        return [str(part) for part in value]
    if str(value) in known:
        return [str(value)]
    return [part.strip() for part in str(value).split("|") if part.strip()]


def _check_spelling(values: Mapping[str, Sequence[Any]], names: Sequence[str]) -> Finding:
    """Check for labels that are alike, and for blanks around labels, which are left out."""
    alike = [pair for pair in combinations(names[:PAIRED], 2) if are_alike(*pair)]
    labels = [label for column in values.values() for label in column]
    spaced = [label for label in labels if isinstance(label, str) and label != label.strip()]
    parts = [f"{first!r} and {second!r} are two labels" for first, second in alike[:3]]
    if spaced:
        parts.append(
            f"{len(spaced):,} of {len(labels):,} labels begin or end with a blank, "
            f"such as {spaced[0]!r}"
        )
    advice = "write a label in the same way in every row"
    figures = {"alike": alike, "spaced": len(spaced)}
    return problem_if(bool(parts), "label spelling", "; ".join(parts) or "ok", advice, figures)


def _check_balance(counts: Counter[str], rows: int, task: Task) -> Finding:
    """Check for a label that most rows of train have, and for labels that hardly any row has."""
    ranked = counts.most_common()
    parts = [f"{name} {count / rows:.1%}" for name, count in ranked]
    if len(parts) > 6:
        parts = [*parts[:3], "...", *parts[-3:]]
    message = f"{len(ranked)} labels in train: {', '.join(parts)}"
    figures = {"counts": dict(ranked)}
    if getattr(task, "class_weights", None):
        return Finding("label balance", "ok", f"{message}; task.class_weights is set", "", figures)
    weigh = "set task.class_weights balanced" if hasattr(task, "class_weights") else ""
    # With many labels, all of them have a small share.
    least = min(RARE * rows, counts.total() / len(ranked) / 2)
    rare = [name for name, count in ranked if count < least]
    few = [name for name, count in ranked if count < FEW]
    first, most = ranked[0]
    advice = []
    if most > MAJORITY * rows:
        advice.append(
            f"{most / rows:.0%} of the rows have the label {first!r}: "
            f"{weigh and weigh + ' and '}look at F1 rather than accuracy (study.score in a study)"
        )
    if rare:
        advice.append(
            f"hardly any row has the label {listed(rare)}: {weigh and weigh + ', '}"
            "add rows, or merge labels"
        )
    elif few and rows >= FEW * FEW * len(ranked):  # in a small data set every label is rare
        advice.append(
            f"fewer than {FEW} rows have the label {listed(few)}: add rows, or merge labels"
        )
    return problem_if(bool(advice), "label balance", message, "; ".join(advice), figures)


def _check_scores(values: Mapping[str, Sequence[Any]]) -> list[Finding]:
    try:
        scores = {split: [float(value) for value in column] for split, column in values.items()}
    except (TypeError, ValueError):  # not scores, such as the answers to questions
        return []
    figures = {split: [min(n), fmean(n), max(n)] for split, n in scores.items()}
    message = ", ".join(
        f"{split} {low:g} to {high:g}, mean {mean:.2f}"
        for split, (low, mean, high) in figures.items()
    )
    constant = [split for split, (low, _, high) in figures.items() if low == high]
    advice = (
        f"all scores in {listed(constant)} are equal, so there is no correlation; check task.label"
    )
    return [problem_if(bool(constant), "scores", message, advice, figures)]


def check_vocabulary_use(counts: NDArray[np.int64], texts: int) -> Finding:
    """Report how much of the vocabulary the texts use.

    Args:
        counts: How often each id occurs, (V,).
        texts: How many texts were tokenized.
    """
    used, size = int((counts > 0).sum()), len(counts)
    message = f"{used:,} of {size:,} ids occur in {texts:,} tokenized texts"
    return Finding(
        "vocabulary use", "ok", message, "", {"used": used, "size": size, "texts": texts}
    )


def check_added(count: int, absent: list[str]) -> list[Finding]:
    """Check that each of the `count` added tokens occurs in the texts, if tokens were added."""
    if not count:
        return []
    message = f"{count} added; {len(absent)} of them never occur in the texts"
    if absent:
        message += f": {', '.join(map(repr, absent))}"
    advice = "a token that never occurs learns nothing: remove it, or check how the texts spell it"
    return [problem_if(bool(absent), "added tokens", message, advice, {"absent": absent})]
