"""Studies of few and many rows, labels and clusters end in a claim, and not in too bold a one."""

import numpy as np
import pytest
import torch

from litpool.model.pooling import ClsPooling
from litpool.tools.study import baselines, scores
from litpool.tools.study.choice import Chooser
from litpool.tools.study.examples import Examples, draw_folds, fits, number_clusters, read_labels
from litpool.tools.study.grid import Cell
from litpool.tools.study.options import StudyOptions
from litpool.tools.study.sentences import compare
from litpool.tools.study.statistics import Design


def meaningless(labels: torch.Tensor, whole: bool, clusters: np.ndarray, seed: int) -> Chooser:
    """A study of four cells of noise, with a split or in folds."""
    generator = np.random.default_rng(seed)
    count = len(labels)
    parts = {"train": slice(0, count // 2), "validation": slice(count // 2, 3 * count // 4)}
    splits = {**parts, "test": slice(3 * count // 4, count)}
    kind = read_labels(labels, np.arange(count), splits, StudyOptions())
    strata = labels.numpy() if kind.exclusive else None
    scored = slice(0, count) if whole else splits["test"]
    drawn = draw_folds(clusters, strata, seed)
    design = Design(
        drawn if whole else np.zeros((1, count - scored.start), np.int64),
        number_clusters(clusters[scored].tolist()),
        None if kind.score == "accuracy" or strata is None else strata[scored],
    )
    examples = Examples([], splits, None, kind, scored, design)
    rows = []
    for name, layer in (("ClsPooling", 1), ("ClsPooling", 2), ("Other", 1), ("Other", 2)):
        vectors = torch.from_numpy(generator.normal(size=(count, 8))).float()
        by_split = {split: vectors[None, part] for split, part in splits.items()}
        rows += scores.score_labels(Cell(name, layer, ClsPooling(4, 2)), by_split, examples)
    return Chooser(rows, examples, 2, 1.0, seed)


def claims(chooser: Chooser) -> list[str]:
    """Compare with [CLS] and with the majority."""
    labels = chooser.examples.labels
    assert labels
    cls = chooser.cell("ClsPooling", 2)
    first = chooser.challenger(cls)
    assert first.row is not cls.row
    place = first.row.cell.pooling, first.row.cell.layer
    chosen = chooser.describe(first)["chosen"]
    assert place in {(line["pooling"], line["layer"]) for line in chosen}
    answers = baselines.answer_majority(labels.targets, fits(chooser.examples), labels.exclusive)
    cell = Cell("majority class", None, ClsPooling(4, 2), static=True)
    majority = chooser.pick([scores.score_answers(cell, answers, chooser.examples)])
    pairs = (("headline", cls), ("baseline", majority))
    results = [compare(chooser, question, first, second) for question, second in pairs]
    for result in results:
        low, high = result["low"], result["high"]
        assert (low is None) == (result["claim"] == "too few")
        assert low is None or (np.isfinite(low) and low <= result["difference"] <= high)
        assert "nan" not in result["sentence"]
    return [result["claim"] for result in results]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("kinds", [2, 77])
@pytest.mark.parametrize("rows", [20, 80, 1000])
def test_noise_is_not_shown_to_be_better(rows: int, kinds: int, whole: bool) -> None:
    generator = np.random.default_rng(0)
    labels = torch.from_numpy(
        np.concatenate([[0, kinds - 1], generator.integers(kinds, size=rows)])
    )
    for seed in range(2):
        shown = claims(meaningless(labels[:rows], whole, np.arange(rows), seed))
        assert "beats" not in shown
        if rows == 20 and not whole:
            assert shown[1] == "too few"


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("rows", [60, 400, 2000])
def test_a_label_of_one_percent_is_not_shown_to_be_found_in_noise(rows: int, whole: bool) -> None:
    labels = torch.zeros(rows, dtype=torch.long)
    labels[:: max(1, min(100, rows // 4))] = 1
    for seed in range(3):
        chooser = meaningless(labels, whole, np.arange(rows), seed)
        assert chooser.examples.metric == "macro_f1"
        assert "beats" not in claims(chooser)


def test_labels_of_which_several_apply() -> None:
    generator = np.random.default_rng(0)
    for share, metric in ((0.5, "accuracy"), (0.03, "macro_f1")):
        labels = torch.from_numpy((generator.random((400, 5)) < share).astype(np.int64))
        for whole in (True, False):
            chooser = meaningless(labels, whole, np.arange(400), 0)
            assert chooser.examples.metric == metric
            assert claims(chooser)[0] != "beats"


def test_few_clusters_are_too_few_however_many_rows_they_have() -> None:
    labels = torch.arange(600) % 2
    chooser = meaningless(labels, True, np.arange(600) // 75, 0)
    assert claims(chooser)[1] == "too few"


@pytest.mark.slow
def test_twenty_thousand_rows_with_77_labels() -> None:
    labels = torch.from_numpy(np.random.default_rng(0).integers(77, size=20_000))
    for whole in (True, False):
        assert "beats" not in claims(meaningless(labels, whole, np.arange(20_000), 0))
