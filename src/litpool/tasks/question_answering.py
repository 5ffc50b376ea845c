"""Extractive question answering (SQuAD, KorQuAD 1.0): the answer is a part of the context."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from litpool import InputError
from litpool.tasks.answers import (
    AnswerMetric,
    answer_cells,
    best_threshold,
    describe_row,
    exact_match,
    f1,
    find_fault,
    read_all_golds,
)
from litpool.tasks.spans import SPANS, best_spans, merge_windows, span_answer, span_texts
from litpool.tasks.task import Columns, Mistake, Task, linear_head
from litpool.tasks.windows import encode_windows

if TYPE_CHECKING:
    from datasets import Dataset
    from torchmetrics import MetricCollection


class QuestionAnswering(Task):
    """The part of a context that answers a question.

    A long context is read in overlapping windows.

    Args:
        question: The column with the question.
        context: The column with the text that contains the answer.
        answers: The column with the answers: {text: [...], answer_start: [...]} as in SQuAD on the
            Hub, a list of {text, answer_start}, or one text, which begins at the offset in the
            column `answer_start` or, without this column, where it first occurs.
        doc_stride: Tokens that a window shares with the previous window, as in Hugging Face's
            scripts (in BERT's own, the step from one to the next); at most half of the context in
            a window.
        max_answer_length: The most tokens in an answer.
        n_best: Answers that `predict` gives to each question, 1 to 20.
        no_answer: Whether questions may have no answer (SQuAD 2.0). Each validation then chooses
            the threshold for no answer with the best F1.
        metric: Whose script gives exact match and F1, that of `squad` or `korquad`. KorQuAD 1.0's
            counts characters for F1, where SQuAD's count words, and leaves out Korean brackets.
    """

    monitor = "val/f1"
    on_tokens = True
    extras = ("id", "title", "answer_start")
    group = ("title", "context")
    state_attributes = ("threshold",)
    encoding_attributes = ("question", "context", "answers", "doc_stride")

    def __init__(
        self,
        question: str = "question",
        context: str = "context",
        answers: str = "answers",
        doc_stride: int = 128,
        max_answer_length: int = 30,
        n_best: int = 1,
        no_answer: bool = False,
        metric: AnswerMetric = "squad",
    ) -> None:
        super().__init__([question, context], answers)
        if doc_stride < 0:
            raise InputError(f"task.doc_stride={doc_stride}: give 0 or more")
        if max_answer_length < 1:
            raise InputError(f"task.max_answer_length={max_answer_length}: give 1 or more")
        if not 1 <= n_best <= SPANS:
            raise InputError(f"task.n_best={n_best}: give 1 to {SPANS}")
        if metric not in get_args(AnswerMetric):
            raise InputError(
                f"task.metric={metric}: give one of {', '.join(get_args(AnswerMetric))}"
            )
        self.display_columns = [question]  # an id, if there is one, is part of the answer
        self.question = question
        self.context = context
        self.answers = answers
        self.doc_stride = doc_stride
        self.max_answer_length = max_answer_length
        self.n_best = n_best
        self.no_answer = no_answer
        self.metric = metric
        self.threshold = 0.0  # no answer wins if it scores this much above the best span

    def learn(self, splits: Mapping[str, "Dataset"]) -> None:
        """Check that every answer is where its offset says.

        Raises:
            InputError: An answer is not at its offset, a row has no answer although `no_answer` is
                false, or a cell is not an answer.
        """
        for split, rows in splits.items():
            columns = rows[:]
            for number, cell in enumerate(answer_cells(columns, self.answers, self.context)):
                if message := find_fault(*cell, self.no_answer):
                    raise InputError(
                        f"the {split} split, {describe_row(columns, number)}: {message}"
                    )

    def encode(
        self, rows: Mapping[str, list[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> dict[str, list[Any]]:
        """Return windows of `max_length` tokens: the question and a part of the context.

        They are in row order. The columns are those of a tokenizer, and these:

        - `special_tokens_mask`: 1 for every token outside the context, the question included.
        - `offsets`: each token's characters in the context, [start, end]; [0, 0] outside it.
        - `row`: the number of the window's row.
        - `labels`: the first and last token of the row's first answer if the window contains all of
          it; otherwise [0, 0], the position of [CLS], which stands for no answer.

        Raises:
            InputError: The tokenizer has no offsets, or a question leaves no room for the context.
        """
        questions, contexts = rows[self.question], rows[self.context]
        golds = None
        if self.answers in rows:
            golds = read_all_golds(rows, self.answers, self.context)
        return encode_windows(questions, contexts, golds, tokenizer, max_length, self.doc_stride)

    def head(self, in_features: int) -> nn.Module:
        """Return a linear layer on each token: (B, T, in_features) and the batch to (B, T, 2)."""
        return SpanHead(in_features)

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return the mean of the cross-entropies of starts and of ends, each over the T tokens."""
        return F.cross_entropy(output.float(), labels)  # (B, T, 2), (B, 2)

    def metrics(self, rows: "Dataset") -> "MetricCollection":
        """Return exact match and F1 in percent, by the rules of `metric`.

        Those of `squad` are SQuAD 1.1's, and 2.0's with `no_answer`.
        """
        from torchmetrics import MetricCollection

        from litpool.tasks.metrics.answers import AnswerScores

        return MetricCollection({"answers": AnswerScores(self, rows)}, compute_groups=False)

    def extract(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the candidates of each window, (B, 21, 3): no answer, then the best spans."""
        return best_spans(output, batch["offsets"], self.max_answer_length)

    def update(
        self, metrics: "MetricCollection", predictions: Tensor, batch: Mapping[str, Tensor]
    ) -> None:
        """Update the metrics with the candidates and the numbers of their rows."""
        metrics.update(predictions, batch["index"])

    def assemble(self, predictions: Tensor, index: Tensor) -> Tensor:
        """Return the best distinct spans of each row, and the lowest score of no answer."""
        return merge_windows(predictions, index)

    def tune(self, metrics: "MetricCollection") -> None:
        """Choose the threshold with the best F1, if questions may have no answer."""
        if not self.no_answer:
            return
        from litpool.tasks.metrics.answers import AnswerScores

        answers = metrics["answers"]
        assert isinstance(answers, AnswerScores)
        with answers.sync_context():  # with the candidates of all devices
            predictions, rows = answers.assemble()
        spans = span_texts(predictions[:, 1], rows[self.context])
        pairs = list(zip(spans, self._gold_texts(rows), strict=True))
        gain = [self._f1(span, golds) - self._f1("", golds) for span, golds in pairs]
        difference = predictions[:, 0, 0] - predictions[:, 1, 0]
        self.threshold = best_threshold(difference.cpu().numpy(), np.array(gain))

    def score(self, predictions: Tensor, rows: Mapping[str, Any]) -> dict[str, float]:
        """Return the metrics of assembled predictions, in percent."""
        texts = span_texts(self._rank(predictions)[:, 0], rows[self.context])
        pairs = list(zip(texts, self._gold_texts(rows), strict=True))
        matches = [exact_match(*pair, self.no_answer, self.metric) for pair in pairs]
        scores = [self._f1(*pair) for pair in pairs]
        parts = {"exact_match": matches, "f1": scores}
        answerable = [bool(golds) for _, golds in pairs]
        if self.no_answer and any(answerable) and not all(answerable):
            both = list(zip(scores, answerable, strict=True))
            parts["f1_answerable"] = [score for score, has_answer in both if has_answer]
            parts["f1_unanswerable"] = [score for score, has_answer in both if not has_answer]
        return {name: 100 * sum(part) / len(part) for name, part in parts.items()}

    def _f1(self, answer: str, golds: list[str]) -> float:
        return f1(answer, golds, self.no_answer, self.metric)

    def _gold_texts(self, rows: Mapping[str, Any]) -> list[list[str]]:
        golds = read_all_golds(rows, self.answers, self.context)
        return [[text for text, _ in row] for row in golds]

    def _rank(self, predictions: Tensor) -> Tensor:
        """Return the candidates (R, 21, 3), most likely first, with probabilities for scores."""
        score = predictions[..., 0].clone()  # (R, 21)
        score[:, 0] = score[:, 0] - self.threshold if self.no_answer else float("-inf")
        score, order = score.sort(dim=-1, descending=True, stable=True)
        probability = score.softmax(-1).nan_to_num(0.0)  # NaN in a row without any candidate
        characters = predictions[..., 1:].gather(1, order.unsqueeze(-1).expand(-1, -1, 2))
        return torch.cat([probability.unsqueeze(-1), characters], -1)

    def decode(self, predictions: Tensor, rows: Columns) -> list[dict[str, Any]]:
        """Return the answer, its characters (-1 if there is none), and its probability."""
        answers = []
        for number, candidates in enumerate(self._rank(predictions).tolist()):
            context = rows[self.context][number]
            best = [
                span_answer(span, context)
                for span in candidates[: self.n_best]
                if span[0] > 0 or span[1] >= 0
            ]
            answer = {"id": rows["id"][number]} if "id" in rows else {}
            answer |= best[0] if best else span_answer([0.0, -1, -1], context)
            if self.n_best > 1:
                answer["n_best"] = best
            answers.append(answer)
        return answers

    def mistakes(self, predictions: Tensor, rows: "Dataset") -> list[Mistake]:
        """Return rows whose answer has an F1 of 0, most confident first."""
        columns = rows[:]
        best = self._rank(predictions)[:, 0]  # (R, 3)
        texts = span_texts(best, columns[self.context])
        mistakes = []
        for row, golds in enumerate(self._gold_texts(columns)):
            if self._f1(texts[row], golds) == 0:
                true = golds[0] if golds else "no answer"
                predicted = texts[row] or "no answer"
                mistakes.append(Mistake(row, true, predicted, float(best[row, 0])))
        return sorted(mistakes, key=lambda mistake: -mistake.measure)


class SpanHead(nn.Module):
    """Logits of the answer's first and last token.

    They are lowest for tokens that cannot be in an answer, except for the first token, [CLS].
    """

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.linear = linear_head(in_features, 2, 0.0)

    def forward(self, tokens: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the logits of tokens (B, T, in_features), (B, T, 2)."""
        possible = batch["attention_mask"].bool() & ~batch["special_tokens_mask"].bool()  # (B, T)
        possible[:, 0] = True  # [CLS] stands for no answer
        logits: Tensor = self.linear(tokens)
        lowest = torch.finfo(logits.dtype).min  # infinity would give NaN
        return logits.masked_fill(~possible.unsqueeze(-1), lowest)
