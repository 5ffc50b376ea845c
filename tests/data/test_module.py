"""Rows become batches: what is tokenized, what comes from the cache, which row a batch is from."""

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from faulty_disk import file_size_limit
from jsonargparse import ArgumentParser
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from litpool import InputError
from litpool.data import module
from litpool.data.files import Source
from litpool.data.module import TextDataModule
from litpool.data.tokenizer import dump_tokenizer, load_tokenizer
from litpool.tasks.classification import Classification
from litpool.tasks.multilabel import MultiLabelClassification
from litpool.tasks.question_answering import QuestionAnswering
from litpool.tasks.similarity import Similarity
from litpool.tasks.task import Task

Make = Callable[..., TextDataModule]


@pytest.fixture
def make(
    tokenizer_folder: str, csv_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Make:
    """A data module of the 60 reviews, with a cache of its own."""
    monkeypatch.setattr(module, "CACHE", tmp_path / "cache")

    def make(task: Task | None = None, **options: Any) -> TextDataModule:
        given = {
            "source": csv_file,
            "tokenizer": tokenizer_folder,
            "batch_size": 4,
            "max_length": 16,
        }
        return TextDataModule(task or Classification(), **(given | options))

    return make


@pytest.fixture
def tokenized(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call of Task.encode was for."""
    calls: list[int] = []
    original = Task.encode

    def encode(self: Task, rows: Any, *arguments: Any) -> dict[str, list[Any]]:
        calls.append(len(next(iter(rows.values()))))
        return original(self, rows, *arguments)

    monkeypatch.setattr(Task, "encode", encode)
    return calls


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def all_batches(data: TextDataModule) -> list[dict[str, Tensor]]:
    return [*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()]


def test_the_options_of_the_source_are_documented_options_of_the_data_module() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(TextDataModule, "data", skip={"task", "saved"})
    described = {action.dest: action.help for action in parser._actions}
    for field in dataclasses.fields(Source):
        assert described[f"data.{field.name}"], field.name
        assert parser.get_defaults()[f"data.{field.name}"] == field.default


# ---- once


def test_fit_tokenizes_all_splits_once(make: Make, tokenized: list[int]) -> None:
    data = make()
    data.setup("fit")
    assert sorted(tokenized) == [6, 6, 48]
    tokens = data.encoded["train"]
    for stage in ("fit", "validate", "test"):
        data.setup(stage)
    assert len(tokenized) == 3
    assert data.encoded["train"] is tokens


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_a_stage_tokenizes_what_it_needs(make: Make, tokenized: list[int], stage: str) -> None:
    make().setup(stage)
    assert tokenized == [6]


def test_another_object_takes_the_tokens_from_the_cache(make: Make, tokenized: list[int]) -> None:
    first, second = make(), make()
    first.setup("fit")
    count = len(tokenized)
    second.setup("fit")
    assert len(tokenized) == count
    for split in ("train", "validation", "test"):
        assert second.encoded[split][:] == first.encoded[split][:]


def test_the_cache_goes_by_content_not_by_the_name_of_the_file(
    make: Make, csv_file: str, tokenized: list[int], tmp_path: Path
) -> None:
    make().setup("fit")
    count = len(tokenized)
    (tmp_path / "copy.csv").write_text(Path(csv_file).read_text())
    make(source=str(tmp_path / "copy.csv")).setup("fit")
    assert len(tokenized) == count


@pytest.mark.filterwarnings("ignore:added tokens that never occur:UserWarning")
@pytest.mark.parametrize(
    "changed",
    ["text", "label", "max_length", "prefix", "add_tokens", "add_special_tokens", "task"],
)
def test_what_the_tokens_depend_on_is_not_taken_from_the_cache(
    make: Make, rows: list[dict[str, str]], tokenized: list[int], tmp_path: Path, changed: str
) -> None:
    def split(rows: list[dict[str, str]], name: str) -> dict[str, str]:
        names = {"train": rows[:40], "validation": rows[40:]}
        return {
            split: write(tmp_path / f"{name}-{split}.jsonl", part) for split, part in names.items()
        }

    make(source=split(rows, "before")).setup("fit")
    count = len(tokenized)
    other = [dict(row) for row in rows]
    other[3][changed if changed in ("text", "label") else "text"] += (
        " fine" if changed == "text" else ""
    )
    if changed == "label":
        other[3]["label"] = "good" if rows[3]["label"] == "bad" else "bad"
    options: dict[str, Any] = {
        "max_length": {"max_length": 5},
        "prefix": {"prefix": "fine "},
        "add_tokens": {"add_tokens": ["zebra"]},
        "add_special_tokens": {"add_special_tokens": ["[E1]"]},
        "task": {"task": MultiLabelClassification(label="label")},
    }.get(changed, {})
    make(source=split(other, "after"), **options).setup("fit")
    again = tokenized[count:]
    assert again == (
        [40] if changed in ("text", "label") else [40, 20]
    )  # the other split is what it was


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_cache_file_that_is_cut_short_is_told_and_done_without(
    make: Make, tmp_path: Path, share: float
) -> None:
    data = make()
    data.setup("validate")
    expected = data.encoded["validation"][:]
    del data
    (file,) = (tmp_path / "cache" / "tokens").glob("*.arrow")
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    other = make()
    with pytest.warns(UserWarning, match=f"{file.name}.* delete it"):
        other.setup("validate")
    assert other.encoded["validation"][:] == expected


def test_a_cache_that_cannot_be_written_is_done_without(make: Make, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    data = make()
    with pytest.warns(UserWarning, match="LITPOOL_CACHE"):
        data.setup("validate")
    assert len(data.encoded["validation"]) == 6


def test_a_cache_on_a_full_disk_is_done_without_and_leaves_nothing_behind(
    make: Make, tmp_path: Path
) -> None:
    data = make()
    data.setup("predict")  # the temporary files of the tokenizer are larger
    with file_size_limit(1000), pytest.warns(UserWarning, match="File too large.*LITPOOL_CACHE"):
        data.setup("validate")
    assert len(data.encoded["validation"]) == 6
    assert not list((tmp_path / "cache" / "tokens").iterdir())


# ---- added tokens


def test_added_special_tokens_are_special_in_the_mask_and_the_others_are_words(
    make: Make, tmp_path: Path
) -> None:
    texts = ["the [E1] film zebra", "zebra", "[E1] film", "a [E1] play zebra"] * 5
    source = write(
        tmp_path / "rows.jsonl", [{"text": t, "label": n % 2} for n, t in enumerate(texts)]
    )
    data = make(source=source, add_tokens=["zebra"], add_special_tokens=["[E1]"])
    data.setup("fit")
    for row in data.encoded["train"]:
        tokens = data.tokenizer.convert_ids_to_tokens(row["input_ids"])
        for token, special in zip(tokens, row["special_tokens_mask"], strict=True):
            assert special == (token in ("[CLS]", "[SEP]", "[E1]"))
    assert [data.tokenizer.convert_ids_to_tokens(number) for number in data.new_ids] == [
        "zebra",
        "[E1]",
    ]


def test_an_added_token_that_no_text_has_is_warned_of_once(make: Make) -> None:
    data = make(add_tokens=["zebra"], add_special_tokens=["[E1]"])
    with pytest.warns(
        UserWarning, match=r"never occur in the train split.*'zebra', '\[E1\]'"
    ) as told:
        data.setup("fit")
    assert len(told) == 1
    data.setup("test")  # and not again


# ---- from the batch back to the row


def test_index_leads_back_to_the_row(make: Make) -> None:
    data = make()
    data.setup("fit")
    loaders = {
        "train": data.train_dataloader(),
        "validation": data.val_dataloader(),
        "test": data.test_dataloader(),
    }
    for split, loader in loaders.items():
        seen = []
        for batch in loader:
            texts = data.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
            for index, text, label in zip(
                batch["index"].tolist(), texts, batch["labels"].tolist(), strict=True
            ):
                row = data.rows[split][index]
                assert (row["text"], row["label"]) == (text, data.task.labels[label])
                seen.append(index)
        assert sorted(seen) == list(range(len(data.rows[split])))


def test_length_is_that_of_the_tokens_cut_at_max_length(make: Make) -> None:
    data = make(max_length=5)
    data.setup("fit")
    for batch in all_batches(data):
        assert batch["input_ids"].shape[1] <= 5
    tokens = data.encoded["train"]
    assert tokens["length"][:] == [len(ids) for ids in tokens["input_ids"]]
    assert set(tokens["length"]) == {4, 5}


def test_training_batches_follow_the_global_seed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def order(seed: str) -> list[list[int]]:
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        data = make()
        data.setup("fit")
        return [batch["index"].tolist() for batch in data.train_dataloader()]

    assert order("1") == order("1")
    assert order("1") != order("2")


def test_evaluation_batches_come_longest_first(make: Make) -> None:
    data = make()
    data.setup("fit")
    widths = [batch["input_ids"].shape[1] for batch in data.val_dataloader()]
    assert widths == sorted(widths, reverse=True)
    assert len(widths) == 2


def test_loading_moves_no_global_random_numbers(make: Make) -> None:
    data = make()
    data.setup("fit")
    before = torch.get_rng_state()
    all_batches(data)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("stage", ["train", "validation"])
def test_devices_load_different_rows_and_together_all(make: Make, stage: str) -> None:
    parts = []
    for rank in range(2):
        data = make()
        data.setup("fit")
        epoch_loop = SimpleNamespace(
            batch_progress=SimpleNamespace(current=SimpleNamespace(processed=0))
        )
        data.trainer = SimpleNamespace(  # type: ignore[assignment]
            global_rank=rank,
            world_size=2,
            fit_loop=SimpleNamespace(epoch_loop=epoch_loop),
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
        )
        loader = data.train_dataloader() if stage == "train" else data.val_dataloader()
        parts.append([row for batch in loader for row in batch["index"].tolist()])
    assert len(parts[0]) == len(parts[1])
    assert sorted(itertools.chain(*parts)) == list(range(len(data.rows[stage])))


# ---- labels and texts


def test_a_class_label_is_replaced_by_its_name(make: Make, tmp_path: Path) -> None:
    features = Features(
        {"text": Value("string"), "label": ClassLabel(names=["zero", "ham", "spam"])}
    )
    rows = Dataset.from_dict(
        {"text": ["good film", "bad film", "dull"], "label": [2, 1, 2]}, features=features
    )
    files = {
        "train": str(tmp_path / "train.parquet"),
        "validation": str(tmp_path / "validation.parquet"),
    }
    rows.to_parquet(files["train"])
    rows.select([1]).to_parquet(files["validation"])
    data = make(source=files)
    data.setup("fit")
    assert data.rows["train"]["label"][:] == ["spam", "ham", "spam"]
    assert data.rows["train"]["text"][:] == ["good film", "bad film", "dull"]
    assert data.rows["validation"]["label"][:] == ["ham"]
    assert data.task.labels == ["ham", "spam"]  # those that training saw
    assert data.encoded["train"]["labels"][:] == [1, 0, 1]


def test_two_texts_are_encoded_as_a_pair(make: Make, tmp_path: Path) -> None:
    rows = [{"a": "good film", "b": "dull", "label": n % 2} for n in range(20)]
    data = make(task=Classification(text=["a", "b"]), source=write(tmp_path / "pairs.jsonl", rows))
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    assert data.tokenizer.decode(batch["input_ids"][0]) == "[CLS] good film [SEP] dull [SEP]"
    assert batch["token_type_ids"][0].tolist() == [0, 0, 0, 0, 1, 1]
    assert batch["special_tokens_mask"][0].tolist() == [1, 0, 0, 1, 0, 1]


def test_sets_of_labels_become_rows_of_zeros_and_ones(make: Make, tmp_path: Path) -> None:
    rows = [
        {"text": f"film {'a' * n}", "labels": [["x"], ["y", "x"], []][n % 3]} for n in range(30)
    ]
    data = make(
        task=MultiLabelClassification(label="labels"), source=write(tmp_path / "sets.jsonl", rows)
    )
    data.setup("fit")
    for batch in all_batches(data):
        assert batch["labels"].dtype == torch.float32
        assert batch["labels"].shape[1] == 2
    for number, target in enumerate(data.encoded["train"]["labels"]):
        names = data.rows["train"][number]["labels"]
        assert target == [float("x" in names), float("y" in names)]


def test_an_added_token_reaches_the_batches_as_one_id(make: Make, tmp_path: Path) -> None:
    rows = [{"text": "the zebra film", "label": n % 2} for n in range(20)]
    data = make(source=write(tmp_path / "zebra.jsonl", rows), add_tokens=["zebra"])
    data.setup("fit")
    assert next(iter(data.val_dataloader()))["input_ids"].shape[1] == 5


def test_a_restored_tokenizer_is_used_instead_of_the_named_one(
    make: Make, tokenizer_folder: str
) -> None:
    files = dump_tokenizer(load_tokenizer(tokenizer_folder, ["zebra"])[0])
    data = make(tokenizer="./no/such/folder", saved={"tokenizer": files})
    data.setup("fit")
    assert "zebra" in data.tokenizer.get_vocab()


# ---- prefixes


def decoded_texts(data: TextDataModule) -> list[list[str]]:
    """What the tokenizer has read in each row of train."""
    decode = data.tokenizer.batch_decode
    return [decode(ids, skip_special_tokens=True) for ids in data.encoded["train"]["input_ids"][:]]


def test_prefixes_go_before_the_texts_of_their_columns(make: Make, tmp_path: Path) -> None:
    rows = [{"a": f"good film {n}", "b": "bad play", "score": n / 9} for n in range(10)]
    source = {"train": write(tmp_path / "a.jsonl", rows), "test": write(tmp_path / "b.jsonl", rows)}
    expected = {
        "dull ": ["dull good film", "dull bad play"],
        None: ["good film", "bad play"],
    }
    for prefix, start in expected.items():
        data = make(Similarity(["a", "b"]), source=source, prefix=prefix)
        data.setup("fit")
        for texts in decoded_texts(data):
            assert [text[: len(begin)] for text, begin in zip(texts, start, strict=True)] == start
    data = make(Similarity(["a", "b"]), source=source, prefix={"b": "fine "})
    data.setup("fit")
    first, second = decoded_texts(data)[0]
    assert first.startswith("good film")
    assert second == "fine bad play"
    assert data.rows["train"]["b"][:] == ["bad play"] * 9


def test_equal_texts_stay_equal_for_contrastive_training_under_different_prefixes(
    make: Make, tmp_path: Path
) -> None:
    rows = [{"a": "good film", "b": "bad play"}, {"a": "bad play", "b": "fine"}] * 5
    task = Similarity(["a", "b"], objective="contrastive")
    source = {split: write(tmp_path / f"{split}.jsonl", rows) for split in ("train", "validation")}
    data = make(task, source=source, prefix={"a": "this ", "b": "not "})
    data.setup("fit")
    assert decoded_texts(data)[:2] == [
        ["this good film", "not bad play"],
        ["this bad play", "not fine"],
    ]
    first, second = data.encoded["train"]["labels"][:2]
    assert first[1] == second[0]


def test_a_prefix_that_cannot_be_used_is_refused(make: Make) -> None:
    with pytest.raises(InputError, match=r"'review' is not one of the text columns \(text\)"):
        make(prefix={"review": "a"})
    with pytest.raises(InputError, match="not supported by QuestionAnswering"):
        make(QuestionAnswering(), prefix="query: ")


# ---- what cannot be used


@pytest.mark.parametrize(
    ("stage", "missing"), [("test", "test"), ("fit", "train"), ("validate", "validation")]
)
def test_a_missing_split_is_named(
    make: Make, rows: list[dict[str, str]], tmp_path: Path, stage: str, missing: str
) -> None:
    there = "train" if missing == "test" else "test"
    data = make(source={there: write(tmp_path / "only.jsonl", rows)})
    with pytest.raises(InputError, match=f"has no {missing} split; it has {there}"):
        data.setup(stage)


def test_fit_does_without_a_test_split(
    make: Make, rows: list[dict[str, str]], tmp_path: Path
) -> None:
    data = make(source={"train": write(tmp_path / "only.jsonl", rows)})
    data.setup("fit")
    assert set(data.encoded) == {"train", "validation"}


def test_a_label_that_training_never_saw_is_named(
    make: Make, rows: list[dict[str, str]], tmp_path: Path
) -> None:
    strange = write(tmp_path / "strange.jsonl", [{"text": "good", "label": "so-so"}])
    data = make(source={"train": write(tmp_path / "train.jsonl", rows), "test": strange})
    with pytest.raises(InputError, match="the test split has the label 'so-so'"):
        data.setup("fit")


def test_csv_and_jsonl_give_the_same_batches(make: Make, jsonl_file: str) -> None:
    parts = []
    for options in ({}, {"source": jsonl_file}):
        data = make(**options)
        data.setup("fit")
        parts.append(
            [{key: value.tolist() for key, value in batch.items()} for batch in all_batches(data)]
        )
    assert parts[0] == parts[1]


def test_a_tokenizer_without_token_types_gives_none(
    make: Make, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    monkeypatch.setattr("litpool.data.module.restore_tokenizer", lambda files: tokenizer)
    data = make(saved={"tokenizer": {}})
    data.setup("validate")
    assert set(next(iter(data.val_dataloader()))) == {
        "input_ids", "attention_mask", "special_tokens_mask", "labels", "index",
    }  # fmt: skip
