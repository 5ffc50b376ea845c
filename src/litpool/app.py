"""The wiring: LightningCLI with litpool's commands, and what a checkpoint contributes to the command line."""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from litpool import InputError, JobError, interrupt, model, tasks, toolbox, trust
from litpool.commands import Run
from litpool.data.module import TextDataModule
from litpool.loops import checkpoint
from litpool.loops.lightning import TextModule
from litpool.loops.log import Log
from litpool.loops.saving import LastCheckpoint, WholeCheckpoints
from litpool.parser import Parser
from litpool.tasks.task import Task
from litpool.terminal import OwnSignalHandlers, ProgressBar, quiet

for package in (model, tasks):  # the parser finds their classes by name
    for file in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{file.name}")

TRAINER_DEFAULTS = {
    "use_distributed_sampler": False,  # the data module shares the batches between devices
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "enable_autolog_hparams": False,  # written once at the end, with the final metrics
    "log_every_n_steps": 10,
}

OVERWRITE: dict[str, Any] = {
    "enable_version_counter": False
}  # one best.ckpt and one last.ckpt, always the newest


def main(
    argv: Sequence[str] | None = None,
    log: Log | None = None,
    command: Callable[..., Any] | None = None,
) -> None:
    """Run a command; what cannot be used is reported in one line, with exit status 2, and a failed job with 1.

    Args:
        argv: The command and its options; by default those of the process.
        log: Gets every step of a training as well.
        command: What is run in place of the command that `argv` names.
    """
    with interrupt.exit_status():
        quiet()
        try:
            status = CLI(list(sys.argv[1:] if argv is None else argv), log, command).status
        except (
            InputError,
            MisconfigurationException,
        ) as error:  # the latter: Lightning's, of the trainer's flags
            status = _report(error, 2)
        except JobError as error:
            status = _report(error, 1)
        if status:
            sys.exit(status)


def _report(error: Exception, status: int) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return status


