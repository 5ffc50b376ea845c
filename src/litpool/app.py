"""The wiring: LightningCLI with litpool's commands; a checkpoint's config stands before the command line."""

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from litpool import InputError, JobError, interrupt, trust
from litpool.commands import Trainer
from litpool.data.module import TextDataModule
from litpool.data.tokenizer import restore_tokenizer
from litpool.loops import checkpoint, run
from litpool.loops.lightning import LastCheckpoint, TextModule, WholeCheckpoints
from litpool.parser import Parser
from litpool.tasks import classification, question_answering, regression, similarity  # noqa: F401 (the parser looks)
from litpool.tasks.task import Task
from litpool.terminal import OwnSignalHandlers, ProgressBar, quiet

TRAINER_DEFAULTS = {
    "use_distributed_sampler": False,  # the data module shares the batches between devices
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "enable_autolog_hparams": False,  # written once at the end, with the final metrics
    "log_every_n_steps": 10,
}

OVERWRITE: dict[str, Any] = {"enable_version_counter": False}  # one best.ckpt and one last.ckpt, always the newest


def _option(name: str, arguments: list[str]) -> str | None:
    """The value of an option that is needed before the rest can be parsed."""
    for argument, following in zip(arguments, [*arguments[1:], None], strict=True):
        if argument == f"--{name}":
            return following
        if argument.startswith(f"--{name}="):
            return argument.partition("=")[2]
    return None


def _stored_config(saved: dict[str, Any], command: str) -> dict[str, Any]:
    """The part of a checkpoint's config that a command goes by."""
    stored = saved["config"]
    if command == "fit":
        flags = dict(stored.get("trainer", {}))
        flags["callbacks"] = [entry for entry in flags.get("callbacks") or [] if not _is_recorder(entry)] or None
        return {**stored, "trainer": flags}
    # how it was trained says nothing about how to score it, nor the training files' format about a file to predict
    data = stored["data"]
    if command == "predict":
        data = {key: value for key, value in data.items() if key in ("batch_size", "max_length", "tokenizer")}
    return {**{key: value for key, value in stored.items() if key != "trainer"}, "data": data}


def _is_recorder(callback: Any) -> bool:
    """Whether a callback is the one by which `compare` looks on: a resumed run has nothing to compare."""
    return isinstance(callback, dict) and str(callback.get("class_path")).endswith(".Recorder")


