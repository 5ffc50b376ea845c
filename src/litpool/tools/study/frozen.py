"""The frozen arm: every layer x every pooling of an encoder as it is, from one pass over the texts.

Baselines show what the encoder has to beat.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from litpool import InputError
from litpool.data.module import TextDataModule
from litpool.loops.lightning import TextModule
from litpool.model.encoder import Encoder, load_config
from litpool.model.markers import resolve
from litpool.tasks.classification import Classification
from litpool.tasks.multilabel import MultiLabelClassification
from litpool.tasks.regression import Regression
from litpool.tasks.similarity import Similarity
from litpool.tasks.task import Task
from litpool.tools.study import baselines, vectors
from litpool.tools.study.baselines import WordVectors
from litpool.tools.study.choice import (
    BASELINE,
    Choice,
    Json,
    choose,
    describe_baselines,
    describe_cells,
    describe_chosen,
    describe_comparison,
    warn_of_baseline,
    warn_of_layer,
)
from litpool.tools.study.grid import Cell, list_cells
from litpool.tools.study.options import StudyOptions
from litpool.tools.study.scores import Examples, Parts, Row, compare_cells, probe_cells, read

ANY_SCORE = (-1e300, 1e300)


class FrozenResult(NamedTuple):
    """The result of the frozen arm on a data set."""

    entry: Json  # its keys of the data set's entry in study.json
    projected: dict[str, NDArray[np.float32]]  # test vectors (K, n, d) for TensorBoard, by cell


def studied_task(task: Task) -> Task:
    """Return the task to read the rows with: `task`, or Similarity for a regression of pairs.

    Raises:
        InputError: The task has no text vectors to score.
    """
    if isinstance(task, Regression) and len(task.texts) == 2:
        # Regression reads both texts at once, so it has no vector for each.
        return Similarity(task.texts, task.label, score_range=task.bounds or ANY_SCORE)
    if isinstance(task, Classification | MultiLabelClassification):
        return task
    name, advice = type(task).__name__, "study a classification of the same texts instead"
    if isinstance(task, Similarity):
        if task.objective == "cosine" and len(task.texts) == 2:
            return task
        name += f" with objective={task.objective}"
        advice = (
            "study pairs with scores (configs/studies/stsb.yaml), or classify pairs with labels"
        )
    if isinstance(task, Regression):
        advice = "name the two columns of a pair, or turn the scores into classes"
    raise InputError(
        f"task={name}: a study supports Classification, MultiLabelClassification, Similarity with "
        f"objective=cosine and Regression of two columns; {advice}"
    )


def study(
    module: TextModule,
    data: TextDataModule,
    averages: WordVectors | None,
    options: StudyOptions,
    device: torch.device,
    seconds: dict[str, float],
) -> FrozenResult:
    """Encode, score, choose, compare.

    Args:
        module: The encoder to study.
        data: Its splits are tokenized, at least test for pairs; its task is a `studied_task`.
        averages: The texts' average word vectors, if there is a file of them.
        options: The study's options.
        device: Where to encode and score.
        seconds: Gets the seconds that each part took.

    Raises:
        InputError: The encoder cannot be loaded, or the cache is not writable.
    """
    examples = read(data)
    with timed(seconds, "load the encoder"):
        encoder, pooler_note = load_encoder(module, data, options, device)
    cells = list_cells(encoder, not pooler_note, options.poolings)
    for cell in cells:
        resolve(cell.module, data.tokenizer)
    with timed(seconds, "encode the texts"):
        salt = vectors.fingerprint(encoder)
        files = {
            split: vectors.encode(encoder, cells, data, split, salt) for split in examples.texts
        }
    with timed(seconds, "score the cells"):
        rows = _score_cells(cells, files, examples, options.seed, device)
    with timed(seconds, "score the baselines"):
        outcomes = _score_baselines(rows, averages, examples, options, device)
    with timed(seconds, "compare"):
        rows = [row for row in rows if not row.cell.static]
        entry, choices = _compare(rows, examples, options.seed)
        entry["baselines"] = describe_baselines(
            outcomes, averages.coverage if averages else None, examples.score, options.seed
        )
    entry["notes"] = [
        *warn_of_layer(entry["cells"], choices[0]),
        *warn_of_baseline(choices[0], outcomes, examples.score, examples.unit, options.seed),
        *([pooler_note] if pooler_note else []),
        *_notes(examples, choices, averages),
    ]
    return FrozenResult(entry, _projected(cells, files["test"], choices[0]))


@contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Add the seconds that a part takes."""
    start = time.perf_counter()
    yield
    seconds[part] = round(seconds.get(part, 0) + time.perf_counter() - start, 3)


