"""What Lightning ships works from YAML, or is refused in one line with the reason."""

import os
from pathlib import Path

import pytest
import torch
from lightning.pytorch import callbacks, loggers, profilers, strategies
from lightning.pytorch.strategies import StrategyRegistry

WORKS = None  # in place of the reason for which something is refused

CALLBACKS = {
    "BackboneFinetuning": ("", "use model.encoder.freeze"),
    "BaseFinetuning": ("", "use model.encoder.freeze"),
    "BasePredictionWriter": ("write_interval: batch", "use `predict --output FILE`"),
    "BatchSizeFinder": ("", "set data.batch_size"),
    "Callback": ("", WORKS),  # the base class, which does nothing
    "Checkpoint": ("", "use ModelCheckpoint"),
    "DeviceStatsMonitor": ("cpu_stats: true", WORKS),
    "EarlyStopping": ("monitor: val/loss", WORKS),
    "EMAWeightAveraging": ("", WORKS),
    "GradientAccumulationScheduler": ("scheduling: {0: 2, 1: 1}", WORKS),
    "LambdaCallback": ("", "not supported, since it calls any function"),
    "LearningRateFinder": ("", "set model.recipe.lr"),
    "LearningRateMonitor": ("", WORKS),
    "ModelCheckpoint": ("monitor: val/loss", WORKS),
    "ModelPruning": ("pruning_fn: l1_unstructured, amount: 0.5", WORKS),
    "ModelSummary": ("", WORKS),
    "OnExceptionCheckpoint": ("dirpath: here", "litpool writes last.ckpt"),
    "ProgressBar": ("", WORKS),  # the base class
    "RichModelSummary": ("", WORKS),
    "RichProgressBar": ("", WORKS),
    "SpikeDetection": ("", "Lightning cannot load its checkpoints"),
    "StochasticWeightAveraging": ("swa_lrs: 0.001", "use WeightAveraging"),
    "ThroughputMonitor": ("batch_size_fn: len", "it needs a function"),
    "Timer": ("duration: '00:01:00:00'", WORKS),
    "TQDMProgressBar": ("", WORKS),
    "WeightAveraging": ("", WORKS),
}
LOGGERS = {
    "CometLogger": ("", "pip install -U 'comet-ml"),
    "CSVLogger": ("save_dir: here", WORKS),
    "LitLogger": (
        "",
        "trainer.logger=LitLogger",
    ),  # without its package, Lightning does not define it
    "Logger": ("", "trainer.logger=Logger"),
    "MLFlowLogger": ("", "pip install -U 'mlflow"),
    "TensorBoardLogger": ("save_dir: here", WORKS),
    "WandbLogger": ("", "pip install -U 'wandb"),
}
STRATEGIES = {
    "DDPStrategy": ("", WORKS),
    "DeepSpeedStrategy": ("", "you must have DeepSpeed installed"),
    "FSDPStrategy": ("", "requires a GPU"),
    "ModelParallelStrategy": ("", "use fsdp"),
    "ParallelStrategy": ("", "not a class that can be created"),
    "SingleDeviceStrategy": ("", WORKS),
    "Strategy": ("", "not a class that can be created"),
}
PROFILERS = {
    "AdvancedProfiler": ("", WORKS),
    "PassThroughProfiler": ("", WORKS),
    "Profiler": ("", "not a class that can be created"),
    "PyTorchProfiler": ("", WORKS),
    "SimpleProfiler": ("", WORKS),
    "XLAProfiler": ("", "it is for TPUs"),
}
OPTIONS = {
    "callbacks": (callbacks, CALLBACKS),
    "logger": (loggers, LOGGERS),
    "profiler": (profilers, PROFILERS),
    "strategy": (strategies, STRATEGIES),
}
QUICK = {"ModelPruning", "Timer", "GradientAccumulationScheduler", "RichProgressBar", "CSVLogger"}


@pytest.fixture(autouse=True)
def no_process_group():
    """Leave none to other tests: Lightning ends it with the process."""
    environment = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(environment)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def cases():
    rows = []
    for option, (_, table) in OPTIONS.items():
        for name, (arguments, reason) in table.items():
            slow = reason is WORKS and name not in QUICK
            marks = [pytest.mark.slow] if slow else []
            row = (option, name, arguments, reason)
            rows.append(pytest.param(*row, marks=marks, id=f"{option}-{name}"))
    return rows


@pytest.mark.parametrize("option", OPTIONS)
def test_the_table_names_everything_that_lightning_ships(option):
    package, table = OPTIONS[option]
    assert set(package.__all__) <= set(table)


@pytest.mark.parametrize(("option", "name", "arguments", "reason"), cases())
# Lightning's pruning and DeviceStatsMonitor
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_part_of_lightning_works_or_is_refused_in_one_line(
    cli, job, option, name, arguments, reason
):
    path = f"lightning.pytorch.{OPTIONS[option][0].__name__.rpartition('.')[2]}.{name}"
    spec = f"{{class_path: {path}, init_args: {{{arguments}}}}}"
    spec = f"[{spec}]" if option == "callbacks" else spec
    status, out, err = cli("fit", *job, f"--trainer.{option}", spec)
    if reason is WORKS:
        assert status == 0, err
        assert "\nwrote " in out
    else:
        assert (status, err.count("\n")) == (2, 1), err
        assert reason in err


@pytest.mark.parametrize("name", StrategyRegistry.available_strategies())
def test_a_strategys_short_name_works_or_is_refused_in_one_line(cli, job, name):
    status, _, err = cli("fit", *job, "--trainer.strategy", name, "--trainer.max_steps", 1)
    if name in ("single_device", "ddp") or name.startswith("ddp_find"):
        assert status == 0, err
    else:
        assert (status, err.count("\n")) == (2, 1), err
        assert "ddp_" not in name or "use ddp" in err


def test_accumulation_that_changes_still_ends_the_schedule_at_zero(cli, job):
    steps = "{class_path: GradientAccumulationScheduler, init_args: {scheduling: {0: 5, 1: 1}}}"
    arguments = ["--trainer.callbacks", f"[{steps}]", "--trainer.max_epochs", 2]
    status, _, err = cli("fit", *job, *arguments)
    assert status == 0, err

    (path,) = Path("logs").rglob("last.ckpt")
    saved = torch.load(path, weights_only=True)
    assert saved["optimizer_states"][0]["param_groups"][0]["lr"] == 0
