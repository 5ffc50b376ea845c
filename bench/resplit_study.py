"""Whether a study's sentence holds on other splits of the same rows.

    python bench/resplit_study.py RUN   # a run folder of `study`, with its vectors in the cache

It pools all rows of the study, divides them again 20 times into splits of the same sizes (clusters
stay together), and makes the planned comparison on each: choose on validation (pairs: on all rows
that are not test), fit the probes again, score once on test. It prints the 20 differences, their
mean with its interval over the splits, and the interval that the study announced.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t

from litpool.data.module import TextDataModule
from litpool.loops.lightning import TextModule
from litpool.model.encoder import EncoderOptions
from litpool.tasks.classification import Classification
from litpool.tasks.similarity import Similarity
from litpool.tools.study import frozen, scores, sets, vectors
from litpool.tools.study.choice import BASELINE, Chooser
from litpool.tools.study.examples import Examples, number_clusters, read
from litpool.tools.study.grid import list_cells
from litpool.tools.study.options import StudyOptions
from litpool.tools.study.statistics import Design, Numbers

SPLITS = 20


def divide(examples: Examples, clusters: Numbers, seed: int) -> tuple[Examples, Numbers]:
    """Return the rows in another order, so that each split has other rows, and that order."""
    generator = np.random.default_rng(seed)
    rank = generator.permutation(clusters.max() + 1)
    order = np.argsort(rank[clusters], kind="stable")
    test = examples.splits["test"]
    rows = test.stop - test.start
    labels = examples.labels
    if labels:
        at = torch.from_numpy(order)
        labels = labels._replace(targets=labels.targets[at], control=labels.control[at])
    gold = None if examples.gold is None else examples.gold[order]
    design = Design(np.zeros((1, rows), np.int64), number_clusters(clusters[order][test].tolist()))
    return examples._replace(gold=gold, labels=labels, scored=test, design=design), order


def main(folder: Path) -> None:
    result = json.loads((folder / "study.json").read_text())
    config, entry = result["config"], result["data"][0]
    task_name = config["task"]["class_path"].rpartition(".")[2]
    tasks = {kind.__name__: kind for kind in (Similarity, Classification)}
    task = tasks[task_name](**config["task"]["init_args"])
    settings = config["data"]
    encoder_options = EncoderOptions(**config["model"]["encoder"])
    data = TextDataModule(task, **{**settings, "tokenizer": settings["tokenizer"]})
    sets._set_up_frozen(data)
    options = StudyOptions(resampling="kfold")
    examples = read(data, options)
    module = TextModule(task, data, encoder_options)
    encoder, note = frozen.load_encoder(module, data, options, torch.device("cpu"))
    cells = list_cells(encoder, not note, [])
    salt = vectors.fingerprint(encoder)
    files = {split: vectors.encode(encoder, cells, data, split, salt) for split in examples.splits}
    divided = [divide(examples, examples.design.clusters, seed) for seed in range(SPLITS)]
    rows: list[list[scores.Row]] = [[] for _ in divided]
    for cell in cells:
        if cell.static:
            continue
        whole = torch.cat([scores.load(part[cell], "cpu") for part in files.values()], dim=1)
        for part, (other, order) in zip(rows, divided, strict=True):
            moved = whole[:, torch.from_numpy(order)]
            by_split = {name: moved[:, at] for name, at in other.splits.items()}
            if other.labels:
                part += scores.score_labels(cell, by_split, other)
            else:
                cosines = scores.cosines(by_split)
                part.append(scores.score_cosines(cell, False, cosines, other))
    last = encoder.config.num_hidden_layers
    differences = []
    for part, (other, _) in zip(rows, divided, strict=True):
        chooser = Chooser(part, other, last, 1.0, 0)
        cls = chooser.cell(BASELINE, last)
        first = chooser.challenger(cls)
        estimate = chooser.difference(first, cls)
        differences.append(estimate.value)
        print(f"{first.row.cell.name} {estimate.value:+.1f}", flush=True)
    mean, error = np.mean(differences), np.std(differences, ddof=1) / np.sqrt(SPLITS)
    reach = t.isf(0.025, SPLITS - 1) * error
    headline = entry["headline"]
    print(f"mean of {SPLITS} splits: {mean:+.2f} ({mean - reach:+.2f} to {mean + reach:+.2f})")
    print(f"announced: {headline['claim']}, {headline['low']:+.2f} to {headline['high']:+.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
