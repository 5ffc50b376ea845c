"""The format huggingface: encoder and tokenizer, with the stock task model where it is ours.

Where the library's model would be another network, there is no task model, since its head would be
random: then pooling and head are in head.safetensors, for the encoder to be used with them.
"""

import contextlib
import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from litpool.classes import build_classes
from litpool.model.encoder import EncoderOptions, load_config
from litpool.model.network import TextModel
from litpool.model.pooling import PoolerOutput
from litpool.tasks.multilabel import MultiLabelClassification
from litpool.tasks.regression import Regression
from litpool.tools.export.golden import Golden
from litpool.tools.export.graph import BATCH, Graph, Model

HEAD = "head.safetensors"
EXACT = 1e-5


def check(model: Model) -> None:
    """Accept every network: what the library has no task model for is written as its parts."""


def write(model: Model, graph: Graph, folder: Path) -> str:
    """Write the stock task model or the encoder with the head's weights.

    Returns:
        Why it is not the stock task model; empty if it is.
    """
    stock, reason = stock_model(model, graph)
    with quiet():
        if stock is not None:
            stock.save_pretrained(folder)
            write_tokenizer(model, folder)
        else:
            write_encoder(model, folder)
            weights = {
                name: weight.contiguous()
                for name, weight in model.network.state_dict().items()
                if not name.startswith("encoder.")
            }
            if weights:
                save_file(weights, folder / HEAD, metadata={"format": "pt"})
    return reason


def write_encoder(model: Model, folder: Path, output_hidden_states: bool = False) -> None:
    """Write the encoder and the tokenizer.

    Args:
        model: What is exported.
        folder: Where to.
        output_hidden_states: Whether the encoder returns every layer by default.
    """
    encoder = model.network.encoder.model
    before = encoder.config.output_hidden_states
    encoder.config.output_hidden_states = output_hidden_states
    try:
        encoder.save_pretrained(folder)
    finally:
        encoder.config.output_hidden_states = before
    write_tokenizer(model, folder)


def write_tokenizer(model: Model, folder: Path) -> None:
    """Write the tokenizer, which knows how long a text may be."""
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.model_max_length = model.max_length
    tokenizer.save_pretrained(folder)


def pooler_layer(model: Model) -> nn.Linear | None:
    """Return the linear layer of an encoder's pooler; None if it has none, or several."""
    pooler: Any = getattr(model.network.encoder.model, "pooler", None)
    modules = [] if pooler is None else [pooler, *pooler.children()]
    layers = [module for module in modules if isinstance(module, nn.Linear)]
    return layers[0] if len(layers) == 1 else None


def stock_model(model: Model, graph: Graph) -> tuple[Any, str]:
    """Return the library's task model with our weights, or None, and why there is none.

    It is only returned if its outputs are ours.
    """
    if model.output == "vectors":
        return None, "sentence vectors have no task model; use the format sentence-transformers"
    pooling = model.network.pooling
    if not model.task.on_tokens and not isinstance(pooling, PoolerOutput):
        return None, (
            f"transformers' classifiers do not use {pooling.describe()}; "
            "train with --model.pooling PoolerOutput for one that does"
        )
    kind: Any = transformers.AutoModelForSequenceClassification
    if model.task.on_tokens:
        kind = transformers.AutoModelForQuestionAnswering
    try:
        with quiet():
            stock = kind.from_config(_config(model)).eval()
    except (ValueError, KeyError):
        return None, f"transformers has no {kind.__name__} for this encoder"
    if not _fill(stock, model):
        return None, f"{type(stock).__name__} has other layers"
    gap = _gap(stock, model, graph)
    if not gap < EXACT:
        return None, f"{type(stock).__name__} computes something else (off by {gap:.1e})"
    return stock, ""


def _config(model: Model) -> Any:
    """Return the encoder's config with the labels."""
    config = copy.deepcopy(model.network.encoder.config)
    task = model.task
    if task.on_tokens:
        return config
    labels = task.labels or ["score"]
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: number for number, name in enumerate(labels)}
    config.problem_type = "single_label_classification"
    if isinstance(task, Regression):
        config.problem_type = "regression"
    elif isinstance(task, MultiLabelClassification):
        config.problem_type = "multi_label_classification"
    return config


