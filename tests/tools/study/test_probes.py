"""Probes against scikit-learn's LogisticRegression at the same strength, cell by cell."""

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
from litpool.tools.study.probes import Probed, Split, probe

SIZES = (300, 200, 1000)  # train, validation, test


def splits(vectors: Tensor, labels: Tensor, sizes: tuple[int, ...] = SIZES) -> list[Split]:
    return [Split(*part) for part in zip(vectors.split(sizes, 1), labels.split(sizes), strict=True)]


def synthetic(classes: int, width: int, cells: int = 3, noise: float = 2.0) -> list[Split]:
    """Cells of correlated features of very different spread, which show more or less of what decides the label."""
    generator = torch.Generator().manual_seed(classes * width)
    known = torch.randn(sum(SIZES), width, generator=generator)
    teacher = torch.randn(width, classes, generator=generator) / width**0.5
    labels = (
        known @ teacher + noise * torch.randn(sum(SIZES), classes, generator=generator)
    ).argmax(1)
    mix = torch.randn(cells, width, width, generator=generator) * torch.logspace(1, -2, width)
    offset = 5 * torch.randn(cells, 1, width, generator=generator)
    return splits((known * torch.rand(cells, 1, width, generator=generator)) @ mix + offset, labels)


def peer_accuracy(train: Split, test: Split, cell: int, strength: float) -> float:
    """Test accuracy in points of scikit-learn's, on its own standardization."""
    scaler = StandardScaler().fit(train.vectors[cell])
    peer = LogisticRegression(C=strength, max_iter=10_000, tol=1e-6)
    peer.fit(scaler.transform(train.vectors[cell]), train.labels)
    return 100 * peer.score(scaler.transform(test.vectors[cell]), test.labels)


def assert_agrees(found: Probed, train: Split, test: Split) -> None:
    assert found.converged.all()
    for cell, strength in enumerate(found.strength.tolist()):
        ours = 100 * float(found.correct[cell].mean())
        assert ours == pytest.approx(peer_accuracy(train, test, cell, strength), abs=0.3)


@pytest.mark.parametrize("strength", [0.001, 0.1, 10.0])
@pytest.mark.parametrize(("classes", "width"), [(2, 20), (2, 400), (3, 20), (5, 150)])
def test_test_accuracy_is_scikit_learns(classes: int, width: int, strength: float) -> None:
    train, validation, test = synthetic(classes, width)
    assert_agrees(probe(train, validation, test, strengths=[strength]), train, test)


def test_the_strength_is_the_best_on_validation() -> None:
    train, validation, test = synthetic(2, 100)
    strengths = [1.0, 0.001, 0.1, 10.0]
    found = probe(train, validation, test, strengths)
    alone = {strength: probe(train, validation, test, [strength]) for strength in strengths}
    for cell in range(3):
        chosen = alone[round(float(found.strength[cell]), 3)]
        assert (
            chosen.validation[cell] >= max(one.validation[cell] for one in alone.values()) - 0.5
        )  # 1 row of 200
        assert found.validation[cell] == pytest.approx(float(chosen.validation[cell]), abs=0.5)
        assert (
            found.predicted[cell] == chosen.predicted[cell]
        ).double().mean() > 0.995  # solved to a gap, not to 0


def test_equal_validation_scores_take_the_most_regularized() -> None:
    vectors = torch.tensor([[-2.0], [-1], [1], [2]]).repeat(3, 1)[None]
    labels = torch.tensor([0, 0, 1, 1]).repeat(3)
    found = probe(*splits(vectors, labels, (4, 4, 4)))
    assert found.strength.tolist() == pytest.approx([0.001])
    assert found.validation.tolist() == [100]
    assert found.predicted.tolist() == [[0, 0, 1, 1]]


def test_constant_features_and_copies_of_features_do_no_harm() -> None:
    train, validation, test = synthetic(2, 20)
    wide = [
        Split(
            torch.cat([part.vectors, torch.full_like(part.vectors, 3.7), part.vectors], 2),
            part.labels,
        )
        for part in (train, validation, test)
    ]
    found = probe(*wide, strengths=[0.05])
    assert_agrees(found, wide[0], wide[2])
    bare = probe(
        train, validation, test, strengths=[0.1]
    )  # a feature and its copy share a weight: half the C will do
    assert (found.predicted == bare.predicted).double().mean() > 0.995


