"""The wiring: LightningCLI with litpool's commands; a checkpoint can set their defaults."""

import argparse
import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.callbacks import ProgressBar as AnyProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from litpool import InputError, JobError, disk, interrupt, program, trust
from litpool.classes import class_name, import_classes
from litpool.command_line import plugins, spelling, toolbox, values
from litpool.command_line.options import TRAINER_DEFAULTS, needs_job
from litpool.command_line.parser import Parser
from litpool.command_line.runs import RunFolder, RunLogger, is_first, job_name, label
from litpool.command_line.stored import paths_in, refuse_links, selection, stored_config
from litpool.command_line.terminal import Minutes, OwnSignalHandlers, ProgressBar, quiet
from litpool.commands import Run
from litpool.data.module import TextDataModule
from litpool.loops import checkpoint
from litpool.loops.initial import Initial
from litpool.loops.lightning import TextModule
from litpool.loops.log import Log
from litpool.loops.saving import LastCheckpoint, WholeCheckpoints
from litpool.model.encoder import EncoderOptions
from litpool.model.modules import read_modules
from litpool.tasks.task import Task

import_classes()  # so that a config may name them without their modules

TRAINING = ("fit", "fit_hf", "fit_plain")  # the commands that can resume

NETWORK = (
    "model.encoder.name",
    "model.encoder.pretrained",
    "model.encoder.overrides",
    "model.encoder.allow_unsafe",
    "model.encoder.new_tokens",
    "data.tokenizer",
    "data.add_tokens",
    "data.add_special_tokens",
    "data.pad_token",
)
"""The options that --init_from takes from the checkpoint."""

TOKENS = ("data.max_length", "data.prefix")
"""The options that --init_from takes from the checkpoint unless a config or the command line sets
them."""


def main(
    argv: Sequence[str] | None = None,
    log: Log | None = None,
    command: Callable[..., Any] | None = None,
) -> None:
    """Run a command. An error is one line; the exit status is 2 for bad input, 1 for a failed job.

    Args:
        argv: The command and its options; by default those of the process.
        log: An extra log that gets every step of a training.
        command: A function to run instead of the command that `argv` names.
    """
    with interrupt.exit_status():
        quiet()
        arguments = list(sys.argv[1:] if argv is None else argv)
        try:
            function = command or toolbox.function(arguments[0])
            if command or needs_job(arguments[0]):
                status = CLI(arguments, log, function).status
            else:
                status = _run_alone(function, arguments)
        except Exception as error:
            # Lightning raises MisconfigurationException for the trainer's flags.
            is_report = isinstance(error, InputError | JobError | MisconfigurationException)
            report = error if is_report else plugins.report(error)
            if report is None:
                raise
            print(f"error: {' '.join(str(report).split())}", file=sys.stderr)
            status = 1 if isinstance(report, JobError) else 2
        if status:
            sys.exit(status)


def _run_alone(function: Callable[..., Any], arguments: list[str]) -> int:
    """Run a command that needs no job; options without a default are positional."""
    parser = Parser(prog=f"{program()} {arguments[0]}")
    parser.add_function_arguments(function, skip={"trust"}, as_group=False, as_positional=True)
    words, options = arguments[1:], {}
    if "trust" in inspect.signature(function).parameters:
        words, options["trust"] = trust.split(words)
    if [key for key, _ in spelling.pairs(words)].count("ckpt_path") > 1:  # the last would win
        words = [re.sub(r"^--ckpt_path(?==|$)", "--ckpt_path+", word) for word in words]
    return function(**vars(parser.parse_args(words)), **options) or 0


