"""The frozen arm: every layer x every pooling of an encoder as it is, from one pass over the texts; and baselines."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

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
from litpool.tools.study import baselines as word_vectors
from litpool.tools.study import vectors
from litpool.tools.study.baselines import WordVectors
from litpool.tools.study.choice import (
    Choice,
    Json,
    baselines,
    choose,
    tell_cells,
    tell_chosen,
    tell_comparison,
    tell_doubt,
    tell_rival,
)
from litpool.tools.study.grid import Cell, list_cells
from litpool.tools.study.options import StudyOptions
from litpool.tools.study.scores import Examples, Parts, Row, compare_cells, probe_cells, read

ANY_SCORE = (-1e300, 1e300)


class Studied(NamedTuple):
    """What the frozen arm found."""

    told: Json  # an entry of "data" in study.json
    projected: dict[
        str, NDArray[np.float32]
    ]  # by the name of the cell: (K, n, d) of test, for the projector
    seconds: dict[str, float]


def task_of(task: Task) -> Task:
    """The task that a study reads the rows with: the same; for the regression of pairs, the similarity of these.

    Raises:
        InputError: There are no sentence vectors to score in this task.
    """
    if (
        isinstance(task, Regression) and len(task.texts) == 2
    ):  # as it is, both texts are read as one
        return Similarity(task.texts, task.label, score_range=task.bounds or ANY_SCORE)
    pairs = isinstance(task, Similarity) and task.objective == "cosine" and len(task.texts) == 2
    if pairs or isinstance(task, Classification | MultiLabelClassification):
        return task
    name = type(task).__name__ + (
        f" with objective={task.objective}" if isinstance(task, Similarity) else ""
    )
    raise InputError(
        f"task={name}: a study takes Classification, MultiLabelClassification, Similarity with objective=cosine and "
        f"Regression of two columns; {_instead(task)}"
    )


def _instead(task: Task) -> str:
    if isinstance(task, Similarity):
        return "study pairs with scores, as in configs/studies/stsb.yaml, or pairs with labels as Classification"
    if isinstance(task, Regression):
        return "name the two columns of a pair, or make classes of the scores"
    return "this one has no vector of a text to score: study a classification of the same texts"


def study(
    module: TextModule,
    data: TextDataModule,
    averages: WordVectors | None,
    options: StudyOptions,
    device: torch.device,
) -> Studied:
    """Encode, score, choose, compare.

    Args:
        module: Says which encoder.
        data: Its splits are tokenized, of pairs at least test; its task is one that `task_of` gave.
        averages: The texts' word vectors, where there is a file of them.
        options: What is studied beside the rule.
        device: Where the encoder works and the scores are computed.

    Raises:
        InputError: The encoder or the cache's folder are of no use.
    """
    clock: dict[str, float] = {}
    examples = read(data)
    with timed(clock, "load the encoder"):
        encoder, note = load_encoder(module, data, options, device)
    cells = list_cells(encoder, not note, options.poolings)
    for cell in cells:
        resolve(cell.module, data.tokenizer)
    with timed(clock, "encode the texts"):
        salt = vectors.fingerprint(encoder)
        files = {
            split: vectors.encode(encoder, cells, data, split, salt) for split in examples.texts
        }
    with timed(clock, "score the cells"):
        rows = score_cells(cells, files, examples, options.seed, device)
    with timed(clock, "score the baselines"):
        outcomes = _baselines(rows, averages, examples, options, device)
    with timed(clock, "compare"):
        told, choices = _tell([row for row in rows if not row.cell.static], examples, options.seed)
        told["baselines"] = baselines(
            outcomes, averages.coverage if averages else None, examples.score, options.seed
        )
    told["notes"] += tell_rival(choices[0], outcomes, examples.score, examples.unit, options.seed)
    told["notes"] += [*([note] if note else []), *_notes(examples, choices, averages)]
    told = {
        "name": name_of(data),
        **_facts(data, examples),
        "layers": encoder.config.num_hidden_layers,
        **told,
    }
    return Studied(told, _projected(cells, files["test"], choices[0]), clock)


def _facts(data: TextDataModule, examples: Examples) -> Json:
    rows = {split: len(data.rows[split]) for split in examples.texts}
    metric = "spearman" if examples.gold else "accuracy"
    return {"task": type(data.task).__name__, "metric": metric, "unit": examples.unit, "rows": rows}


@contextmanager
def timed(clock: dict[str, float], what: str) -> Iterator[None]:
    """Note the seconds that something takes."""
    start = time.perf_counter()
    yield
    clock[what] = round(time.perf_counter() - start, 3)


def load_encoder(
    module: TextModule, data: TextDataModule, options: StudyOptions, device: torch.device
) -> tuple[Encoder, str]:
    """The encoder with all its layers in eval mode, and, where it has no trained pooler, a note that says why.

    Raises:
        InputError: It cannot be loaded, or there is no pooler and a pooling of its output is asked for.
    """
    config = load_config(module.encoder)

    def build(pooler: bool) -> Encoder:
        torch.manual_seed(
            torch.initial_seed()
        )  # rows for added tokens are random, and the same in the next run
        arguments: Json = {
            "all_layers": True,
            "vocab_size": len(data.tokenizer),
            "new_ids": data.new_ids,
        }
        attention = "eager" if device.type == "cpu" else "sdpa"  # as the loops have it
        return Encoder(
            module.encoder,
            config,
            module.encoder.pretrained,
            pooler,
            attention=attention,
            **arguments,
        )

    asked = [make(config.hidden_size, config.num_hidden_layers) for make in options.poolings]
    note = ""
    try:
        encoder = build(True)
    except InputError as error:
        if any(pooling.needs_pooler_output for pooling in asked):
            raise
        note, encoder = (
            f"PoolerOutput is left out{str(error).removeprefix('PoolerOutput')}",
            build(False),
        )
    return encoder.eval().to(device), note


def score_cells(
    cells: Sequence[Cell],
    files: Mapping[str, vectors.Files],
    examples: Examples,
    seed: int,
    device: torch.device,
) -> list[Row]:
    """The rows of all cells, in their order."""
    rows: list[Row] = []
    for width, group in vectors.widths(cells).items():
        rows += _score(
            group, {split: part[width] for split, part in files.items()}, examples, seed, device
        )
    place = {id(cell): number for number, cell in enumerate(cells)}
    return sorted(rows, key=lambda row: place[id(row.cell)])


def _score(
    cells: Sequence[Cell], parts: Parts, examples: Examples, seed: int, device: torch.device
) -> list[Row]:
    if examples.gold:
        return compare_cells(cells, parts, examples.gold, seed, device)
    return probe_cells(cells, parts, examples.labels, seed, device)


def _baselines(
    rows: Sequence[Row],
    averages: WordVectors | None,
    examples: Examples,
    options: StudyOptions,
    device: torch.device,
) -> dict[str, NDArray[np.float64]]:
    """The outcomes of each baseline on test, (n,)."""
    found: dict[str, NDArray[np.float64]] = {}
    if examples.labels:
        found["majority class"] = word_vectors.majority(
            examples.labels["train"], examples.labels["test"]
        )
    found |= {
        row.cell.pooling: row.outcomes for row in rows if row.cell.static and not row.whitened
    }
    if averages:
        cell = rows[-1].cell._replace(
            pooling=f"word vectors of {Path(str(options.word_vectors)).name}, mean"
        )
        parts = averages.vectors if examples.gold else word_vectors.side_by_side(averages.vectors)
        found[cell.pooling] = _score([cell], parts, examples, options.seed, device)[0].outcomes
    if not examples.gold:
        found["TF-IDF, logistic regression"] = word_vectors.classify_tfidf(
            examples.texts, examples.labels
        )
    elif "train" in examples.texts:  # which says how rare a word is
        found["TF-IDF, cosine"] = word_vectors.compare_tfidf(examples.texts)
    return found


def _tell(rows: Sequence[Row], examples: Examples, seed: int) -> tuple[Json, list[Choice]]:
    families = (False, True) if examples.gold and "train" in examples.texts else (False,)
    choices = [choose(rows, whitened, examples.score, examples.unit, seed) for whitened in families]
    plain = choices[0].analysis
    cells = tell_cells(rows, choices, examples.score, seed)
    told = {
        "cells": cells,
        "chosen": [cell for choice in choices for cell in tell_chosen(choice)],
        "lead": tell_comparison(plain.lead, names=True),
        "finetuned": [],
        "verdict": plain.verdict,
        "notes": tell_doubt(cells, choices[0]),
    }
    return told, choices


def _notes(
    examples: Examples, choices: Sequence[Choice], averages: WordVectors | None
) -> list[str]:
    notes = []
    if "validation" not in examples.texts:
        notes.append(
            "There is no validation split to choose a layer on: each pooling stands with its last layer"
        )
    if "train" not in examples.texts:
        notes.append("There is no train split to fit a whitening and TF-IDF on: both are left out")
    elif examples.gold:
        notes.append(
            f"Whitened, fitted on train, and compared among themselves: {choices[1].analysis.verdict}"
        )
    if examples.gold:
        notes.append("Alignment is told from the pairs in the top quarter of scores")
    if averages:
        notes.append(f"The word vectors cover {100 * averages.coverage:.1f}% of the running words")
    return notes


def name_of(data: TextDataModule) -> str:
    """What the data are called where nobody named them."""
    source: Any = data.source.source
    return (
        source
        if isinstance(source, str)
        else " ".join(map(str, source.values() if isinstance(source, dict) else source))
    )


def _projected(
    cells: Sequence[Cell], test: vectors.Files, choice: Choice
) -> dict[str, NDArray[np.float32]]:
    """The test vectors of [CLS] and of the pooling that is best on test, each of its chosen layer."""
    best = max(
        zip(choice.rows, choice.analysis.estimates, strict=True), key=lambda pair: pair[1].value
    )[0]
    shown = [row.cell for row in choice.rows if row.cell.pooling == "ClsPooling" or row is best]
    grouped = vectors.widths(cells)
    return {
        cell.name: test[width][group.index(cell)]
        for width, group in grouped.items()
        for cell in group
        if cell in shown
    }