def test_a_memmap_of_half_precision_in_chunks_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, mapped = synthetic(3, 20, cells=5), []
    for number, part in enumerate(parts):
        array = np.memmap(tmp_path / f"{number}", np.float16, "w+", shape=tuple(part.vectors.shape))
        array[:] = part.vectors.numpy()
        mapped.append(Split(array, part.labels))
    halved = [Split(part.vectors.half().float(), part.labels) for part in parts]
    whole = probe(*halved)
    monkeypatch.setattr(probes, "MEMORY", 2 * 4 * 300 * (20 + 20))
    finished: list[int] = []
    chunked = probe(*mapped, progress=finished.append)
    assert finished == [2, 2, 1]
    assert chunked.strength.tolist() == whole.strength.tolist()
    assert (chunked.predicted == whole.predicted).double().mean() > 0.995


def test_the_vectors_are_left_as_they_were() -> None:
    parts = synthetic(2, 20)
    before = [part.vectors.clone() for part in parts]
    probe(*parts)
    assert all(torch.equal(part.vectors, old) for part, old in zip(parts, before, strict=True))


def test_several_labels_at_once_are_independent_probes() -> None:
    odd = [
        Split(part.vectors, torch.stack([part.labels, part.vectors[0, :, 0] > 0], 1).long())
        for part in synthetic(2, 20)
    ]
    found = probe(*odd, strengths=[0.1])
    assert found.predicted.shape == (3, 1000, 2)
    for label in range(2):
        one = [Split(part.vectors, part.labels[:, label]) for part in odd]
        alone = probe(*one, strengths=[0.1])
        assert (found.predicted[:, :, label] == alone.predicted).double().mean() > 0.995
    right = found.predicted == odd[2].labels
    assert torch.equal(found.correct, right.double().mean(-1))


def test_one_of_several_labels_alone_keeps_its_shape() -> None:
    parts = [Split(part.vectors, part.labels[:, None]) for part in synthetic(2, 20)]
    found, plain = probe(*parts), probe(*synthetic(2, 20))
    assert torch.equal(found.predicted, plain.predicted[:, :, None])
    assert torch.equal(found.correct, plain.correct)


def test_a_label_that_is_only_in_test_is_wrong_and_not_an_error() -> None:
    train, validation, test = synthetic(3, 20)
    labels = test.labels.clone()
    labels[:10] = 3
    assert not probe(train, validation, Split(test.vectors, labels)).correct[:, :10].any()


def test_a_problem_that_is_not_solved_is_told() -> None:
    with pytest.warns(UserWarning, match="probes of 3 cells did not converge in 1 steps"):
        found = probe(*synthetic(2, 20), max_steps=1)
    assert not found.converged.any()


def test_unusable_arguments_are_refused() -> None:
    train, validation, test = synthetic(2, 20)
    with pytest.raises(InputError, match="give one or more numbers over 0"):
        probe(train, validation, test, strengths=[0.0, 1.0])
    with pytest.raises(InputError, match="the same label"):
        probe(Split(train.vectors, torch.ones(300, dtype=torch.long)), validation, test)
    broken = train.vectors.clone()
    broken[1, 5, 2] = torch.inf
    with pytest.raises(InputError, match="not finite"):
        probe(Split(broken, train.labels), validation, test)


# Real data


def hashed(texts: list[str], length: int, width: int = 256) -> Tensor:
    """How often each text (n,) has the character n-grams of that length, hashed to the width: (n, width)."""
    counts = torch.zeros(len(texts), width)
    for row, text in enumerate(texts):
        for start in range(len(text) - length + 1):
            counts[row, zlib.crc32(text[start : start + length].encode()) % width] += 1
    return counts.log1p()


@pytest.mark.slow
def test_on_sst2_test_accuracy_is_scikit_learns() -> None:
    folder = os.environ.get("LITPOOL_TEST_DATA")
    if not folder:
        pytest.skip("LITPOOL_TEST_DATA names no folder with real data files")
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
    for strengths in ([10.0], [0.001, 0.01, 0.1, 1.0, 10.0]):
        assert_agrees(probe(train, validation, test, strengths), train, test)
