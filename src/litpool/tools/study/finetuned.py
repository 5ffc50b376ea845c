"""The fine-tuned arm: poolings x layers x seeds, each trained like any job.

The result of each training is a small file of its own, in a folder whose name is made of all that the result depends
on; so an interrupted arm goes on where it stopped.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import seed_everything
from torch import Tensor
from transformers import PretrainedConfig

from litpool import InputError, interrupt
from litpool.data.module import TextDataModule
from litpool.demo.encoder import locate
from litpool.loops.lightning import TextModule
from litpool.loops.outputs import versions
from litpool.model.encoder import Encoder, EncoderOptions, load_config
from litpool.model.pooling import Pooling
from litpool.tools.study import training
from litpool.tools.study.choice import Json
from litpool.tools.study.grid import settings
from litpool.tools.study.options import StudyOptions

Make = Callable[[int, int], Pooling]

CUT = ("albert", "bert", "deberta-v2", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
"""Encoders of which the first n layers alone give what the n-th layer gives in the whole: no norm follows the last."""

NO_SAY = (
    "logger",
    "enable_progress_bar",
    "enable_checkpointing",
    "enable_model_summary",
    "default_root_dir",
)
"""Flags of the trainer that move no weight."""


class Run(NamedTuple):
    """A training of the arm."""

    pooling: str
    layer: int | None  # None: of several layers, or of the pooler output
    seed: int
    make: Make
    file: str  # the name of its result's

    @property
    def name(self) -> str:
        """What is printed of it."""
        return f"{self.pooling}{'' if self.layer is None else f' of layer {self.layer}'}, seed {self.seed}"


class OfLayer(Pooling):
    """A pooling of a layer that is not the last, where the encoder cannot be cut after it.

    Args:
        pooling: Which.
        layer: 0 the embeddings, L the last.
    """

    needs_hidden_states = True

    def __init__(self, width: int, num_layers: int, pooling: Make, layer: int) -> None:
        super().__init__(width, num_layers)
        self.pooling, self.layer = pooling(width, num_layers), layer
        self.out_features = self.pooling.out_features

    def forward(
        self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *rest: object, **more: object
    ) -> Tensor:
        return self.pooling((hidden_states[self.layer],), attention_mask, *rest, **more)


def check(module: TextModule, flags: Mapping[str, Any], options: StudyOptions) -> None:
    """Refuse what cannot be trained, before data are read and weights are loaded.

    Raises:
        InputError: The task has no pooled vector, or a pooling, a layer, a number or a flag of the trainer is no use.
    """
    if module.task.on_tokens:
        raise InputError(
            f"task={type(module.task).__name__}: it reads the tokens, not their pooling; a study takes Classification, "
            "MultiLabelClassification, Regression and Similarity"
        )
    config = load_config(module.encoder)
    layers = config.num_hidden_layers
    if options.seeds < 1:
        raise InputError(f"study.seeds={options.seeds}: give the number of seeds, 1 or more")
    if not flags["max_epochs"] and flags["max_steps"] == -1:
        raise InputError(
            f"trainer.max_epochs={flags['max_epochs']}: say how many epochs the fine-tuned arm trains, such as 1"
        )
    if not options.tuned:
        raise InputError(
            "study.tuned=[]: name at least one pooling, such as [ClsPooling, MeanPooling]"
        )
    if options.layers is not None and not options.layers:
        raise InputError(
            f"study.layers=[]: name some of 0 to {layers}, or leave it out for the last one"
        )
    for layer in options.layers or []:
        if not 0 <= layer <= layers:
            raise InputError(
                f"study.layers={options.layers}: this encoder has the layers 0 to {layers}"
            )
    _check_poolings(module.encoder, config, options.tuned)
    training.check_flags(module, flags, options.loop)


def _check_poolings(
    options: EncoderOptions, config: PretrainedConfig, makes: Sequence[Make]
) -> None:
    names: list[str] = []
    with torch.device("meta"):
        for pooling in (make(config.hidden_size, config.num_hidden_layers) for make in makes):
            names.append(pooling.describe())
            if pooling.needs_pooler_output:
                Encoder(options, config, pretrained=False, pooler=True)
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"study.tuned: {twice[0]} is named twice; leave one out")


def list_runs(config: PretrainedConfig, options: StudyOptions) -> list[Run]:
    """All trainings, seed by seed, so that an early end leaves as many seeds of each pooling."""
    wanted = list(dict.fromkeys(options.layers or [config.num_hidden_layers]))
    found = []
    for seed in range(_seed(), _seed() + options.seeds):
        for make in options.tuned:
            with torch.device("meta"):
                pooling = make(config.hidden_size, config.num_hidden_layers)
            for layer in wanted if pooling.pools_one_layer else [None]:
                found.append(
                    Run(pooling.describe(), layer, seed, make, _name(pooling, layer, seed))
                )
    return found


def _seed() -> int:
    """The first seed: `seed_everything`, as Lightning keeps it."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def tune(
    module: TextModule, job: Json, data: TextDataModule, options: StudyOptions, parent: Path
) -> list[Json]:
    """Train and score all that has not been before.

    Args:
        module: Says what is trained, and how; its task is the data's.
        job: The config.
        data: Its three splits are tokenized, once for all trainings.
        options: Which poolings, layers and seeds.
        parent: Where the folder with the results is.

    Returns:
        What study.json says of each: pooling, layer, seed, validation and test in points.
    """
    base, folder, config = (
        _seed(),
        _folder(module, job, data, options, parent),
        load_config(module.encoder),
    )
    found = []
    try:
        for run in list_runs(config, options):
            fresh = module_of(run, module, data, config)
            found.append(_kept(fresh, job, options.loop, run, folder / run.file))
            training.free()
    except (KeyboardInterrupt, SystemExit):  # the latter: what Lightning makes of Ctrl-C
        interrupt.advise(
            "interrupted; the same command goes on with the trainings that are missing"
        )
        raise
    finally:
        seed_everything(base, verbose=False)
    order = list(dict.fromkeys((run["pooling"], run["layer"]) for run in found))
    return sorted(found, key=lambda run: (order.index((run["pooling"], run["layer"])), run["seed"]))


