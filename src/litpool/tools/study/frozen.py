"""The frozen arm: every layer x every pooling of an encoder as it is, from one pass over the texts.

Baselines show what the encoder has to beat.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.utils import cached_file

from litpool import InputError
from litpool.data.module import TextDataModule
from litpool.demo.encoder import locate
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
from litpool.tools.study.choice import BASELINE, Chooser, Json, Pick
from litpool.tools.study.examples import Examples, fits, read
from litpool.tools.study.grid import Cell, build_unloaded, list_cells
from litpool.tools.study.options import StudyOptions
from litpool.tools.study.scores import (
    Row,
    measure_geometry,
    score,
    score_answers,
    score_cosines,
    score_logistic,
)
from litpool.tools.study.sentences import compare
from litpool.tools.study.statistics import DRAWS

PREFIX = "pooling_mode_"
PUBLISHED = {  # sentence-transformers' names, in its old and its new configs
    "cls_token": "ClsPooling",
    "cls": "ClsPooling",
    "mean_tokens": "MeanPooling",
    "mean": "MeanPooling",
    "max_tokens": "MaxPooling",
    "max": "MaxPooling",
    "mean_sqrt_len_tokens": "MeanSqrtLenPooling",
    "weightedmean_tokens": "WeightedMeanPooling",
    "weightedmean": "WeightedMeanPooling",
    "lasttoken": "LastTokenPooling",
}
ANY_SCORE = (-1e300, 1e300)


class FrozenResult(NamedTuple):
    """The result of the frozen arm on a data set."""

    entry: Json  # its keys of the data set's entry in study.json
    projected: dict[str, NDArray[np.float32]]  # test vectors (K, n, d) for TensorBoard, by cell
    proposed: Cell  # the choice, or [CLS] of the last layer where the choice is not ahead


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
    examples = read(data, options)
    with timed(seconds, "load the encoder"):
        encoder, pooler_note = load_encoder(module, data, options, device)
    cells = list_cells(encoder, not pooler_note, options.poolings)
    for cell in cells:
        resolve(cell.module, data.tokenizer)
    with timed(seconds, "encode the texts"):
        salt = vectors.fingerprint(encoder)
        files = {
            split: vectors.encode(encoder, cells, data, split, salt) for split in examples.splits
        }
    with timed(seconds, "score the cells"):
        rows = score(cells, files, examples, device)
    with timed(seconds, "score the baselines"):
        references = _score_baselines(rows, averages, examples, options, device)
    rows = [row for row in rows if not row.cell.static]
    chooser = Chooser(
        rows, examples, encoder.config.num_hidden_layers, options.margin, options.seed
    )
    with timed(seconds, "compare"):
        cls = chooser.cell(BASELINE, chooser.last)
        choice = chooser.challenger(cls)
        own = _published(chooser, module.encoder.name)
        baseline = chooser.pick([row for row, _ in references])
        headline = compare(chooser, "headline", choice, cls)
        comparisons = {
            "headline": headline,
            "published": own and compare(chooser, "published", choice, own),
            "baseline": compare(chooser, "baseline", choice, baseline),
        }
        sentences = [comparison["sentence"] for comparison in comparisons.values() if comparison]
        entry = {**chooser.describe(choice), **comparisons, "verdict": ". ".join(sentences)}
        scores = chooser.table([chooser.pick([row]) for row, _ in references])
        entry["baselines"] = [
            {"name": row.cell.pooling, **line, "coverage": coverage}
            for (row, coverage), line in zip(references, scores, strict=True)
        ]
        named = [pick.row.cell for pick in (choice, cls, own) if pick]
        _add_details(entry, rows, files, examples, named)
    entry |= {
        "metric": examples.metric,
        "unit": examples.unit,
        "method": _method(chooser, data.source.group),
        "notes": [*([pooler_note] if pooler_note else []), *_notes(examples, averages)],
    }
    proposed = (choice if headline["difference"] > 0 else cls).row.cell
    projected = {cell.name: files["test"][cell] for cell in named[:2]}
    return FrozenResult(entry, projected, proposed)


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
    note = ""
    _restart_random_numbers()
    try:
        encoder = build(pooler=True)
    except InputError as error:
        poolings = build_unloaded(options.poolings, config)
        if any(pooling.needs_pooler_output for pooling in poolings):
            raise
        note = f"PoolerOutput is left out{str(error).removeprefix('PoolerOutput')}"
        _restart_random_numbers()
        encoder = build(pooler=False)
    return encoder.eval().to(device), note


def _restart_random_numbers() -> None:
    """Give added tokens, whose embeddings may be random, the same ones in each run."""
    torch.manual_seed(torch.initial_seed())


def published_pooling(name: str) -> str | None:
    """Return the pooling that an encoder was published with, as sentence-transformers stores it."""
    file = cached_file(
        locate(name),
        "config.json",
        subfolder="1_Pooling",
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if file is None:
        return None
    settings = json.loads(Path(file).read_text(encoding="utf-8"))
    modes = [mode for mode, is_on in settings.items() if mode.startswith(PREFIX) and is_on is True]
    modes = [mode.removeprefix(PREFIX) for mode in modes] or [settings.get("pooling_mode")]
    return PUBLISHED.get(modes[0]) if len(modes) == 1 else None


def _score_baselines(
    rows: Sequence[Row],
    averages: WordVectors | None,
    examples: Examples,
    options: StudyOptions,
    device: torch.device,
) -> list[tuple[Row, float | None]]:
    """Score the baselines; word vectors come with the share of the words that they cover."""
    texts, labels, splits = examples.texts, examples.labels, examples.splits
    static = next(row for row in rows if row.cell.static and not row.whitened)
    references: list[tuple[Row, float | None]] = [(static, None)]
    fitted = (
        splits["train"] if examples.resampling == "split" and "train" in splits else slice(None)
    )

    def cell(name: str) -> Cell:
        return static.cell._replace(pooling=name)

    if averages:
        name = f"word vectors of {Path(str(options.word_vectors)).name}, mean"
        both = averages.vectors if labels is None else np.concatenate(averages.vectors, -1)[None]
        words = cell(name)
        parts = {split: {words: both[:, part]} for split, part in splits.items()}
        references.append((score([words], parts, examples, device)[0], averages.coverage))
    if labels:
        kind = (labels.targets, list(fits(examples)))
        answers = baselines.answer_majority(*kind, labels.exclusive)
        references.insert(0, (score_answers(cell("majority class"), answers, examples), None))
        equal = labels.score != "accuracy"
        answers = baselines.answer_tfidf(texts, *kind, fitted, labels.exclusive, equal)
        references.append((score_answers(cell("TF-IDF, ridge"), answers, examples), None))
    elif "train" in splits:  # train tells how rare a word is
        cosines = baselines.compare_tfidf(texts, fitted)
        references.append((score_cosines(cell("TF-IDF, cosine"), False, cosines, examples), None))
    return references


def _published(chooser: Chooser, name: str) -> Pick | None:
    """Return the encoder's own pooling of the last layer, if it is a cell other than [CLS]."""
    pooling = published_pooling(name)
    is_other = pooling in {row.cell.pooling for row in chooser.rows} - {BASELINE}
    return chooser.cell(str(pooling), chooser.last) if is_other else None


