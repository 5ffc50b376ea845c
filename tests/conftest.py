# ruff: noqa: E402 (litpool reads the environment when it is imported)
"""Shared by the tests: their own cache, a tiny encoder, a tiny tokenizer, a few rows."""

import io
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_cache = tempfile.TemporaryDirectory(prefix="litpool-tests-", ignore_cleanup_errors=True)
# litpool reads it once, when it is imported; so do subprocesses that tests start
os.environ["LITPOOL_CACHE"] = _cache.name
os.environ["HF_HUB_OFFLINE"] = "1"  # no test waits for the network
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the networks are tiny: threads only wait

import torch
from datasets import Dataset
from recording import Steps, scores
from transformers import BertModel, BertTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from litpool.model.encoder import EncoderOptions, load_config
from litpool.model.network import TextModel
from litpool.model.pooling import MeanPooling, Pooling
from litpool.tasks.classification import Classification
from litpool.tasks.task import Task

Tiny = Callable[..., tuple[EncoderOptions, PretrainedConfig]]

SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 60,
    "max_position_embeddings": 24,
    "embedding_size": 16,  # ALBERT, ELECTRA: embeddings smaller than the hidden size
    "relative_attention": True,  # as in every published DeBERTa
    "pos_att_type": ["p2c", "c2p"],
    "embedding_dropout": 0.1,  # ModernBERT has none by default
    "hidden_dropout_prob": 0.1,  # ALBERT has none by default
    "pad_token_id": 1,  # the default of RoBERTa and MPNet; ModernBERT's is outside this vocabulary
}
WORDS = "a bad dull film fine good great is not play poor the this was".split()
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _tiny(
    kind: str = "bert", freeze: int | str = "none", **overrides: Any
) -> tuple[EncoderOptions, PretrainedConfig]:
    default = load_config(EncoderOptions(kind, pretrained=False))
    sizes = {name: value for name, value in SIZE.items() if hasattr(default, name)}
    options = EncoderOptions(kind, pretrained=False, overrides=sizes | overrides, freeze=freeze)
    return options, load_config(options)


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    """Options and config of a tiny encoder: `tiny("roberta", freeze=1, hidden_size=16)`."""
    return _tiny


@pytest.fixture
def build() -> Callable[..., TextModel]:
    """A tiny TextModel: `build(ClsPooling, "roberta", freeze=1)`; a mean-pooled BERT by default."""

    def build(
        pooling: Callable[[int, int], Pooling] = MeanPooling,
        kind: str = "bert",
        task: Task | None = None,
        attention: str = "sdpa",
        **options: Any,
    ) -> TextModel:
        torch.manual_seed(0)
        if task is None:
            task = Classification()
            task.learn({"train": Dataset.from_dict({"label": ["bad", "good"]})})
        return TextModel(
            task, pooling, *_tiny(kind, **options), pretrained=False, attention=attention
        )

    return build


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Three texts of 9, 5 and 3 tokens, padded with id 1; ids 2 and 3 are special."""
    rows = [[2, *range(10, 17), 3], [2, 20, 21, 22, 3], [2, 30, 3]]
    ids = torch.ones(3, 9, dtype=torch.long)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
    return {
        "input_ids": ids,
        "attention_mask": (ids != 1).long(),
        "special_tokens_mask": (ids < 4).long(),
        "labels": torch.tensor([0, 1, 0]),
    }


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A lower-case WordPiece tokenizer with 14 words; it splits others into letters."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokens += [letter for letter in LETTERS if letter not in WORDS]
    tokens += [f"##{letter}" for letter in LETTERS]
    folder = tmp_path_factory.mktemp("tokenizer")
    BertTokenizer({token: number for number, token in enumerate(tokens)}).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def tokenizer(tokenizer_folder: str) -> PreTrainedTokenizerBase:
    return BertTokenizer.from_pretrained(tokenizer_folder)


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny BERT with its pooler, saved by Hugging Face; `tokenizer_folder` has the tokenizer."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("encoder")
    BertModel(_tiny("bert", pad_token_id=0)[1]).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def rows() -> list[dict[str, str]]:
    """60 different texts of 2 to 7 words, labelled good or bad."""
    texts = {
        f"{a} {b} {' '.join(WORDS[9:][: n % 6])}".strip()
        for n, a in enumerate(WORDS[:8])
        for b in WORDS[1:9]
    }
    return [
        {"text": text, "label": ["bad", "good"][n % 2]} for n, text in enumerate(sorted(texts)[:60])
    ]


@pytest.fixture(scope="session")
def csv_file(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]) -> str:
    path = tmp_path_factory.mktemp("rows") / "reviews.csv"
    lines = ["text,label", *(f"{row['text']},{row['label']}" for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="session")
def jsonl_file(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]) -> str:
    path: Path = tmp_path_factory.mktemp("rows") / "reviews.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def cli(monkeypatch, tmp_path, capsys):
    """A function that runs a command in an empty folder; returns exit status, stdout and stderr."""
    from litpool import app, interrupt  # most tests do not need the command line

    monkeypatch.chdir(tmp_path)

    def run(*arguments, stdin="", log=None, command=None):
        monkeypatch.setattr(sys, "argv", ["cli.py", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        status = 0
        handler = signal.getsignal(signal.SIGINT)
        try:
            app.main(log=log, command=command)
        except SystemExit as stop:
            status = stop.code
        finally:
            signal.signal(signal.SIGINT, handler)  # after Ctrl-C, Lightning leaves it ignored
            interrupt.disarm()
        out, err = capsys.readouterr()
        return status, out, err

    return run


Train = Callable[..., dict[str, Any]]


@pytest.fixture
def job(csv_file: str, tokenizer_folder: str) -> list[str]:
    """48 rows in batches of 10, so that the last one is short; a tiny encoder with dropout."""
    shape = "{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4"
    shape += ", intermediate_size: 64, vocab_size: 60}"
    options = f"""
        --model.encoder.name bert --model.encoder.pretrained false --model.recipe.lr 0.01
        --data.source {csv_file} --data.tokenizer {tokenizer_folder}
        --data.batch_size 10 --data.max_length 24
        --trainer.accelerator cpu --trainer.max_epochs 2 --trainer.gradient_clip_val 1.0
        --trainer.enable_progress_bar false --trainer.log_every_n_steps 1
    """
    return [*options.split(), "--model.encoder.overrides", shape]


@pytest.fixture
def train(cli: Callable[..., tuple[int, str, str]], job: list[str], tmp_path: Path) -> Train:
    """A function that trains the job; returns its steps, its run folder and its metrics."""

    def train(command: str, *arguments: Any) -> dict[str, Any]:
        steps = Steps()
        status, out, err = cli(command, *job, *arguments, log=steps)
        assert status == 0, err
        folder = tmp_path / out.split()[-1]
        return {**steps.record, "folder": folder, "metrics": scores(folder)}

    return train
