"""Checks of the encoder: its weights, and whether it fits the tokenizer."""

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from litpool import InputError
from litpool.data.module import TextDataModule
from litpool.data.tokenizer import load_tokenizer
from litpool.loops.lightning import TextModule
from litpool.model.encoder import NUMBERED_FROM_PADDING, Encoder
from litpool.model.markers import resolve
from litpool.tools.check.finding import Finding, problem_if

# Share of ids with another meaning that is an error. Tokenizers of one family differ in a few
# special tokens and unused ids.
MISPLACED = 0.01
E5 = re.compile(r"(^|[-_.])e5($|[-_.])", re.IGNORECASE)  # such as multilingual-e5-small
SPECIAL = {
    "pad": ["pad"],
    "cls": ["cls"],
    "sep": ["sep"],
    "mask": ["mask"],
    "bos": ["bos", "cls"],  # BERT's [CLS] begins a text, as bos does elsewhere
    "eos": ["eos", "sep"],
}
"""Special tokens in the config, each with the tokenizer's names for the same token."""


def check_model(module: TextModule) -> list[Finding]:
    """Check the encoder, and whether it fits the tokenizer."""
    data, encoder = module.data, module.encoder
    config = module.encoder_config()
    findings = [
        check_special_tokens(config, data.tokenizer),
        check_embedding_rows(config.vocab_size, encoder.pretrained, data),
        check_vocabulary(encoder.name, encoder.pretrained, data),
        *check_prefix([encoder.name, config.name_or_path or ""], data),
    ]
    markers = check_markers(module)
    findings += markers
    if any(finding.status == "error" for finding in markers):  # then no network can be built
        return findings
    try:
        network = module.build(torch.device("cpu"))
    except InputError as error:  # missing weights, a random pooler
        return [*findings, _refused("weights", error)]
    return [
        *findings,
        check_weights(network.encoder, encoder.pretrained),
        check_modes(network),
        check_trainable(network, encoder.freeze),
    ]


