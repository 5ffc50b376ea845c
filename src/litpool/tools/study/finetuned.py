"""The fine-tuned arm: poolings x layers x seeds, each trained as `fit` would.

The result of each training is a small file. The name of its folder is a hash of all that the result
depends on, so an interrupted arm continues where it stopped.
"""

import dataclasses
import gc
import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import seed_everything
from torch import Tensor
from transformers import PretrainedConfig

from litpool import InputError, interrupt
from litpool.data.module import TextDataModule
from litpool.demo.encoder import locate
from litpool.disk import make_folder, write_text
from litpool.loops.lightning import TextModule
from litpool.loops.outputs import versions
from litpool.model.encoder import EncoderOptions, load_config
from litpool.model.pooling import Pooling
from litpool.tools.study import training
from litpool.tools.study.choice import Json
from litpool.tools.study.grid import PoolingFactory, build_unloaded, check_pooler, settings
from litpool.tools.study.options import Loop, StudyOptions

CUT = ("albert", "bert", "deberta-v2", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
"""Encoders whose first n layers alone give the same as layer n of all: no norm follows the last."""

OUTPUT_FLAGS = (
    "logger",
    "enable_progress_bar",
    "enable_checkpointing",
    "enable_model_summary",
    "default_root_dir",
)
"""Trainer flags that change no weight."""


class Training(NamedTuple):
    """One training of the arm."""

    pooling: str
    layer: int | None  # None: several layers, or the pooler output
    seed: int
    make: PoolingFactory
    file: str  # the name of the file with its result

    @property
    def name(self) -> str:
        """The name to print."""
        layer = "" if self.layer is None else f" of layer {self.layer}"
        return f"{self.pooling}{layer}, seed {self.seed}"


class OfLayer(Pooling):
    """A pooling of a layer other than the last, for encoders that cannot be cut there.

    Args:
        pooling: The pooling.
        layer: 0 is the embeddings, L the last layer.
    """

    needs_hidden_states = True

    def __init__(
        self, hidden_size: int, num_layers: int, pooling: PoolingFactory, layer: int
    ) -> None:
        super().__init__(hidden_size, num_layers)
        self.pooling = pooling(hidden_size, num_layers)
        self.layer = layer
        self.out_features = self.pooling.out_features

    def forward(
        self, hidden_states: Sequence[Tensor], attention_mask: Tensor, *rest: object, **more: object
    ) -> Tensor:
        return self.pooling((hidden_states[self.layer],), attention_mask, *rest, **more)


def check(module: TextModule, flags: Mapping[str, Any], options: StudyOptions) -> None:
    """Refuse what cannot be trained, before data are read and weights are loaded.

    Raises:
        InputError: The task has no pooled vector, or a pooling, a layer, a number or a flag of the
            trainer is not supported.
    """
    if module.task.on_tokens:
        raise InputError(
            f"task={type(module.task).__name__}: it reads tokens, not a pooled vector; use "
            "Classification, MultiLabelClassification, Regression or Similarity"
        )
    config = load_config(module.encoder)
    layers, last = options.layers, config.num_hidden_layers
    if options.seeds < 1:
        raise InputError(f"study.seeds={options.seeds}: give the number of seeds, 1 or more")
    if not flags["max_epochs"] and flags["max_steps"] == -1:
        raise InputError(
            f"trainer.max_epochs={flags['max_epochs']}: the fine-tuned arm needs a number of "
            "epochs, such as 1"
        )
    if layers is not None and not layers:
        raise InputError(
            f"study.layers=[]: name some of 0 to {last}, or leave it out for the last layer"
        )
    if layers and not all(0 <= layer <= last for layer in layers):
        raise InputError(f"study.layers={layers}: this encoder has the layers 0 to {last}")
    _check_poolings(module.encoder, config, options.tuned)
    training.check_flags(module, flags, options.loop)


def check_unused(encoder: EncoderOptions, options: StudyOptions) -> None:
    """Refuse poolings to fine-tune where none is fine-tuned, except the default ones.

    The config of every study holds the default ones, and it can be run again.
    """
    config = load_config(encoder)
    given, default = (
        [pooling.describe() for pooling in build_unloaded(tuned, config)]
        for tuned in (options.tuned, StudyOptions().tuned)
    )
    if given != default:
        raise InputError(
            "study.tuned: only the arm finetuned uses it; set "
            "study.arms='[frozen, finetuned]', or leave study.tuned out"
        )


def _check_poolings(
    options: EncoderOptions, config: PretrainedConfig, tuned: Sequence[PoolingFactory]
) -> None:
    if not tuned:
        raise InputError(
            "study.tuned=[]: name at least one pooling, such as [ClsPooling, MeanPooling]"
        )
    poolings = build_unloaded(tuned, config)
    ((name, count),) = Counter(pooling.describe() for pooling in poolings).most_common(1)
    if count > 1:
        raise InputError(f"study.tuned: {name} is named twice; leave one out")
    check_pooler(poolings, options, config)


def list_trainings(config: PretrainedConfig, options: StudyOptions) -> list[Training]:
    """List all trainings, seed by seed, so that an early end leaves each pooling as many seeds."""
    layers = list(dict.fromkeys(options.layers or [config.num_hidden_layers]))
    poolings = build_unloaded(options.tuned, config)
    trainings = []
    for seed in range(_first_seed(), _first_seed() + options.seeds):
        for make, pooling in zip(options.tuned, poolings, strict=True):
            for layer in layers if pooling.pools_one_layer else [None]:
                file = _file_name(pooling, layer, seed)
                trainings.append(Training(pooling.describe(), layer, seed, make, file))
    return trainings


def _first_seed() -> int:
    """Return `seed_everything`, where Lightning stores it."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def tune(
    module: TextModule, config: Json, data: TextDataModule, options: StudyOptions, parent: Path
) -> list[Json]:
    """Train and score all that has no result yet.

    Args:
        module: What to train, and how; the task is that of the data.
        config: The job.
        data: Its splits are tokenized, once for all trainings.
        options: Which poolings, layers and seeds.
        parent: Where the folder with the results is.

    Returns:
        The entries of study.json: pooling, layer, seed, validation and test in points, seconds.
    """
    first_seed = _first_seed()
    folder = _folder(module, config, data, options, parent)
    encoder_config = load_config(module.encoder)
    results = []
    try:
        for run in list_trainings(encoder_config, options):
            fresh = build_module(run, module, data, encoder_config)
            results.append(_result(fresh, config, options.loop, run, folder / run.file))
            gc.collect()  # only reference cycles hold the network
    except (KeyboardInterrupt, SystemExit):  # Lightning turns Ctrl-C into SystemExit
        interrupt.advise(
            "interrupted; run the same command again to continue with the missing trainings"
        )
        raise
    finally:
        seed_everything(first_seed, verbose=False)
    order = list(dict.fromkeys((result["pooling"], result["layer"]) for result in results))
    return sorted(results, key=lambda result: order.index((result["pooling"], result["layer"])))


def _result(module: TextModule, config: Json, loop: Loop, run: Training, file: Path) -> Json:
    """Read the result of a training from its file; if there is none, train and write it first."""
    note = "  (already finished)" if file.exists() else ""
    if not file.exists():
        scratch = file.with_suffix(".part")
        shutil.rmtree(scratch, ignore_errors=True)  # left by an interrupted training
        make_folder(scratch)
        try:
            start = time.perf_counter()
            validation, test = training.train(module, config, loop, run.seed, scratch)
            seconds = round(time.perf_counter() - start, 3)
            scores = {"validation": 100 * validation, "test": 100 * test}
            result = {"pooling": run.pooling, "layer": run.layer, "seed": run.seed, **scores}
            result["seconds"] = seconds
            write_text(file, json.dumps(result))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    result = json.loads(file.read_text(encoding="utf-8"))
    print(f"{run.name}: {result['test']:.1f}{note}", flush=True)
    return result


def build_module(
    run: Training, module: TextModule, data: TextDataModule, config: PretrainedConfig
) -> TextModule:
    """Build a fresh module for a training; cut the encoder after the layer if that is equal."""
    options, make, layer = module.encoder, run.make, run.layer
    if layer is not None and layer < config.num_hidden_layers:
        shorter = cut(options, config, layer)
        options = shorter or options
        if shorter is None:
            make = partial(OfLayer, pooling=make, layer=layer)
    return TextModule(data.task, data, options, make, module.recipe, config=module.config)


def cut(options: EncoderOptions, config: PretrainedConfig, layer: int) -> EncoderOptions | None:
    """Return the options of the first layers alone; None if they would give something else."""
    # ALBERT assigns a layer to a group of weights by the number of all layers.
    grouped = getattr(config, "num_hidden_groups", 1) > 1
    if layer == 0 or config.model_type not in CUT or grouped:
        return None
    overrides = {**options.overrides, "num_hidden_layers": layer}
    freeze = options.freeze
    if isinstance(freeze, int):
        freeze = min(freeze, layer)
    return dataclasses.replace(options, overrides=overrides, freeze=freeze)


def _folder(
    module: TextModule, config: Json, data: TextDataModule, options: StudyOptions, parent: Path
) -> Path:
    """Return the folder for the results of a data set, named by all that they depend on."""
    facts = {
        "model": {key: value for key, value in config["model"].items() if key != "pooling"},
        "weights": _weight_files(module.encoder.name),
        "task": [type(data.task).__name__, vars(data.task)],
        "data": [
            data.batch_size,
            data.length_grouping,
            data.max_length,
            data.tokenizer_files,
            data.new_ids,
        ],
        # A fingerprint is a hash of the content.
        "rows": {split: encoded._fingerprint for split, encoded in data.encoded.items()},
        "trainer": {
            flag: value for flag, value in config["trainer"].items() if flag not in OUTPUT_FLAGS
        },
        "loop": options.loop,
        "versions": versions(),
        "keys": "seconds",
        "cuda": torch.cuda.is_available(),
    }
    return parent / f"study-{_hash(facts)}"


def _weight_files(name: str) -> list[Any]:
    """List the files of a local encoder, with size and time; on the Hub, the name is enough."""
    folder = Path(locate(name))
    files = sorted(folder.glob("*")) if folder.is_dir() else []
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _file_name(pooling: Pooling, layer: int | None, seed: int) -> str:
    """Name a result's file after the pooling with all its settings, the layer and the seed."""
    place = "all" if layer is None else layer
    return f"{type(pooling).__name__}-{place}-{seed}-{_hash(settings(pooling))}.json"


def _hash(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:8]
