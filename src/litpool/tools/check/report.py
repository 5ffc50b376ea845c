"""The command `check`: data, tokenizer and encoder in one table, before a run; check.json keeps it."""

import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from litpool import InputError
from litpool.data.module import TextDataModule
from litpool.data.tokenizer import load_tokenizer
from litpool.loops.lightning import TextModule
from litpool.model.encoder import NUMBERED_FROM_PADDING, Encoder
from litpool.model.markers import resolve
from litpool.model.network import TextModel
from litpool.tools.check.rows import (
    check_added,
    check_duplicates,
    check_empty,
    check_labels,
    check_vocabulary_use,
)
from litpool.tools.check.tokens import (
    Finding,
    Status,
    Tokens,
    check_lengths,
    check_scripts,
    check_unknown,
    count_tokens,
    count_words,
    measure_scripts,
    merge,
)

ROWS = 5_000  # taken at a time, and so often the bar moves
TOKENIZED = (
    5_000  # rows of a split that are tokenized, evenly spaced: words are counted in all of them
)
MISPLACED = (
    0.01  # share of the ids: tokenizers of one family differ in a few special tokens and unused ids
)
SPECIAL = {name: [name] for name in ("pad", "cls", "sep", "mask")} | {
    "bos": ["bos", "cls"],
    "eos": ["eos", "sep"],
}
"""Ids of the config, and the tokenizer's that say the same: BERT's [CLS] begins a text as bos does elsewhere."""