def check_special_tokens(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> Finding:
    """Check that config and tokenizer give the same ids to the special tokens that both have."""
    pairs: dict[str, tuple[int, int]] = {}
    for name, aliases in SPECIAL.items():
        configured = getattr(config, f"{name}_token_id", None)
        ids = (getattr(tokenizer, f"{alias}_token_id", None) for alias in aliases)
        number = next((number for number in ids if number is not None), None)
        if isinstance(configured, int) and number is not None:
            pairs[name] = (configured, number)
    clashing = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if not clashing:
        message = ", ".join(f"{name} {number}" for name, (_, number) in pairs.items())
        return Finding("special tokens", "ok", message or "the config has none")
    message = ", ".join(
        f"{name}: config {configured}, tokenizer {number}"
        for name, (configured, number) in clashing.items()
    )
    advice = (
        "use the tokenizer that was saved with the encoder, "
        "or fix the ids in the encoder's config.json"
    )
    figures = {"clashing": clashing}
    if "pad" in clashing and config.model_type in NUMBERED_FROM_PADDING:
        advice = (
            f"{config.model_type} numbers positions from its padding id, "
            f"so all positions would be wrong: {advice}"
        )
        return Finding("special tokens", "error", message, advice, figures)
    return Finding("special tokens", "warning", message, advice, figures)


def check_embedding_rows(rows: int, pretrained: bool, data: TextDataModule) -> Finding:
    """Check that the encoder has an embedding for every id, except those of added tokens."""
    ids = sorted(data.tokenizer.get_vocab().values())
    beyond = [number for number in ids if number >= rows and number not in data.new_ids]
    bad = bool(beyond) and pretrained
    message = (
        f"{rows:,} in the encoder, {len(ids):,} ids in the tokenizer, "
        f"{len(data.new_ids)} of them added tokens"
    )
    if bad:
        examples = ", ".join(map(repr, data.tokenizer.convert_ids_to_tokens(beyond[:3])))
        message += f"; {len(beyond):,} ids have no embedding, such as those of {examples}"
    advice = (
        "their embeddings would be random: use the encoder's own tokenizer, "
        "or list these tokens in data.add_tokens"
    )
    figures = {"rows": rows, "beyond": len(beyond)}
    return problem_if(bad, "embedding rows", message, advice, figures, status="error")


def check_vocabulary(encoder: str, pretrained: bool, data: TextDataModule) -> Finding:
    """Check that ids mean the same tokens as in the encoder's own tokenizer."""
    name = data.tokenizer_name
    if name == encoder:
        return Finding("tokenizer", "ok", "the encoder's own")
    if not pretrained:
        message = f"{name}; the encoder's weights are random, so any tokenizer will do"
        return Finding("tokenizer", "ok", message)
    try:
        own, _ = load_tokenizer(encoder, pad_token=data.pad_token)
    except InputError as error:
        return Finding(
            "tokenizer", "warning", f"{name}; the encoder's own tokenizer cannot be read: {error}"
        )
    expected = {number: token for token, number in own.get_vocab().items()}
    actual = {number: token for token, number in data.tokenizer.get_vocab().items()}
    shared = sorted(actual.keys() & expected.keys())
    other = [number for number in shared if actual[number] != expected[number]]
    message = f"{name}: {len(other):,} of {len(shared):,} ids mean another token to the encoder"
    if other:
        examples = [
            f"{actual[number]!r} is {expected[number]!r} to the encoder" for number in other[-3:]
        ]
        message += f"; {', '.join(examples)}"
    return problem_if(
        bool(other),
        "tokenizer",
        message,
        "leave data.tokenizer out, to use the encoder's own tokenizer",
        {"compared": len(shared), "other": len(other)},
        status="error" if len(other) > MISPLACED * len(shared) else "warning",
    )


def check_prefix(names: Sequence[str], data: TextDataModule) -> list[Finding]:
    """Check that texts for an e5 encoder have the prefix that it was trained with.

    Args:
        names: What the encoder is called here and in its config.
        data: Has the prefixes.
    """
    is_e5 = any(E5.search(Path(name).name) for name in names)
    if not is_e5 or data.task.on_tokens:
        return []
    prefixes = data.prefixes
    message = ", ".join(f"{column} {text!r}" for column, text in prefixes.items())
    advice = (
        "e5 encoders were trained with a prefix before each text: "
        "set --data.prefix 'query: ' (passages that a query should find: 'passage: ')"
    )
    return [problem_if(not prefixes, "prefix", message or "none", advice, {"prefixes": prefixes})]


def check_markers(module: TextModule) -> list[Finding]:
    """Check that every text has the markers that the pooling looks for, if it looks for any."""
    splits = module.data.rows
    stage = "fit" if "train" in splits else "test" if "test" in splits else "validate"
    try:
        markers = list(resolve(module.pooling_alone(), module.data.tokenizer))
        if not markers:
            return []
        # Reading warns of added tokens that never occur, which `check_added` reports.
        with warnings.catch_warnings(action="ignore"):
            module.read(stage)
    except InputError as error:
        return [_refused("markers", error)]
    message = f"{' '.join(markers)} in every text"
    return [Finding("markers", "ok", message, "", {"markers": markers})]


def check_weights(encoder: Encoder, pretrained: bool) -> Finding:
    """Check which weights were loaded, which are random, and which of the files' were not used."""
    if not pretrained:
        message = "all random, because model.encoder.pretrained is false"
        return Finding("weights", "ok", message, "", {"loaded": 0})
    missing, unused = encoder.loading["missing_keys"], encoder.loading["unexpected_keys"]
    loaded = len(encoder.model.state_dict()) - len(missing)
    message = (
        f"{loaded} tensors loaded, {_list(missing)} random, "
        f"{_list(unused)} in the files but not used"
    )
    parts = {name for name, _ in encoder.model.named_children()}
    # Unused layers of the encoder matter; the head of another task does not.
    layers = [key for key in unused if parts.intersection(key.split(".")[:2])]
    advice = ""
    if missing:
        advice = (
            "random weights must be learned from scratch; "
            "the pooler is not used unless the pooling is PoolerOutput"
        )
    elif layers:
        advice = (
            f"the encoder does not use all layers in its files, such as {layers[0]}; "
            "check num_hidden_layers"
        )
    figures = {"loaded": loaded, "random": missing, "unused": unused}
    return problem_if(bool(advice), "weights", message, advice, figures)


def check_modes(network: nn.Module) -> Finding:
    """Check that no module is in eval mode, in which dropout does nothing."""
    names = [name or "the network" for name, part in network.named_modules() if not part.training]
    message = f"{len(names)} modules in eval mode" + (f", such as {names[0]}" if names else "")
    advice = "call train() on the network: dropout does nothing in eval mode"
    return problem_if(bool(names), "modes", message, advice, {"eval": len(names)})


def check_trainable(network: nn.Module, freeze: int | str) -> Finding:
    """Check how many weights train, against what `model.encoder.freeze` says."""
    sizes = Counter[bool]()
    for weight in network.parameters():
        sizes[weight.requires_grad] += weight.numel()
    trains, frozen = sizes[True], sizes[False]
    message = f"{trains:,} weights train, {frozen:,} are frozen (model.encoder.freeze: {freeze})"
    advice = ""
    if not trains:
        advice = "nothing would be learned: set model.encoder.freeze to none or to fewer layers"
    elif frozen and freeze == "none":
        advice = "some are frozen although model.encoder.freeze is none; set their requires_grad"
    figures = {"trains": trains, "frozen": frozen}
    return problem_if(bool(advice), "trainable weights", message, advice, figures)


def _refused(name: str, error: InputError) -> Finding:
    """Return the error that would end a run; the last part of its message is the advice."""
    message, _, advice = str(error).rpartition("; ")
    return Finding(name, "error", message, advice)


def _list(keys: Sequence[str]) -> str:
    """Return how many keys there are, with the first two as examples."""
    if not keys:
        return "0"
    return f"{len(keys)} ({', '.join(keys[:2])}{', ...' if len(keys) > 2 else ''})"
