"""A small job, and what a loop does on it step by step."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Train = Callable[..., dict[str, Any]]


@pytest.fixture
def job(csv_file: str, tokenizer_folder: str) -> list[str]:
    """48 rows in batches of 10, so that the last one is short; a tiny encoder with dropout."""
    shape = "{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 64, vocab_size: 60}"
    return [
        *("--model.encoder.name", "bert", "--model.encoder.pretrained", "false", "--model.encoder.overrides", shape),
        *("--data.source", csv_file, "--data.tokenizer", tokenizer_folder),
        *("--data.batch_size", "10", "--data.max_length", "24", "--model.recipe.lr", "0.01"),
        *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "2", "--trainer.gradient_clip_val", "1.0"),
        *("--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "1"),
    ]


@pytest.fixture
def train(cli: Callable[..., tuple[int, str, str]], job: list[str], tmp_path: Path) -> Train:
    """A function that runs a training command on the job: its record, with its run folder and its metrics."""

    def train(command: str, *arguments: Any) -> dict[str, Any]:
        file = tmp_path / f"{command}.json"
        recorder = ("--trainer.callbacks+=litpool.loops.recorder.Recorder", f"--trainer.callbacks.file={file}")
        status, out, err = cli(command, *job, *arguments, *recorder)
        assert status == 0, err
        folder = tmp_path / out.split()[-1]
        return {**json.loads(file.read_text()), "folder": folder, "metrics": scores(folder)}

    return train


def scores(folder: Path) -> dict[str, float]:
    metrics = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in metrics.items() if name.startswith(("val/", "test/"))}
