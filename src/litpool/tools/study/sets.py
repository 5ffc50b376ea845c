"""The data sets of a study: the job's own, or those of `study.data`, each with keys of its own."""

import difflib
from argparse import ArgumentError
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser, Namespace

from litpool import InputError
from litpool.data.module import TextDataModule
from litpool.loops.lightning import TextModule
from litpool.tasks.similarity import Similarity
from litpool.tasks.task import Task
from litpool.tools.study import baselines, examples, frozen
from litpool.tools.study.baselines import WordVectors
from litpool.tools.study.choice import Json
from litpool.tools.study.options import StudyOptions

OUTCOMES = {
    "beats": "ahead",
    "behind": "behind",
    "equivalent": "no difference worth having",
    "not shown": "no difference shown",
    "too few": "too few rows",
}


class DataSet(NamedTuple):
    """A data set, read and tokenized. If both arms read the rows alike, they share one module."""

    name: str
    frozen: TextDataModule | None
    averages: WordVectors | None  # for the frozen arm, if there is a file of word vectors
    tuned: TextDataModule | None
    paper: list[Json]  # published figures to show next to ours

    @property
    def data(self) -> TextDataModule:
        """The module of the frozen arm, or else of the fine-tuned one."""
        data = self.frozen or self.tuned
        assert data
        return data


def read(module: TextModule, config: Json, options: StudyOptions) -> list[DataSet]:
    """Read and tokenize all data sets.

    Args:
        module: Its task and data, which are not read yet, hold for all keys that a data set does
            not set.
        config: The job.
        options: The data sets and the arms.

    Raises:
        InputError: A key or a value is not supported, or a data set lacks a split.
    """
    if options.data is None:
        name = _name(module.data.source.source)
        return [_read(name, module.task, module.data, config["data"], [], options)]
    if not options.data:
        raise InputError(
            "study.data={}: name at least one data set, or leave it out to use the job's own"
        )
    data_sets = []
    for name, keys in options.data.items():
        where = f"study.data.{name}"
        _check_keys(keys, type(module.task), where)
        task_settings = {**config["task"].get("init_args", {}), **keys.get("task", {})}
        task = _build(type(module.task), task_settings, f"{where}.task")
        own = {key: value for key, value in keys.items() if key not in ("task", "paper")}
        settings = {**config["data"], **own}
        data = _build(TextDataModule, settings, where, task=task)
        data_sets.append(_read(name, task, data, settings, keys.get("paper", []), options))
    return data_sets


def _name(source: str | list[str] | dict[str, str | list[str]]) -> str:
    """Return a name for data without one."""
    if isinstance(source, str):
        return source
    return " ".join(map(str, source.values() if isinstance(source, dict) else source))


def _check_keys(keys: Mapping[str, Any], task: type[Task], where: str) -> None:
    """Refuse keys that neither the data nor the task has, and malformed figures."""
    task_keys = keys.get("task", {})
    if not isinstance(task_keys, Mapping):
        raise InputError(
            f"{where}.task={task_keys}: give keys of the task, such as {{label: score}}"
        )
    _check_names(keys, [*_parameters(TextDataModule), "task", "paper"], where)
    _check_names(task_keys, _parameters(task), f"{where}.task")
    figures = keys.get("paper", [])
    if not (isinstance(figures, list) and all(_is_figure(figure) for figure in figures)):
        raise InputError(
            f"{where}.paper={figures}: give a list such as [{{pooling: MeanPooling, test: 46.35}}]"
        )


def _check_names(keys: Mapping[str, Any], allowed: list[str], where: str) -> None:
    for key in keys:
        if key not in allowed:
            nearest = difflib.get_close_matches(str(key), allowed, n=1, cutoff=0.0)[0]
            raise InputError(f"{where}.{key}: no such key; did you mean {nearest!r}?")


def _parameters(owner: type) -> list[str]:
    return ArgumentParser().add_class_arguments(owner, skip={"task", "saved"}, instantiate=False)


def _is_figure(figure: Any) -> bool:
    if not isinstance(figure, Mapping) or set(figure) != {"pooling", "test"}:
        return False
    return isinstance(figure["pooling"], str) and type(figure["test"]) in (int, float)


def _build(owner: type, settings: Mapping[str, Any], where: str, **fixed: Any) -> Any:
    """Build an object of a class, with its arguments checked as on the command line."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(owner, "settings", skip={*fixed, "saved"}, instantiate=False)
    try:
        values: Namespace = parser.parse_object({"settings": dict(settings)}).settings
    except ArgumentError as error:
        reason = " ".join(str(error).split()).replace("settings.", "")
        raise InputError(f"{where}: {reason[:400]}") from error
    return owner(**vars(values), **fixed)


def _read(
    name: str,
    task: Task,
    data: TextDataModule,
    settings: Mapping[str, Any],
    paper: list[Json],
    options: StudyOptions,
) -> DataSet:
    """Read and tokenize a data set for each arm."""
    frozen_data = averages = tuned_data = None
    if "finetuned" in options.arms or options.confirm:
        tuned_data = data
        data.setup("fit")
        data.setup("test")
    if "frozen" in options.arms:
        studied_task = frozen.studied_task(task)
        shared = studied_task is task or tuned_data is None
        frozen_data = data if shared else _build(TextDataModule, settings, name, task=studied_task)
        frozen_data.task = studied_task
        _set_up_frozen(frozen_data)
        if options.word_vectors is not None:
            texts = examples.read(frozen_data, options).texts
            averages = baselines.average_words(options.word_vectors, texts)
    return DataSet(name, frozen_data, averages, tuned_data, paper)


def _set_up_frozen(data: TextDataModule) -> None:
    """Tokenize the splits. Pairs need only test, if each pooling uses its last layer."""
    data.setup("test")
    if "train" in data.rows or not isinstance(data.task, Similarity):
        data.setup("fit")
    elif "validation" in data.rows:
        data.setup("validate")


def verdict(entries: list[Json]) -> str:
    """Summarize all data sets, from their entries in study.json, in one sentence."""
    if len(entries) == 1 or not all(entry["headline"] for entry in entries):
        # Fine-tuned only: the means over a few seeds support no joint verdict.
        parts = [f"{entry['name']}: {entry['verdict']}" for entry in entries]
        return " | ".join(parts) if len(entries) > 1 else str(entries[0]["verdict"])
    claims = Counter(entry["headline"]["claim"] for entry in entries)
    counts = ", ".join(
        f"{text} on {claims[claim]}" for claim, text in OUTCOMES.items() if claims[claim]
    )
    reference = entries[0]["headline"]["second"]["name"]
    return (
        f"Against {reference}, the pooling and layer chosen for each of the {len(entries)} data "
        f"sets: {counts}"
    )
