"""Extractive question answering: which characters of the context answer the question, if any do (SQuAD 1.1 and 2.0)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities.data import dim_zero_cat
from transformers import PreTrainedTokenizerBase

from litpool import InputError
from litpool.tasks.answers import all_golds, best_threshold, exact_match, f1, fault, found_by
from litpool.tasks.spans import SPANS, best_spans, merged, positions, span_answer, span_texts, window_columns
from litpool.tasks.task import Mistake, Task, linear_head

if TYPE_CHECKING:  # slow to import, and not needed until there are rows
    from datasets import Dataset


class QuestionAnswering(Task):
    """The part of a context that answers a question. A long context is read in windows that overlap.

    Args:
        question: The column with the question.
        context: The column with the text in which the answer stands.
        answers: The column with the answers: {text: [...], answer_start: [...]} as in SQuAD on the Hub, a list of
            {text, answer_start}, or one text, which begins at the column `answer_start` or where it first occurs.
        doc_stride: Tokens that a window shares with the one before, as in Hugging Face's scripts (in BERT's own it is
            the step from one to the next instead); at most half of what a window holds of the context.
        max_answer_length: Tokens that an answer may have.
        n_best: Answers that `predict` gives to each question, 1 to 20.
        no_answer: Whether questions may have no answer (SQuAD 2.0). Validation then finds the threshold of best F1.
    """

    monitor = "val/f1"
    on_tokens = True
    extras = ("id", "title", "answer_start")
    group = ("title", "context")

    def __init__(
        self,
        question: str = "question",
        context: str = "context",
        answers: str = "answers",
        doc_stride: int = 128,
        max_answer_length: int = 30,
        n_best: int = 1,
        no_answer: bool = False,
    ) -> None:
        super().__init__([question, context], answers)
        for name, value, most in (("doc_stride", doc_stride, 0), ("max_answer_length", max_answer_length, 1)):
            if value < most:
                raise InputError(f"task.{name}={value}: must be {most} or more")
        if not 1 <= n_best <= SPANS:
            raise InputError(f"task.n_best={n_best}: must be 1 to {SPANS}")
        self.question, self.context, self.answers, self.doc_stride = question, context, answers, doc_stride
        self.max_answer_length, self.n_best, self.no_answer = max_answer_length, n_best, no_answer
        self.threshold = 0.0  # how far no answer must score above the best span to be the answer

    @property
    def shown(self) -> list[str]:
        """The question; the id, where there is one, comes with the answer."""
        return [self.question]

    def learn(self, splits: Mapping[str, "Dataset"]) -> None:
        """Check that every answer stands where its offset says.

        Raises:
            InputError: An answer does not, a row has none though `no_answer` is false, or the cell is no answer.
        """
        for split, rows in splits.items():
            columns = rows[:]
            starts = columns.get("answer_start", [None] * len(rows))
            cells = zip(columns[self.answers], columns[self.context], starts, strict=True)
            for number, cell in enumerate(cells):
                if told := fault(*cell, self.no_answer):
                    raise InputError(f"the {split} split, {found_by(columns, number)}: {told}")

    def encode(
        self, rows: Mapping[str, list[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> dict[str, list[Any]]:
        """Windows of the question and as much of the context as `max_length` tokens hold, in the order of the rows.

        `special_tokens_mask` is 1 wherever no answer can stand, which is not only at special tokens: in the question
        as well. `offsets` are each token's characters in the context, [start, end], and [0, 0] elsewhere; `row` is the
        number of the window's row; `labels` are the first answer's first and last token where it is wholly in the
        window, otherwise [0, 0], the position of [CLS], which stands for no answer.

        Raises:
            InputError: The tokenizer knows no characters, or a question leaves no room for the context.
        """
        if not tokenizer.is_fast:
            raise InputError(f"{type(tokenizer).__name__} tells no characters of its tokens; take a fast tokenizer")
        questions, contexts = [text.strip() for text in rows[self.question]], rows[self.context]
        golds = all_golds(rows, self.answers, self.context) if self.answers in rows else None
        windows = []
        for overlap, numbers in self._overlaps(questions, tokenizer, max_length).items():
            encoded = tokenizer(
                [questions[number] for number in numbers],
                [contexts[number] for number in numbers],
                truncation="only_second",
                max_length=max_length,
                stride=overlap,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
                return_attention_mask=False,
            )
            for window, place in enumerate(encoded["overflow_to_sample_mapping"]):
                row = numbers[place]
                windows.append(window_columns(encoded, window, contexts[row]) | {"row": row})
                if golds is not None:
                    windows[-1]["labels"] = positions(windows[-1]["offsets"], contexts[row], golds[row][:1])
        windows.sort(key=lambda window: window["row"])
        return {name: [window[name] for window in windows] for name in windows[0]} if windows else {}

    def _overlaps(self, questions: list[str], tokenizer: Any, max_length: int) -> dict[int, list[int]]:
        """The numbers of the rows by the tokens that their windows share."""
        most = max_length - tokenizer.num_special_tokens_to_add(pair=True) - 1
        found: dict[int, list[int]] = {}
        for number, ids in enumerate(tokenizer(questions, add_special_tokens=False, verbose=False)["input_ids"]):
            if len(ids) > most:
                told = f"{len(ids)} tokens leave no room for the context, must be {max(most, 0)} or fewer"
                raise InputError(f"the question {questions[number][:60]!r}: its {told}; set data.max_length higher")
            found.setdefault(min(self.doc_stride, (most + 1 - len(ids)) // 2), []).append(number)
        return found

    def head(self, width: int) -> nn.Module:
        """A linear layer on each token: called with tokens (B, T, width) and the batch, gives (B, T, 2)."""
        return SpanHead(width)

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """The mean of the two cross-entropies, of starts and of ends, over the T tokens."""
        return F.cross_entropy(output.float(), labels)  # (B, T, 2), (B, 2)

    def metrics(self, split: str, rows: "Dataset") -> MetricCollection:
        """Exact match and F1 in percent, as the official scripts of SQuAD (1.1, or 2.0 with `no_answer`) have them."""
        return MetricCollection({"answers": AnswerScores(self, split, rows)}, compute_groups=False)

    def extract(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Of each window no answer, then the best spans: (B, 21, 3) of score, first character, end; -1 where none."""
        return best_spans(output, batch["offsets"], self.max_answer_length)

    def update(self, metrics: MetricCollection, kept: Tensor, batch: Mapping[str, Tensor]) -> None:
        """Feed the metrics with the candidates and the numbers of their rows."""
        metrics.update(kept, batch["index"])

    def assemble(self, kept: Tensor, index: Tensor) -> Tensor:
        """The best spans of all windows of a row, each once, and the lowest score of no answer: (rows, 21, 3)."""
        return merged(kept, index)

    def score(self, kept: Tensor, rows: Mapping[str, Any], tune: bool) -> dict[str, float]:
        """The metrics of assembled rows, in percent; `tune` first sets the threshold to that of the best F1."""
        golds = [[text for text, _ in row] for row in all_golds(rows, self.answers, self.context)]
        if tune and self.no_answer:
            spans = span_texts(kept[:, 1], rows[self.context])
            gain = [f1(text, row, True) - f1("", row, True) for text, row in zip(spans, golds, strict=True)]
            self.threshold = best_threshold((kept[:, 0, 0] - kept[:, 1, 0]).cpu().numpy(), np.array(gain))
        texts = span_texts(self._ranked(kept)[:, 0], rows[self.context])
        pairs = list(zip(texts, golds, strict=True))
        scores = [f1(text, row, self.no_answer) for text, row in pairs]
        parts = {"exact_match": [exact_match(text, row, self.no_answer) for text, row in pairs], "f1": scores}
        if self.no_answer and 0 < sum(map(bool, golds)) < len(golds):
            parts["f1_answerable"] = [score for score, row in zip(scores, golds, strict=True) if row]
            parts["f1_unanswerable"] = [score for score, row in zip(scores, golds, strict=True) if not row]
        return {name: 100 * sum(part) / len(part) for name, part in parts.items()}

    def _ranked(self, kept: Tensor) -> Tensor:
        """The candidates (R, 21, 3), the likeliest first; in the place of the score the probability among them."""
        score = kept[..., 0].clone()  # (R, 21)
        score[:, 0] = score[:, 0] - self.threshold if self.no_answer else float("-inf")
        score, order = score.sort(dim=-1, descending=True, stable=True)
        probability = score.softmax(-1).nan_to_num(0.0)  # a row without any candidate has no probability
        characters = kept[..., 1:].gather(1, order.unsqueeze(-1).expand(-1, -1, 2))  # (R, 21, 2)
        return torch.cat([probability.unsqueeze(-1), characters], -1)

    def decode(self, kept: Tensor, rows: "Dataset") -> list[dict[str, Any]]:
        """The answer, its characters (-1 where there is none) and its probability among the candidates."""
        columns = rows[:]
        answers = []
        for number, candidates in enumerate(self._ranked(kept).tolist()):
            context = columns[self.context][number]
            few = [span_answer(span, context) for span in candidates[: self.n_best] if span[0] > 0 or span[1] >= 0]
            row = {"id": columns["id"][number]} if "id" in columns else {}
            row |= few[0] if few else span_answer([0.0, -1, -1], context)
            answers.append(row | ({"n_best": few} if self.n_best > 1 else {}))
        return answers

    def mistakes(self, kept: Tensor, rows: "Dataset") -> list[Mistake]:
        """Rows whose answer has no word in common with a true one, the most confident first."""
        columns, ranked = rows[:], self._ranked(kept)[:, 0]  # (R, 3)
        texts = span_texts(ranked, columns[self.context])
        found = []
        for row, golds in enumerate(all_golds(columns, self.answers, self.context)):
            if f1(texts[row], [text for text, _ in golds], self.no_answer) == 0:
                true = golds[0][0] if golds else "no answer"
                found.append(Mistake(row, true, texts[row] or "no answer", float(ranked[row, 0])))
        return sorted(found, key=lambda mistake: -mistake.measure)

    def state_dict(self) -> dict[str, Any]:
        """The threshold."""
        return {"threshold": self.threshold}


