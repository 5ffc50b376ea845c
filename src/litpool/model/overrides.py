"""What an override of an encoder's config does to weights that were trained with another value.

`tests/model/test_overrides.py` verifies the effect of each key by experiment, on nine small
architectures; docs/encoders.md lists them. A key that is not listed here counts as `silent`.
"""

import difflib
from collections.abc import Mapping
from typing import Any, Literal

from transformers import PretrainedConfig

from litpool import InputError

Effect = Literal["harmless", "layers", "shape", "silent", "fixed"]

KEYS: dict[Effect, str] = {
    # no effect on the pretrained weights
    "harmless": """
        attention_dropout attention_probs_dropout_prob classifier_dropout classifier_dropout_prob
        cls_dropout dropout embedding_dropout hidden_dropout_prob mlp_dropout pooler_dropout
        qa_dropout seq_classif_dropout summary_last_dropout layerdrop id2label label2id num_labels
        problem_type finetuning_task classifier_activation classifier_bias classifier_pooling
        decoder_bias legacy pooler_hidden_act pooler_hidden_size sparse_prediction
        sinusoidal_pos_embds sparse_pred_ignore_index summary_activation summary_type
        summary_use_proj tie_word_embeddings initializer_range initializer_cutoff_factor use_cache
        deterministic_flash_attn bos_token_id cls_token_id eos_token_id sep_token_id architectures
        dtype transformers_version _name_or_path gradient_checkpointing""",
    # only the lowest layers are used, with a warning; more layers than there are weights: refused
    "layers": "num_hidden_layers n_layers",
    # changes the shape of weights, or which weights exist: refused
    "shape": """
        add_cross_attention attention_bias attention_head_size conv_kernel_size conv_groups dim
        embedding_size hidden_dim hidden_size inner_group_num intermediate_size
        max_position_embeddings max_relative_positions mlp_bias norm_bias norm_rel_ebd
        num_hidden_groups pos_att_type position_biased_input position_buckets relative_attention
        relative_attention_num_buckets share_att_key type_vocab_size vocab_size""",
    # the weights load without an error but compute something else: refused without `allow_unsafe`
    "silent": """
        activation conv_act hidden_act hidden_activation is_decoder layer_norm_eps layer_types
        local_attention n_heads norm_eps num_attention_heads pad_token_id position_embedding_type
        rope_parameters""",
    # litpool sets it elsewhere: refused
    "fixed": """
        chunk_size_feed_forward is_encoder_decoder model_type output_attentions
        output_hidden_states return_dict""",
}
EFFECTS: dict[str, Effect] = {key: effect for effect, keys in KEYS.items() for key in keys.split()}
EXCEPTIONS: dict[tuple[str, str], Effect] = {
    # Its relative positions have a weight for each head.
    ("mpnet", "num_attention_heads"): "shape",
    # Rotary positions: longer texts run, but the model was never trained on any.
    ("modernbert", "max_position_embeddings"): "silent",
}
# Keys that the model reads if they are set, although its config class does not name them.
OPTIONAL = {
    "deberta-v2": """
        attention_head_size cls_dropout conv_act conv_groups conv_kernel_size embedding_size
        norm_rel_ebd position_buckets share_att_key""",
}
# Their code fails without any layer; other encoders then return the embeddings.
NEED_A_LAYER = ("albert", "deberta-v2", "modernbert")
SIZES = [
    "dim",
    "hidden_dim",
    "hidden_size",
    "intermediate_size",
    "n_heads",
    "num_attention_heads",
    "vocab_size",
]
INSTEAD = {
    "vocab_size": "add tokens with data.add_tokens",
    "max_position_embeddings": "shorten texts with data.max_length",
}


def effect_of(model_type: str, key: str) -> Effect:
    """Return what setting `key` does to pretrained weights of this model type."""
    return EXCEPTIONS.get((model_type, key)) or EFFECTS.get(key, "silent")


def known_keys(config: PretrainedConfig) -> list[str]:
    """Return the keys that this config accepts, including the names other encoders use for them."""
    optional = OPTIONAL.get(config.model_type, "").split()
    return sorted({*config.to_dict(), *config.attribute_map, *optional, "num_labels"})


def check(
    config: PretrainedConfig, overrides: Mapping[str, Any], pretrained: bool, allow_unsafe: bool
) -> None:
    """Refuse overrides that are unknown or that do not fit pretrained weights.

    Args:
        config: The encoder's config, without the overrides.
        overrides: The values to set.
        pretrained: Whether weights are loaded; if not, only `fixed` keys are refused.
        allow_unsafe: Whether to accept `silent` keys.

    Raises:
        InputError: A key is unknown, or its value does not fit these weights.
    """
    known = known_keys(config)
    for key, value in overrides.items():
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise InputError(
                f"model.encoder.overrides: {config.model_type} has no config entry {key!r}; "
                f"did you mean {nearest!r}?"
            )
        original = getattr(config, key, None)
        if value == original:
            continue
        setting = f"model.encoder.overrides.{key}={value}"
        if key in SIZES and isinstance(value, int) and value < 1:
            raise InputError(f"{setting}: give 1 or more")
        effect = effect_of(config.model_type, key)
        if effect == "fixed":
            raise InputError(f"{setting}: litpool sets this itself; leave it out")
        if effect == "layers":
            _check_layers(setting, value, config, pretrained)
        if effect == "shape" and pretrained:
            raise InputError(
                f"{setting}: the pretrained weights have the shape for {original} and would not "
                f"fit; {INSTEAD.get(key, 'leave it out')}, or set model.encoder.pretrained: false"
            )
        if effect == "silent" and pretrained and not allow_unsafe:
            raise InputError(
                f"{setting}: the pretrained weights were trained with {original}; they would load "
                "without an error but compute something else; leave it out, or set "
                "model.encoder.allow_unsafe: true"
            )


def _check_layers(setting: str, number: Any, config: PretrainedConfig, pretrained: bool) -> None:
    """Refuse a number of layers that is too low or too high; warn if it is lower than before."""
    if number == 0 and config.model_type in NEED_A_LAYER:
        raise InputError(
            f"{setting}: {config.model_type} does not work without layers; give 1 or more"
        )
    if not isinstance(number, int):
        return  # the config's own validation refuses it
    if not pretrained:
        if number < 0:
            raise InputError(f"{setting}: give 0 or more")
        return
    layers = config.num_hidden_layers
    if not 0 <= number < layers:
        raise InputError(
            f"{setting}: the pretrained weights have {layers} layers; give 0 to {layers}"
        )
    from lightning.pytorch.utilities import rank_zero_warn

    rank_zero_warn(f"{setting}: only the first {number} of the {layers} pretrained layers are used")
