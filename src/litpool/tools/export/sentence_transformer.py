"""The format sentence-transformers: Transformer, Pooling and Dense, loaded without remote code."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from litpool import InputError
from litpool.model.pooling import (
    ClsPooling,
    ConcatPooling,
    FirstLastPooling,
    LastNPooling,
    LastTokenPooling,
    LayerMixPooling,
    MaxPooling,
    MeanPooling,
    MeanSqrtLenPooling,
    PoolerOutput,
    Pooling,
    WeightedMeanPooling,
)
from litpool.tasks.regression import Regression
from litpool.tools.export.golden import Golden
from litpool.tools.export.graph import BATCH, Graph, Model
from litpool.tools.export.huggingface import pooler_layer, quiet, write_encoder

MODES: dict[type[Pooling], str] = {
    ClsPooling: "cls",
    MeanPooling: "mean",
    MaxPooling: "max",
    MeanSqrtLenPooling: "mean_sqrt_len_tokens",
    WeightedMeanPooling: "weightedmean",
    LastTokenPooling: "lasttoken",
}
LAYERS = (FirstLastPooling, LastNPooling, LayerMixPooling)
CLOSEST = {"MinPooling": "MaxPooling", "MarkerPooling": "ClsPooling"}


def check(model: Model) -> None:
    """Refuse what the modules of sentence-transformers cannot express.

    Raises:
        InputError: Says why, and which pooling is the closest that they can express.
    """
    if find_spec("sentence_transformers") is None:
        raise InputError(
            "format=sentence-transformers: needs the package sentence-transformers; "
            "pip install -c constraints.txt -e '.[sentence-transformers]'"
        )
    if model.task.on_tokens:
        raise InputError(
            f"format=sentence-transformers: {type(model.task).__name__} gives logits for each "
            "token, and these modules give one vector for each text; "
            "use --format huggingface, onnx or torch"
        )
    linear_head(model)
    _modes(model.network.pooling)
    if isinstance(model.network.pooling, PoolerOutput):
        if pooler_layer(model) is None:
            raise _refusal(f"the pooler of {model.network.encoder.config.model_type}", "ClsPooling")
        if model.tokenizer.padding_side == "left":  # the mode `cls` reads the first real token
            raise _refusal("PoolerOutput at position 0, which is left padding here", "ClsPooling")


def linear_head(model: Model) -> nn.Linear | None:
    """Return the linear layer of the head; None if there is no head, as of a bi-encoder."""
    if model.output == "vectors":
        return None
    head: Any = model.network.head
    layers = list(head) if isinstance(head, nn.Sequential) else [head]
    layers = [layer for layer in layers if not isinstance(layer, nn.Dropout | nn.Identity)]
    if not layers:
        return None
    if len(layers) > 1 or not isinstance(layers[0], nn.Linear):
        raise InputError(
            f"format=sentence-transformers: the head of {type(model.task).__name__} is more than "
            "one linear layer, which Dense cannot express; use --format onnx or torch"
        )
    return layers[0]


def _modes(pooling: Pooling) -> list[str]:
    """Return the modes of sentence-transformers' Pooling, or refuse the pooling."""
    if type(pooling) is ConcatPooling:
        modes = []
        parts: list[Any] = list(pooling.poolings)
        for part in parts:
            if type(part) not in MODES or part.extra_repr():
                raise _refusal(f"{type(part).__name__} within ConcatPooling", "MeanPooling")
            modes.append(MODES[type(part)])
        return modes
    if type(pooling) is LayerMixPooling:
        if type(pooling.pooling) not in MODES or pooling.pooling.extra_repr():
            raise _refusal(f"LayerMixPooling {pooling.extra_repr()}", "LayerMixPooling")
        return [MODES[type(pooling.pooling)]]
    if type(pooling) in (FirstLastPooling, LastNPooling):
        return ["mean"]
    if type(pooling) is PoolerOutput:
        return ["cls"]
    if type(pooling) not in MODES or pooling.extra_repr():
        closest = CLOSEST.get(type(pooling).__name__, "MeanPooling")
        raise _refusal(pooling.describe(), closest)
    return [MODES[type(pooling)]]


def _refusal(what: str, closest: str) -> InputError:
    return InputError(
        f"format=sentence-transformers: no module computes {what}; the closest is {closest}, "
        "which needs another training; or use --format onnx or torch"
    )