def _read_checkpoint(path: str, arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """A checkpoint, and the command line; a fit whose last.ckpt cannot be read is resumed from the one before."""
    if arguments[0] == "fit":
        checkpoint.remove_unfinished(Path(path).parent)
        usable, reason = checkpoint.resumable(path)
        if reason:
            print(f"warning: {reason}; resuming from {usable} instead", file=sys.stderr)
            swap = {path: usable, f"--ckpt_path={path}": f"--ckpt_path={usable}"}
            return checkpoint.read(usable), [swap.get(argument, argument) for argument in arguments]
    return checkpoint.read(path), arguments


class CLI(LightningCLI):
    """LightningCLI with `task` as a key of its own, shared by model and data."""

    config_keys = ("seed_everything", "task", "model", "data")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The command at hand only: building the others' parsers would cost seconds."""
        return {sys.argv[1]: {"model", "datamodule"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `task` and hand the one object to model and data."""
        parser.add_subclass_arguments(Task, "task", default={"class_path": "Classification"}, required=False)
        parser.link_arguments("task", "model.task", apply_on="instantiate")
        parser.link_arguments("task", "data.task", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; what a checkpoint stores stands before the command line, so that an explicit value beats it."""
        arguments, trusted = trust.split(sys.argv[1:])
        self.saved: dict[str, Any] | None = None
        if path := _option("ckpt_path", arguments):
            self.saved, arguments = _read_checkpoint(path, arguments)
            stored = ["--config", yaml.safe_dump(_stored_config(self.saved, arguments[0]))]
            trust.only_known(trusted)
            try:
                parser.parse_args([arguments[0], *stored])
            except InputError as error:
                raise InputError(f"ckpt_path={path}: its config cannot be used: {error}") from error
            arguments[1:1] = stored
        elif arguments[0] == "predict" and not {"-h", "--help"}.intersection(arguments):
            raise InputError("predict needs --ckpt_path RUN/checkpoints/best.ckpt; `fit` writes it")
        trust.own_code(trusted)
        self.config = parser.parse_args(arguments)
        trust.check_classes(self.config[arguments[0]])
        seed = self.config[arguments[0]].seed_everything
        if not 0 <= int(seed) < 2**32:
            raise InputError(f"seed_everything={seed}: give 0 to {2**32 - 1}")

    def _parse_ckpt_path(self) -> None:
        """Nothing: LightningCLI would let the checkpoint beat the command line."""

    def before_instantiate_classes(self) -> None:
        """The tokenizer is the encoder's own, unless the user says otherwise; another file is scored as a whole."""
        config = self.config[self.subcommand]
        config.data.tokenizer = config.data.tokenizer or config.model.encoder.name
        source = config.data.source
        other = self.saved is not None and source != self.saved["config"]["data"]["source"]
        if other and self.subcommand in ("test", "validate") and Path(str(source)).is_file():
            config.data.source = {{"validate": "validation"}.get(self.subcommand, "test"): source}  # the whole of it

    def after_instantiate_classes(self) -> None:
        """Restore from the checkpoint, check what the encoder bears, and keep the config for the next checkpoint."""
        config = yaml.safe_load(self._parser(self.subcommand).dump(self.config[self.subcommand], skip_none=False))
        arms = config.get("study", {}).get("arms", [])
        trains = str(self.subcommand).startswith(("fit", "compare")) or "finetuned" in arms
        keys = (*self.config_keys, "study", *(["trainer"] if trains else []))
        self.model.config = {key: config[key] for key in keys if key in config}
        if self.saved is not None:
            stored = self.saved["config"]["task"]["class_path"]
            if config["task"]["class_path"] != stored:
                raise InputError(f"task={config['task']['class_path']}: the checkpoint's is {stored}; leave --task out")
            self.model.restored = self.saved
            self.model.task.load_state_dict(self.saved["task"])
            self.datamodule.restored_tokenizer = restore_tokenizer(self.saved["tokenizer"])
        self.model.check(self.datamodule.max_length)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer with a run folder, the best and the last checkpoint, and a progress bar, unless configured."""
        given = self._get(self.config_init, "trainer")
        least = {"gradient_clip_val": 0, "accumulate_grad_batches": 1}  # Lightning takes less, and fails or errs later
        for name, bound in least.items():
            if given[name] is not None and given[name] < bound:
                raise InputError(f"trainer.{name}={given[name]}: give {bound} or more")
        if given.overfit_batches:  # it would put an order of its own in place of ours
            raise InputError("trainer.overfit_batches: not to be had here; use data.max_rows for fewer rows")
        if self.subcommand == "predict":  # writes its answers and nothing else
            self.save_config_callback, kwargs["logger"] = None, False
        elif given.logger is None or given.logger is True:
            kwargs["logger"] = self._tensorboard()
        if self.subcommand != "fit":
            kwargs["enable_checkpointing"] = False
        callbacks = list(given.callbacks or [])
        if self.subcommand == "fit" and not any(isinstance(callback, ModelCheckpoint) for callback in callbacks):
            task = self._get(self.config_init, "task")
            best = ModelCheckpoint(filename="best", monitor=task.monitor, mode=task.monitor_mode, **OVERWRITE)
            last = LastCheckpoint(filename="last", save_on_exception=True, **OVERWRITE)
            callbacks += [best, last]
        callbacks.append(OwnSignalHandlers())
        if not any(isinstance(plugin, CheckpointIO) for plugin in _listed(given.plugins)):
            kwargs["plugins"] = [*_listed(given.plugins), WholeCheckpoints()]
        wanted = sys.stdout.isatty() if given.enable_progress_bar is None else given.enable_progress_bar
        if self.config[self.subcommand].get("output") == "-":
            wanted = False  # it would stand between the answers
        kwargs["enable_progress_bar"] = wanted
        callbacks += [ProgressBar()] if wanted else []
        kwargs["callbacks"] = callbacks
        return super().instantiate_trainer(**kwargs)

    def _tensorboard(self) -> TensorBoardLogger:
        """A new run folder, logs/JOB/version_N; a resumed fit goes on in its own."""
        config = self.config[self.subcommand]
        if self.subcommand == "fit" and config.ckpt_path:
            folder = Path(config.ckpt_path).parent.parent
            return TensorBoardLogger(folder.parent.parent, folder.parent.name, folder.name, default_hp_metric=False)
        files = [str(path) for path in config.config or [] if path is not None]
        job = Path(files[0]).stem if files else str(self.subcommand)
        return TensorBoardLogger("logs", job, default_hp_metric=False)

    def before_fit(self) -> None:
        """Read and check the data before a run folder is made; the trainer's own call then finds all done."""
        self.model.read(self.datamodule, "fit")

    def before_validate(self) -> None:
        """Likewise."""
        self.model.read(self.datamodule, "validate")

    def before_test(self) -> None:
        """Likewise."""
        self.model.read(self.datamodule, "test")

    def before_predict(self) -> None:
        """Likewise."""
        given = self.config[self.subcommand]
        if given.output != "-" and (Path(given.output).is_dir() or not Path(given.output).parent.is_dir()):
            raise InputError(f"output={given.output}: name a file in a folder that exists, or - for standard output")
        if given.output != "-" and Path(given.output).suffix not in run.OUTPUTS:
            raise InputError(f"output={given.output}: the ending must be one of {', '.join(run.OUTPUTS)}")
        if given.output.endswith(".npz") and not self.model.task.gives_vectors:
            raise InputError(
                f"output={given.output}: only vectors go into .npz, and the answers are others; use .jsonl"
            )
        self.datamodule.input = given.input
        self.model.read(self.datamodule, "predict")

    def after_fit(self) -> None:
        """Score the best checkpoint on the test split, if there is one, and conclude."""
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if not best:  # fast_dev_run keeps none
            return
        if not Path(best).exists():  # a resumed run folder that was moved
            best = str(Path(self.config[self.subcommand].ckpt_path).parent / "best.ckpt")
        metrics = checkpoint.read(best)["metrics"]
        if "test" in self.datamodule.rows:
            metrics |= self.trainer.test(self.model, self.datamodule, ckpt_path=best)[0]
        self._conclude(metrics, best)

    def after_validate(self) -> None:
        """Conclude."""
        self._conclude({name: value.item() for name, value in self.trainer.callback_metrics.items()})

    after_test = after_validate

    def _conclude(self, metrics: dict[str, float], best: str | None = None) -> None:
        folder = Path(self.trainer.log_dir or self.trainer.default_root_dir)  # log_dir asks all devices
        if self.trainer.is_global_zero and self.trainer.logger is not None:
            run.conclude(folder, self.trainer.logger, self.model.config, metrics, best)


def _listed(value: Any) -> list[Any]:
    """The value of an option that takes one thing or several."""
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def main() -> None:
    """Run a command; bad input is reported in one line, with exit status 2, and a failed job likewise, with 1."""
    with interrupt.exit_status():
        _run()


def _run() -> None:
    quiet()
    try:
        CLI(
            TextModule,
            TextDataModule,
            save_config_kwargs={"overwrite": True},  # a resumed run's folder has one
            trainer_class=Trainer,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=42,
            parser_class=Parser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )
    except (InputError, MisconfigurationException) as error:  # the latter: what Lightning makes of the trainer's flags
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except JobError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