def load_encoder(
    module: TextModule, data: TextDataModule, options: StudyOptions, device: torch.device
) -> tuple[Encoder, str]:
    """Load the encoder with all its layers, in eval mode.

    Returns:
        The encoder, and why PoolerOutput is left out if the encoder has no trained pooler.

    Raises:
        InputError: It cannot be loaded, or has no trained pooler and `options.poolings` needs one.
    """
    config = load_config(module.encoder)
    build = partial(
        Encoder,
        module.encoder,
        config,
        module.encoder.pretrained,
        all_layers=True,
        vocab_size=len(data.tokenizer),
        attention="eager" if device.type == "cpu" else "sdpa",  # as in the loops
        new_ids=data.new_ids,
    )
    poolings = [make(config.hidden_size, config.num_hidden_layers) for make in options.poolings]
    note = ""
    _restart_random_numbers()
    try:
        encoder = build(pooler=True)
    except InputError as error:
        if any(pooling.needs_pooler_output for pooling in poolings):
            raise
        note = f"PoolerOutput is left out{str(error).removeprefix('PoolerOutput')}"
        _restart_random_numbers()
        encoder = build(pooler=False)
    return encoder.eval().to(device), note


def _restart_random_numbers() -> None:
    """Give added tokens, whose embeddings may be random, the same ones in each run."""
    torch.manual_seed(torch.initial_seed())


def _score_cells(
    cells: Sequence[Cell],
    files: Mapping[str, vectors.Files],
    examples: Examples,
    seed: int,
    device: torch.device,
) -> list[Row]:
    """Score all cells, in their order."""
    rows: list[Row] = []
    for size, group in vectors.by_size(cells).items():
        parts = {split: part[size] for split, part in files.items()}
        rows += _score(group, parts, examples, seed, device)
    return sorted(rows, key=lambda row: cells.index(row.cell))


def _score(
    cells: Sequence[Cell], parts: Parts, examples: Examples, seed: int, device: torch.device
) -> list[Row]:
    if examples.gold:
        return compare_cells(cells, parts, examples.gold, seed, device)
    return probe_cells(cells, parts, examples.labels, seed, device)


def _score_baselines(
    rows: Sequence[Row],
    averages: WordVectors | None,
    examples: Examples,
    options: StudyOptions,
    device: torch.device,
) -> dict[str, NDArray[np.float64]]:
    """Return the outcomes of each baseline on test, (n,)."""
    texts, labels = examples.texts, examples.labels
    outcomes: dict[str, NDArray[np.float64]] = {}
    if labels:
        outcomes["majority class"] = baselines.score_majority(labels["train"], labels["test"])
    for row in rows:
        if row.cell.static and not row.whitened:
            outcomes[row.cell.pooling] = row.outcomes
    if averages:
        name = f"word vectors of {Path(str(options.word_vectors)).name}, mean"
        cell = rows[-1].cell._replace(pooling=name)
        parts = averages.vectors if examples.gold else baselines.concatenate(averages.vectors)
        outcomes[name] = _score([cell], parts, examples, options.seed, device)[0].outcomes
    if labels:
        outcomes["TF-IDF, logistic regression"] = baselines.score_tfidf(texts, labels)
    elif "train" in texts:  # train tells how rare a word is
        outcomes["TF-IDF, cosine"] = baselines.compare_tfidf(texts)
    return outcomes


def _compare(rows: Sequence[Row], examples: Examples, seed: int) -> tuple[Json, list[Choice]]:
    """Choose layers and compare poolings, among the raw and, if any, the whitened vectors."""
    families = (False, True) if examples.gold and "train" in examples.texts else (False,)
    choices = [choose(rows, whitened, examples.score, examples.unit, seed) for whitened in families]
    raw = choices[0].analysis
    entry = {
        "metric": "spearman" if examples.gold else "accuracy",
        "unit": examples.unit,
        "cells": describe_cells(rows, choices, examples.score, seed),
        "chosen": [cell for choice in choices for cell in describe_chosen(choice)],
        "lead": describe_comparison(raw.lead, names=True),
        "verdict": raw.verdict,
    }
    return entry, choices


def _notes(
    examples: Examples, choices: Sequence[Choice], averages: WordVectors | None
) -> list[str]:
    notes = []
    if "validation" not in examples.texts:
        notes.append("No validation split to choose layers on: each pooling uses its last layer")
    if "train" not in examples.texts:
        notes.append("No train split to fit whitening and TF-IDF on: both are left out")
    elif examples.gold:
        notes.append(
            "Whitened vectors, fitted on train and compared with each other: "
            f"{choices[1].analysis.verdict}"
        )
    if examples.gold:
        notes.append("Alignment is measured on the pairs in the top quarter of scores")
    if averages:
        notes.append(f"The word vectors cover {100 * averages.coverage:.1f}% of the running words")
    return notes


def _projected(
    cells: Sequence[Cell], test: vectors.Files, choice: Choice
) -> dict[str, NDArray[np.float32]]:
    """Return the test vectors of the best pooling on test and of [CLS], at their chosen layers."""
    scores = [estimate.value for estimate in choice.analysis.estimates]
    best = choice.rows[scores.index(max(scores))]
    shown = [row.cell for row in choice.rows if row.cell.pooling == BASELINE or row is best]
    return {
        cell.name: test[size][place]
        for size, group in vectors.by_size(cells).items()
        for place, cell in enumerate(group)
        if cell in shown
    }
