"""The command `study`: checks before it starts, and what it writes into the run folder."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from litpool import InputError, program
from litpool.commands import Run
from litpool.data.added import require
from litpool.data.module import TextDataModule
from litpool.disk import write_text
from litpool.loops.lightning import TextModule
from litpool.loops.outputs import versions
from litpool.model.encoder import load_config
from litpool.model.markers import resolve
from litpool.tools.study import finetuned, frozen, proposal, sets
from litpool.tools.study.choice import Json, summarize_tuned
from litpool.tools.study.examples import SPLITS
from litpool.tools.study.frozen import timed
from litpool.tools.study.grid import PoolingFactory, build_unloaded, check_poolings
from litpool.tools.study.options import StudyOptions
from litpool.tools.study.sets import DataSet
from litpool.tools.study.vectors import check_cache, order

MAX_PROJECTED = 2_000  # texts in TensorBoard's projector


def study(  # noqa: D417
    run: Run,
    study: StudyOptions = StudyOptions(),  # noqa: B008 (the parser reads the default)
    name: str | None = None,
) -> None:
    """Find out which pooling of which layer represents your texts best, with its uncertainty.

    The frozen arm runs in float32 on one device; only the fine-tuned arm uses the trainer's flags.

    Args:
        study: What to study besides all layers and all poolings without weights.
        name: The name of the run folder in logs/JOB; by default `version_N`, with what the command
            line changes.
    """
    if run.trainer.world_size > 1:
        raise InputError(
            f"trainer.devices={run.trainer.world_size}: a study runs on one device; "
            "set trainer.devices=1"
        )
    if run.trainer.logger is None:
        raise InputError("trainer.logger=false: a study needs its run folder; leave it out")
    data_sets = _prepare(run, study)
    run.write_config()
    _report(run, data_sets, study)


def _prepare(run: Run, options: StudyOptions) -> list[DataSet]:
    """Check the options, then read and tokenize all data sets. No weights are loaded.

    Raises:
        InputError: An arm, a task, a pooling, a file or a split is not supported.
    """
    module = run.model
    _check_options(options)
    check_cache()
    if "frozen" in options.arms:
        frozen.studied_task(module.task)
        check_poolings(options.poolings, module.encoder, load_config(module.encoder))
    if "finetuned" in options.arms or options.confirm:
        finetuned.check(module, run.config["trainer"], options)
    if "finetuned" not in options.arms:
        finetuned.check_unused(module.encoder, options)
    data_sets = sets.read(module, run.config, options)
    for data_set in data_sets:
        run.warn(data_set.data)
        _check_labels(data_set)
        for data, poolings in (
            (data_set.frozen, options.poolings),
            (data_set.tuned, options.tuned),
        ):
            if data:
                _check_markers(module, data, poolings)
    return data_sets


def _check_options(options: StudyOptions) -> None:
    if not options.arms:
        raise InputError("study.arms=[]: name frozen, finetuned or both")
    if options.margin <= 0:
        raise InputError(f"study.margin={options.margin}: give a number of points over 0")
    if options.seed < 0:
        raise InputError(f"study.seed={options.seed}: give 0 or more")
    if options.confirm and "frozen" not in options.arms:
        raise InputError("study.confirm=true: the arm frozen proposes; add frozen to study.arms")
    for arm, name in (
        ("frozen", "poolings"),
        ("frozen", "word_vectors"),
        ("finetuned", "layers"),
    ):
        if arm not in options.arms and getattr(options, name):
            raise InputError(
                f"study.{name}: only the arm {arm} uses it; add {arm} to study.arms, or leave "
                f"study.{name} out"
            )
    path = options.word_vectors
    if path is not None and not Path(path).is_file():
        raise InputError(
            f"study.word_vectors={path}: no such file; name a text file of word vectors"
        )


def _check_labels(data_set: DataSet) -> None:
    """Refuse a test split with a single label, which cannot rank any vectors."""
    data = data_set.data
    label = data.task.label
    values = {str(value) for value in data.rows["test"][label]} if label else set()
    if len(values) == 1:
        raise InputError(
            f"{data_set.name}: every row of the test split has {label}={values.pop()}; "
            "use a split with several"
        )


def _check_markers(
    module: TextModule, data: TextDataModule, poolings: Sequence[PoolingFactory]
) -> None:
    """Refuse texts without a marker that a pooling looks for."""
    for pooling in build_unloaded(poolings, load_config(module.encoder)):
        require(resolve(pooling, data.tokenizer), data.encoded, data.rows, data.task.texts)


def _report(run: Run, data_sets: list[DataSet], options: StudyOptions) -> None:
    """Study all data sets, write the report, and print the verdict."""
    seconds: dict[str, float] = {}
    entries = [
        _study(run, data_set, options, seconds, several=len(data_sets) > 1)
        for data_set in data_sets
    ]
    config = {**run.config, "study": run.options["study"]}
    if "finetuned" not in options.arms and not options.confirm:
        del config["trainer"]  # has no effect
    result = {
        "verdict": sets.verdict(entries),
        "command": shlex.join([*program().split(), *sys.argv[1:]]),
        "config": config,
        "versions": {
            **versions(),
            "numpy": version("numpy"),
            "scikit-learn": version("scikit-learn"),
        },
        "seconds": seconds,
        "data": rounded(entries),
    }
    _write(run.folder, result, run.writer)
    print(result["verdict"])
    if len(entries) == 1:
        for note in entries[0]["notes"]:
            print(note)
    print(f"wrote {run.folder}")


def _study(
    run: Run,
    data_set: DataSet,
    options: StudyOptions,
    seconds: dict[str, float],
    several: bool,
) -> Json:
    """Study a data set; return its entry in study.json, and add the seconds that each part took."""
    module, data = run.model, data_set.data
    entry = empty_entry(data)
    entry["name"], entry["paper"] = data_set.name, data_set.paper
    entry["layers"] = load_config(module.encoder).num_hidden_layers
    if data_set.frozen:
        device = run.trainer.strategy.root_device
        result = frozen.study(module, data, data_set.averages, options, device, seconds)
        entry |= result.entry
        if run.writer is not None:
            prefix = f"{data_set.name} " if several else ""
            for name, vectors in result.projected.items():
                _project(run.writer, data, f"{prefix}{name}", vectors)
        if not several:
            sentence = entry["headline"]["sentence"]
            entry["proposal"] = proposal.propose(run, result.proposed, options, sentence)
        if data_set.tuned and options.confirm:
            with timed(seconds, "confirm"):
                entry["confirm"] = proposal.confirm(run, result.proposed, data_set.tuned, options)
            entry["notes"].append(entry["confirm"]["sentence"])
    if data_set.tuned and "finetuned" in options.arms:
        with timed(seconds, "fine-tune"):
            runs = finetuned.tune(module, run.config, data_set.tuned, options, run.parent)
        # Without the seconds, so that a study gives the same result again.
        entry["finetuned"] = [
            {key: value for key, value in result.items() if key != "seconds"} for result in runs
        ]
        summary = summarize_tuned(entry["finetuned"])
        if data_set.frozen:
            entry["notes"].append(summary)
        else:
            entry["verdict"] = summary
    return entry


def empty_entry(data: TextDataModule) -> Json:
    """Return a data set's entry in study.json before any arm has run."""
    return {
        "name": "",
        "task": type(data.task).__name__,
        "metric": data.task.monitor.partition("/")[2],
        "unit": "pairs" if len(data.task.texts) > 1 else "examples",
        "rows": {split: len(data.rows[split]) for split in SPLITS if split in data.encoded},
        "layers": 0,
        "cells": [],
        "chosen": [],
        "same_layer": None,
        "method": None,
        "headline": None,
        "published": None,
        "baseline": None,
        "baselines": [],
        "finetuned": [],
        "proposal": None,
        "confirm": None,
        "verdict": "",
        "notes": [],
        "paper": [],
    }


