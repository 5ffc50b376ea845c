"""The data sets of a study: the job's own, or those that `study.data` names, each with keys of its own."""

import difflib
from argparse import ArgumentError
from collections.abc import Mapping
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser, Namespace

from litpool import InputError
from litpool.data.module import TextDataModule
from litpool.loops.lightning import TextModule
from litpool.tasks.similarity import Similarity
from litpool.tasks.task import Task
from litpool.tools.study import baselines as word_vectors
from litpool.tools.study import frozen, scores
from litpool.tools.study.baselines import WordVectors
from litpool.tools.study.choice import BASELINE, Json
from litpool.tools.study.options import StudyOptions

CERTAIN = 0.05  # the largest p with which a difference counts


class DataSet(NamedTuple):
    """A data set, read and tokenized; the two arms share the rows, and the token ids if they read them alike."""

    name: str
    frozen: TextDataModule | None
    averages: WordVectors | None  # of the frozen arm's texts, where there is a file of word vectors
    tuned: TextDataModule | None
    paper: list[Json]  # figures to be shown beside ours

    @property
    def data(self) -> TextDataModule:
        """As one of the arms reads it."""
        data = self.frozen or self.tuned
        assert data
        return data


def read(module: TextModule, config: Json, options: StudyOptions) -> list[DataSet]:
    """Read and tokenize all data sets.

    Args:
        module: Its task is the data sets', but for the keys that they set; its data are the job's own, not read yet.
        config: The job's.
        options: Name the data sets, and the arms.

    Raises:
        InputError: A key or a value is no use, or a data set lacks a split.
    """
    if options.data is None:
        return [
            _read(
                frozen.name_of(module.data), module.task, module.data, config["data"], [], options
            )
        ]
    if not options.data:
        raise InputError(
            "study.data={}: name at least one data set, or leave it out for the job's own"
        )
    found = []
    for name, given in options.data.items():
        where = f"study.data.{name}"
        _check_keys(given, type(module.task), where)
        task = _build(
            type(module.task),
            {**config["task"].get("init_args", {}), **given.get("task", {})},
            f"{where}.task",
        )
        settings = {
            **config["data"],
            **{key: value for key, value in given.items() if key not in ("task", "paper")},
        }
        found.append(
            _read(
                name,
                task,
                _build(TextDataModule, settings, where, task=task),
                settings,
                given.get("paper", []),
                options,
            )
        )
    return found


def _check_keys(given: Any, task: type[Task], where: str) -> None:
    """Refuse keys that neither the data nor the task know, and figures that are none."""
    if not isinstance(given, Mapping):
        raise InputError(
            f"{where}={given}: give the keys of `data` in which it differs, such as {{source: FILE}}"
        )
    known = {"": [*_names(TextDataModule), "task", "paper"], ".task": _names(task)}
    for part, keys in (("", given), (".task", given.get("task", {}))):
        if not isinstance(keys, Mapping):
            raise InputError(
                f"{where}{part}={keys}: give keys of the task, such as {{label: score}}"
            )
        for key in keys:
            if key not in known[part]:
                near = difflib.get_close_matches(str(key), known[part], n=1, cutoff=0.0)[0]
                raise InputError(f"{where}{part}.{key}: no such key; did you mean {near!r}?")
    figures = given.get("paper", [])
    fine = isinstance(figures, list) and all(_is_figure(figure) for figure in figures)
    if not fine:
        raise InputError(
            f"{where}.paper={figures}: give a list such as [{{pooling: MeanPooling, test: 46.35}}]"
        )


def _names(owner: type) -> list[str]:
    return ArgumentParser().add_class_arguments(owner, skip={"task", "saved"}, instantiate=False)


def _is_figure(figure: Any) -> bool:
    known = isinstance(figure, Mapping) and set(figure) == {"pooling", "test"}
    return known and isinstance(figure["pooling"], str) and type(figure["test"]) in (int, float)


def _build(owner: type, given: Mapping[str, Any], where: str, **fixed: Any) -> Any:
    """An object of a class, its arguments checked by their types as on the command line."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(owner, "given", skip={*fixed, "saved"}, instantiate=False)
    try:
        values: Namespace = parser.parse_object({"given": dict(given)}).given
    except ArgumentError as error:
        reason = " ".join(str(error).split()).replace("given.", "")
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
    """For each arm that is asked for a data module, the same one if both read the rows alike."""
    as_frozen = as_tuned = averages = None
    if "finetuned" in options.arms:
        as_tuned = data
        data.setup("fit")
        data.setup("test")
    if "frozen" in options.arms:
        studied = frozen.task_of(task)
        alike = studied is task or as_tuned is None
        as_frozen = data if alike else _build(TextDataModule, settings, name, task=studied)
        as_frozen.task = studied
        _set_up(as_frozen)
        if options.word_vectors is not None:
            averages = word_vectors.average(options.word_vectors, scores.read(as_frozen).texts)
    return DataSet(name, as_frozen, averages, as_tuned, paper)


def _set_up(data: TextDataModule) -> None:
    """Pairs can be scored without training, and so without a train split, and on the last layer without validation."""
    data.setup("test")
    if "train" in data.rows or not isinstance(data.task, Similarity):
        data.setup("fit")
    elif "validation" in data.rows:
        data.setup("validate")


# ---- what is said of several


def verdict(told: list[Json]) -> str:
    """One sentence on all data sets, made of what was found in each."""
    if len(told) == 1:
        return str(told[0]["verdict"])
    return _frozen_verdict(told) if all(data["chosen"] for data in told) else _tuned_verdict(told)


def _frozen_verdict(told: list[Json]) -> str:
    ahead, behind = (
        {name: _count(told, name, sign) for name in _poolings(told)} for sign in (1, -1)
    )
    best = max(ahead, key=lambda name: (ahead[name] - behind[name], ahead[name]), default=None)
    worst = max(behind, key=lambda name: behind[name] - ahead[name], default=None)
    count = len(told)
    if best is None or not ahead[best]:
        known = f"; {worst} is behind on {behind[worst]}" if worst and behind[worst] else ""
        return f"no pooling is ahead of {BASELINE} on any of the {count} data sets{known}"
    return (
        f"{best} is ahead of {BASELINE} on {ahead[best]} of {count} data sets and behind on {behind[best]} (p < "
        f"{CERTAIN}, corrected within each data set; of {len(ahead)} poolings the one that is ahead most often)"
    )


def _poolings(told: list[Json]) -> list[str]:
    """Those that are compared with [CLS], in the order of their appearance."""
    return list(
        dict.fromkeys(
            one["pooling"]
            for data in told
            for one in data["chosen"]
            if not one["whitened"] and one["pooling"] != BASELINE
        )
    )


def _count(told: list[Json], pooling: str, sign: int) -> int:
    """The data sets on which a pooling surely differs from [CLS] in this direction."""
    found = [
        one
        for data in told
        for one in data["chosen"]
        if one["pooling"] == pooling and not one["whitened"]
    ]
    against = [one["against_cls"] for one in found if one["against_cls"]]
    return sum(other["p"] < CERTAIN and sign * other["difference"] > 0 for other in against)


def _tuned_verdict(told: list[Json]) -> str:
    """What was found in each: the means over a few seeds are no ground for more."""
    return " | ".join(f"{data['name']}: {data['verdict']}" for data in told)
