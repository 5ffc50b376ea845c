"""A checkpoint of any task and pooling, with weights that make outputs differ."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

import litpool
from litpool.classes import build_classes
from litpool.data.added import add
from litpool.data.tokenizer import dump_tokenizer
from litpool.demo.encoder import DEMO_ENCODER, locate
from litpool.loops.checkpoint import contents
from litpool.model.encoder import EncoderOptions, load_config
from litpool.model.markers import resolve
from litpool.model.network import TextModel
from litpool.tools.export.command import write_folder
from litpool.tools.export.graph import Model
from litpool.tools.export.runtimes import Format
from litpool.tools.export.scores import Scores

Save = Callable[..., str]

LABELS = ["bad", "fair", "good"]
PAIR = {"text": ["sentence1", "sentence2"]}
TASKS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "Classification": ({}, {"label": LABELS}),
    "pairs": (PAIR, {"label": LABELS}),
    "MultiLabelClassification": ({}, {"label": [["bad"], ["fair", "good"]]}),
    "Regression": ({"score_range": [1, 5]}, {"score": [1.0, 2.0]}),
    "scored pairs": (PAIR, {"score": [1.0, 2.0, 4.5]}),
    "Similarity": ({}, {"score": [0.0, 1.0]}),
    "softmax": ({"objective": "softmax", "label": "label"}, {"label": LABELS}),
    "contrastive": ({"objective": "contrastive"}, {}),
    "QuestionAnswering": ({}, {}),
}
CLASSES = {
    "pairs": "Classification",
    "scored pairs": "Regression",
    "softmax": "Similarity",
    "contrastive": "Similarity",
}


@pytest.fixture
def save(tiny: Any, tokenizer_folder: str, csv_file: str, tmp_path: Path) -> Save:
    """A function that writes a checkpoint and returns its path.

    The encoder is tiny, and all weights are random; that of DEMO_ENCODER has its own weights.
    """

    def save(
        task: str = "Classification",
        pooling: Any = "MeanPooling",
        kind: str = "bert",
        max_length: int = 24,
        tokens: tuple[str, ...] = (),
        side: str = "right",
        **data: Any,
    ) -> str:
        torch.manual_seed(0)
        arguments, columns = TASKS[task]
        if isinstance(pooling, str):
            pooling = {"class_path": pooling}
        config: dict[str, Any] = {
            "seed_everything": 42,
            "task": {"class_path": CLASSES.get(task, task), "init_args": arguments},
            "model": {"encoder": {"name": kind, "pretrained": False}, "pooling": pooling},
            "data": {"source": csv_file, "max_length": max_length, "batch_size": 10, **data},
        }
        job, factory = build_classes(config, ())
        if columns:
            job.learn({"train": Dataset.from_dict({**columns})})
        real = kind == DEMO_ENCODER
        words = locate(kind) if real else tokenizer_folder
        tokenizer = AutoTokenizer.from_pretrained(words, padding_side=side)
        new_ids = add(tokenizer, [], list(tokens))
        if real:
            options = EncoderOptions(kind)
            encoder = load_config(options)
        else:
            padding = {"pad_token_id": 0} if kind == "bert" else {}
            options, encoder = tiny(kind, vocab_size=100, **padding)
        network = TextModel(
            job, factory, options, encoder, real, vocab_size=len(tokenizer), new_ids=new_ids
        )
        resolve(network.pooling, tokenizer)
        with torch.no_grad():
            for name, weight in network.named_parameters():
                if real and not name.startswith("encoder."):
                    weight.add_(0.05 * torch.randn_like(weight))  # biases and layers differ
                elif not real and weight.ndim == 2 and weight.std() > 0:
                    weight.mul_(0.15 / weight.std())
        written = contents(network, job, dump_tokenizer(tokenizer), config, {"val/accuracy": 0.5})
        weights = {f"network.{name}": value for name, value in network.state_dict().items()}
        path = tmp_path / "best.ckpt"
        torch.save({"state_dict": weights, **written}, path)
        return str(path)

    return save


@pytest.fixture
def model(save: Save) -> Callable[..., Model]:
    """A function that returns what `export` exports, of a checkpoint that `save` writes."""

    def model(*arguments: Any, prefix: str = "", **options: Any) -> Model:
        loaded = litpool.load(save(*arguments, **options), "cpu")
        vocab = loaded.tokenizer.get_added_vocab()
        new_ids = [vocab[token] for token in options.get("tokens", ())]
        prefixes = dict.fromkeys(loaded.task.texts, prefix)
        data = {**loaded.config["data"], **({"prefix": prefix} if prefix else {})}
        config = {**loaded.config, "data": data}
        return Model(
            loaded.network,
            loaded.task,
            loaded.tokenizer,
            loaded.max_length,
            prefixes,
            config,
            new_ids=new_ids,
        )

    return model


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes an export of a model, which also verifies it; returns the folder."""

    def written(model: Model, format: Format, name: str = "out") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        write_folder(folder, format, model, Scores(reason="not scored"), "unknown")
        return folder

    return written
