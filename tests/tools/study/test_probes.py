"""Probes against scikit-learn's LogisticRegression at the same C, cell by cell."""

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from litpool import InputError
from litpool.tools.study import probes
from litpool.tools.study.probes import ProbeResult, Split, probe

SIZES = (300, 200, 1000)  # train, validation, test


def splits(vectors: Tensor, labels: Tensor, sizes: tuple[int, ...] = SIZES) -> list[Split]:
    return [Split(*part) for part in zip(vectors.split(sizes, 1), labels.split(sizes), strict=True)]


def synthetic(classes: int, features: int, cells: int = 3, noise: float = 2.0) -> list[Split]:
    """Cells of correlated features on very different scales, more or less of them informative."""
    generator = torch.Generator().manual_seed(classes * features)
    informative = torch.randn(sum(SIZES), features, generator=generator)
    teacher = torch.randn(features, classes, generator=generator) / features**0.5
    labels = (
        informative @ teacher + noise * torch.randn(sum(SIZES), classes, generator=generator)
    ).argmax(1)
    mix = torch.randn(cells, features, features, generator=generator) * torch.logspace(
        1, -2, features
    )
    offset = 5 * torch.randn(cells, 1, features, generator=generator)
    return splits(
        (informative * torch.rand(cells, 1, features, generator=generator)) @ mix + offset, labels
    )


def peer_accuracy(train: Split, test: Split, cell: int, C: float) -> float:
    """The test accuracy of scikit-learn in points, on its own standardization."""
    scaler = StandardScaler().fit(train.vectors[cell])
    peer = LogisticRegression(C=C, max_iter=10_000, tol=1e-6)
    peer.fit(scaler.transform(train.vectors[cell]), train.labels)
    return 100 * peer.score(scaler.transform(test.vectors[cell]), test.labels)


def agreement(predictions: Tensor, others: Tensor) -> float:
    return float((predictions == others).double().mean())


def assert_agrees(result: ProbeResult, train: Split, test: Split) -> None:
    assert result.converged.all()
    for cell, C in enumerate(result.C.tolist()):
        accuracy = 100 * float(result.correct[cell].mean())
        assert accuracy == pytest.approx(peer_accuracy(train, test, cell, C), abs=0.3)


@pytest.mark.parametrize("C", [0.001, 0.1, 10.0])
@pytest.mark.parametrize(("classes", "features"), [(2, 20), (2, 400), (3, 20), (5, 150)])
def test_test_accuracy_is_scikit_learns(classes: int, features: int, C: float) -> None:
    train, validation, test = synthetic(classes, features)
    assert_agrees(probe(train, validation, test, Cs=[C]), train, test)


def test_C_is_the_best_on_validation() -> None:
    train, validation, test = synthetic(2, 100)
    Cs = [1.0, 0.001, 0.1, 10.0]
    result = probe(train, validation, test, Cs)
    alone = {C: probe(train, validation, test, [C]) for C in Cs}
    for cell in range(3):
        chosen = alone[round(float(result.C[cell]), 3)]
        best = max(single.validation[cell] for single in alone.values())
        assert chosen.validation[cell] >= best - 0.5  # 1 row of 200
        assert result.validation[cell] == pytest.approx(float(chosen.validation[cell]), abs=0.5)
        # Solved to a gap, not exactly.
        assert agreement(result.predictions[cell], chosen.predictions[cell]) > 0.995


def test_equal_validation_scores_take_the_most_regularized() -> None:
    vectors = torch.tensor([[-2.0], [-1], [1], [2]]).repeat(3, 1)[None]
    labels = torch.tensor([0, 0, 1, 1]).repeat(3)
    result = probe(*splits(vectors, labels, (4, 4, 4)))
    assert result.C.tolist() == pytest.approx([0.001])
    assert result.validation.tolist() == [100]
    assert result.predictions.tolist() == [[0, 0, 1, 1]]


def test_constant_features_and_copies_of_features_do_no_harm() -> None:
    train, validation, test = synthetic(2, 20)
    wide = [
        Split(
            torch.cat([part.vectors, torch.full_like(part.vectors, 3.7), part.vectors], 2),
            part.labels,
        )
        for part in (train, validation, test)
    ]
    result = probe(*wide, Cs=[0.05])
    assert_agrees(result, wide[0], wide[2])
    # A feature and its copy share a weight, so half the C is enough.
    bare = probe(train, validation, test, Cs=[0.1])
    assert agreement(result.predictions, bare.predictions) > 0.995


