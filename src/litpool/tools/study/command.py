"""The command `study`: what it asks for before it starts, and what it leaves in the run folder."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from litpool import InputError
from litpool.commands import Run
from litpool.data.added import require
from litpool.data.module import TextDataModule
from litpool.loops.lightning import TextModule
from litpool.loops.outputs import versions
from litpool.model.encoder import load_config
from litpool.model.markers import resolve
from litpool.tools.study import finetuned, frozen, sets
from litpool.tools.study.choice import Json, tell_tuned
from litpool.tools.study.frozen import timed
from litpool.tools.study.grid import Make, check_asked
from litpool.tools.study.options import StudyOptions
from litpool.tools.study.scores import SPLITS
from litpool.tools.study.sets import DataSet
from litpool.tools.study.vectors import check_cache, order

PROJECTED = 2_000  # texts in TensorBoard's projector


def study(  # noqa: D417
    run: Run,
    study: StudyOptions = StudyOptions(),  # noqa: B008 (the parser reads the default)
) -> None:
    """Tell which pooling of which layer represents a text: all of them, frozen, with their uncertainty.

    Frozen, the encoder works in float32 on one device, whatever the trainer's flags say; they are for the arm
    `finetuned`.

    Args:
        study: What is studied beside all layers and all poolings without weights of their own.
    """
    if run.trainer.world_size > 1:
        devices = run.trainer.world_size
        raise InputError(
            f"trainer.devices={devices}: a study runs on one device; set trainer.devices=1"
        )
    if run.trainer.logger is None:
        raise InputError("trainer.logger=false: a study needs its run folder; leave it out")
    found = _prepare(run, study)
    run.write_config()
    _conduct(run, found, study)


def _prepare(run: Run, options: StudyOptions) -> list[DataSet]:
    """Check what is asked for, then read and tokenize all data sets.

    Raises:
        InputError: An arm, a task, a pooling, a file or a split that is no use; weights were not loaded for it.
    """
    module = run.model
    _check_options(options)
    check_cache()
    if "frozen" in options.arms:
        frozen.task_of(module.task)
        check_asked(options.poolings, module.encoder, load_config(module.encoder))
    if "finetuned" in options.arms:
        finetuned.check(module, run.config["trainer"], options)
    found = sets.read(module, run.config, options)
    for one in found:
        run.warn(one.data)
        _see_difference(one)
        _see_markers(module, one.frozen, options.poolings)
        _see_markers(module, one.tuned, options.tuned)
    return found


def _check_options(options: StudyOptions) -> None:
    if not options.arms:
        raise InputError("study.arms=[]: name frozen, finetuned or both")
    if options.seed < 0:
        raise InputError(f"study.seed={options.seed}: give 0 or more")
    others = {"frozen": ["poolings", "word_vectors"], "finetuned": ["layers"]}
    for arm, names in others.items():
        for name in names if arm not in options.arms else ():
            if getattr(options, name):
                raise InputError(
                    f"study.{name}: it is of the arm {arm}; add that to study.arms, or leave it out"
                )
    if options.word_vectors is not None and not Path(options.word_vectors).is_file():
        raise InputError(
            f"study.word_vectors={options.word_vectors}: no such file; name a text file of word vectors"
        )


def _see_difference(one: DataSet) -> None:
    """Refuse a test split that ranks nothing, whatever the vectors."""
    label = one.data.task.label
    if label and len(values := {str(value) for value in one.data.rows["test"][label]}) == 1:
        raise InputError(
            f"{one.name}: every row of the test split has {label}={values.pop()}; take a split with several"
        )


def _see_markers(module: TextModule, data: TextDataModule | None, makes: Sequence[Make]) -> None:
    """Refuse texts that lack a marker which a pooling is to find."""
    config = load_config(module.encoder)
    for make in makes if data else ():
        assert data
        with torch.device("meta"):
            markers = resolve(make(config.hidden_size, config.num_hidden_layers), data.tokenizer)
        require(markers, data.encoded, data.rows, data.task.texts)


def _conduct(run: Run, found: list[DataSet], options: StudyOptions) -> None:
    """Study, write the report into the run folder and the vectors for TensorBoard, and print the verdict."""
    told, seconds = [], dict[str, float]()
    for one in found:
        entry, clock = _study(run, one, options, len(found) > 1)
        told.append(entry)
        seconds = {
            name: round(seconds.get(name, 0) + clock.get(name, 0), 3) for name in seconds | clock
        }
    result = {
        "verdict": sets.verdict(told),
        "command": shlex.join(["python", "cli.py", *sys.argv[1:]]),
        "config": _config(run, options),
        "versions": {
            **versions(),
            "numpy": version("numpy"),
            "scikit-learn": version("scikit-learn"),
        },
        "seconds": seconds,
        "data": rounded(told),
    }
    _write(run.folder, result, run.writer)
    for line in (
        result["verdict"],
        *(told[0]["notes"] if len(told) == 1 else []),
        f"wrote {run.folder}",
    ):
        print(line)


def _config(run: Run, options: StudyOptions) -> Json:
    """The job; the trainer's flags move nothing but the fine-tuned arm."""
    config = {**run.config, **run.options}
    if "finetuned" not in options.arms:
        del config["trainer"]
    return config