class CLI(LightningCLI):
    """LightningCLI with `task` as a key of its own, shared by model and data.

    Args:
        argv: The command and its options.
        log: Gets every step of a training as well.
        command: What is run in place of the command that `argv` names.
    """

    def __init__(
        self, argv: list[str], log: Log | None = None, command: Callable[..., Any] | None = None
    ) -> None:
        self.argv, self.trusted = trust.split(argv)
        self.command, self.log = command or toolbox.function(argv[0]), log
        self.saved: dict[str, Any] | None = None
        self.status = 0
        super().__init__(
            TextModule,
            TextDataModule,
            save_config_callback=SaveConfigCallback if argv[0] != "predict" else None,
            save_config_kwargs={"overwrite": True},  # a resumed run's folder has one
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=42,
            parser_class=Parser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    # ---- the parser

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The command at hand only: building the others' parsers would cost seconds."""
        return {self.argv[0]: {"run"}}

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        """Take the options from the command's function, where LightningCLI takes them from a Trainer's method."""
        name = self.argv[0]
        owner = type("Commands", (), {name: self.command})
        text = (inspect.getdoc(self.command) or "").partition("\n")[0]
        own = self._prepare_subcommand_parser(owner, name, description=text, epilog=trust.HELP)
        self._subcommand_parsers = {name: own}
        parser.add_subcommands().add_subcommand(name, self._subcommand_parsers[name])

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add trainer, model and data; what a checkpoint gives is no option."""
        parser.add_lightning_class_args(pl.Trainer, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in TRAINER_DEFAULTS.items()})
        parser.add_class_arguments(
            TextModule, "model", fail_untyped=False, sub_configs=True, skip={"saved", "config"}
        )
        parser.add_class_arguments(
            TextDataModule, "data", fail_untyped=False, sub_configs=True, skip={"saved"}
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `task`; model and data get the one task, the model gets the one data module."""
        parser.add_subclass_arguments(
            Task, "task", default={"class_path": "Classification"}, required=False
        )
        parser.link_arguments("task", "model.task", apply_on="instantiate")
        parser.link_arguments("task", "data.task", apply_on="instantiate")
        parser.link_arguments("data", "model.data", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; an explicit value beats the checkpoint's, which beats the default."""
        name, stored = self.argv[0], None
        if path := _option("ckpt_path", self.argv):
            path, self.saved = self._read_checkpoint(path)
            trust.allow_in_checkpoint(self.trusted)
            try:
                stored = parser.parse_object(
                    {"subcommand": name, name: _stored_config(self.saved, name)}
                )
            except InputError as error:
                raise InputError(f"ckpt_path={path}: its config cannot be used: {error}") from error
        elif name == "predict" and not {"-h", "--help"}.intersection(self.argv):
            raise InputError("predict needs --ckpt_path RUN/checkpoints/best.ckpt; `fit` writes it")
        trust.allow_in_yaml(self.trusted)
        self.config = parser.parse_args(self.argv, namespace=stored)
        if path:
            self.config[name].ckpt_path = path
        trust.check_classes(self.config[name])
        _check_values(self.config[name])

    def _read_checkpoint(self, path: str) -> tuple[str, dict[str, Any]]:
        """The checkpoint to use; a fit with a damaged last.ckpt resumes from the one before it."""
        if self.argv[0] != "fit":
            return path, checkpoint.read(path)
        checkpoint.remove_unfinished(Path(path).parent)
        usable, job, reason = checkpoint.resumable(path)
        if reason:
            print(f"warning: {reason}; resuming from {usable} instead", file=sys.stderr)
        return usable, job

    def _parse_ckpt_path(self) -> None:
        """Nothing: LightningCLI would let the checkpoint beat the command line."""

    # ---- the objects

    def before_instantiate_classes(self) -> None:
        """The tokenizer is the encoder's own, unless the user says otherwise; another file is scored as a whole."""
        config = self.config[self.subcommand]
        config.data.tokenizer = config.data.tokenizer or config.model.encoder.name
        source = config.data.source
        other = self.saved is not None and source != self.saved["config"]["data"]["source"]
        if other and self.subcommand in ("test", "validate") and Path(str(source)).is_file():
            config.data.source = {
                {"validate": "validation"}.get(self.subcommand, "test"): source
            }  # the whole of it
        if self.saved is not None:
            own, stored = (
                _class_name(each) for each in (config.task, self.saved["config"]["task"])
            )
            if own != stored:
                raise InputError(f"task={own}: the checkpoint's is {stored}; leave --task out")

    def instantiate_classes(self) -> None:
        """Create task, data, model and trainer; what a checkpoint holds is theirs from the start."""
        kinds = (TextModule, TextDataModule, Task)
        self.config_init = self.parser.instantiate(
            self.config, instantiators=[(self._instantiate, kind, True) for kind in kinds]
        )
        self.datamodule = self._get(self.config_init, "data")
        self.model = self._get(self.config_init, "model")
        self.model.check()
        self.trainer = self.instantiate_trainer()

    def _instantiate(self, kind: Any, *args: Any, **kwargs: Any) -> Any:
        if issubclass(kind, TextModule):
            return kind(*args, **kwargs, saved=self.saved, config=self.job_config())
        if issubclass(kind, TextDataModule):
            return kind(*args, **kwargs, saved=self.saved)
        task = kind(*args, **kwargs)
        if self.saved is not None:
            task.load_state_dict(self.saved["task"])
        return task

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer with a run folder, the best and the last checkpoint, and a progress bar, unless configured."""
        given = self._get(self.config_init, "trainer")
        fits = self.subcommand == "fit"
        plugins = _as_list(given.plugins)
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins = [*plugins, WholeCheckpoints()]
        if self.subcommand == "predict":  # writes its answers and nothing else
            kwargs["logger"] = False
        elif given.logger is None or given.logger is True:
            kwargs["logger"] = self._tensorboard()
        if not fits:
            kwargs["enable_checkpointing"] = False
        callbacks = [*_as_list(given.callbacks), OwnSignalHandlers()]
        if fits and not any(isinstance(callback, ModelCheckpoint) for callback in callbacks):
            callbacks += self._checkpoints()
        log: Any = self.log
        if isinstance(log, Callback):
            callbacks.append(log)
        bar = (
            sys.stdout.isatty() if given.enable_progress_bar is None else given.enable_progress_bar
        )
        if self.config[self.subcommand].get("output") == "-":
            bar = False  # it would stand between the answers
        callbacks += [ProgressBar()] if bar else []
        return super().instantiate_trainer(
            plugins=plugins, callbacks=callbacks, enable_progress_bar=bar, **kwargs
        )

    def _checkpoints(self) -> list[Callback]:
        task = self._get(self.config_init, "task")
        best = ModelCheckpoint(
            filename="best", monitor=task.monitor, mode=task.monitor_mode, **OVERWRITE
        )
        return [best, LastCheckpoint(trust.options(self.job_config()), **OVERWRITE)]

    def _tensorboard(self) -> TensorBoardLogger:
        """A new run folder, logs/JOB/version_N; a resumed fit goes on in its own."""
        config = self.config[self.subcommand]
        if self.subcommand == "fit" and config.ckpt_path:
            folder = Path(config.ckpt_path).parent.parent
            return TensorBoardLogger(
                folder.parent.parent, folder.parent.name, folder.name, default_hp_metric=False
            )
        files = [Path(str(path)) for path in config.config or [] if path is not None]
        job = _job_name(files[0]) if files else str(self.subcommand)
        return TensorBoardLogger("logs", job, default_hp_metric=False)

    def plain_config(self) -> dict[str, Any]:
        """The whole configuration as plain values, all defaults included."""
        return yaml.safe_load(
            self._parser(self.subcommand).dump(self.config[self.subcommand], skip_none=False)
        )

    def job_config(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, and reports show; a command that only scores says nothing of training."""
        scores = self.subcommand in ("validate", "test", "predict")
        keys = ("seed_everything", "task", "model", "data", *(() if scores else ("trainer",)))
        config = self.plain_config()
        return {key: config[key] for key in keys}

    # ---- the command

    def _run_subcommand(self, subcommand: str) -> None:
        """Call the command's function."""
        known, config = self._subcommand_method_arguments[subcommand], self.plain_config()
        plain = {key: value for key, value in config.items() if key in known}
        run = Run(self.trainer, self.model, self.job_config(), plain, self._write_config, self.log)
        options = {
            key: value for key, value in self.config_init[subcommand].items() if key in known
        }
        self.status = self.command(run, **options) or 0

    def _write_config(self) -> None:
        """Write config.yaml into the run folder; Lightning itself does so only in its own loops."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, SaveConfigCallback):
                callback.setup(self.trainer, self.model, "fit")


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
    config = saved["config"]
    stored = {
        key: config[key] for key in ("seed_everything", "task", "model", "data") if key in config
    }
    for key in ("encoder", "pooling", "recipe"):  # never the path of another config
        if not isinstance(config["model"].get(key, {}), dict):
            raise InputError(
                f"model.{key}={config['model'][key]}: a checkpoint must hold a mapping here"
            )
    if command == "fit":
        flags = config.get("trainer", {})
        if not isinstance(flags, dict):
            raise InputError(f"trainer={flags}: a checkpoint must hold a mapping here")
        callbacks = [each for each in flags.get("callbacks") or [] if not _is_recorder(each)]
        return {**stored, "trainer": {**flags, "callbacks": callbacks or None}}
    # Data to predict may be of another format than the training files were.
    data = config["data"]
    if command == "predict":
        kept = ("batch_size", "max_length", "tokenizer")
        data = {key: value for key, value in data.items() if key in kept}
    return {**stored, "data": data}


def _is_recorder(callback: Any) -> bool:
    """Whether a callback is `compare`'s of version 0.1.0, which a resumed run does not need."""
    return isinstance(callback, dict) and str(callback.get("class_path")).endswith("Recorder")


def _check_values(config: Namespace) -> None:
    """Refuse values that Lightning accepts, and then fails on or ignores."""
    seed, trainer = config.seed_everything, config.trainer
    if not 0 <= int(seed) < 2**32:
        raise InputError(f"seed_everything={seed}: give 0 to {2**32 - 1}")
    for name, least in {"gradient_clip_val": 0, "accumulate_grad_batches": 1}.items():
        if trainer[name] is not None and trainer[name] < least:
            raise InputError(f"trainer.{name}={trainer[name]}: give {least} or more")
    if trainer.overfit_batches:  # it would put an order of its own in place of ours
        raise InputError("trainer.overfit_batches: not supported; use data.max_rows for fewer rows")


def _class_name(config: Any) -> str:
    """The name of a class in a config, without its module."""
    return str(config["class_path"]).rpartition(".")[2]


def _job_name(file: Path) -> str:
    """The name of a config's runs: `sst2` for sst2.yaml, `studies/sst2` for configs/studies/sst2.yaml."""
    parts = file.with_suffix("").parts
    below = (
        parts[len(parts) - parts[::-1].index("configs") :]
        if "configs" in parts[:-1]
        else parts[-1:]
    )
    return "/".join(below)


def _as_list(value: Any) -> list[Any]:
    """The value of an option that takes one thing or several."""
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
