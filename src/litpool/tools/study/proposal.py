"""What to do about a study: the job with the proposed pooling, and what it is worth fine-tuned."""

import dataclasses
import inspect
import time
from copy import deepcopy
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
import yaml

from litpool.commands import Run
from litpool.data.module import TextDataModule
from litpool.disk import write_text
from litpool.model.encoder import load_config
from litpool.model.pooling import ClsPooling, plain_settings
from litpool.tools.study import finetuned
from litpool.tools.study.choice import Json
from litpool.tools.study.grid import Cell, PoolingFactory, build_unloaded
from litpool.tools.study.options import StudyOptions
from litpool.tools.study.statistics import Estimate
from litpool.tools.study.training import quiet

FILE = "fit.yaml"
TIMED_BATCHES = 8


def propose(run: Run, cell: Cell, options: StudyOptions, sentence: str) -> Json:
    """Write the job with a cell's pooling and layer, as far as `fit` can train it.

    Args:
        run: The study's job and folder.
        cell: What to propose.
        options: The poolings that the study was given.
        sentence: Why; a comment at the top of the file.

    Returns:
        The proposal of study.json; without a file if the encoder cannot be cut after the layer.
    """
    config = load_config(run.model.encoder)
    pooling, _ = _pooling(run, cell, options)
    proposal: Json = {"pooling": cell.pooling, "layer": cell.layer, "num_hidden_layers": None}
    job = deepcopy(run.config)
    job["model"]["pooling"] = pooling
    if cell.layer is not None and cell.layer < config.num_hidden_layers:
        cut = finetuned.cut(run.model.encoder, config, cell.layer)
        if cut is None:
            return {**proposal, "file": None}
        job["model"]["encoder"] |= {"overrides": cut.overrides, "freeze": cut.freeze}
        proposal["num_hidden_layers"] = cell.layer
    text = yaml.safe_dump(job, sort_keys=False, allow_unicode=True)
    head = (
        f"# python cli.py fit --config {run.folder / FILE}\n"
        f"#\n# {' '.join(sentence.split())}\n"
        f"# So this job has {cell.name}.\n"
    )
    write_text(run.folder / FILE, head + text)
    return {**proposal, "file": FILE}


def _pooling(run: Run, cell: Cell, options: StudyOptions) -> tuple[Any, PoolingFactory]:
    """Return a cell's pooling as a value in YAML, and as a factory."""
    config = load_config(run.model.encoder)
    given = run.options["study"]["poolings"]
    poolings = build_unloaded(options.poolings, config)
    for value, make, pooling in zip(given, options.poolings, poolings, strict=True):
        if pooling.describe() == cell.pooling:
            return value, make
    kind = type(cell.module)
    parameters = inspect.signature(kind).parameters
    settings = plain_settings(cell.module)
    arguments = {name: value for name, value in settings.items() if name in parameters}
    name = f"{kind.__module__}.{kind.__qualname__}"
    return {"class_path": name, "init_args": arguments}, partial(kind, **arguments)


def confirm(run: Run, cell: Cell, data: TextDataModule, options: StudyOptions) -> Json:
    """Fine-tune a cell and [CLS] of the last layer with the same seeds, and compare them.

    Args:
        run: How to train.
        cell: What is proposed.
        data: Its splits are tokenized.
        options: The seeds and the loop.
    """
    last = load_config(run.model.encoder).num_hidden_layers
    _, make = _pooling(run, cell, options)
    if (cell.pooling, cell.layer) == ("ClsPooling", last):
        return {"runs": [], "sentence": f"{cell.name} is what is proposed: nothing to confirm"}
    runs, costs = [], []
    for pooling, layer in ((make, cell.layer), (ClsPooling, last)):
        layers = None if layer is None else [layer]
        chosen = dataclasses.replace(options, tuned=[pooling], layers=layers)
        results = finetuned.tune(run.model, run.config, data, chosen, run.parent)
        milliseconds = _time_texts(run, pooling, layer, data)
        runs += [{**result, "milliseconds": milliseconds} for result in results]
        costs.append((float(np.mean([result["seconds"] for result in results])), milliseconds))
    tests = np.array([result["test"] for result in runs]).reshape(2, -1)
    gains = tests[0] - tests[1]  # (seeds,)
    rows = f"{len(data.rows['test']):,} test rows"
    certainty = f"one seed, so no interval; {rows}"
    if len(gains) > 1:
        error = gains.std(ddof=1) / np.sqrt(len(gains))
        low, high = Estimate(gains.mean(), error, len(gains) - 1, gains).interval()
        certainty = (
            f"95% CI {low:.1f} to {high:.1f} for other seeds, not for other test rows; "
            f"{len(gains)} seeds, {rows}"
        )
    seconds, each = zip(*costs, strict=True)
    sentence = (
        f"Fine-tuned, {cell.name} scores {gains.mean():+.1f} points against ClsPooling of layer "
        f"{last} ({certainty}); training takes {seconds[0]:.0f} s instead of {seconds[1]:.0f} s, "
        f"a text {each[0]:.1f} ms instead of {each[1]:.1f} ms"
    )
    return {"runs": runs, "sentence": sentence}


@torch.inference_mode()
def _time_texts(run: Run, make: PoolingFactory, layer: int | None, data: TextDataModule) -> float:
    """Return the milliseconds that a text takes, without tokenization: the median of batches."""
    config = load_config(run.model.encoder)
    training = finetuned.Training("", layer, 0, make, "")
    module = finetuned.build_module(training, run.model, data, config)
    device = run.trainer.strategy.root_device
    with quiet():
        network = module.build(device).eval().to(device)
    times = []
    for batch in islice(data.test_dataloader(), TIMED_BATCHES):
        texts = {name: value.to(device) for name, value in batch.items()}
        start = time.perf_counter()
        network.embed(texts).cpu()  # waits for the device
        times.append(1000 * (time.perf_counter() - start) / batch["input_ids"][..., 0].numel())
    return float(np.median(times))
