"""Answers in Python: `litpool.load(RUN).predict([...])`, without Lightning and without a trainer.

N rows or texts, K texts in a row, F features of a pooled vector.
"""

import copy
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from litpool import InputError, JobError
from litpool.classes import build_classes
from litpool.command_line import toolbox
from litpool.data import added
from litpool.data.batches import Collator, EvaluationOrder
from litpool.data.prefix import column_prefixes
from litpool.data.token_ids import encode_rows
from litpool.data.tokenizer import restore_tokenizer
from litpool.loops import checkpoint
from litpool.model.encoder import EncoderOptions
from litpool.model.markers import resolve
from litpool.model.network import TextModel, build_network
from litpool.tasks.similarity import Similarity
from litpool.tasks.task import Columns, Task

DIGITS = 4  # of a probability; training again changes the others
EXPORT = "golden.json"  # the file that every folder of the tool `export` has
CHUNK = 64  # batches that are tokenized at once, and sorted by their number of tokens

Row = str | Sequence[str] | Mapping[str, Any]
Batch = dict[str, Tensor]


class Predictor:
    """A trained network with everything that it needs to answer.

    Args:
        task: The task, with its labels.
        network: Encoder, pooling and head.
        tokenizer: The tokenizer of the training.
        config: The job as plain values.
        metrics: The scores of the checkpoint, such as `val/accuracy`.
        path: Where it was loaded from.
        device: Where the network computes.
    """

    def __init__(
        self,
        task: Task,
        network: TextModel,
        tokenizer: PreTrainedTokenizerBase,
        config: Mapping[str, Any],
        metrics: Mapping[str, float],
        path: Path,
        device: torch.device,
    ) -> None:
        self.task = task
        self.network = network.to(device).eval()
        self.tokenizer = tokenizer
        self.config = config
        self.metrics = metrics
        self.path = path
        self.device = device
        self.max_length = int(config["data"].get("max_length", 128))
        self.batch_size = int(config["data"].get("batch_size", 32))
        self.prefixes = column_prefixes(config["data"].get("prefix"), task)
        self.markers = resolve(network.pooling, tokenizer)
        self.collate = Collator(tokenizer)

    def __repr__(self) -> str:
        return f"Predictor({type(self.task).__name__}, {self.path}, {self.device})"

    def predict(
        self, rows: Iterable[Row], batch_size: int | None = None, top: int | None = None
    ) -> list[dict[str, Any]]:
        """Return the answer to each row, the same as `python cli.py predict` writes.

        Args:
            rows: For each row a text, a tuple with the texts of a pair, or a mapping from column
                to value.
            batch_size: Rows in a batch; by default as in training.
            top: How many labels to return, if not all.

        Raises:
            InputError: The rows lack a column or a text, or there are fewer labels.
            JobError: The network's output is not finite.
        """
        check_top(top, self.task)
        columns = self.columns(rows)
        if not columns[self.task.texts[0]]:
            return []
        answers = self.answers(columns, batch_size)
        return [round_probabilities(answer, top) for answer in answers]

    def encode(
        self,
        texts: Iterable[Row],
        batch_size: int | None = None,
        normalize: bool = False,
        column: str | None = None,
    ) -> NDArray[np.float32]:
        """Return the pooled vector of each text, (N, F).

        Args:
            texts: The texts. Where the network reads a pair at once, the pairs.
            batch_size: Texts in a batch; by default as in training.
            normalize: Whether to scale each vector to length 1.
            column: Whose prefix the texts get, if the columns of Similarity have different ones; by
                default that of the first.

        Raises:
            InputError: There is an empty text, or the task works on tokens and has no vectors.
            JobError: A vector is not finite.
        """
        task = self.vector_task(column)
        columns = self.columns(texts, task)
        vectors = self._compute(task, columns, self.network.embed, batch_size or self.batch_size)
        if normalize:
            vectors = F.normalize(vectors, dim=-1)
        return vectors.reshape(len(vectors), self.network.pooling.out_features).numpy()

    def vector_task(self, column: str | None = None) -> Task:
        """Return the task whose columns are those that vectors are computed from; see `encode`.

        Raises:
            InputError: There are no vectors, or no such column.
        """
        if self.task.on_tokens:
            raise InputError(
                f"{type(self.task).__name__} works on tokens and has no vectors; use predict"
            )
        if isinstance(self.task, Similarity):
            return _for_single_texts(self.task, column or self.task.texts[0])
        if column:
            raise InputError(
                f"column={column}: {type(self.task).__name__} reads all its columns at once"
            )
        return self.task

    def answers(
        self, columns: Columns, batch_size: int | None = None, before: int = 0
    ) -> list[dict[str, Any]]:
        """Return the answer to each row of some columns, with exact probabilities.

        Args:
            columns: The values of each column; they are not checked.
            batch_size: Rows in a batch; by default as in training.
            before: The number of rows before these, for error messages.

        Raises:
            InputError: A text lacks a marker that the pooling needs, for example.
            JobError: The network's output is not finite.
        """
        return self.task.decode(self.outputs(columns, batch_size, before), columns)

    def outputs(self, columns: Columns, batch_size: int | None = None, before: int = 0) -> Tensor:
        """Return the prediction for each row, as `Task.decode` reads it; see `answers`."""
        size = batch_size or self.batch_size
        task = self.task
        if not isinstance(task, Similarity) or task.gives_vectors:
            return self._compute(task, columns, self._predictions, size, before)
        # The texts of a pair are encoded one by one. Where they get the same prefix, they are
        # computed together, so that each distinct text is computed only once.
        names = {self.prefixes.get(name, ""): name for name in reversed(task.texts)}
        parts: dict[str, Tensor] = {}
        for prefix, first in names.items():
            same = [name for name in task.texts if self.prefixes.get(name, "") == prefix]
            texts = [text for name in same for text in columns[name]]
            single = _for_single_texts(task, first)
            vectors = self._compute(single, {first: texts}, self.network.embed, size, before)
            parts |= zip(same, vectors.squeeze(1).chunk(len(same)), strict=True)
        pairs = torch.stack([parts[name] for name in task.texts], dim=1)  # (N, K, F)
        with torch.inference_mode():
            output = self.network.head(pairs.to(self.device))
            return task.extract(output, {}).cpu()

    def _predictions(self, batch: Batch) -> Tensor:
        return self.task.extract(self.network(batch), batch)

    def columns(self, rows: Iterable[Row], task: Task | None = None) -> dict[str, list[Any]]:
        """Check rows, and return their texts, and the extras that they have, by column.

        Args:
            rows: See `predict`.
            task: Names the columns with texts; by default the model's own.

        Raises:
            InputError: The rows lack a column or a text.
        """
        texts = (task or self.task).texts
        if isinstance(rows, str | bytes | Mapping):
            raise InputError(f"{str(rows)[:40]!r} is one row; give a list of rows")
        rows = list(rows)
        columns: dict[str, list[Any]] = {name: [] for name in texts}
        for number, row in enumerate(rows, 1):
            for name, text in zip(texts, _texts(row, texts, number), strict=True):
                if not isinstance(text, str):
                    raise InputError(
                        f"rows, row {number}: {name!r} is {str(text)[:40]}, must be text"
                    )
                if not text.strip():
                    raise InputError(
                        f"rows, row {number}: {name!r} is empty; fill it in, or leave the row out"
                    )
                columns[name].append(text)
        for name in self.task.extras:
            values = [row.get(name) for row in rows if isinstance(row, Mapping)]
            if len(values) == len(rows) and any(value is not None for value in values):
                columns[name] = values
        return columns

    def _compute(
        self,
        task: Task,
        columns: Columns,
        function: Callable[[Batch], Tensor],
        batch_size: int,
        before: int = 0,
    ) -> Tensor:
        """Apply a function to batches; return its result for each row. Equal rows share one."""
        prefixes = {name: self.prefixes[name] for name in task.texts if name in self.prefixes}
        keys = list(zip(*(columns[name] for name in task.texts), strict=True))
        places: dict[tuple[str, ...], int] = {}
        inverse = [places.setdefault(key, len(places)) for key in keys]
        distinct = sorted(places, key=lambda texts: -sum(map(len, texts)))
        results, owners = [], []
        for start in range(0, len(distinct), CHUNK * batch_size):
            chunk = distinct[start : start + CHUNK * batch_size]
            rows = dict(zip(task.texts, map(list, zip(*chunk, strict=True)), strict=True))
            encoded = encode_rows(task, rows, self.tokenizer, self.max_length, prefixes)
            self._check_markers(encoded, chunk, keys, before)
            numbers = [places[key] for key in chunk]
            encoded["index"] = [numbers[row] for row in encoded.pop("row")]
            for batch in EvaluationOrder(encoded.pop("length"), batch_size):
                part = {name: [values[row] for row in batch] for name, values in encoded.items()}
                results.append(self._run(part, function))
                owners += [encoded["index"][row] for row in batch]
        if not results:
            return torch.empty(0, self.network.pooling.out_features)
        predictions = task.assemble(torch.cat(results), torch.tensor(owners))[torch.tensor(inverse)]
        _check_finite(predictions, task, before)
        return predictions

    def _check_markers(
        self,
        encoded: Columns,
        texts: Sequence[tuple[str, ...]],
        rows: Sequence[tuple[str, ...]],
        before: int,
    ) -> None:
        """Refuse a text that lacks a marker of the pooling, such as one that was cut off."""
        for marker, number in self.markers.items():
            for place, ids in zip(encoded["row"], encoded["input_ids"], strict=True):
                several = ids if isinstance(ids[0], list) else [ids]
                if not all(number in part for part in several):
                    row = before + rows.index(texts[place]) + 1
                    raise added.no_marker(f"row {row}", marker, " ".join(texts[place]))

    def _run(self, rows: Mapping[str, list[Any]], function: Callable[[Batch], Tensor]) -> Tensor:
        batch = {name: value.to(self.device) for name, value in self.collate(rows).items()}
        with torch.inference_mode():
            output = function(batch)
        return output.to(torch.promote_types(output.dtype, torch.float32)).cpu()


