"""How often a study's sentence is right, in simulations where the truth is known.

    python bench/simulate_study.py            # minutes
    python bench/simulate_study.py 1000       # with more studies in each setting
    python bench/simulate_study.py 1000 "five points" 600    # one setting, and one size

`split` simulates the outcomes of 13 poolings x 7 layers on m validation and m test rows. A row that
is hard for one cell is hard for the others. `folds` draws vectors and labels and fits the probes
again in each study, with the choice nested in repeated K-fold; there the truth is what the
announced cell, fitted on all rows, scores on 20,000 fresh ones.

For each setting it prints: the share of intervals that cover the truth, with its Monte Carlo error;
the width as a multiple of an oracle's, who makes the same inference but knows the best cell; the
median and the mean of the announced minus the true difference, with the mean's Monte Carlo error;
and the counts of the claims.
"""

import sys
from collections import Counter
from typing import NamedTuple

import numpy as np
import torch

from litpool.model.pooling import ClsPooling
from litpool.tools.study import scores
from litpool.tools.study.choice import Chooser, Pick
from litpool.tools.study.examples import Examples, Labels, draw_folds
from litpool.tools.study.grid import Cell
from litpool.tools.study.ridge import solve, standardize, sum_up
from litpool.tools.study.scores import Row
from litpool.tools.study.sentences import compare
from litpool.tools.study.statistics import Array, Design

POOLINGS, LAYERS = 13, 7
SIZES = (50, 200, 600, 2000)
MODULE = ClsPooling(4, LAYERS - 1)


class Study(NamedTuple):
    """The result of one simulated study."""

    claim: str
    difference: float
    truth: float  # of the announced cell
    low: float | None
    high: float | None
    width: float  # the oracle's


class Summary(NamedTuple):
    """The results of all studies of a setting."""

    coverage: float
    error: float  # of the coverage, from the finite number of studies
    width: float  # as a multiple of the oracle's
    bias: float  # the median
    mean: float
    mean_error: float
    claims: Counter[str]


def summarize(studies: list[Study]) -> Summary:
    claims = Counter(study.claim for study in studies)
    inferred = [study for study in studies if study.low is not None and study.high is not None]
    covers = [study.low - 1e-9 <= study.truth <= study.high + 1e-9 for study in inferred]
    coverage = float(np.mean(covers))
    ratios = [(study.high - study.low) / study.width for study in inferred]
    bias = float(np.median([study.difference - study.truth for study in inferred]))
    error = np.sqrt(max(coverage * (1 - coverage), 0.25 / len(covers)) / len(covers))
    everything = np.array([study.difference - study.truth for study in studies])
    mean, mean_error = everything.mean(), everything.std() / np.sqrt(len(studies))
    width = float(np.median(ratios))
    return Summary(coverage, float(error), width, bias, float(mean), float(mean_error), claims)


def cell(pooling: int, layer: int) -> Cell:
    name = "ClsPooling" if pooling == 0 else f"Pooling {pooling}"
    return Cell(name, layer, MODULE)


def accuracies(setting: str, generator: np.random.Generator) -> Array:
    """Draw the true accuracies (poolings, layers)."""
    flat = np.full((POOLINGS, LAYERS), 0.75)
    if setting in ("null", "caution", "unlike"):
        return flat
    if setting == "five points":
        flat[5] += 0.05
        return flat
    # Better layers towards the end, poolings that differ by some points.
    profile = np.linspace(-0.12, 0, LAYERS) if setting == "profiles" else 0
    return flat + profile + generator.normal(0, 0.02, (POOLINGS, LAYERS))


def simulate_split(setting: str, m: int, seed: int) -> Study:
    """Simulate a study with a published split."""
    generator = np.random.default_rng(seed)
    truth = accuracies(setting, generator)
    shape = (POOLINGS, LAYERS, 2 * m)
    # How much a cell's errors are its own; [CLS] has most in common with the average.
    own = generator.uniform(0.05, 0.7, (POOLINGS, LAYERS, 1)) if setting == "unlike" else 0.3
    alike = generator.random(shape) >= own
    hardness = np.where(alike, generator.random(2 * m), generator.random(shape))
    right = (hardness < truth[..., None]).astype(float)
    design = Design(np.zeros((1, m), np.int64), np.arange(m))
    splits = {"train": slice(0, 0), "validation": slice(0, m), "test": slice(m, 2 * m)}
    examples = Examples([], splits, None, None, splits["test"], design)
    rows = []
    for pooling, layer in np.ndindex(POOLINGS, LAYERS):
        validation, test = right[pooling, layer].reshape(2, 1, m)
        score = 100 * float(validation.mean())
        row = Row(
            cell(pooling, layer), False, None, 100 * test, test, np.full((1, 1), score), score
        )
        rows.append(row)
    chooser = Chooser(rows, examples, LAYERS - 1, 1.0, seed)
    cls = chooser.cell("ClsPooling", LAYERS - 1)
    first = chooser.challenger(cls)
    if setting == "caution":  # a baseline that is as good as all cells
        outcome = (generator.random(m) < 0.75) * 1.0
        baseline = rows[0]._replace(values=100 * outcome[None], right=outcome[None])
        return finish(chooser, first, chooser.pick([baseline]), 0.0, first)
    best = chooser.pick([rows[int(truth.argmax())]])
    number = int(first.row.cell.pooling.split()[-1]) if " " in first.row.cell.pooling else 0
    gain = 100 * (truth[number, first.row.cell.layer or 0] - truth[0, -1])
    return finish(chooser, first, cls, gain, best)


