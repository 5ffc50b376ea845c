"""Similarity: the three objectives, by values worked out by hand or by plain loops."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy import stats
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from litpool import InputError
from litpool.tasks.contrastive import contrastive_loss
from litpool.tasks.metrics.retrieval import ranks
from litpool.tasks.similarity import Similarity
from litpool.tasks.softmax import SoftmaxHead
from litpool.tasks.task import Task

NO_ROWS = Dataset.from_dict({})
AXES = {"east": [1.0, 0.0], "north": [0.0, 2.0], "west": [-3.0, 0.0], "northeast": [1.0, 1.0]}


def vectors(*rows: str) -> Tensor:
    """`vectors("east north")` is one row of two texts, (1, 2, 2)."""
    return torch.tensor([[AXES[name] for name in row.split()] for row in rows])


# ---- tokens


def test_each_text_is_encoded_by_itself(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = {
        "sentence1": ["the film", "good"],
        "sentence2": ["a good play was fine", "bad"],
        "score": [0.5, 1],
    }
    encoded = Similarity().encode(rows, tokenizer, max_length=5)
    texts = [[tokenizer.decode(ids) for ids in row] for row in encoded["input_ids"]]
    assert texts == [
        ["[CLS] the film [SEP]", "[CLS] a good play [SEP]"],
        ["[CLS] good [SEP]", "[CLS] bad [SEP]"],
    ]
    assert encoded["special_tokens_mask"][1] == [[1, 0, 1], [1, 0, 1]]
    assert encoded["labels"] == [0.5, 1]


def test_contrastive_labels_are_equal_for_equal_texts_only(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    rows = {
        "a": ["good", "bad", "good"],
        "b": ["bad", "fine", "play"],
        "c": ["dull", "dull", "dull"],
    }
    task = Similarity(["a", "b", "c"], objective="contrastive")
    labels = task.encode(rows, tokenizer, 8)["labels"]
    assert labels[0][0] == labels[2][0]
    assert labels[0][1] == labels[1][0]
    assert len({name for row in labels for name in row}) == 5
    assert task.label == ""


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": ["a", "b", "c"]}, "cosine needs two columns; hard negatives are for contrastive"),
        ({"temperature": 0}, "task.temperature=0: give a number over 0"),
        ({"combination": []}, "task.combination is empty: name some of u, v"),
        ({"score_range": (1, 1)}, r"task.score_range=\[1, 1\]: give the lowest"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Similarity(**options)


def test_one_column_is_no_pair() -> None:
    with pytest.raises(InputError, match=r"task.text=\['text'\]: pairs need two columns"):
        Similarity("text").learn({"train": Dataset.from_dict({"text": ["a"], "score": [1.0]})})


def test_a_score_out_of_range_is_refused() -> None:
    with pytest.raises(
        InputError,
        match=r"the validation split, row 2: 'score' is '4\.5', must be a number from 0 to 1",
    ):
        Similarity().learn(
            {
                "train": Dataset.from_dict({"score": [0.0]}),
                "validation": Dataset.from_dict({"score": [1, 4.5]}),
            }
        )


def test_a_label_that_softmax_does_not_know_is_refused() -> None:
    task = Similarity(objective="softmax", label="label")
    with pytest.raises(InputError, match="the test split has the label 'maybe' in column 'label'"):
        task.learn(
            {
                "train": Dataset.from_dict({"label": ["yes", "no"]}),
                "test": Dataset.from_dict({"label": ["maybe"]}),
            }
        )


# ---- cosine


def test_the_cosine_is_fitted_to_the_scaled_score() -> None:
    task = Similarity(score_range=(0, 5))
    labels = torch.tensor(task.targets([5, 2.5, "0"]))
    assert labels.tolist() == [1, 0.5, 0]
    output = task.head(2)(vectors("east east", "east north", "east west"))
    assert task.loss(output, labels).item() == pytest.approx((0 + 0.25 + 1) / 3)
    assert task.extract(output, {}).tolist() == pytest.approx([1, 0, -1])


@pytest.mark.parametrize("sizes", [[60], [33, 26, 1]])
def test_correlations_are_those_of_the_whole_split(sizes: list[int]) -> None:
    rng = np.random.default_rng(1)
    cosines, scores = (
        rng.normal(size=60).astype(np.float32),
        rng.integers(0, 6, 60).astype(np.float32),
    )
    task = Similarity(score_range=(0, 5))
    metrics = task.metrics(NO_ROWS)
    for some, truth in zip(
        torch.tensor(cosines).split(sizes), torch.tensor(scores / 5).split(sizes), strict=True
    ):
        task.update(metrics, some, {"labels": truth})
    assert {name: value.item() for name, value in metrics.compute().items()} == {
        "spearman": pytest.approx(stats.spearmanr(cosines, scores).statistic, abs=1e-5),
        "pearson": pytest.approx(stats.pearsonr(cosines, scores).statistic, abs=1e-5),
    }


def test_answers_are_cosines_and_of_single_texts_vectors() -> None:
    task = Similarity()
    predictions = task.extract(vectors("east northeast"), {})
    assert task.decode(predictions, NO_ROWS)[0]["cosine"] == pytest.approx(math.sqrt(0.5))
    single = Similarity("text")
    assert single.gives_vectors
    predictions = single.extract(single.head(2)(vectors("west", "north")), {})
    assert single.decode(predictions, NO_ROWS) == [{"vector": [-3, 0]}, {"vector": [0, 2]}]


def test_mistakes_of_the_cosine_begin_with_the_largest() -> None:
    rows = Dataset.from_dict({"score": [5.0, 0.0]})
    mistakes = Similarity(score_range=(0, 5)).mistakes(torch.tensor([0.9, 0.6]), rows)
    assert [(m.row, m.true, m.predicted) for m in mistakes] == [
        (1, "0.00", "0.60"),
        (0, "1.00", "0.90"),
    ]


# ---- softmax


@pytest.fixture
def softmax() -> Similarity:
    task = Similarity(objective="softmax", label="label", combination=["u", "v", "|u-v|", "u*v"])
    task.learn({"train": Dataset.from_dict({"label": ["no", "yes", "maybe"]})})
    return task


def test_the_classifier_stands_on_the_combination(softmax: Similarity) -> None:
    head = softmax.head(2)
    assert isinstance(head, SoftmaxHead)
    linear = head.linear[1]
    with torch.no_grad():
        linear.weight.copy_(torch.arange(24.0).reshape(3, 8))
    output = head(vectors("west north"))
    features = torch.tensor([-3.0, 0, 0, 2, 3, 2, 0, 0])  # u, v, |u - v|, u * v
    assert output[0, 0].item() == 0
    assert output[0, 1:].tolist() == pytest.approx(
        (torch.arange(24.0).reshape(3, 8) @ features).tolist()
    )
    assert torch.equal(head(vectors("west")), vectors("west"))


def test_softmax_loss_metrics_answers_and_mistakes(softmax: Similarity) -> None:
    output = torch.tensor([[0.3, 2.0, 0.0, -1.0], [0.9, 0.0, 1.0, 3.0]])
    labels = torch.tensor(softmax.targets(["maybe", "no"]))
    assert labels.tolist() == [0, 1]
    assert softmax.loss(output, labels).item() == pytest.approx(
        F.cross_entropy(output[:, 1:], labels).item()
    )
    metrics = softmax.metrics(NO_ROWS)
    softmax.update(metrics, softmax.extract(output, {}), {"labels": labels})
    assert metrics.compute()["accuracy"].item() == 0.5
    answers = softmax.decode(output, NO_ROWS)
    assert [(a["cosine"], a["label"]) for a in answers] == [
        (pytest.approx(0.3), "maybe"),
        (pytest.approx(0.9), "yes"),
    ]
    assert sum(answers[0]["probabilities"].values()) == pytest.approx(1)
    mistakes = softmax.mistakes(output, Dataset.from_dict({"label": ["maybe", "no"]}))
    assert [(m.row, m.true, m.predicted) for m in mistakes] == [(1, "no", "yes")]


# ---- contrastive


def loss_by_loops(texts: list[list[str]], unit: np.ndarray, temperature: float) -> float:
    """The loss by its definition: in each direction, the probability of the right choice."""
    pairs = {(row[0], row[1]) for row in texts}
    losses = []
    for i, row in enumerate(texts):
        candidates = [(j, 1) for j in range(len(texts))] + [
            (j, k) for j in range(len(texts)) for k in range(2, len(row))
        ]
        chosen = [
            (j, k)
            for j, k in candidates
            if (j, k) == (i, 1) or not ((row[0], texts[j][k]) in pairs or texts[j][k] == row[0])
        ]
        scores = np.array([unit[i, 0] @ unit[j, k] / temperature for j, k in chosen])
        losses.append(-scores[chosen.index((i, 1))] + np.log(np.exp(scores).sum()))
        chosen = [
            (j, 0)
            for j in range(len(texts))
            if j == i or not ((texts[j][0], row[1]) in pairs or texts[j][0] == row[1])
        ]
        scores = np.array([unit[i, 1] @ unit[j, k] / temperature for j, k in chosen])
        losses.append(-scores[chosen.index((i, 0))] + np.log(np.exp(scores).sum()))
    return float(np.mean(losses))


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_the_contrastive_loss_leaves_out_duplicates(columns: int) -> None:
    rng = np.random.default_rng(columns)
    names = "abcdef"
    texts = [[names[n] for n in rng.integers(0, 6, columns)] for _ in range(7)]
    unit = rng.normal(size=(7, columns, 5))
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    identities = torch.tensor([[names.index(text) for text in row] for row in texts])
    loss = contrastive_loss(torch.tensor(unit * 3, dtype=torch.float32), identities, 0.2)
    assert loss.item() == pytest.approx(loss_by_loops(texts, unit, 0.2), abs=1e-5)


def test_a_batch_of_equal_pairs_has_nothing_to_choose() -> None:
    identities = torch.tensor([[1, 2]] * 3)
    assert contrastive_loss(torch.randn(3, 2, 4), identities, 0.05).item() == 0


def test_ranks_by_hand() -> None:
    embeddings = vectors("east northeast", "north north", "west east")
    identities = torch.tensor([[1, 11], [2, 12], [3, 13]])
    # east: east (13) is nearer than northeast; north: itself;
    # west: north 0, northeast -0.7 and east -1
    assert ranks(embeddings, identities).tolist() == [2, 1, 3]
    same = torch.ones(3, 2, 4)
    assert ranks(same, identities).tolist() == [2, 2, 2]  # the mean of 1, 2 and 3
    assert ranks(torch.full((3, 2, 4), torch.nan), identities).tolist() == [
        3,
        3,
        3,
    ]  # no number finds nothing
    partner = torch.tensor([[1, 11], [2, 12], [1, 13]])  # 13 is another partner of the first text 1
    assert ranks(embeddings, partner).tolist() == [1, 1, 2]
    duplicate = torch.tensor([[1, 11], [2, 12], [3, 12]])  # the second 12 is the first: north
    assert ranks(vectors("east northeast", "north north", "west north"), duplicate).tolist() == [
        1,
        1,
        1,
    ]


def test_hard_negatives_are_candidates() -> None:
    embeddings = vectors("east north east", "north north west")
    identities = torch.tensor([[1, 11, 12], [2, 11, 13]])
    assert ranks(embeddings, identities).tolist() == [2, 1]


def test_retrieval_metrics_are_those_of_the_whole_split() -> None:
    torch.manual_seed(0)
    task = Similarity(objective="contrastive")
    embeddings, identities = torch.randn(40, 2, 8), torch.arange(80).reshape(40, 2)
    metrics = task.metrics(NO_ROWS)
    for some, names in zip(
        embeddings.split([25, 14, 1]), identities.split([25, 14, 1]), strict=True
    ):
        task.update(metrics, some, {"labels": names})
    unit = F.normalize(embeddings, dim=-1).numpy()
    scores = unit[:, 0] @ unit[:, 1].T
    rank = 1 + (scores > np.diag(scores)[:, None]).sum(1)
    assert {name: value.item() for name, value in metrics.compute().items()} == {
        **{f"recall@{k}": pytest.approx((rank <= k).mean()) for k in (1, 5, 10)},
        "mrr": pytest.approx((1 / rank).mean()),
    }


def test_contrastive_answers_and_mistakes() -> None:
    task = Similarity(["a", "b", "c"], objective="contrastive")
    predictions = vectors("east northeast west", "north north west", "west east west")
    assert [a["cosine"] for a in task.decode(predictions, NO_ROWS)] == pytest.approx(
        [math.sqrt(0.5), 1, -1]
    )
    rows = Dataset.from_dict({"a": ["e", "n", "w"], "b": ["ne", "n", "e"], "c": ["w"] * 3})
    mistakes = task.mistakes(predictions, rows)
    assert [(m.row, m.true, m.predicted) for m in mistakes] == [(2, "e", "n"), (0, "ne", "e")]


# ---- one task, three objectives


@pytest.mark.parametrize(
    ("objective", "monitor", "measure"),
    [
        ("cosine", "val/spearman", "error"),
        ("softmax", "val/accuracy", "confidence"),
        ("contrastive", "val/mrr", "error"),
    ],
)
def test_every_objective_is_the_task_similarity(objective: Any, monitor: str, measure: str) -> None:
    task: Task = Similarity(objective=objective)
    assert type(task) is Similarity
    assert (task.monitor, task.mistake_measure) == (monitor, measure)
    other = Similarity(objective=objective)
    other.load_state_dict({"labels": ["no", "yes"]})
    assert other.labels == ["no", "yes"]
    assert other.state_dict() == {"labels": ["no", "yes"]}


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(AssertionError, match="softmx"):
        Similarity(objective="softmx")  # type: ignore[arg-type]


# ---- the key of the token cache


@pytest.mark.parametrize("objective", ["cosine", "softmax", "contrastive"])
def test_what_does_not_change_the_tokens_keeps_the_encoding_key(objective: Any) -> None:
    key = Similarity(objective=objective).encoding_key()
    options: dict[str, Any] = {"temperature": 0.5, "combination": ["u", "v"]}
    assert Similarity(objective=objective, **options).encoding_key() == key


def test_columns_labels_objective_and_range_change_the_encoding_key() -> None:
    restored = Similarity(objective="softmax")
    restored.load_state_dict({"labels": ["no", "yes"]})
    tasks = [
        Similarity(),
        Similarity(["a", "b"]),
        Similarity(label="other"),
        Similarity(score_range=(0, 5)),
        Similarity(objective="softmax"),
        restored,
        Similarity(objective="contrastive"),
    ]
    keys = [json.dumps(task.encoding_key()) for task in tasks]
    assert len(set(keys)) == len(tasks)
