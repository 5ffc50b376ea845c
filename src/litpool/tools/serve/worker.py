"""The process with the model: it answers the requests that wait, together in one batch."""

import signal
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import Empty
from typing import Any

import litserve
from litserve.loops import BatchedLoop
from litserve.loops.base import _SENTINEL_VALUE, _StopLoopError

import litpool
from litpool import InputError, JobError
from litpool.command_line.terminal import quiet
from litpool.ensemble import Ensemble
from litpool.predictor import Predictor, check_top, round_probabilities
from litpool.tasks.regression import Regression
from litpool.tasks.similarity import Similarity
from litpool.tools.serve.query import Description, Query, Reply


@dataclass
class Failure:
    """Why the model could not be loaded."""

    message: str
    is_input: bool


class WaitingRequests(BatchedLoop):
    """Takes a request, and with it all others that wait by then, so that none waits for more.

    LitServe's own loop waits for a fixed time instead, or asks for requests a thousand times per
    second while there are none.
    """

    def get_batch_requests(
        self, lit_api: litserve.LitAPI, request_queue: Any, transport: Any
    ) -> tuple[list[Any], list[Any]]:
        """Return the waiting requests, and none that has waited for too long."""
        requests = []
        try:
            requests.append(request_queue.get())
            while len(requests) < lit_api.max_batch_size:
                requests.append(request_queue.get_nowait())
        except Empty:
            pass
        except (EOFError, OSError) as error:  # the server has ended
            raise _StopLoopError from error
        if _SENTINEL_VALUE in requests:
            raise _StopLoopError
        return [(consumer, number, query) for consumer, number, _, query in requests], []


class Model(litserve.LitAPI):
    """Checkpoints behind LitServe's queue.

    Args:
        paths: Run folders or checkpoints; of several, the answers are the mean.
        device: Where to compute; by default the GPU, if there is one.
        trust: Modules of the user's that the checkpoints may name.
        requests: How many requests to answer together at most.
        report: Gets a `Description`, or a `Failure`.
    """

    def __init__(
        self,
        paths: Sequence[str],
        device: str | None,
        trust: Sequence[str],
        requests: int,
        report: Connection,
    ) -> None:
        super().__init__(max_batch_size=requests, loop=WaitingRequests())
        self.paths = paths
        self.where = device
        self.trust = trust
        self.report = report

    def setup(self, device: Any) -> None:
        """Load the checkpoints in the process that computes; `device` is LitServe's."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that serves
        quiet()
        try:
            members = [litpool.load(path, self.where, self.trust) for path in self.paths]
            self.ensemble = Ensemble(members)
        except (InputError, JobError) as error:
            self.report.send(Failure(str(error), isinstance(error, InputError)))
            raise SystemExit(1) from error
        self.first = members[0]
        self.report.send(self._describe())

    def authorize(self) -> None:
        """Let LitServe answer /health without the key, which the other endpoints check."""

    def _describe(self) -> Description:
        task = self.first.task
        has_vectors = not task.on_tokens and len(self.paths) == 1
        return Description(
            type(task).__name__,
            list(task.texts),
            list(task.labels),
            self.first.network.pooling.out_features if has_vectors else 0,
            str(self.first.path),
        )

    def predict(self, queries: Sequence[Query], **_: Any) -> list[Reply]:
        """Return the reply to each query; those that ask for the same are computed together."""
        groups: dict[Any, list[int]] = defaultdict(list)
        replies: dict[int, Reply] = {}
        columns: dict[int, Any] = {}
        for number, query in enumerate(queries):
            try:
                columns[number] = self._columns(query)
            except InputError as error:
                replies[number] = Reply(error=str(error), status=400)
                continue
            key = (query.kind, query.normalize, query.column, tuple(columns[number]))
            groups[key].append(number)
        for numbers in groups.values():
            chosen = [queries[number] for number in numbers]
            answers = self._answer(chosen, [columns[number] for number in numbers])
            replies |= zip(numbers, answers, strict=True)
        return [replies[number] for number in range(len(queries))]

    def _columns(self, query: Query) -> dict[str, list[Any]]:
        """Check the rows of a query, and return their columns."""
        if query.kind == "vectors":
            if len(self.paths) > 1:
                raise InputError("several checkpoints have no common vectors; use /predict")
            return self.first.columns(query.rows, self.first.vector_task(query.column))
        if query.kind == "scores" and len(self.paths) > 1:
            raise InputError("raw_scores: several checkpoints have none; leave it out")
        check_top(query.top, self.first.task)
        return self.first.columns(query.rows)

    def _answer(self, queries: Sequence[Query], columns: Sequence[Any]) -> list[Reply]:
        """Return the replies to queries for the same kind of values from the same columns."""
        merged = {name: [v for part in columns for v in part[name]] for name in columns[0]}
        try:
            values = self._values(queries[0], merged)
        except (InputError, JobError) as error:
            if len(queries) > 1:  # only one of them may be to blame
                pairs = zip(queries, columns, strict=True)
                return [self._answer([query], [part])[0] for query, part in pairs]
            return [Reply(error=str(error), status=400 if isinstance(error, InputError) else 500)]
        replies = []
        start = 0
        for query, part in zip(queries, columns, strict=True):
            end = start + len(query.rows)
            own = values[start:end]
            if query.kind == "answers":
                own = [round_probabilities(answer, query.top) for answer in own]
            tokens = self._count_tokens(part) if query.count_tokens else 0
            replies.append(Reply(own, tokens))
            start = end
        return replies

    def _values(self, query: Query, columns: Any) -> Any:
        """Return a value for each row of some columns."""
        match query.kind:
            case "answers":
                return self.ensemble.answers(columns)
            case "scores":
                return _scores(self.first, columns)
            case "vectors":
                rows = list(zip(*columns.values(), strict=True))
                return self.first.encode(rows, normalize=query.normalize, column=query.column)

    def _count_tokens(self, columns: Any) -> int:
        encoded = self.first.tokenizer(
            *columns.values(), truncation=True, max_length=self.first.max_length
        )
        return sum(map(len, encoded["input_ids"]))


def _scores(model: Predictor, columns: Any) -> list[list[float]]:
    """Return the outputs of the network, (N, C): logits, or the score in its own unit."""
    task = model.task
    outputs = model.outputs(columns)
    if isinstance(task, Regression):
        outputs = outputs * task.scale + task.shift
    elif isinstance(task, Similarity) or not task.labels or outputs.ndim != 2:
        raise InputError(f"raw_scores: {type(task).__name__} has none; leave it out")
    return outputs.tolist()