def load(
    path: str | Path, device: str | torch.device | None = None, trust: Sequence[str] = ()
) -> Predictor:
    """Load a trained model.

    Args:
        path: A run folder, whose best checkpoint is used, a checkpoint, or a folder that `export`
            wrote, which answers through the format's own runtime, on the CPU.
        device: Where to compute, such as `cuda:1`; by default the GPU, if there is one.
        trust: Modules of your own whose poolings and tasks the checkpoint may name, as with
            `--trust`; and `torch.export` for an export of that format, which is a program.

    Raises:
        InputError: There is no checkpoint, or it cannot be used; see `loops.checkpoint.load`.
    """
    if (Path(path) / EXPORT).is_file():
        return _load_export(Path(path), device, trust)
    file = Path(checkpoint.in_run(path))
    if file.is_dir():
        raise InputError(
            f"ckpt_path={file}: holds neither checkpoints/best.ckpt, as a run does, nor {EXPORT}, "
            "as an export does; name a run, a checkpoint such as RUN/checkpoints/last.ckpt, or an "
            "export"
        )
    if file.suffix != ".ckpt" and file.is_file() and (file.parent / EXPORT).is_file():
        raise InputError(f"ckpt_path={file}: a part of an export; name its folder, {file.parent}")
    content = checkpoint.load(str(file))
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return restore(content, content["job"]["config"], file, torch.device(device), trust)