def _write(folder: Path, result: Json, writer: SummaryWriter | None) -> None:
    """study.json and what is made of it, the heat maps for TensorBoard among them."""
    from litpool.tools.study import report  # late: it draws

    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "study.json").write_text(f"{text}\n", encoding="utf-8")
    report.write(folder, result)
    if writer is not None:
        for entry in result["data"]:
            if entry["cells"]:  # a fine-tuned arm alone has no map
                writer.add_figure(f"study/{entry['name'].strip('/')}", report.heat_map(entry))
        writer.flush()


def _study(
    run: Run, one: DataSet, options: StudyOptions, several: bool
) -> tuple[Json, dict[str, float]]:
    """A data set's entry in study.json, and the seconds that its parts took."""
    module, device = run.model, run.trainer.strategy.root_device
    clock: dict[str, float] = {}
    entry = blank(one.data)
    if one.frozen:
        studied = frozen.study(module, one.frozen, one.averages, options, device)
        entry, clock = studied.told, studied.seconds
        if run.writer is not None:
            names = {
                f"{one.name} {name}" if several else name: part
                for name, part in studied.projected.items()
            }
            _project(run.writer, one.frozen, names)
    if one.tuned:
        with timed(clock, "fine-tune"):
            entry["finetuned"] = finetuned.tune(module, run.config, one.tuned, options, run.parent)
        said = tell_tuned(entry["finetuned"])
        if one.frozen:
            entry["notes"].append(said)
        else:
            entry["layers"], entry["verdict"] = load_config(module.encoder).num_hidden_layers, said
    return {**entry, "name": one.name, "paper": one.paper}, clock


def blank(data: TextDataModule) -> Json:
    """An entry of study.json without a frozen arm."""
    unit = "pairs" if len(data.task.texts) > 1 else "examples"
    facts = {
        "task": type(data.task).__name__,
        "metric": data.task.monitor.partition("/")[2],
        "unit": unit,
    }
    rows = {split: len(data.rows[split]) for split in SPLITS if split in data.encoded}
    empty: Json = {
        "cells": [],
        "chosen": [],
        "lead": None,
        "baselines": [],
        "finetuned": [],
        "verdict": "",
        "notes": [],
    }
    return {"name": "", **facts, "rows": rows, "layers": 0, **empty}


def rounded(value: Any) -> Any:
    """The same with its floats rounded to 6 digits after the point."""
    if isinstance(value, Mapping):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return round(float(value), 6) + 0.0 if isinstance(value, float) else value  # + 0.0: no -0.0


def _project(writer: SummaryWriter, data: TextDataModule, cells: Mapping[str, Any]) -> None:
    """The vectors of at most 2,000 test texts for TensorBoard's projector, with the texts and labels beside them."""
    rows, columns = data.rows["test"].select(order(data.encoded["test"])), data.task.texts
    for name, vectors in cells.items():  # each (K, n, d)
        chosen = slice(
            None, None, -(-len(rows) * len(vectors) // PROJECTED)
        )  # evenly spaced: texts of all lengths
        part = rows[chosen]
        labels = (
            [str(label) for label in part[data.task.label]]
            if data.task.label
            else [""] * len(part[columns[0]])
        )
        texts = [part[column] for column in columns]
        texts = (
            texts if len(vectors) > 1 else [[" / ".join(pair) for pair in zip(*texts, strict=True)]]
        )
        shown = [
            [" ".join(text.split())[:80], label]
            for column in texts
            for text, label in zip(column, labels, strict=True)
        ]
        matrix = torch.from_numpy(np.concatenate(vectors[:, chosen]))
        writer.add_embedding(
            matrix, shown, metadata_header=["text", "label"], tag=name.replace(" ", "_")
        )
    writer.flush()