def _kept(module: TextModule, job: Json, loop: training.Loop, run: Run, file: Path) -> Json:
    """The result of a training, from its file if there is one; a file is written beside its place and moved there."""
    note = "  (kept from before)" if file.exists() else ""
    if not file.exists():
        scratch = file.with_suffix(".part")
        shutil.rmtree(scratch, ignore_errors=True)  # what an interrupted one left
        scratch.mkdir(parents=True)
        try:
            scores = training.train(module, job, loop, run.seed, scratch)
            told: Json = {"pooling": run.pooling, "layer": run.layer, "seed": run.seed}
            told |= {
                key: 100 * score for key, score in zip(("validation", "test"), scores, strict=True)
            }
            (scratch / "result").write_text(json.dumps(told), encoding="utf-8")
            (scratch / "result").replace(file)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    told = json.loads(file.read_text(encoding="utf-8"))
    print(f"{run.name}: {told['test']:.1f}{note}", flush=True)
    return told


def module_of(
    run: Run, module: TextModule, data: TextDataModule, config: PretrainedConfig
) -> TextModule:
    """A fresh module for a training, its encoder cut after the layer that is pooled where that changes nothing."""
    options, make = module.encoder, run.make
    last = run.layer is None or run.layer == config.num_hidden_layers
    if (
        not last
        and run.layer
        and config.model_type in CUT
        and getattr(config, "num_hidden_groups", 1) == 1
    ):
        freeze = (
            min(options.freeze, run.layer) if isinstance(options.freeze, int) else options.freeze
        )
        overrides = {**options.overrides, "num_hidden_layers": run.layer}
        options = dataclasses.replace(options, overrides=overrides, freeze=freeze)
    elif not last:
        make = _of_layer(make, run.layer or 0)
    return TextModule(data.task, data, options, make, module.recipe, config=module.config)


def _of_layer(make: Make, layer: int) -> Make:
    return lambda width, num_layers: OfLayer(width, num_layers, make, layer)


# ---- where results are kept


def _folder(
    module: TextModule, config: Json, data: TextDataModule, options: StudyOptions, parent: Path
) -> Path:
    """Named by what all results of a data set depend on: the job without what has no effect, the data, the versions."""
    flags = {name: value for name, value in config["trainer"].items() if name not in NO_SAY}
    facts = {
        "model": {key: value for key, value in config["model"].items() if key != "pooling"},
        "weights": _files(module.encoder.name),
        "task": [type(data.task).__name__, vars(data.task)],
        "data": [
            data.batch_size,
            data.length_grouping,
            data.max_length,
            data.tokenizer_files,
            data.new_ids,
        ],
        "rows": {
            split: encoded._fingerprint for split, encoded in data.encoded.items()
        },  # told from their content
        "trainer": flags,
        "loop": options.loop,
        "versions": versions(),
        "cuda": torch.cuda.is_available(),
    }
    return parent / f"study-{_hash(facts)}"


def _files(name: str) -> list[Any]:
    """What tells the weights in a local folder from others there later; of the Hub, the name tells."""
    folder = Path(locate(name))
    files = sorted(folder.glob("*")) if folder.is_dir() else []
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _name(pooling: Pooling, layer: int | None, seed: int) -> str:
    """The name of a result's file: the pooling with all of its settings, the layer, the seed."""
    return f"{type(pooling).__name__}-{'all' if layer is None else layer}-{seed}-{_hash(settings(pooling))}.json"


def _hash(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:8]