@torch.no_grad()
def _fill(stock: Any, model: Model) -> bool:
    """Give the task model our weights; return whether each of its weights has got one."""
    weights = dict(model.network.encoder.model.state_dict())
    head: Any = model.network.head
    linear = head.linear[-1] if model.task.on_tokens else head[-1]
    target: Any = getattr(stock, "qa_outputs" if model.task.on_tokens else "classifier", None)
    pooler = pooler_layer(model)
    if hasattr(target, "dense") and hasattr(target, "out_proj") and pooler is not None:
        weights = {name: value for name, value in weights.items() if "pooler." not in name}
        target.dense.load_state_dict(pooler.state_dict())
        target = target.out_proj
    if not isinstance(target, nn.Linear) or target.weight.shape != linear.weight.shape:
        return False
    weight, bias = linear.weight, linear.bias
    if isinstance(model.task, Regression):  # its answers are in the scores' own unit
        weight = weight * model.task.scale
        bias = bias * model.task.scale + model.task.shift
    target.weight.copy_(weight)
    target.bias.copy_(bias)
    loading = stock.base_model.load_state_dict(weights, strict=False)
    return not loading.missing_keys and not loading.unexpected_keys


@torch.no_grad()
def _gap(stock: Any, model: Model, graph: Graph) -> float:
    """Return how far the task model's outputs are from ours."""
    from litpool.tools.export.onnx_graph import example

    batch = example(model, graph)
    inputs = {name: batch[name] for name in batch if name != "special_tokens_mask"}
    expected = graph(**batch)
    output = stock(**inputs)
    if not model.task.on_tokens:
        return float((output.logits - expected).abs().max())
    got = torch.stack([output.start_logits, output.end_logits], -1)
    possible = expected > torch.finfo(expected.dtype).min
    return float((got - expected)[possible].abs().max())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what transformers and sentence-transformers say while they load and save."""
    logger = logging.getLogger("sentence_transformers")
    level, before = logger.level, transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
            transformers_logging.set_verbosity(before)
            if bars:
                transformers_logging.enable_progress_bar()


@torch.no_grad()
def run(
    folder: Path, golden: Golden, trusted: Sequence[str]
) -> tuple[list[list[int]], list[list[float]]]:
    """Return the token ids and the outputs of the golden texts, from transformers."""
    with quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = network(folder, golden, trusted)
    spans = golden["output"] == "spans"
    ids: list[list[int]] = []
    outputs: list[list[float]] = []
    for start in range(0, len(golden["rows"]), BATCH):
        rows = golden["rows"][start : start + BATCH]
        columns = [
            [before + text for text in column]
            for before, column in zip(
                golden["prefixes"], zip(*(row["texts"] for row in rows), strict=True), strict=True
            )
        ]
        if spans:
            columns[0] = [question.strip() for question in columns[0]]
        batch = tokenizer(
            *columns,
            truncation="only_second" if spans else True,
            padding=True,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        output = model(batch)
        for row, tokens, mask, part in zip(
            rows, batch["input_ids"], batch["attention_mask"].bool(), output, strict=True
        ):
            ids.append(tokens[mask].tolist())
            if spans:
                part = part[mask]
                known = zip(part.tolist(), row["output"], strict=False)
                outputs.append([x for token, gold in known if gold is not None for x in token])
            else:
                outputs.append(part.double().tolist())
    return ids, outputs


def network(
    folder: Path, golden: Golden, trusted: Sequence[str]
) -> Callable[[Mapping[str, Any]], Tensor]:
    """Return the folder's model as a function of a batch."""
    with quiet():
        return _Network(folder, golden, trusted)


class _Network:
    """A folder's model: the stock task model, or the encoder with pooling and head."""

    def __init__(self, folder: Path, golden: Golden, trusted: Sequence[str]) -> None:
        self.spans = golden["output"] == "spans"
        self.stock: Any = None
        if golden["stock"]:
            kind: Any = transformers.AutoModelForSequenceClassification
            if self.spans:
                kind = transformers.AutoModelForQuestionAnswering
            stock = kind.from_pretrained(folder, trust_remote_code=False, dtype=torch.float32)
            self.stock = stock.eval()
            return
        task, pooling = build_classes(golden["job"], trusted)
        task.load_state_dict(golden["state"])
        options = EncoderOptions(str(folder))
        config = load_config(options)
        # the attention with which `litpool.load` computes a checkpoint's answers on the CPU
        network = TextModel(task, pooling, options, config, pretrained=True, attention="eager")
        network.eval()
        if (folder / HEAD).is_file():
            network.load_state_dict(load_file(folder / HEAD), strict=False)
        self.graph = Graph(network, task, golden["added_special_ids"])

    def __call__(self, batch: Any) -> Tensor:
        if self.stock is None:
            return self.graph.run(batch)
        names = ("input_ids", "attention_mask", "token_type_ids")
        output = self.stock(**{name: batch[name] for name in names if name in batch})
        if self.spans:
            return torch.stack([output.start_logits, output.end_logits], -1)
        return output.logits