def finish(chooser: Chooser, first: Pick, cls: Pick, truth: float, best: Pick) -> Study:
    """Compare, as the study does, and add the oracle's width."""
    result = compare(chooser, "headline", first, cls)
    if best.row is cls.row:
        best = first
    low, high = chooser.difference(best, cls).interval()
    return Study(
        result["claim"], result["difference"], truth, result["low"], result["high"], high - low
    )


def simulate_folds(setting: str, n: int, seed: int, fresh: int = 20_000) -> Study:
    """Simulate a study that divides n rows itself and fits the probes."""
    generator = np.random.default_rng(seed)
    layers, poolings, size = 2, 4, 10
    total = n + fresh
    labels = torch.from_numpy(generator.integers(2, size=total))
    signal = np.outer(labels.numpy() - 0.5, np.full(size, 0.55)) + generator.normal(
        size=(total, size)
    )
    targets = torch.nn.functional.one_hot(labels).float()
    kind = Labels(targets[:n], targets[:n].roll(1, 0), True, "accuracy")
    clusters = np.arange(n)
    design = Design(draw_folds(clusters, labels[:n].numpy(), seed), clusters)
    examples = Examples([], {"test": slice(0, n)}, None, kind, slice(0, n), design)
    rows, truths = [], []
    for pooling, layer in np.ndindex(poolings, layers):
        noise = 0.8 if setting == "null" else 0.7 + 0.15 * ((pooling + layer) % 3)
        vectors = signal + noise * generator.normal(size=signal.shape)
        everything = standardize(torch.from_numpy(vectors).float())
        (row,) = scores.score_labels(cell(pooling, layer), {"test": everything[None, :n]}, examples)
        rows.append(row)
        probes = solve(sum_up(everything[:n], targets[:n]), False)
        strength = scores.STRENGTHS.index(1 / (row.C or 1))
        answers = probes.outputs(everything[n:])[strength].argmax(-1)
        truths.append(100 * float((answers == labels[n:]).float().mean()))
    chooser = Chooser(rows, examples, layers - 1, 1.0, seed)
    cls = chooser.cell("ClsPooling", layers - 1)
    first = chooser.challenger(cls)
    places = {id(row): place for place, row in enumerate(rows)}
    truth = truths[places[id(first.row)]] - truths[places[id(cls.row)]]
    best = chooser.pick([rows[int(np.argmax(truths))]])
    return finish(chooser, first, cls, truth, best)


SPLIT = ("null", "unlike", "profiles", "spread", "five points", "caution")
FOLDS = ("null", "noise")


def main(count: int, only: str | None, sizes: tuple[int, ...]) -> None:
    print("| setting | m | covers | width | median bias | mean bias | claims |")
    print("|---|---|---|---|---|---|---|")
    for simulate, settings in ((simulate_split, SPLIT), (simulate_folds, FOLDS)):
        for setting in settings:
            name = f"{simulate.__name__.partition('_')[2]}, {setting}"
            for m in sizes if only in (None, setting, name) else ():
                part = summarize([simulate(setting, m, seed) for seed in range(count)])
                claims = ", ".join(f"{key} {part.claims[key]}" for key in sorted(part.claims))
                print(
                    f"| {name} | {m} | {100 * part.coverage:.1f} +- {100 * part.error:.1f} "
                    f"| {part.width:.2f} | {part.bias:+.2f} "
                    f"| {part.mean:+.2f} +- {part.mean_error:.2f} | {claims} |",
                    flush=True,
                )


if __name__ == "__main__":
    count, only, size = [*sys.argv[1:], *(None, None, None)][:3]
    main(int(count or 200), only, (int(size),) if size else SIZES)
