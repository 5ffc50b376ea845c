"""TextDataModule: from rows to labels, token ids and batches, each step once."""

import hashlib
import json
import os
import tempfile
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from litpool import CACHE, InputError
from litpool.data import added
from litpool.data.batches import Collator, EvaluationOrder, TrainOrder
from litpool.data.files import Source
from litpool.data.fingerprint import check, fingerprint
from litpool.data.prefix import column_prefixes
from litpool.data.token_ids import encode_rows
from litpool.data.tokenizer import dump_tokenizer, load_tokenizer, restore_tokenizer
from litpool.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

NEEDED_SPLITS = {
    "fit": ["train", "validation"],
    "validate": ["validation"],
    "test": ["test"],
    "check": [],
}


class TextDataModule(LightningDataModule):
    """Rows from a source, tokenized once and batched by length.

    Args:
        task: Knows which columns hold texts and labels, and how they become tokens and targets.
        batch_size: Rows in a batch, on each device.
        max_length: Tokens of a text to keep, special tokens included.
        prefix: What to put before each text, such as `query: ` for an e5 encoder, or a mapping
            from text column to prefix.
        length_grouping: Whether training batches hold texts of similar length, to save padding.
        tokenizer: The tokenizer's Hub id or folder; by default the encoder's own, which is almost
            always the right one.
        add_tokens: Plain tokens to add to the tokenizer; the encoder gets embeddings for them.
        add_special_tokens: Special tokens to add, such as entity markers.
        pad_token: The token to pad with, for a tokenizer that names none.
        num_workers: Processes that load batches; 0 loads them in the main process.
        saved: The job in a checkpoint, whose tokenizer is used instead of the named one.
        options: Where the rows come from, and how to read them: the options of `Source`.
    """

    def __init__(
        self,
        task: Task,
        batch_size: int = 32,
        max_length: int = 128,
        prefix: str | dict[str, str] | None = None,
        length_grouping: bool = True,
        tokenizer: str | None = None,
        add_tokens: list[str] | None = None,
        add_special_tokens: list[str] | None = None,
        pad_token: str | None = None,
        num_workers: int = 0,
        saved: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise InputError(f"data.batch_size={batch_size}: give 1 or more")
        if num_workers < 0:
            raise InputError(f"data.num_workers={num_workers}: give 0 or more")
        self.task = task
        self.source = Source(**options)
        self.batch_size = batch_size
        self.max_length = max_length
        self.prefixes = column_prefixes(prefix, task)
        self.length_grouping = length_grouping
        self.tokenizer_name = tokenizer
        self.add_tokens = add_tokens or []
        self.add_special_tokens = add_special_tokens or []
        self.pad_token = pad_token
        self.num_workers = num_workers
        self.saved = saved
        self.new_ids: added.Pieces = {}
        self.fingerprint: str | None = None  # of the training rows
        self.rows: dict[str, Dataset] = {}
        self.encoded: dict[str, Dataset] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "TextDataModule":
        """Return the same object: callbacks that copy the model need no copy of its data."""
        return self

    def setup(self, stage: str) -> None:
        """Load the tokenizer, read the rows, learn the labels and tokenize, each only once.

        Args:
            stage: fit, validate or test, to tokenize the splits that it needs; check, to tokenize
                none; predict, to load only the tokenizer.
        """
        if not hasattr(self, "tokenizer"):
            self._load_tokenizer()
        if stage == "predict":
            return
        if not self.rows:
            splits = self._load_rows()
            if stage == "fit" and "train" in splits:
                self.fingerprint = fingerprint(splits["train"])
                check(self.fingerprint, self.saved, self.source.source)
            self.task.learn(splits)
            self.rows |= splits
        needed = NEEDED_SPLITS[stage]
        for split in needed:
            if split not in self.rows:
                raise InputError(
                    f"data.source={self.source.source} has no {split} split; "
                    f"it has {', '.join(self.rows)}"
                )
        if stage == "fit" and "test" in self.rows:  # fit ends with a test
            needed = [*needed, "test"]
        for split in needed:
            if split not in self.encoded:
                self._encode(split)

    def _load_tokenizer(self) -> None:
        if self.saved:
            self.tokenizer = restore_tokenizer(self.saved["tokenizer"])
        else:
            assert self.tokenizer_name is not None
            self.tokenizer, self.new_ids = load_tokenizer(
                self.tokenizer_name, self.add_tokens, self.add_special_tokens, self.pad_token
            )
        self.tokenizer_files = dump_tokenizer(self.tokenizer)

    def _load_rows(self) -> dict[str, "Dataset"]:
        from litpool.data.source import load_splits

        task = self.task
        labels = [task.label] if task.label else []
        return load_splits(self.source, task.texts, labels, task.extras, task.group, task.numeric)

    def _encode(self, split: str) -> None:
        """Tokenize a split, or read its tokens from the cache, which goes by the content."""
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
            if not file.exists():
                with tempfile.TemporaryDirectory(dir=file.parent) as part:  # a full disk is freed
                    encode(cache_file_name=f"{part}/{file.name}")
                    os.replace(f"{part}/{file.name}", file)
            self.encoded[split] = encode(cache_file_name=str(file))
        except InputError:  # a ValueError
            raise
        # The file cannot be written, or is damaged. On a full disk, datasets uses a closed file.
        except (OSError, ValueError, pa.ArrowException) as error:
            first = error.__context__ if isinstance(error.__context__, OSError) else error
            reason = " ".join(str(first).split())
            rank_zero_warn(
                f"{file}: cannot be used ({reason}); "
                "delete it, or set LITPOOL_CACHE to a writable folder"
            )
            self.encoded[split] = encode(keep_in_memory=True)
        if split == "train":
            names = self.tokenizer.convert_ids_to_tokens(list(self.new_ids))
            tokens = dict(zip(names, self.new_ids, strict=True))
            added.warn_unused(self.encoded[split], tokens)

    def _encode_batch(self, rows: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        encoded = encode_rows(self.task, rows, self.tokenizer, self.max_length, self.prefixes)
        encoded["index"] = [indices[row] for row in encoded.pop("row")]
        return encoded

    def _content_key(self, rows: "Dataset") -> str:
        digest = hashlib.sha256()
        special = self.tokenizer.extra_special_tokens
        options = (self.task.encoding_key(), self.max_length, self.prefixes)
        for part in (*options, rows.column_names, *special):
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        for content in self.tokenizer_files.values():
            digest.update(content)
        for batch in rows.with_format("arrow").iter(10_000):
            digest.update(json.dumps(batch.to_pydict(), default=str).encode())
        return digest.hexdigest()[:32]

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Return batches of the train split, in an order that depends on global seed and epoch."""
        order = TrainOrder(
            self.encoded["train"]["length"],
            self.batch_size,
            seed=int(os.environ.get("PL_GLOBAL_SEED", 0)),  # set by Lightning's seed_everything
            grouped=self.length_grouping,
            done=self._batches_done,
            **self._share(),
        )
        return self._loader("train", order)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Return batches of the validation split, longest texts first."""
        return self._evaluation_loader("validation")

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Return batches of the test split, longest texts first."""
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: str) -> DataLoader[dict[str, Tensor]]:
        order = EvaluationOrder(self.encoded[split]["length"], self.batch_size, **self._share())
        return self._loader(split, order)

    def _loader(self, split: str, order: Sampler[list[int]]) -> DataLoader[dict[str, Tensor]]:
        collator: Any = Collator(self.tokenizer)  # gets a dict of columns, not a list of rows
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(
            self.encoded[split],
            sampler=order,
            batch_size=None,  # the sampler yields batches, not rows
            collate_fn=collator,
            generator=torch.Generator(),  # so as not to draw from the random numbers of dropout
            num_workers=self.num_workers,
            pin_memory=on_gpu,
        )

    def _batches_done(self) -> int:
        """Count the batches that this epoch has trained on: 0 unless a fit resumes within it."""
        if self.trainer is None:
            return 0
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress
        return progress.current.processed

    def _share(self) -> dict[str, int]:
        """Return which share of the batches this device loads."""
        if self.trainer is None:
            return {}
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
