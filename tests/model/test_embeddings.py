"""The embeddings of added tokens: how they start, what does not change, training only them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import KINDS
from datasets import Dataset
from torch import Tensor
from transformers import AutoModel, PretrainedConfig

from litpool.loops.optimizer import Recipe, configure
from litpool.model.encoder import Encoder, EncoderOptions, load_config
from litpool.model.network import TextModel
from litpool.model.pooling import MeanPooling
from litpool.tasks.classification import Classification

Batch = dict[str, Tensor]
Tiny = Callable[..., tuple[EncoderOptions, PretrainedConfig]]
NEW = {60: [10, 11, 12], 61: [20], 62: []}
STARTS = ["pieces", "mean_resizing", "random"]


@pytest.fixture(scope="module")
def folders(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    root = tmp_path_factory.mktemp("encoders")

    def folder(kind: str) -> str:
        if not (root / kind).exists():
            torch.manual_seed(0)
            AutoModel.from_config(tiny(kind)[1]).save_pretrained(root / kind)
        return str(root / kind)

    return folder


def load(
    folder: str | Path, new: dict[int, list[int]] | None = None, size: int = 63, **options: Any
) -> Encoder:
    given = EncoderOptions(str(folder), **options)
    vocab_size = size if new else 0
    return Encoder(given, load_config(given), pretrained=True, vocab_size=vocab_size, new_ids=new)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("kind", KINDS)
def test_old_rows_stay_bit_for_bit_and_texts_without_new_tokens_get_the_same_states(
    kind: str, start: str, folders: Callable[[str], str], batch: Batch
) -> None:
    before, after = load(folders(kind)).eval(), load(folders(kind), NEW, new_tokens=start).eval()
    assert torch.equal(before.word_embeddings, after.word_embeddings[:60])
    assert len(after.word_embeddings) == after.config.vocab_size == 63
    torch.testing.assert_close(after(batch)[0][0], before(batch)[0][0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_new_rows_start_as_the_mean_of_their_pieces(
    kind: str, folders: Callable[[str], str]
) -> None:
    weight = load(folders(kind), NEW).word_embeddings
    torch.testing.assert_close(weight[60], (weight[10] + weight[11] + weight[12]) / 3)
    assert torch.equal(weight[61], weight[20])
    assert weight[62].abs().sum() > 0  # of no known piece: drawn


def test_rows_that_the_encoder_has_to_spare_start_from_pieces_too(
    folders: Callable[[str], str],
) -> None:
    weight = load(folders("bert"), {58: [10], 59: [11, 12]}, size=60).word_embeddings
    assert len(weight) == 60
    assert torch.equal(weight[58], weight[10])
    torch.testing.assert_close(weight[59], (weight[11] + weight[12]) / 2)


def test_the_other_starts_know_no_pieces(folders: Callable[[str], str]) -> None:
    for start in ("mean_resizing", "random"):
        weight = load(folders("bert"), NEW, new_tokens=start).word_embeddings
        assert not torch.allclose(weight[60], weight[10:13].mean(0), atol=1e-4)


def network(folder: str, **options: Any) -> TextModel:
    torch.manual_seed(0)
    task = Classification()
    task.learn({"train": Dataset.from_dict({"label": ["bad", "good"]})})
    given = EncoderOptions(folder, **options)
    return TextModel(
        task, MeanPooling, given, load_config(given), pretrained=True, vocab_size=63, new_ids=NEW
    )


@pytest.mark.parametrize("freeze", ["embeddings", 1, "all"])
@pytest.mark.parametrize("kind", ["bert", "electra", "modernbert"])
def test_only_the_new_rows_train(
    kind: str, freeze: str | int, folders: Callable[[str], str], batch: Batch
) -> None:
    model = network(folders(kind), freeze=freeze, train_new_tokens=True)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    optimizer, schedule = configure(model, Recipe(lr=0.05, weight_decay=0.5), 6)
    batch["input_ids"][0, 1] = 60
    for _ in range(6):
        torch.nn.functional.cross_entropy(model(batch), batch["labels"]).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    after = dict(model.named_parameters())
    (word,) = [name for name, weight in after.items() if weight is model.encoder.word_embeddings]
    assert torch.equal(after[word][:60], before[word][:60])
    assert not torch.equal(after[word][60], before[word][60])
    assert torch.equal(after[word][61:], before[word][61:])  # they did not occur
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    if freeze == "all":
        assert moved == {word, "head.1.weight", "head.1.bias"}
    else:
        assert {name for name in moved if "embeddings" in name} == {word}
        assert any("layer" in name for name in moved)


def test_a_gradient_that_is_not_finite_does_not_reach_the_old_rows(
    folders: Callable[[str], str],
) -> None:
    encoder = load(folders("bert"), NEW, freeze="all", train_new_tokens=True)
    (encoder.word_embeddings * torch.nan).sum().backward()
    assert encoder.word_embeddings.grad is not None
    assert (encoder.word_embeddings.grad[:60] == 0).all()


def test_without_freezing_all_rows_train(folders: Callable[[str], str], batch: Batch) -> None:
    model = network(folders("bert"), train_new_tokens=True)
    model(batch).sum().backward()
    gradient = model.encoder.word_embeddings.grad
    assert gradient is not None
    assert gradient[:60].abs().sum() > 0