def restore(
    content: dict[str, Any],
    config: Mapping[str, Any],
    file: Path,
    device: torch.device,
    trust: Sequence[str],
) -> Predictor:
    """Return the model in a checkpoint; `content` is what `loops.checkpoint.load` returned.

    `config` is the job in it, or one of the user's for the same task and pooling.

    Raises:
        InputError: The checkpoint cannot be used.
    """
    job = content["job"]
    try:
        task, pooling = build_classes(config, trust)
    except InputError as error:
        raise InputError(f"ckpt_path={file}: {error}") from error
    task.load_state_dict(job["task"])
    tokenizer = restore_tokenizer(job["tokenizer"])
    network = build_network(
        task,
        pooling,
        EncoderOptions(pretrained=False),
        checkpoint.encoder_config(job),
        tokenizer,
        new_ids={},
        device=torch.device("cpu"),
        pretrained=False,
    )
    checkpoint.load_weights(network, content, file)
    return Predictor(task, network, tokenizer, config, job["metrics"], file, device)


def _load_export(
    folder: Path, device: str | torch.device | None, trust: Sequence[str]
) -> Predictor:
    """Return the model in a folder that the tool `export` wrote, if the tool is there."""
    if device is not None and torch.device(device).type != "cpu":
        raise InputError(f"device={device}: an export answers on the CPU; load the checkpoint")
    if "export" not in toolbox.tools():
        raise InputError(f"{folder}: an export, which needs the tool export; load the checkpoint")
    return importlib.import_module("litpool.tools.export.loading").load(folder, trust)


