"""What an override of an encoder's config does to weights that were trained with another value.

A key is of one of five classes; `tests/model/test_overrides.py` finds them again by experiment, key by key, on nine
architectures built small. A key of another architecture that is not listed counts as `silent`, for safety.
"""

import difflib
from collections.abc import Mapping
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_warn
from transformers import AutoConfig, PretrainedConfig

from litpool import InputError

Effect = Literal["harmless", "layers", "shape", "silent", "fixed"]

KINDS = (
    "bert",
    "roberta",
    "distilbert",
    "electra",
    "deberta-v2",
    "albert",
    "mpnet",
    "modernbert",
    "xlm-roberta",
)

KEYS: dict[Effect, str] = {
    "harmless": """
        attention_dropout attention_probs_dropout_prob classifier_dropout classifier_dropout_prob cls_dropout dropout
        embedding_dropout hidden_dropout_prob mlp_dropout pooler_dropout qa_dropout seq_classif_dropout
        summary_last_dropout layerdrop id2label label2id num_labels problem_type finetuning_task classifier_activation
        classifier_bias classifier_pooling decoder_bias legacy pooler_hidden_act pooler_hidden_size sparse_prediction
        sinusoidal_pos_embds
        sparse_pred_ignore_index summary_activation summary_type summary_use_proj tie_word_embeddings initializer_range
        initializer_cutoff_factor use_cache deterministic_flash_attn bos_token_id cls_token_id eos_token_id sep_token_id
        architectures dtype transformers_version _name_or_path gradient_checkpointing""",
    "layers": "num_hidden_layers n_layers",
    "shape": """
        add_cross_attention attention_bias attention_head_size conv_kernel_size conv_groups dim embedding_size
        hidden_dim hidden_size inner_group_num intermediate_size max_position_embeddings max_relative_positions mlp_bias
        norm_bias norm_rel_ebd num_hidden_groups pos_att_type position_biased_input position_buckets relative_attention
        relative_attention_num_buckets share_att_key type_vocab_size vocab_size""",
    "silent": """
        activation conv_act hidden_act hidden_activation is_decoder layer_norm_eps layer_types local_attention n_heads
        norm_eps num_attention_heads pad_token_id position_embedding_type rope_parameters""",
    "fixed": """
        chunk_size_feed_forward is_encoder_decoder model_type output_attentions output_hidden_states return_dict""",
}
EFFECTS: dict[str, Effect] = {key: effect for effect, keys in KEYS.items() for key in keys.split()}
EXCEPTIONS: dict[tuple[str, str], Effect] = {
    ("mpnet", "num_attention_heads"): "shape",  # its relative positions have a weight for each head
    (
        "modernbert",
        "max_position_embeddings",
    ): "silent",  # rotary: longer texts run, though training never saw such
}
OPTIONAL = {  # read by the model where they are there, though the config class does not name them
    "deberta-v2": """attention_head_size cls_dropout conv_act conv_groups conv_kernel_size embedding_size norm_rel_ebd
        position_buckets share_att_key""",
}
MEANING: dict[Effect, str] = {
    "harmless": "leaves the pretrained weights what they are",
    "layers": "fewer layers are taken from below, and told; more are refused",
    "shape": "changes the shape of weights, or which there are; refused",
    "silent": "the weights load and compute something else, without an error; refused unless `allow_unsafe: true`",
    "fixed": "decided elsewhere in litpool; always refused",
}
NEED_A_LAYER = (
    "albert",
    "deberta-v2",
    "modernbert",
)  # with none their code fails; elsewhere the embeddings remain
INSTEAD = {
    "vocab_size": "; data.add_tokens adds rows to the embeddings",
    "max_position_embeddings": "; data.max_length says where texts are cut",
}


def effect(kind: str, key: str) -> Effect:
    """What setting `key` does to pretrained weights of the model type `kind`."""
    return EXCEPTIONS.get((kind, key)) or EFFECTS.get(key, "silent")


def known_keys(config: PretrainedConfig) -> list[str]:
    """The keys that this config takes, those included under which other architectures know them."""
    optional = OPTIONAL.get(config.model_type, "").split()
    return sorted({*config.to_dict(), *config.attribute_map, *optional, "num_labels"})


def check(
    config: PretrainedConfig, overrides: Mapping[str, Any], pretrained: bool, allow_unsafe: bool
) -> None:
    """Refuse overrides that are unknown or that the pretrained weights do not bear; warn of layers that are left out.

    Args:
        config: The encoder's, without the overrides.
        overrides: What is to be set.
        pretrained: Whether weights are loaded; without, all known keys but the fixed ones are free.
        allow_unsafe: Whether the keys of the class `silent` are free, too.

    Raises:
        InputError: A key is unknown, or its value is not for these weights.
    """
    known = known_keys(config)
    for key, value in overrides.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise InputError(
                f"model.encoder.overrides: {config.model_type} has no config entry {key!r}; did you mean {near!r}?"
            )
        present, kind = getattr(config, key, None), effect(config.model_type, key)
        told = f"model.encoder.overrides.{key}={value}"
        if kind == "fixed" and value != present:
            raise InputError(f"{told}: litpool decides this itself; leave it out")
        if kind == "layers" and value == 0 and config.model_type in NEED_A_LAYER:
            raise InputError(
                f"{told}: {config.model_type} does not work without layers; give 1 or more"
            )
        if kind == "layers" and not pretrained and isinstance(value, int) and value < 0:
            raise InputError(f"{told}: give 0 or more")
        if pretrained and value != present:
            _check_weights(kind, told, value, present, allow_unsafe, INSTEAD.get(key, ""))


def _check_weights(
    kind: Effect, told: str, value: Any, present: Any, allow_unsafe: bool, instead: str
) -> None:
    """Refuse or warn of one value that is not the one that the weights were trained with."""
    if kind == "shape":
        raise InputError(
            f"{told}: the pretrained weights are of the shape that {present} gives and would not fit{instead}; leave "
            "it out, or build the encoder anew with pretrained: false"
        )
    if kind == "silent" and not allow_unsafe:
        raise InputError(
            f"{told}: the pretrained weights were trained with {present}; they would load and compute something else, "
            "without an error; leave it out, or set model.encoder.allow_unsafe: true"
        )
    if kind == "layers" and isinstance(value, int):
        if not 0 <= value < present:
            raise InputError(
                f"{told}: the pretrained weights have {present} layers; give 0 to {present}"
            )
        rank_zero_warn(
            f"{told}: of the {present} pretrained layers only the first {value} are taken"
        )


def table() -> str:
    """The classes of all keys of the nine architectures, as Markdown."""
    have: dict[tuple[Effect, str], list[str]] = {}
    for kind in KINDS:
        config = AutoConfig.for_model(kind)
        for key in known_keys(config):
            if key not in config.attribute_map:
                have.setdefault((effect(kind, key), key), []).append(kind)
    lines = ["| class | key | encoders |", "|---|---|---|"]
    order: list[Effect] = list(MEANING)
    for (group, key), kinds in sorted(
        have.items(), key=lambda entry: (order.index(entry[0][0]), entry[0][1])
    ):
        lines.append(
            f"| {group} | `{key}` | {'all' if len(kinds) == len(KINDS) else ', '.join(kinds)} |"
        )
    return "\n".join(lines) + "\n"