def run_checks(module: TextModule, folder: Path) -> bool:
    """Check everything, print the table, write check.json into the folder.

    Returns:
        Whether there is an error.

    Raises:
        InputError: The rows or the tokenizer cannot be read, so that there is nothing to check.
    """
    data = module.data
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")  # they become lines of the table
        data.setup("check")
    findings = [
        *check_data(data, [str(warning.message) for warning in caught]),
        *check_model(module, data),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    counts = Counter(finding.status for finding in findings)
    result = {
        "status": next(status for status in ("error", "warning", "ok") if counts[status]),
        "rows": {split: len(rows) for split, rows in data.rows.items()},
        "lines": [entry(finding) for finding in findings],
    }
    path = folder / "check.json"
    path.write_text(
        json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    for line in table(findings):
        print(line)
    print(
        f"{counts['error']} errors, {counts['warning']} warnings, {counts['ok']} ok\nwrote {path}"
    )
    return counts["error"] > 0


def entry(finding: Finding) -> dict[str, Any]:
    """A line of check.json, where the message has had the key `told` since version 0.1.0."""
    return {
        "name": finding.name,
        "status": finding.status,
        "told": finding.message,
        "advice": finding.advice,
        "figures": finding.figures,
    }


def table(findings: Iterable[Finding]) -> Iterator[str]:
    """The lines of the table; advice and examples stand below their line."""
    for finding in findings:
        first, *more = finding.message.split("\n")
        yield f"{finding.status:8} {finding.name:25} {first}"
        for line in [*more, *([f"-> {finding.advice}"] if finding.advice else [])]:
            yield f"{'':8} {'':25} {line}"


# ---- the data


def check_data(data: TextDataModule, message: list[str]) -> list[Finding]:
    """The lines about rows and texts; `message` is what reading them warned of."""
    from datasets import Dataset  # late: slow to import

    # rows that were split off by seed lie scattered: gathered once, they are read quickly
    tables = {
        split: found.with_format("arrow")[:].combine_chunks() for split, found in data.rows.items()
    }
    task, rows = data.task, {split: Dataset(table) for split, table in tables.items()}
    words, tokens, absent = _read(data, rows)
    return [
        *check_scripts(measure_scripts(data.tokenizer, words)),
        check_unknown(tokens, data.tokenizer),
        *check_lengths(tokens, data.max_length, task.on_tokens),
        check_empty(message, tokens.bare, len(tokens.lengths)),
        *check_duplicates(rows, task.texts, task.label),
        *check_labels(rows, task.label, task.labels),
        check_vocabulary_use(tokens.counts, len(tokens.lengths)),
        *check_added(len(data.new_ids), absent),
    ]


def _read(
    data: TextDataModule, splits: Mapping[str, Any]
) -> tuple[Counter[str], Tokens, list[str]]:
    """The words of all rows, the tokens of at most TOKENIZED rows of each split, and the added tokens in no row."""
    words, parts = Counter[str](), []
    absent: Any = [*data.tokenizer.convert_ids_to_tokens(list(data.new_ids))]
    total = sum(map(len, splits.values()))
    with tqdm(total=total, desc="checking", unit=" rows", disable=not sys.stderr.isatty()) as bar:
        for rows in splits.values():
            step = -(-len(rows) // TOKENIZED)
            for start in range(0, len(rows), ROWS):
                part = rows[start : start + ROWS]  # its columns as lists
                texts = "\n".join(text for column in data.task.texts for text in part[column])
                words.update(count_words([texts]))
                absent = [
                    token
                    for token in absent
                    if token not in texts and token.lower() not in texts.lower()
                ]
                chosen = {name: values[-start % step :: step] for name, values in part.items()}
                if any(chosen.values()):
                    parts.append(count_tokens(data.task, data.tokenizer, chosen))
                bar.update(min(ROWS, len(rows) - start))
    tokens = merge(parts)
    if max(map(len, splits.values())) <= TOKENIZED:  # all of them
        absent = data.tokenizer.convert_ids_to_tokens(
            [number for number in data.new_ids if not tokens.counts[number]]
        )
    return words, tokens, absent


# ---- the tokenizer and the encoder


def check_model(module: TextModule, data: TextDataModule) -> list[Finding]:
    """The lines about the encoder and what it has to do with the tokenizer."""
    config, tokenizer = module.encoder_config(), data.tokenizer
    rows = check_embedding_rows(module.encoder.pretrained, config, data)
    lines = [
        *check_special_tokens(config, tokenizer),
        rows,
        check_vocabulary(module, data),
        *check_markers(module, data),
    ]
    if lines[-1].name == "markers" and lines[-1].status == "error":
        return lines  # nor can the network be built
    try:
        network = module.build(torch.device("cpu"))
    except InputError as error:  # missing weights, a random pooler
        return [*lines, _refused("weights", error)]
    return [
        *lines,
        *check_weights(network.encoder, module.encoder.pretrained),
        *check_modes(network, module),
    ]


def check_special_tokens(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> list[Finding]:
    """Whether the encoder's config and the tokenizer give special tokens the same ids, as far as both name them."""
    clashing: dict[str, tuple[int, int]] = {}
    known: dict[str, tuple[int, int]] = {}
    for name, kinds in SPECIAL.items():
        theirs = getattr(config, f"{name}_token_id", None)
        ours = next(
            (
                i
                for kind in kinds
                if (i := getattr(tokenizer, f"{kind}_token_id", None)) is not None
            ),
            None,
        )
        if isinstance(theirs, int) and ours is not None:
            (known if theirs == ours else clashing)[name] = (theirs, ours)
    if not clashing:
        message = (
            ", ".join(f"{name} {ours}" for name, (_, ours) in known.items())
            or "the config names none"
        )
        return [Finding("special tokens", "ok", message)]
    message = ", ".join(
        f"{name}: config {theirs}, tokenizer {ours}" for name, (theirs, ours) in clashing.items()
    )
    shifts = "pad" in clashing and config.model_type in NUMBERED_FROM_PADDING
    advice = "take the tokenizer that was saved with the encoder, or mend the ids in the encoder's config.json"
    if shifts:
        advice = f"{config.model_type} numbers positions by its padding id, so all would be off: {advice}"
    return [
        Finding(
            "special tokens",
            "error" if shifts else "warning",
            message,
            advice,
            {"clashing": clashing},
        )
    ]


def check_embedding_rows(
    pretrained: bool, config: PretrainedConfig, data: TextDataModule
) -> Finding:
    """Whether the tokenizer gives ids for which the encoder has no embedding, but for those of added tokens."""
    rows, ids = config.vocab_size, np.array(sorted(data.tokenizer.get_vocab().values()))
    beyond = [int(number) for number in ids[ids >= rows] if number not in data.new_ids]
    message = f"{rows:,} in the encoder, {len(ids):,} ids in the tokenizer, {len(data.new_ids)} of them added tokens"
    if not beyond or not pretrained:
        return Finding("embedding rows", "ok", message, "", {"rows": rows, "beyond": len(beyond)})
    few = ", ".join(map(repr, data.tokenizer.convert_ids_to_tokens(beyond[:3])))
    message += f"; {len(beyond):,} ids lie beyond, such as those of {few}"
    advice = "their embeddings would start at random: take the encoder's own tokenizer, or name them in data.add_tokens"
    return Finding(
        "embedding rows", "error", message, advice, {"rows": rows, "beyond": len(beyond)}
    )


def check_vocabulary(module: TextModule, data: TextDataModule) -> Finding:
    """Whether another tokenizer's ids mean the same pieces as those of the encoder's own."""
    name, encoder = data.tokenizer_name, module.encoder
    if name == encoder.name:
        return Finding("tokenizer", "ok", "the encoder's own")
    if not encoder.pretrained:
        return Finding(
            "tokenizer",
            "ok",
            f"{name}; the encoder's weights are random, and any tokenizer will do",
        )
    try:
        own = load_tokenizer(encoder.name, [], [], data.pad_token)
    except InputError as error:
        return Finding("tokenizer", "warning", f"{name}; the encoder's own cannot be read: {error}")
    meant, used = (
        {number: token for token, number in t.get_vocab().items()} for t in (own, data.tokenizer)
    )
    other = [number for number in used.keys() & meant.keys() if used[number] != meant[number]]
    figures: dict[str, Any] = {"compared": len(used.keys() & meant.keys()), "other": len(other)}
    message = (
        f"{name}: {len(other):,} of {figures['compared']:,} ids mean another piece to the encoder"
    )
    if not other:
        return Finding("tokenizer", "ok", message, "", figures)
    few = ", ".join(f"{used[number]!r} is its {meant[number]!r}" for number in sorted(other)[-3:])
    status: Status = "error" if len(other) > MISPLACED * figures["compared"] else "warning"
    advice = "leave data.tokenizer out: the encoder's own is taken"
    return Finding("tokenizer", status, f"{message}; {few}", advice, figures)


def check_markers(module: TextModule, data: TextDataModule) -> list[Finding]:
    """Whether each text has the markers that the pooling is to find; no line where there are none."""
    try:
        if not (sought := resolve(module.pooling_alone(), data.tokenizer)):
            return []
        with warnings.catch_warnings(
            action="ignore"
        ):  # of added tokens that never occur, which have their line
            module.read(
                "fit" if "train" in data.rows else "test" if "test" in data.rows else "validate"
            )
    except InputError as error:
        return [_refused("markers", error)]
    return [
        Finding("markers", "ok", f"{' '.join(sought)} in every text", "", {"markers": list(sought)})
    ]


def check_weights(encoder: Encoder, pretrained: bool) -> list[Finding]:
    """Which weights came from the files, which are left random, and which of the files' are not used."""
    if not pretrained:
        message = "all random, as model.encoder.pretrained: false asks"
        return [Finding("weights", "ok", message, "", {"loaded": 0})]
    missing, unused = encoder.loading["missing_keys"], encoder.loading["unexpected_keys"]
    loaded = len(encoder.model.state_dict()) - len(missing)
    parts = {name for name, _ in encoder.model.named_children()}
    lost = [
        key for key in unused if parts & set(key.split(".")[:2])
    ]  # layers, not the head of another task
    message = f"{loaded} tensors loaded, {_named(missing)} left random, {_named(unused)} in the files not used"
    advice = ""
    if missing:
        advice = (
            "what is random has to be learned anew; without PoolerOutput the pooler takes no part"
        )
    elif lost:
        advice = f"the encoder leaves out layers that its files hold, such as {lost[0]}; see num_hidden_layers"
    figures = {"loaded": loaded, "random": missing, "unused": unused}
    return [Finding("weights", "warning" if advice else "ok", message, advice, figures)]


def _refused(name: str, error: InputError) -> Finding:
    """What a run would end with; the last part of its message says what to do."""
    message, _, advice = str(error).rpartition("; ")
    return Finding(name, "error", message, advice)


def _named(keys: list[str]) -> str:
    return f"{len(keys)} ({', '.join(keys[:2])}{', ...' if len(keys) > 2 else ''})" if keys else "0"


def check_modes(network: TextModel, module: TextModule) -> list[Finding]:
    """Modules in eval mode, in which dropout is silent, and how many weights train."""
    asleep = [name or "the network" for name, part in network.named_modules() if not part.training]
    message = f"{len(asleep)} modules in eval mode" + (f", such as {asleep[0]}" if asleep else "")
    advice = "call train() on the network: dropout does nothing in eval mode"
    lines = [
        Finding(
            "modes",
            "warning" if asleep else "ok",
            message,
            advice * bool(asleep),
            {"eval": len(asleep)},
        )
    ]
    sizes = Counter[bool]()
    for weight in network.parameters():
        sizes[weight.requires_grad] += weight.numel()
    trains, frozen = sizes[True], sizes[False]
    message = f"{trains:,} weights train, {frozen:,} are frozen (model.encoder.freeze: {module.encoder.freeze})"
    advice = ""
    if not trains:
        advice = "nothing would be learned: set model.encoder.freeze to none, or to fewer layers"
    elif frozen and module.encoder.freeze == "none":
        advice = "some are frozen though model.encoder.freeze is none; set requires_grad"
    figures = {"trains": trains, "frozen": frozen}
    return [
        *lines,
        Finding("trainable weights", "warning" if advice else "ok", message, advice, figures),
    ]