class SpanHead(nn.Module):
    """Logits of the answer's first and last token, lowest where no answer can stand but for the first token, [CLS]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = linear_head(width, 2, 0.0)

    def forward(self, tokens: Tensor, batch: Mapping[str, Tensor]) -> Tensor:  # (B, T, D) to (B, T, 2)
        possible = batch["attention_mask"].bool() & ~batch["special_tokens_mask"].bool()  # (B, T)
        possible[:, 0] = True  # here [CLS] stands for no answer
        logits: Tensor = self.linear(tokens)
        return logits.masked_fill(~possible.unsqueeze(-1), torch.finfo(logits.dtype).min)  # infinity makes NaN


class AnswerScores(Metric):
    """Collects candidates window by window, over all devices, and scores the rows."""

    kept: list[Tensor]
    index: list[Tensor]

    def __init__(self, task: QuestionAnswering, split: str, rows: "Dataset") -> None:
        super().__init__()
        self.task, self.split, self.rows = task, split, rows
        self.add_state("kept", [], dist_reduce_fx="cat")
        self.add_state("index", [], dist_reduce_fx="cat")

    def update(self, kept: Tensor, index: Tensor) -> None:
        self.kept.append(kept)
        self.index.append(index)

    def compute(self) -> dict[str, Tensor]:
        index = dim_zero_cat(self.index)
        kept = self.task.assemble(dim_zero_cat(self.kept), index)
        rows = self.rows.select(index.unique().tolist())[:]
        scores = self.task.score(kept, rows, tune=self.split == "validation")
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in scores.items()}