def rounded(value: Any) -> Any:
    """Return plain values with all floats rounded to 6 decimals."""
    as_text = json.dumps(value)
    return json.loads(as_text, parse_float=lambda digits: round(float(digits), 6) + 0.0)  # no -0.0


def _write(folder: Path, result: Json, writer: SummaryWriter | None) -> None:
    """Write study.json, the files made from it, and the heat maps for TensorBoard."""
    from litpool.tools.study import report

    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(folder / "study.json", f"{text}\n")
    report.write(folder, result)
    if writer is not None:
        for entry in result["data"]:
            if entry["cells"]:  # the fine-tuned arm alone has no map
                writer.add_figure(f"study/{entry['name'].strip('/')}", report.heat_map(entry))
        writer.flush()


def _project(
    writer: SummaryWriter,
    data: TextDataModule,
    name: str,
    vectors: NDArray[np.float32],  # (K, n, d)
) -> None:
    """Write some test vectors for TensorBoard's projector, with their texts and labels."""
    rows = data.rows["test"].select(order(data.encoded["test"]))
    step = -(-len(rows) * len(vectors) // MAX_PROJECTED)
    part: Mapping[str, list[Any]] = rows[::step]  # evenly spaced, so texts of all lengths
    columns = [part[column] for column in data.task.texts]
    if len(vectors) == 1:  # one vector for all texts of a row
        columns = [[" / ".join(texts) for texts in zip(*columns, strict=True)]]
    labels = part[data.task.label] if data.task.label else [""] * len(columns[0])
    metadata = [
        [" ".join(text.split())[:80], str(label)]
        for column in columns
        for text, label in zip(column, labels, strict=True)
    ]
    matrix = torch.from_numpy(np.concatenate(vectors[:, ::step]))
    tag = name.replace(" ", "_")
    writer.add_embedding(matrix, metadata, metadata_header=["text", "label"], tag=tag)
    writer.flush()