class CLI(LightningCLI):
    """LightningCLI with `task` as an additional key, shared by model and data.

    Args:
        argv: The command and its options.
        log: An extra log that gets every step of a training.
        command: The function of the command.
    """

    def __init__(self, argv: list[str], log: Log | None, command: Callable[..., Any]) -> None:
        self.argv, self.trusted = trust.split(argv)
        self.command = command
        self.log: Any = log  # for Lightning's loop it is also a Callback
        self.note = ""  # about the encoder, printed before the command runs
        self.ckpt_path: str | None = None
        self.other_paths: list[str] = []  # of an ensemble
        self.saved: dict[str, Any] | None = None  # the job in the checkpoint to resume or score
        self.initial: Initial | None = None  # the checkpoint that a new run starts from
        self.status = 0
        super().__init__(
            TextModule,
            TextDataModule,
            save_config_callback=SaveConfig if argv[0] != "predict" else None,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=42,
            parser_class=Parser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    # ---- the parser

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        """Add only the command to run, as building the other commands' parsers takes seconds."""
        name = self.argv[0]
        own = self.init_parser()
        self._add_arguments(own)
        self.option_names = own.add_function_arguments(self.command, skip={"run"}, as_group=False)
        self._subcommand_parsers = {name: own}
        parser.add_subcommands().add_subcommand(name, own)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add trainer, model and data, without the arguments that come from a checkpoint."""
        parser.add_lightning_class_args(pl.Trainer, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in TRAINER_DEFAULTS.items()})
        parser.add_class_arguments(
            TextModule,
            "model",
            fail_untyped=False,
            sub_configs=True,
            skip={"saved", "config", "initial"},
        )
        parser.add_class_arguments(
            TextDataModule, "data", fail_untyped=False, sub_configs=True, skip={"saved"}
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `task`, and give model and data the same task, and the model the data module."""
        default = {"class_path": "Classification"}
        parser.add_subclass_arguments(Task, "task", default=default, required=False)
        parser.link_arguments("task", "model.task", apply_on="instantiate")
        parser.link_arguments("task", "data.task", apply_on="instantiate")
        parser.link_arguments("data", "model.data", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; an explicit value beats the checkpoint's, which beats the default."""
        name = self.argv[0]
        stored = network = None
        self._read_checkpoint()
        if self.saved is not None:
            trust.allow_in_checkpoint(self.trusted)
            try:
                config = stored_config(self.saved, name, trains=name in TRAINING)
                stored = parser.parse_object({"subcommand": name, name: config})
            except InputError as error:
                raise InputError(f"ckpt_path={self.ckpt_path}: bad config: {error}") from error
        elif self.initial is not None:
            network = self._parse_network(parser, self.initial)
        elif name == "predict" and not {"-h", "--help"}.intersection(self.argv):
            raise InputError("predict needs --ckpt_path RUN/checkpoints/best.ckpt; `fit` writes it")
        trust.allow_in_yaml(self.trusted)
        try:
            self.config = parser.parse_args(self.argv, namespace=stored)
        except InputError:
            raise
        except UnicodeDecodeError as error:
            raise InputError(f"config: a file is not UTF-8 ({error}); save it as UTF-8") from error
        except ValueError as error:  # Python's, about a NUL byte in what could be a path
            raise InputError(f"config: {error}; remove it from the value") from error
        values.check(self.config[name], self._parser(name))
        if network is not None:
            self._use_tokens(parser, network)
            self._use_network(network)
            values.check_leaves(self.config[name])  # now with those of the checkpoint
        if self.saved is None and self.initial is None:
            self._use_modules(parser)
        plugins.check(self.config[name].trainer)
        trust.check_classes(self.config[name])
        if name in TRAINING:
            self._check_training()
        self._check_name()

    def _check_training(self) -> None:
        """Set and check what only a training needs."""
        config = self.config[self.argv[0]]
        # A run that an earlier version started without a number of epochs keeps its 1,000.
        epochs = values.set_epochs(config.trainer) if self.saved is None else None
        if epochs and is_first():
            print(f"training for {epochs} epochs, since trainer.max_epochs is not set")
        values.check_end(config)
        if self.saved is None and self.initial is None:
            spelling.check_encoder(config.model.encoder.name)

    def _check_name(self) -> None:
        """Refuse a name for a run folder that has one already."""
        config = self.config[self.argv[0]]
        name = config.get("name")  # not all commands have this option
        if name and self.ckpt_path:
            raise InputError(f"name={name}: a resumed run stays in its folder; leave it out")
        if name and config.trainer.logger not in (None, True):
            raise InputError(f"name={name}: trainer.logger names the folder; leave one out")

    def _parse_network(self, parser: LightningArgumentParser, initial: Initial) -> Namespace:
        """Return the options of a checkpoint's network, and refuse them on the command line."""
        for key, value in spelling.pairs(self.argv):
            if key in NETWORK:
                raise InputError(
                    f"{key}={value}: with --init_from, encoder and tokenizer come from the "
                    "checkpoint; leave it out"
                )
        name = self.argv[0]
        stored = stored_config(initial.checkpoint["job"], "fit", trains=True)
        data = [key for key in (*NETWORK, *TOKENS) if key.startswith("data.")]
        parts = {
            "model": selection(stored["model"], ["encoder", "pooling"]),
            "data": selection(stored["data"], [key.removeprefix("data.") for key in data]),
        }
        trust.allow_in_checkpoint(self.trusted)
        try:
            return parser.parse_object({"subcommand": name, name: parts})[name]
        except InputError as error:
            raise InputError(f"init_from={initial.path}: bad config: {error}") from error

    def _use_network(self, network: Namespace) -> None:
        """Put the options of a checkpoint's network in the config, whatever a YAML file says."""
        config = self.config[self.argv[0]]
        for key in NETWORK:
            config[key] = network[key]
        typed = [key for key, _ in spelling.pairs(self.argv)]
        if not any(f"{key}.".startswith("model.pooling.") for key in typed):
            config.model.pooling = network.model.pooling

    def _use_tokens(self, parser: LightningArgumentParser, network: Namespace) -> None:
        """Use a checkpoint's length and prefix where neither a YAML file nor an option sets them.

        The prefix stays out if the new task has none or it belongs to other columns.
        """
        defaults = {key: network[key] for key in TOKENS}
        prefix = defaults["data.prefix"]
        text = self.config[self.argv[0]].task.init_args.get("text", [])  # not of every task
        text = [text] if isinstance(text, str) else text
        if self._on_tokens() or (isinstance(prefix, dict) and not set(prefix).issubset(text)):
            del defaults["data.prefix"]
        taken = self._use_defaults(parser, defaults)
        config = self.config[self.argv[0]]
        parts = [f"{key} {json.dumps(value)}" for key, value in taken.items()]
        parts = [f"from the checkpoint: {', '.join(parts)}"] if parts else []
        parts += [
            f"{key} is {json.dumps(config[key])}, not the checkpoint's {json.dumps(network[key])}"
            for key in TOKENS
            if config[key] != network[key]
        ]
        self.note = f"encoder     {'; '.join(parts)}" if parts else ""

    def _use_modules(self, parser: LightningArgumentParser) -> None:
        """Parse again with what an encoder of sentence-transformers says as defaults."""
        encoder = self.config[self.argv[0]].model.encoder
        modules = read_modules(encoder.name) if encoder.pretrained else None
        if modules is None:
            return
        on_tokens = self._on_tokens()
        defaults = modules.defaults(EncoderOptions(**encoder.as_dict()), on_tokens)
        self.note = modules.describe(self._use_defaults(parser, defaults), on_tokens)

    def _use_defaults(
        self, parser: LightningArgumentParser, defaults: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Parse again with other defaults; return those that change the config."""
        before = self.config[self.argv[0]]
        self._parser(self.argv[0]).set_defaults(dict(defaults))
        self.config = parser.parse_args(self.argv)
        now = self.config[self.argv[0]]
        return {key: value for key, value in defaults.items() if now[key] != before[key]}

    def _on_tokens(self) -> bool:
        """Return whether the task's head reads the states of tokens, and so takes no prefix."""
        module, _, name = self.config[self.argv[0]].task.class_path.rpartition(".")
        return bool(getattr(sys.modules[module], name).on_tokens)

    def _read_checkpoint(self) -> None:
        """Read the job in a checkpoint, whose values become the defaults of the options.

        Of the checkpoint that a new run starts from, only the network counts. The config files are
        checked here as well, before the parser reads them.
        """
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--ckpt_path", nargs="?", action="append", default=[])
        parser.add_argument("--init_from", nargs="?")
        parser.add_argument("-c", "--config", action="append", nargs="?", const="", default=[])
        options = parser.parse_known_args(self.argv)[0]
        for name in options.config:
            values.check_file(name)
        file = "last.ckpt" if self.argv[0] in TRAINING else "best.ckpt"
        paths = [checkpoint.in_run(path, file) for path in paths_in(options.ckpt_path)]
        first = options.init_from and checkpoint.in_run(options.init_from)
        path = paths[-1] if paths else None
        if len(paths) > 1 and self.argv[0] == "predict":
            path, *self.other_paths = paths
        if first is not None and self.argv[0] in TRAINING:
            if path is not None:
                raise InputError(
                    f"init_from={first}: starts a new run, and --ckpt_path resumes one; "
                    "leave one of them out"
                )
            self.initial = Initial(first, checkpoint.load(first, "init_from"))
        if path is not None and self.argv[0] in TRAINING:
            checkpoint.remove_unfinished(Path(path).parent)
            refuse_links(Path(path).parent.parent)
            path, self.saved, reason = checkpoint.resumable(path, self.argv[0])
            if reason:
                print(f"warning: {reason}; resuming from {path} instead", file=sys.stderr)
        elif path is not None:
            self.saved = checkpoint.read(path)
        self.ckpt_path = path

    def _parse_ckpt_path(self) -> None:
        """Use the checkpoint that was read, whatever a config says.

        LightningCLI would load the file again, and let it beat the command line.
        """
        config = self.config[self.argv[0]]
        if self.ckpt_path:
            several = [self.ckpt_path, *self.other_paths]
            config.ckpt_path = several if self.other_paths else self.ckpt_path
        elif path := config.get("ckpt_path"):
            raise InputError(f"ckpt_path={path}: set it on the command line, not in a config")
        if self.initial is None and (path := config.get("init_from")):
            raise InputError(f"init_from={path}: set it on the command line, not in a config")

    # ---- the objects

    def before_instantiate_classes(self) -> None:
        """Complete the config, and refuse a task that is not the checkpoint's."""
        config = self.config[self.subcommand]
        config.data.tokenizer = config.data.tokenizer or config.model.encoder.name
        if self.saved is None:
            return
        saved = self.saved["config"]
        task, stored = class_name(config.task), class_name(saved["task"])
        if task != stored:
            raise InputError(f"task={task}: the checkpoint's is {stored}; leave --task out")
        pooling, stored = (class_name(job["model"].get("pooling")) for job in (config, saved))
        if pooling != stored:  # its weights might fit, and then the answers would be silently wrong
            raise InputError(f"model.pooling={pooling}: the checkpoint's is {stored}; leave it out")
        source = config.data.source
        is_new = source != saved["data"]["source"]
        split = {"validate": "validation", "test": "test"}.get(self.argv[0])
        if split and is_new and Path(str(source)).is_file():
            config.data.source = {split: source}  # score all rows of another file, unsplit

    def instantiate_classes(self) -> None:
        """Create task, data, model and trainer, all with what the checkpoint holds."""
        kinds = (TextModule, TextDataModule, Task)
        instantiators = [(self._instantiate, kind, True) for kind in kinds]
        try:
            self.config_init = self.parser.instantiate(self.config, instantiators=instantiators)
        except ValueError as error:
            if reason := plugins.explain(str(error)):
                raise InputError(reason) from error
            raise
        self.model = self._get(self.config_init, "model")
        self.model.check()
        self.trainer = self.instantiate_trainer()

    def _instantiate(self, kind: Any, *args: Any, **kwargs: Any) -> Any:
        saved = self.saved if self.initial is None else self.initial.saved
        if issubclass(kind, TextModule):
            parts = {"saved": saved, "config": self.job_config(), "initial": self.initial}
            return kind(*args, **kwargs, **parts)
        if issubclass(kind, TextDataModule):
            return kind(*args, **kwargs, saved=saved)
        task = kind(*args, **kwargs)
        if self.saved is not None:
            task.load_state_dict(self.saved["task"])
        return task

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Create the trainer, with a run folder, checkpoints and a progress bar by default."""
        flags = self._get(self.config_init, "trainer")
        parts = _as_list(flags.plugins)
        if not any(isinstance(part, CheckpointIO) for part in parts):
            parts.append(WholeCheckpoints())
        callbacks = _as_list(flags.callbacks)
        callbacks = [*plugins.needed_first(callbacks), *callbacks, OwnSignalHandlers()]
        if self.subcommand != "fit":
            kwargs["enable_checkpointing"] = False
        elif not any(isinstance(callback, ModelCheckpoint) for callback in callbacks):
            callbacks += self._checkpoints()
        if isinstance(self.log, Callback):
            callbacks.append(self.log)
        if self.subcommand == "predict":  # it only writes predictions
            kwargs["logger"] = False
        elif flags.logger in (None, True):
            kwargs["logger"] = self._tensorboard()
        bar = flags.enable_progress_bar
        if bar is None:
            bar = sys.stdout.isatty()
        if self.config[self.subcommand].get("output") == "-":
            bar = False  # it would be mixed with the predictions
        own_bars = [callback for callback in callbacks if isinstance(callback, AnyProgressBar)]
        if bar and not own_bars:
            callbacks.append(ProgressBar())
        if not bar and flags.enable_progress_bar is None:
            callbacks.append(Minutes())
        if not bar:
            callbacks = [callback for callback in callbacks if callback not in own_bars]
        kwargs |= {"plugins": parts, "callbacks": callbacks, "enable_progress_bar": bar}
        try:
            return super().instantiate_trainer(**kwargs)
        # Lightning checks its flags in many places, with errors of many types.
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"trainer: {error}") from error

    def _checkpoints(self) -> list[Callback]:
        """Return the callbacks that write best.ckpt and last.ckpt, without version numbers."""
        task = self._get(self.config_init, "task")
        best = ModelCheckpoint(
            filename="best",
            monitor=task.monitor,
            mode=task.monitor_mode,
            enable_version_counter=False,
            save_on_train_epoch_end=False,  # a resumed epoch may end without a validation
        )
        save = self._get(self.config_init, "save")
        last = LastCheckpoint(trust.options(self.job_config()), save, enable_version_counter=False)
        return [best, last]

    def _tensorboard(self) -> TensorBoardLogger:
        """Log to a new run folder in logs/JOB; a resumed fit continues in its own."""
        config = self.config[self.subcommand]
        if self.subcommand in TRAINING and self.ckpt_path:
            run = Path(self.ckpt_path).parent.parent
            folder, job, version = run.parent.parent, run.parent.name, run.name
            return RunLogger(folder, job, version, default_hp_metric=False)
        files = [str(path) for path in config.config or [] if path is not None]
        job = job_name(Path(files[0])) if files else self.argv[0]
        return RunFolder("logs", job, config.get("name"), label(self.argv) if files else "")

    def plain_config(self) -> dict[str, Any]:
        """Return the configuration as plain values, including all defaults."""
        parser = self._parser(self.subcommand)
        return yaml.safe_load(parser.dump(self.config[self.subcommand], skip_none=False))

    def job_config(self) -> dict[str, Any]:
        """Return the part for checkpoints and reports, without `trainer` if nothing is trained."""
        config = self.plain_config()
        keys = ["seed_everything", "task", "model", "data"]
        if self.subcommand not in ("validate", "test", "predict"):
            keys.append("trainer")
        return {key: config[key] for key in keys}

    # ---- the command

    def _run_subcommand(self, subcommand: str) -> None:
        """Call the command's function."""
        config, values = self.plain_config(), self.config_init[subcommand]
        plain = {name: config[name] for name in self.option_names}
        options = {name: values[name] for name in self.option_names}
        run = Run(
            self.trainer,
            self.model,
            self.job_config(),
            plain,
            self._write_config,
            self.trusted,
            self.log,
        )
        if self.note and self.trainer.is_global_zero:
            print(self.note)
        try:
            self.status = self.command(run, **options) or 0
        except OSError as error:
            if error.errno not in disk.ADVICE:
                raise
            raise self._failed_write(error) from error

    def _failed_write(self, error: OSError) -> JobError:
        """Return the error for a file that a library could not write.

        Not every library says which file. TensorBoard's writer fails later, in another thread.
        """
        if isinstance(error.__context__, JobError):  # a checkpoint's, and then also TensorBoard's
            return error.__context__
        if error.filename is not None:
            return disk.failure(error.filename, error)
        logger = self.trainer.logger
        if logger is None:
            return disk.failure("standard output", error)
        if not isinstance(logger, TensorBoardLogger):
            return disk.failure("standard output or a log", error)
        try:
            logger.experiment.flush()  # raises the error of its thread again
        except OSError:
            return disk.failure(f"{logger.log_dir}/events.out.tfevents.*", error)
        return disk.failure(f"standard output or a file in {logger.log_dir}", error)

    def _write_config(self) -> None:
        """Write config.yaml into the run folder; Lightning only does so in its own loop."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, SaveConfigCallback):
                callback.setup(self.trainer, self.model, "fit")


class SaveConfig(SaveConfigCallback):
    """Writes config.yaml into the run folder, completely or not at all."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write it once; the folder of a resumed run has one already."""
        folder = trainer.log_dir or trainer.default_root_dir  # on all devices: a broadcast
        if trainer.is_global_zero and not self.already_saved:
            text = self.parser.dump(self.config, skip_none=False)
            disk.write_text(Path(folder) / "config.yaml", text)
        self.already_saved = True


def _as_list(value: Any) -> list[Any]:
    """Return the values of an option that accepts one, several or none."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
