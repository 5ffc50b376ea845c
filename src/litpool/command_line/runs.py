"""How runs are told apart: the names of their folders, and the hyperparameters in TensorBoard."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from litpool import InputError, JobError
from litpool.classes import class_name
from litpool.command_line import spelling
from litpool.loops.tensorboard import curves

LONGEST = 80  # characters of a folder's name
NAME = re.compile(rf"[A-Za-z0-9][\w.=+-]{{0,{LONGEST - 1}}}", re.ASCII)
VERSION = re.compile(r"version_(\d+)(?!\d)")

COLUMNS = ("text", "label", "question", "context", "answers")  # of a task
SHOWN_DATA = ("batch_size", "max_length", "length_grouping")
SHOWN_TRAINER = (
    "max_epochs",
    "max_steps",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "precision",
)


class RunLogger(TensorBoardLogger):
    """TensorBoardLogger without curves of no use: Lightning draws `epoch` beside every metric."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a point to the curve of each metric that has one."""
        super().log_metrics(curves(metrics), step)


class RunFolder(RunLogger):
    """RunLogger in a folder that no other run has.

    Lightning takes the next free number, so two runs that start together would share a folder.

    Args:
        save_dir: The folder of all jobs.
        job: The name of the job.
        run: The name of the folder; by default `version_N`, with the next free number.
        label: What to append to `version_N`, as `label` returns it.
    """

    def __init__(self, save_dir: str, job: str, run: str | None = None, label: str = "") -> None:
        super().__init__(save_dir, job, default_hp_metric=False)
        self.run = run
        self.label = label
        if run is not None and is_first():
            self._check_name(run)

    def _check_name(self, run: str) -> None:
        """Refuse a name that cannot be used or is taken, before anything is read."""
        if not NAME.fullmatch(run):
            raise InputError(
                f"name={run}: begin with a letter or a digit, and use at most {LONGEST} letters, "
                "digits and the characters . _ - = +"
            )
        folder = Path(self.root_dir, run)
        if folder.exists():
            raise InputError(f"name={run}: {folder} exists; choose another name or remove it")

    @property
    def version(self) -> str | int:
        """The name of the run folder, which is made when it is first asked for."""
        if self._version is None:
            self._version = self._take_folder()
        return self._version

    def _take_folder(self) -> str:
        number = next_number(Path(self.root_dir))
        if not is_first():
            return self.run or f"version_{number}"  # the trainer tells the others which it is
        if self.run is not None:
            if not self._make(self.run):
                self._check_name(self.run)  # another run made it since the last check
            return self.run
        while True:
            name = f"version_{number}{self.label}"[:LONGEST].rstrip("-_.=")
            if self._make(name):
                others = [folder for folder in numbered(Path(self.root_dir)) if folder[0] == number]
                if len(others) == 1:
                    return name
                Path(self.root_dir, name).rmdir()  # two runs took this number: neither keeps it
            number += 1

    def _make(self, name: str) -> bool:
        """Make a folder; return whether it is new."""
        folder = Path(self.root_dir, name)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            return False
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise JobError(f"{folder}: the run folder cannot be made ({reason})") from error
        return True


def logger_of(folder: Path) -> dict[str, Any]:
    """Return the logger that makes this the run folder, as a config names it."""
    options = {
        "save_dir": str(folder.parent),
        "name": "",
        "version": folder.name,
        "default_hp_metric": False,
    }
    return {"class_path": "TensorBoardLogger", "init_args": options}


def is_first() -> bool:
    """Return whether this is the only process of a run, or the one that writes and prints."""
    return not getattr(rank_zero_only, "rank", 0)


def numbered(parent: Path) -> list[tuple[int, Path]]:
    """Return the folders version_N and version_N-LABEL, each with its number."""
    matches = [(VERSION.match(folder.name), folder) for folder in parent.glob("version_*")]
    return [(int(match[1]), folder) for match, folder in matches if match]


def next_number(parent: Path) -> int:
    """Return the number of the next run."""
    return max((number for number, _ in numbered(parent)), default=-1) + 1


def job_name(file: Path) -> str:
    """Return the name of a config's runs: `studies/sst2` for configs/studies/sst2.yaml."""
    _, folder, name = f"/{file.with_suffix('').as_posix()}".rpartition("/configs/")
    return name if folder else file.stem


def label(arguments: Iterable[str]) -> str:
    """Return what the command line changes in the model and its training: `-lr=1e-3-heads=4`.

    Where the rows are, and on what they train, makes no other model.
    """
    parts = {}  # of an option given twice, the last counts
    for key, value in spelling.pairs(list(arguments)):
        section, _, rest = key.partition(".")
        shown = section in ("model", "seed_everything")
        shown |= section == "task" and rest not in COLUMNS
        shown |= section == "data" and rest in SHOWN_DATA
        if shown and value is not None:
            name = key.removesuffix(".name").rpartition(".")[2]
            parts[key] = f"-{name}={_short(value)}"
    return "".join(parts.values())


def _short(value: str) -> str:
    """Return a value without folders and modules, for the name of a folder."""
    if re.fullmatch(r"[A-Za-z_][\w.]*\.[A-Za-z_]\w*", value):  # a class path
        value = value.rpartition(".")[2]
    value = value.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", value).strip("_")


def hyperparameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what matters for the scores, under the keys of the options.

    The learning rate is `lr`: TensorBoard sorts by name, and so it comes first. All runs have the
    same keys, because TensorBoard shows those of one run for all.
    """
    model, data, trainer = config["model"], config["data"], config.get("trainer", {})
    task = config["task"]
    options = {key: value for key, value in task.get("init_args", {}).items() if key not in COLUMNS}
    encoder = {key: model["encoder"][key] for key in ("name", "pretrained", "freeze", "overrides")}
    encoder["overrides"] = str(encoder["overrides"] or "none")
    recipe = dict(model["recipe"])
    return {
        "lr": recipe.pop("lr"),
        **_plain(recipe, "model.recipe."),
        "model.pooling": described(model["pooling"]),
        **_plain(encoder, "model.encoder."),
        "data.source": str(data["source"]),
        **_plain({key: data[key] for key in ("batch_size", "max_length")}, "data."),
        "task": described({"class_path": task["class_path"], "init_args": options}),
        **_plain({key: trainer.get(key) for key in SHOWN_TRAINER}, "trainer."),
        "seed_everything": config["seed_everything"],
    }


def _plain(section: Mapping[str, Any], prefix: str) -> dict[str, str | int | float | bool]:
    """Return the options of a section that are set, with values that TensorBoard accepts."""
    return {
        f"{prefix}{key}": value if isinstance(value, str | int | float) else json.dumps(value)
        for key, value in section.items()
        if value is not None
    }


def described(part: Any) -> str:
    """Return a class with its options that are set, such as `AttentionPooling(heads=4)`."""
    options = part.get("init_args") if isinstance(part, Mapping) else None
    set_options = {key: value for key, value in (options or {}).items() if value is not None}
    inside = ", ".join(f"{key}={_described_value(value)}" for key, value in set_options.items())
    return f"{class_name(part)}({inside})" if inside else class_name(part)


def _described_value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_described_value, value))}]"
    return described(value) if isinstance(value, Mapping) and "class_path" in value else str(value)