def _for_single_texts(task: Similarity, column: str) -> Similarity:
    """Return the task for one text per row, whose answers are vectors."""
    if column not in task.texts:
        raise InputError(f"column={column}: must be one of {', '.join(task.texts)}")
    single = copy.copy(task)
    single.texts = [column]
    single.gives_vectors = True
    return single


def _texts(row: Row, columns: Sequence[str], number: int) -> Sequence[Any]:
    """Return the texts of a row, in the order of the columns."""
    if isinstance(row, Mapping):
        for name in columns:
            if name not in row:
                raise InputError(
                    f"rows, row {number}: no column {name!r}, there is {str(list(row))[:200]}; "
                    f"each row needs the keys {', '.join(columns)}"
                )
        return [row[name] for name in columns]
    if not isinstance(row, str | Sequence):
        raise InputError(f"rows, row {number}: {str(row)[:40]} is no text; give texts or mappings")
    texts = [row] if isinstance(row, str) else list(row)
    if len(texts) != len(columns):
        raise InputError(
            f"rows, row {number}: {len(texts)} texts, must be {len(columns)} "
            f"({', '.join(columns)}); give a tuple or a mapping"
        )
    return texts


def _check_finite(predictions: Tensor, task: Task, before: int) -> None:
    """Refuse to answer from NaN; minus infinity is the score of an impossible answer span."""
    wrong = predictions.isnan() if task.on_tokens else ~predictions.isfinite()
    if wrong.any():
        rows = wrong.reshape(len(wrong), -1).any(1).nonzero().flatten().tolist()
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        raise JobError(f"the output for row {before + rows[0] + 1}{more} is not finite")


def check_top(top: int | None, task: Task) -> None:
    """Refuse a number of labels that the task does not have."""
    if top is None:
        return
    count = len(task.labels)
    if not count:
        raise InputError(f"top={top}: {type(task).__name__} has no labels; leave it out")
    if not 1 <= top <= count:
        raise InputError(f"top={top}: give 1 to {count}, the number of labels")


def round_probabilities(answer: Mapping[str, Any], top: int | None) -> dict[str, Any]:
    """Return an answer whose probabilities have 4 digits.

    Args:
        answer: What `Task.decode` returned for a row; `probabilities` is a mapping from label to
            probability, if there are labels.
        top: How many labels to keep, if not all: then `top` replaces `probabilities`, a list of
            labels with their probabilities, the most probable first.
    """
    rest = dict(answer)
    if "probabilities" not in rest:
        return rest
    exact = rest.pop("probabilities")
    rounded = {label: round(value, DIGITS) for label, value in exact.items()}
    if top is None:
        return {**rest, "probabilities": rounded}
    best = sorted(exact, key=exact.__getitem__, reverse=True)[:top]
    return {**rest, "top": [{"label": name, "probability": rounded[name]} for name in best]}
