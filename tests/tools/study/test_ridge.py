"""The probes against scikit-learn's ridge regression, and the folds and choices around them."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import f1_score
from torch.nn import functional as F

from litpool.model.pooling import ClsPooling
from litpool.tools.study.choice import Chooser
from litpool.tools.study.examples import Examples, Labels, draw_folds, number_clusters
from litpool.tools.study.grid import Cell
from litpool.tools.study.ridge import STRENGTHS, solve, standardize, sum_up
from litpool.tools.study.scores import Row, score_labels, score_logistic
from litpool.tools.study.statistics import Design

ROWS = 600


def draw(shares: list[float], size: int = 20, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors (ROWS, size) and labels (ROWS,)."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(len(shares), ROWS, p=shares)
    means = 0.5 * generator.normal(size=(len(shares), size))
    vectors = means[labels] + generator.normal(size=(ROWS, size))
    return standardize(torch.from_numpy(vectors).float()), torch.from_numpy(labels)


def examples(labels: torch.Tensor, design: Design | None, score="accuracy") -> Examples:
    """Three splits of ROWS rows, or all of them in folds."""
    splits = {"train": slice(0, 400), "validation": slice(400, 500), "test": slice(500, ROWS)}
    targets = F.one_hot(labels).float()
    kind = Labels(targets, targets.flip(0), True, score)
    if design is None:
        split = Design(np.zeros((1, 100), np.int64), np.arange(100))
        return Examples([], splits, None, kind, splits["test"], split)
    return Examples([], splits, None, kind, slice(0, ROWS), design)


def in_folds(labels: torch.Tensor) -> Design:
    clusters = np.arange(ROWS)
    return Design(draw_folds(clusters, labels.numpy(), seed=0), clusters)


def probe(vectors: torch.Tensor, rows: Examples, layer: int = 2) -> Row:
    cell = Cell("ClsPooling", layer, ClsPooling(4, 2))
    (row,) = score_labels(
        cell, {split: vectors[None, part] for split, part in rows.splits.items()}, rows
    )
    return row


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.4, 0.3, 0.2, 0.1]])
def test_answers_are_those_of_scikit_learn_at_every_strength(shares) -> None:
    vectors, labels = draw(shares)
    probes = solve(sum_up(vectors[:400], F.one_hot(labels)[:400].float()), equal_labels=False)
    answers = probes.outputs(vectors[400:]).argmax(-1)
    for strength, ours in zip(STRENGTHS, answers, strict=True):
        model = RidgeClassifier(alpha=400 * strength).fit(vectors[:400], labels[:400])
        theirs = model.predict(vectors[400:])
        assert (ours.numpy() == theirs).mean() > 0.99


def test_a_fit_without_folds_is_a_fit_on_the_others() -> None:
    vectors, labels = draw([0.5, 0.3, 0.2])
    targets = F.one_hot(labels).float()
    parts = [sum_up(vectors[start::3], targets[start::3]) for start in range(3)]
    left = sum_up(vectors, targets).without(parts[0], parts[2])
    downdated, direct = (solve(sums, equal_labels=True) for sums in (left, parts[1]))
    torch.testing.assert_close(downdated.weights, direct.weights, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(downdated.bias, direct.bias, rtol=1e-3, atol=1e-4)


def test_a_rare_label_is_predicted_where_labels_weigh_equally() -> None:
    vectors, labels = draw([0.94, 0.06])
    targets = F.one_hot(labels).float()
    scores = []
    for equal in (False, True):
        probes = solve(sum_up(vectors[:400], targets[:400]), equal)
        answers = probes.outputs(vectors[400:])[1].argmax(-1)
        scores.append(f1_score(labels[400:], answers, average="macro"))
    assert scores[1] > scores[0] + 0.1


def test_a_split_fits_on_train_chooses_on_validation_and_answers_test() -> None:
    vectors, labels = draw([0.5, 0.5])
    row = probe(vectors, examples(labels, None))
    model = RidgeClassifier(alpha=400 / row.C).fit(vectors[:400], labels[:400])
    assert row.test == pytest.approx(100 * model.score(vectors[500:], labels[500:]), abs=1)
    assert row.overall == pytest.approx(100 * model.score(vectors[400:500], labels[400:500]), abs=1)
    assert row.values.shape == (1, 100)


def test_a_fold_is_answered_and_chosen_for_without_its_labels() -> None:
    vectors, labels = draw([0.5, 0.5])
    design = in_folds(labels)
    split = design.folds[0]
    changed = labels.clone()
    changed[split == 3] = 1 - changed[split == 3]
    rows = [probe(vectors, examples(part, design)) for part in (labels, changed)]
    # The first repeat: fold 3's labels are turned around, so all its answers are wrong instead.
    first, second = (row.right[0][split == 3] for row in rows)
    assert (first == 1 - second).mean() > 0.99
    assert rows[0].inner[0, 3] == rows[1].inner[0, 3]
    assert rows[0].inner[0, 2] > rows[1].inner[0, 2]


def test_the_control_task_cannot_be_learned() -> None:
    vectors, labels = draw([0.5, 0.5])
    rows = examples(labels, in_folds(labels))
    assert rows.labels
    control = rows.labels.targets[torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))]
    row = probe(vectors, rows._replace(labels=rows.labels._replace(control=control)))
    assert row.selectivity == pytest.approx(row.test - 50, abs=6)


def test_a_cluster_stays_in_one_fold_and_labels_are_spread_evenly() -> None:
    generator = np.random.default_rng(0)
    labels = generator.choice(4, ROWS, p=[0.9, 0.05, 0.03, 0.02])
    for clusters in (np.arange(ROWS), number_clusters((np.arange(ROWS) // 3).tolist())):
        folds = draw_folds(clusters, labels, seed=0)
        assert folds.shape == (4, ROWS)
        for split in folds:
            assert all(len(set(split[clusters == cluster])) == 1 for cluster in set(clusters))
            assert np.ptp(np.bincount(split)) <= 12
    first, second = draw_folds(np.arange(ROWS), labels, 0)[:2]
    assert (first != second).any()
    for label in range(4):
        assert np.ptp(np.bincount(first[labels == label], minlength=5)) <= 1


@pytest.mark.parametrize(("rows", "folds"), [(3, 3), (1, 1)])
def test_fewer_clusters_than_folds_are_folds_of_their_own(rows, folds) -> None:
    assert draw_folds(np.arange(rows), None, 0).max() + 1 == folds


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.4, 0.3, 0.2, 0.1]])
def test_ridge_and_logistic_regression_agree(shares) -> None:
    vectors, labels = draw(shares)
    for design in (None, in_folds(labels)):
        rows = examples(labels, design)
        parts = {split: vectors[part][None].numpy() for split, part in rows.splits.items()}
        logistic = score_logistic(Cell("ClsPooling", 2, ClsPooling(4, 2)), parts, rows)
        assert logistic.test == pytest.approx(probe(vectors, rows).test, abs=4)


# The choice


def chooser(rows: list[Row], design: Design) -> Chooser:
    splits = {"test": slice(0, len(design.clusters))}
    return Chooser(rows, Examples([], splits, None, None, splits["test"], design), 2, 1.0, 0)


def row(layer: int | None, inner: np.ndarray, value: float, rows: int = 300) -> Row:
    repeats = len(inner)
    values = np.full((repeats, rows), value)
    cell = Cell("ClsPooling", layer, ClsPooling(4, 2))
    return Row(cell, False, None, values, values / 100, inner, float(inner.mean()))


def test_the_reference_scores_as_itself_even_if_a_fold_chooses_another_layer() -> None:
    design = Design(draw_folds(np.arange(300), None, 0), np.arange(300))
    inner = np.full((4, 5), 49.0)
    inner[:, 0] = 52  # this fold alone chooses layer 1
    rows = [row(1, inner, 20), row(2, np.full((4, 5), 50.0), 80)]
    study = chooser(rows, design)
    (chosen,) = study.describe(study.pick(rows))["chosen"]
    assert (chosen["layer"], chosen["against_cls"]) == (2, None)
    assert chosen["test"] == pytest.approx(80)


def test_each_fold_has_the_choice_of_the_other_folds() -> None:
    design = Design(draw_folds(np.arange(300), None, 0), np.arange(300))
    inner = np.full((4, 5), 50.0)
    inner[0, 0] = 70
    pick = chooser([], design).pick([row(1, inner, 10.0), row(0, np.full((4, 5), 60.0), 20.0)])
    assert pick.row.cell.layer == 0
    expected = np.where((design.folds == 0) & (np.arange(4) == 0)[:, None], 10, 20)
    assert (pick.values == expected).all()
    assert pick.right is not None
    assert (pick.right == expected / 100).all()


def test_ties_go_to_the_last_layer() -> None:
    design = Design(np.zeros((1, 300), np.int64), np.arange(300))
    rows = [row(layer, np.full((1, 1), 60.0), 10.0) for layer in (0, 1, 2)]
    assert chooser([], design).pick(rows).row.cell.layer == 2