def test_a_memmap_of_half_precision_in_chunks_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, mapped = synthetic(3, 20, cells=5), []
    for number, part in enumerate(parts):
        array = np.memmap(tmp_path / f"{number}", np.float16, "w+", shape=tuple(part.vectors.shape))
        array[:] = part.vectors.numpy()
        mapped.append(Split(array, part.labels))
    halved = [Split(part.vectors.half().float(), part.labels) for part in parts]
    at_once = probe(*halved)
    monkeypatch.setattr(probes, "MEMORY", 2 * 4 * 300 * (20 + 20))
    progress: list[int] = []
    chunked = probe(*mapped, progress=progress.append)
    assert progress == [2, 2, 1]
    assert chunked.C.tolist() == at_once.C.tolist()
    assert agreement(chunked.predictions, at_once.predictions) > 0.995


def test_the_vectors_are_left_as_they_were() -> None:
    parts = synthetic(2, 20)
    before = [part.vectors.clone() for part in parts]
    probe(*parts)
    assert all(torch.equal(part.vectors, old) for part, old in zip(parts, before, strict=True))


def test_several_labels_at_once_are_independent_probes() -> None:
    multilabel = [
        Split(part.vectors, torch.stack([part.labels, part.vectors[0, :, 0] > 0], 1).long())
        for part in synthetic(2, 20)
    ]
    result = probe(*multilabel, Cs=[0.1])
    assert result.predictions.shape == (3, 1000, 2)
    for label in range(2):
        alone = probe(
            *(Split(part.vectors, part.labels[:, label]) for part in multilabel), Cs=[0.1]
        )
        assert agreement(result.predictions[:, :, label], alone.predictions) > 0.995
    correct = result.predictions == multilabel[2].labels
    assert torch.equal(result.correct, correct.double().mean(-1))


def test_one_of_several_labels_alone_keeps_its_shape() -> None:
    parts = [Split(part.vectors, part.labels[:, None]) for part in synthetic(2, 20)]
    result, plain = probe(*parts), probe(*synthetic(2, 20))
    assert torch.equal(result.predictions, plain.predictions[:, :, None])
    assert torch.equal(result.correct, plain.correct)


def test_a_label_that_is_only_in_test_is_wrong_and_not_an_error() -> None:
    train, validation, test = synthetic(3, 20)
    labels = test.labels.clone()
    labels[:10] = 3
    assert not probe(train, validation, Split(test.vectors, labels)).correct[:, :10].any()


def test_a_problem_that_is_not_solved_gives_a_warning() -> None:
    with pytest.warns(UserWarning, match="probes of 3 cells did not converge in 1 steps"):
        result = probe(*synthetic(2, 20), max_steps=1)
    assert not result.converged.any()


def test_unusable_arguments_are_refused() -> None:
    train, validation, test = synthetic(2, 20)
    with pytest.raises(InputError, match="give one or more numbers over 0"):
        probe(train, validation, test, Cs=[0.0, 1.0])
    with pytest.raises(InputError, match="the same label"):
        probe(Split(train.vectors, torch.ones(300, dtype=torch.long)), validation, test)
    broken = train.vectors.clone()
    broken[1, 5, 2] = torch.inf
    with pytest.raises(InputError, match="not finite"):
        probe(Split(broken, train.labels), validation, test)


# Real data


def hashed(texts: list[str], length: int, features: int = 256) -> Tensor:
    """Count the character n-grams of each text, hashed to columns: (n, features)."""
    counts = torch.zeros(len(texts), features)
    for row, text in enumerate(texts):
        for start in range(len(text) - length + 1):
            counts[row, zlib.crc32(text[start : start + length].encode()) % features] += 1
    return counts.log1p()


@pytest.mark.slow
def test_on_sst2_test_accuracy_is_scikit_learns() -> None:
    folder = os.environ.get("LITPOOL_TEST_DATA")
    if not folder:
        pytest.skip("LITPOOL_TEST_DATA does not name a folder with real data")
    parts = []
    for name, rows in (("train", 2000), ("dev", 800), ("test", 1821)):
        lines = (Path(folder) / "sst2" / f"stsa.binary.{name}").read_text().splitlines()
        lines = lines[:: max(1, len(lines) // rows)]  # the file may be sorted by label
        labels = torch.tensor([int(line[0]) for line in lines])
        parts.append(
            Split(
                torch.stack([hashed([line[2:] for line in lines], length) for length in (2, 3, 4)]),
                labels,
            )
        )
    train, validation, test = parts
    for Cs in ([10.0], [0.001, 0.01, 0.1, 1.0, 10.0]):
        assert_agrees(probe(train, validation, test, Cs), train, test)
