"""TextDataModule: rows, labels, token ids, batches, in this order and once."""

import hashlib
import json
import os
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from litpool import CACHE, InputError
from litpool.data import added
from litpool.data.batches import Collator, EvaluationOrder, TrainOrder
from litpool.data.files import Source
from litpool.data.tokenizer import dump_tokenizer, load_tokenizer, restore_tokenizer
from litpool.tasks.task import Task

if TYPE_CHECKING:  # slow to import, and not needed until there are rows
    from datasets import Dataset


class TextDataModule(LightningDataModule):
    """Rows from a source, tokenized once and batched by length.

    Args:
        task: Knows which columns hold texts and labels, and how they become tokens and targets.
        source: `docstrings` (the embedded corpus), a file (CSV, TSV, JSON, JSONL, Parquet), a list of files, a folder
            with train, validation and test files, a mapping from split to file, or a Hub data set's id.
        splits: Which splits of a Hub data set to use, such as `{train: train, test: validation}`.
        hub_config: The Hub data set's config name, such as `sst2` of `nyu-mll/glue`.
        revision: The Hub data set's revision: a branch, tag or commit.
        columns: Column names of files that have no header.
        delimiter: What stands between the columns of a text file; by default as its ending says.
        quoting: Whether quote characters enclose fields; if not, they are text and the last column takes the rest.
        drop_empty: Whether to leave out rows with an empty text or label, and say how many, instead of stopping.
        max_rows: Rows of each split to use at most, drawn by `seed`; all by default.
        seed: Determines what is split off and drawn, independent of `seed_everything`.
        batch_size: Rows in a batch, on each device.
        max_length: Tokens of a text to keep, special tokens included.
        length_grouping: Whether training batches hold texts of similar length, which saves padding.
        tokenizer: The tokenizer's Hub id or folder; the encoder's own by default, and seldom anything else works.
        add_tokens: Plain tokens to add to the tokenizer; the encoder gets embeddings for them.
        add_special_tokens: Special tokens to add, such as entity markers.
        pad_token: The token to pad with, for a tokenizer that names none.
        num_workers: Processes that load batches; 0 loads them in the main process.
        saved: The job in a checkpoint, whose tokenizer is used instead of the named one.
    """

    def __init__(
        self,
        task: Task,
        source: str | list[str] | dict[str, str | list[str]] = "docstrings",
        splits: dict[str, str] | None = None,
        hub_config: str | None = None,
        revision: str | None = None,
        columns: list[str] | None = None,
        delimiter: str | None = None,
        quoting: bool = True,
        drop_empty: bool = False,
        max_rows: int | None = None,
        seed: int = 0,
        batch_size: int = 32,
        max_length: int = 128,
        length_grouping: bool = True,
        tokenizer: str | None = None,
        add_tokens: list[str] | None = None,
        add_special_tokens: list[str] | None = None,
        pad_token: str | None = None,
        num_workers: int = 0,
        saved: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise InputError(f"data.batch_size={batch_size}: give 1 or more")
        if num_workers < 0:
            raise InputError(f"data.num_workers={num_workers}: give 0 or more")
        self.task = task
        self.source = Source(
            source=source,
            splits=splits,
            hub_config=hub_config,
            revision=revision,
            columns=columns,
            delimiter=delimiter,
            quoting=quoting,
            drop_empty=drop_empty,
            max_rows=max_rows,
            seed=seed,
        )
        self.batch_size, self.max_length, self.length_grouping = (
            batch_size,
            max_length,
            length_grouping,
        )
        self.tokenizer_name, self.pad_token = tokenizer, pad_token
        self.add_tokens, self.add_special_tokens = add_tokens or [], add_special_tokens or []
        self.new_ids: added.Pieces = {}  # of added tokens, with the pieces that they were split into before
        self.num_workers, self.saved = num_workers, saved
        self.rows: dict[str, Dataset] = {}
        self.encoded: dict[str, Dataset] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "TextDataModule":
        """Itself: callbacks such as StochasticWeightAveraging copy the model, and need no copy of its data."""
        return self

    def setup(self, stage: str) -> None:
        """Read, learn the labels and tokenize what `stage` (fit, validate, test, predict; check: none) needs, once."""
        if not hasattr(self, "tokenizer"):
            self.tokenizer = (
                restore_tokenizer(self.saved["tokenizer"]) if self.saved else self._load_tokenizer()
            )
            self.tokenizer_files = dump_tokenizer(self.tokenizer)
        if stage == "predict":
            return
        if not self.rows.keys() - {"predict"}:
            splits = self._load_rows()
            self.task.learn(splits)
            self.rows |= splits
        needed = {
            "fit": ("train", "validation"),
            "validate": ("validation",),
            "test": ("test",),
            "check": (),
        }[stage]
        if missing := [split for split in needed if split not in self.rows]:
            raise InputError(
                f"data.source={self.source.source} has no {missing[0]} split; it has {', '.join(self.rows)}"
            )
        for split in (
            (*needed, "test") if stage == "fit" else needed
        ):  # fit ends with a test, where there is one
            if split in self.rows and split not in self.encoded:
                self._encode(split)
                if split == "train":
                    names = self.tokenizer.convert_ids_to_tokens(list(self.new_ids))
                    added.warn_unused(
                        self.encoded[split], dict(zip(names, self.new_ids, strict=True))
                    )

    def read_input(self, path: str) -> None:
        """Read and tokenize the rows to predict, from a file or, if `path` is `-`, from standard input."""
        from litpool.data.source import read_rows  # late: slow to import

        self.setup("predict")
        self.rows["predict"] = read_rows(path, self.source, self.task.texts, self.task.extras)
        self._encode("predict")

    def _load_tokenizer(self) -> PreTrainedTokenizerBase:
        assert self.tokenizer_name is not None
        tokens = self.add_tokens, self.add_special_tokens
        tokenizer, self.new_ids = load_tokenizer(self.tokenizer_name, *tokens, self.pad_token)
        return tokenizer

    def _load_rows(self) -> dict[str, "Dataset"]:
        from litpool.data.source import load_splits, with_label_names  # late: slow to import

        label, extras, group = self.task.label, self.task.extras, self.task.group
        rows = load_splits(self.source, self.task.texts, [label] if label else [], extras, group)
        if label:
            rows = {split: with_label_names(dataset, label) for split, dataset in rows.items()}
        return rows

    def _encode(self, split: str) -> None:
        """Tokenize a split, or take it from the cache, whose key is the content: texts, labels, task, tokenizer."""
        rows = self.rows[split]
        key = self._content_key(rows)
        encode = partial(
            rows.map,
            self._encode_batch,
            batched=True,
            with_indices=True,
            remove_columns=rows.column_names,
            new_fingerprint=key,
            desc=f"tokenizing {split}",
        )
        file = CACHE / "tokens" / f"{key}.arrow"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self.encoded[split] = encode(cache_file_name=str(file))
        except (OSError, pa.ArrowException) as error:  # not to be written, or cut short
            reason = " ".join(str(error).split())
            rank_zero_warn(
                f"{file}: no use ({reason}); delete it, or set LITPOOL_CACHE to a writable folder"
            )
            self.encoded[split] = encode(keep_in_memory=True)

    def _encode_batch(self, rows: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        encoded = self.task.encode(rows, self.tokenizer, self.max_length)
        added.mark(encoded, self.tokenizer)
        example_rows = encoded.pop("row", range(len(indices)))
        return {
            **encoded,
            "length": [
                max(map(len, ids)) if isinstance(ids[0], list) else len(ids)
                for ids in encoded["input_ids"]
            ],
            "index": [indices[row] for row in example_rows],
        }

    def _content_key(self, rows: "Dataset") -> str:
        digest = hashlib.sha256()
        marks = self.tokenizer.extra_special_tokens
        for part in (self.task.encoding_key(), self.max_length, rows.column_names, *marks):
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        for content in self.tokenizer_files.values():
            digest.update(content)
        for batch in rows.with_format("arrow").iter(10_000):
            digest.update(json.dumps(batch.to_pydict(), default=str).encode())
        return digest.hexdigest()[:32]

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches of the train split in an order that Lightning's global seed and the epoch determine."""
        lengths, seed = self.encoded["train"]["length"], int(os.environ.get("PL_GLOBAL_SEED", 0))
        order = TrainOrder(
            lengths, self.batch_size, seed, self.length_grouping, **self._share(), done=self._done
        )
        return DataLoader(self.encoded["train"], sampler=order, **self._loading())

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches of the validation split, longest texts first."""
        return self._evaluation_loader("validation")

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches of the test split, longest texts first."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches of the rows to predict, longest texts first."""
        return self._evaluation_loader("predict")

    def _evaluation_loader(self, split: str) -> DataLoader[dict[str, Tensor]]:
        order = EvaluationOrder(self.encoded[split]["length"], self.batch_size, **self._share())
        return DataLoader(self.encoded[split], sampler=order, **self._loading())

    def _done(self) -> int:
        """Batches of this epoch that are trained already: 0 but for an epoch that is resumed."""
        if self.trainer is None:
            return 0
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress
        return progress.current.processed

    def _share(self) -> dict[str, int]:
        """Which device's share of the batches is loaded here."""
        trainer = self.trainer
        return {"rank": trainer.global_rank, "world_size": trainer.world_size} if trainer else {}

    def _loading(self) -> dict[str, Any]:
        return {
            "batch_size": None,  # the sampler yields whole batches
            "collate_fn": Collator(self.tokenizer),
            "generator": torch.Generator(),  # its own: a new iterator shall not draw from dropout's random numbers
            "num_workers": self.num_workers,
            "pin_memory": self.trainer is not None
            and self.trainer.strategy.root_device.type == "cuda",
        }