def write(model: Model, graph: Graph, folder: Path) -> None:
    """Write the modules, with the prefixes as prompts."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling as PoolingModule
    from sentence_transformers.sentence_transformer.modules import Transformer

    pooling, size = model.network.pooling, model.network.encoder.config.hidden_size
    with tempfile.TemporaryDirectory() as temporary, quiet():
        write_encoder(model, Path(temporary), output_hidden_states=isinstance(pooling, LAYERS))
        modules: list[nn.Module] = [Transformer(temporary, max_seq_length=model.max_length)]
        if isinstance(pooling, LAYERS):
            modules.append(_layer_weights(pooling, model))
        modules.append(PoolingModule(size, pooling_mode=_modes(pooling)))
        modules += _dense_layers(model)
        prompts, default = _prompts(model)
        SentenceTransformer(
            modules=modules, device="cpu", prompts=prompts, default_prompt_name=default
        ).save(str(folder), create_model_card=False)


def _layer_weights(pooling: Pooling, model: Model) -> nn.Module:
    """Return the module that averages layers with the same weights as this pooling."""
    from sentence_transformers.sentence_transformer.modules import WeightedLayerPooling

    config = model.network.encoder.config
    layers = config.num_hidden_layers
    weights = torch.zeros(layers + 1)  # the embeddings count
    if isinstance(pooling, LayerMixPooling):
        weights = pooling.logits.detach().softmax(0)
    elif isinstance(pooling, LastNPooling):
        weights[-pooling.n :] = 1
    else:
        weights[1] += 1
        weights[-1] += 1
    return WeightedLayerPooling(config.hidden_size, layers, 0, nn.Parameter(weights))


def _dense_layers(model: Model) -> list[nn.Module]:
    """Return the layers after the pooling: BERT's pooler, the scale of a layer mix, the head."""
    pooling, task = model.network.pooling, model.task
    layers = []
    if isinstance(pooling, PoolerOutput):
        pooler = pooler_layer(model)
        assert pooler is not None  # `check` refuses it
        layers.append(_dense(pooler.weight, pooler.bias, nn.Tanh()))
    if isinstance(pooling, LayerMixPooling) and pooling.scale != 1:
        scale = pooling.scale.detach() * torch.eye(pooling.out_features)
        layers.append(_dense(scale, None, nn.Identity()))
    if (linear := linear_head(model)) is not None:
        weight: Tensor = linear.weight
        bias: Tensor = linear.bias
        if isinstance(task, Regression):  # the answers are in the scores' own unit
            weight, bias = weight * task.scale, bias * task.scale + task.shift
        layers.append(_dense(weight, bias, nn.Identity()))
    return layers


def _dense(weight: Tensor, bias: Tensor | None, activation: nn.Module) -> nn.Module:
    from sentence_transformers.sentence_transformer.modules import Dense

    return Dense(
        weight.shape[1],
        weight.shape[0],
        bias=bias is not None,
        activation_function=activation,
        init_weight=weight.detach().clone(),
        init_bias=None if bias is None else bias.detach().clone(),
    )


def _prompts(model: Model) -> tuple[dict[str, str] | None, str | None]:
    """Return the prefixes as prompts, and the name of the one for texts in general."""
    prompts = {name: prefix for name, prefix in model.prefixes.items() if prefix}
    if not prompts:
        return None, None
    first = model.columns[0]
    return prompts, first if first in prompts else None


def run(
    folder: Path, golden: Golden, trusted: Sequence[str]
) -> tuple[list[list[int]], list[list[float]]]:
    """Return the token ids and the outputs of the golden texts, from sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    ids: list[list[int]] = []
    outputs: list[list[float]] = []
    with quiet():
        network = SentenceTransformer(str(folder), device="cpu", trust_remote_code=False)
        prompt = network.prompts.get(network.default_prompt_name or "") or ""
        for start in range(0, len(golden["rows"]), BATCH):
            rows = [row["texts"] for row in golden["rows"][start : start + BATCH]]
            texts: list[Any] = [row[0] if len(row) == 1 else row for row in rows]
            vectors = network.encode(texts, batch_size=BATCH, show_progress_bar=False)
            outputs += np.asarray(vectors, dtype=np.float64).tolist()
            for row in rows:
                given: Any = prompt + row[0] if len(row) == 1 else row
                ids.append(network.tokenize([given])["input_ids"][0].tolist())
    return ids, outputs


def network(
    folder: Path, golden: Golden, trusted: Sequence[str]
) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Return the modules as a function of a batch."""
    from sentence_transformers import SentenceTransformer

    with quiet():
        modules = SentenceTransformer(str(folder), device="cpu", trust_remote_code=False).eval()
    names = ("input_ids", "attention_mask", "token_type_ids")

    def output(batch: Mapping[str, Tensor]) -> Tensor:
        return modules({name: batch[name] for name in names if name in batch})["sentence_embedding"]

    return output