def _add_details(
    entry: Json,
    rows: Sequence[Row],
    files: Mapping[str, vectors.Vectors],
    examples: Examples,
    named: Sequence[Cell],
) -> None:
    """Add what takes longer.

    The chosen cells get the geometry of their text vectors; those that the sentences name get the
    score of a logistic regression.
    """
    chosen = {(line["pooling"], line["layer"], line["whitened"]) for line in entry["chosen"]}
    for line, row in zip(entry["cells"], rows, strict=True):
        parts = {split: part[row.cell] for split, part in files.items()}
        if (line["pooling"], line["layer"], line["whitened"]) in chosen:
            line["geometry"] = measure_geometry(
                row.whitened, parts["test"], parts.get("train"), examples
            )._asdict()
        if examples.labels and row.cell in named:
            line["logistic"] = score_logistic(row.cell, parts, examples).test


def _method(chooser: Chooser, group: str | None) -> Json:
    design, examples = chooser.examples.design, chooser.examples
    return {
        "resampling": examples.resampling,
        "folds": design.fold_count,
        "repeats": len(design.folds),
        "groups": f"data.group={group}" if group else "identical texts",
        "clusters": int(design.clusters.max()) + 1,
        "scored_rows": len(design.clusters),
        "choosing_rows": examples.choosing,
        "last_layer_only": chooser.last_only,
        "margin": chooser.margin,
        "probe": "ridge classification in closed form" if examples.labels else None,
        "resamples": DRAWS,
    }


def _notes(examples: Examples, averages: WordVectors | None) -> list[str]:
    notes = []
    if examples.gold is not None and "train" not in examples.splits:
        notes.append("No train split to fit whitening and TF-IDF on: both are left out")
    if averages:
        notes.append(f"The word vectors cover {100 * averages.coverage:.1f}% of the running words")
    return notes
