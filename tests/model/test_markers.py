"""MarkerPooling by hand, nested, without its marker, and on a task that mean pooling fails."""

import random
from collections.abc import Callable
from functools import partial

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from litpool import InputError
from litpool.data.added import add
from litpool.model.encoder import EncoderOptions
from litpool.model.markers import MarkerPooling, resolve
from litpool.model.network import TextModel
from litpool.model.pooling import ConcatPooling, LayerMixPooling, MeanPooling, Pooling
from litpool.tasks.classification import Classification

Tiny = Callable[..., tuple[EncoderOptions, PretrainedConfig]]

WORDS = ("bad", "dull", "film", "fine", "good", "great", "not", "play", "poor")
HIDDEN = torch.arange(24.0).reshape(2, 6, 2)
IDS = torch.tensor([[2, 70, 8, 71, 70, 3], [0, 2, 71, 70, 9, 3]])
MASK = (IDS != 0).long()


@pytest.fixture
def marked(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    add(tokenizer, [], ["[S1]", "[S2]"])
    return tokenizer


def pooling_of(*markers: str, ids: list[int]) -> MarkerPooling:
    pooling = MarkerPooling(2, 1, list(markers))
    pooling.ids.copy_(torch.tensor(ids))
    return pooling


def test_one_marker_gives_the_state_at_its_first_place() -> None:
    pooled = pooling_of("[S1]", ids=[70])((HIDDEN,), MASK, input_ids=IDS)
    assert pooled.tolist() == [[2, 3], [18, 19]]


def test_several_give_their_states_side_by_side_in_the_order_of_the_markers() -> None:
    pooling = pooling_of("[S2]", "[S1]", ids=[71, 70])
    assert pooling.describe() == "MarkerPooling at [S2] [S1]"
    assert pooling.out_features == 4
    assert pooling((HIDDEN,), MASK, input_ids=IDS).tolist() == [[6, 7, 2, 3], [16, 17, 18, 19]]


def test_a_missing_marker_gives_zeros_and_no_gradient_whatever_the_states_hold() -> None:
    hidden = HIDDEN.masked_fill(MASK.unsqueeze(-1) == 0, torch.nan).requires_grad_()
    ids = IDS.masked_fill(MASK == 0, 72)  # at padding it does not count
    pooled = pooling_of("[S3]", "[S1]", ids=[72, 70])((hidden,), MASK, input_ids=ids)
    assert pooled.tolist() == [[0, 0, 2, 3], [0, 0, 18, 19]]
    pooled.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()
    assert hidden.grad.nonzero()[:, :2].unique(dim=0).tolist() == [[0, 1], [1, 3]]


@pytest.mark.parametrize("markers", [[], ["[S1]", "[S1]"]])
def test_no_marker_or_one_twice_is_refused(markers: list[str]) -> None:
    with pytest.raises(InputError, match="MarkerPooling: markers="):
        MarkerPooling(2, 1, markers)


def test_without_ids_it_says_what_it_needs() -> None:
    with pytest.raises(InputError, match="needs input_ids to find its markers"):
        pooling_of("[S1]", ids=[70])((HIDDEN,), MASK)


def test_nested_poolings_get_their_ids(marked: PreTrainedTokenizerBase) -> None:
    first, second = (
        partial(MarkerPooling, markers=["[S1]"]),
        partial(MarkerPooling, markers=["[S2]"]),
    )
    nested = ConcatPooling(2, 1, [MeanPooling, first, partial(LayerMixPooling, pooling=second)])
    ids = resolve(nested, marked)
    assert ids == {token: marked.convert_tokens_to_ids(token) for token in ("[S1]", "[S2]")}
    assert [
        module.ids.tolist() for module in nested.modules() if isinstance(module, MarkerPooling)
    ] == [
        [ids["[S1]"]],
        [ids["[S2]"]],
    ]
    assert resolve(MeanPooling(2, 1), marked) == {}


def test_a_marker_that_was_not_added_is_refused(marked: PreTrainedTokenizerBase) -> None:
    with pytest.raises(
        InputError,
        match=r"'\[S3\]' is not an added token of this tokenizer; set data.add_special_tokens to",
    ) as error:
        resolve(MarkerPooling(2, 1, ["[S1]", "[S3]"]), marked)
    assert "\n" not in str(error.value)


def test_a_state_dict_carries_the_ids() -> None:
    again = MarkerPooling(2, 1, ["[S1]"])
    again.load_state_dict(pooling_of("[S1]", ids=[70]).state_dict())
    assert again.ids.tolist() == [70]


# ---- which marker comes first: the words say nothing about it, only the places of the markers


def relation(tokenizer: PreTrainedTokenizerBase, count: int) -> dict[str, Tensor]:
    """Texts of eight words, one marked [S1] and one [S2]; the label is 1 if [S1] comes first."""
    rng = random.Random(0)
    texts, labels = [], []
    for number in range(count):
        words = rng.choices(WORDS, k=8)
        first, last = sorted(rng.sample(range(8), k=2))
        labels.append(number % 2)
        for place, marker in ((first, 2 - number % 2), (last, 1 + number % 2)):
            words[place] = f"[S{marker}] {words[place]}"
        texts.append(" ".join(words))
    encoded = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    return {**encoded, "labels": torch.tensor(labels)}


def score(make: Callable[..., Pooling], tokenizer: PreTrainedTokenizerBase, tiny: Tiny) -> float:
    """Train a linear head on half of the texts, the encoder frozen; accuracy on the other half."""
    task = Classification(dropout=0.0)
    task.learn({"train": Dataset.from_dict({"label": ["last", "first"]})})
    torch.manual_seed(0)
    overrides = {"pad_token_id": 0, "vocab_size": len(tokenizer)}
    model = TextModel(task, make, *tiny("bert", freeze="all", **overrides), pretrained=False).eval()
    resolve(model.pooling, tokenizer)
    batch = relation(tokenizer, 1000)
    train, test = (
        {key: value[part] for key, value in batch.items()}
        for part in (slice(500), slice(500, 1000))
    )
    with torch.no_grad():
        vectors = model.embed(train)
    optimizer = torch.optim.AdamW(model.head.parameters(), lr=0.05)
    for _ in range(300):
        task.loss(model.head(vectors), train["labels"]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return (model(test).argmax(-1) == test["labels"]).float().mean().item()


def test_it_learns_which_marker_is_first_and_mean_pooling_does_not(
    marked: PreTrainedTokenizerBase, tiny: Tiny
) -> None:
    assert score(partial(MarkerPooling, markers=["[S1]", "[S2]"]), marked, tiny) > 0.9
    assert score(MeanPooling, marked, tiny) < 0.65  # 0.5 is chance
