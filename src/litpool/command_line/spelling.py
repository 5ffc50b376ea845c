"""Options as people type them: which key they mean, told before anything slow is imported."""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from litpool import InputError
from litpool.command_line import options

SYNONYMS = {
    "bf16": "trainer.precision bf16-mixed",
    "checkpoint": "ckpt_path",
    "cuda": "trainer.accelerator",
    "dataset": "data.source",
    "dataset_name": "data.source",
    "early_stopping": "trainer.callbacks",
    "encoder": "model.encoder.name",
    "epoch": "trainer.max_epochs",
    "epochs": "trainer.max_epochs",
    "eval_steps": "trainer.val_check_interval",
    "file": "data.source",
    "fp16": "trainer.precision 16-mixed",
    "gpu": "trainer.devices",
    "gpus": "trainer.devices",
    "grad_clip": "trainer.gradient_clip_val",
    "gradient_accumulation_steps": "trainer.accumulate_grad_batches",
    "label_column": "task.label",
    "learning_rate": "model.recipe.lr",
    "logging_steps": "trainer.log_every_n_steps",
    "lr_scheduler_type": "model.recipe.schedule",
    "max_grad_norm": "trainer.gradient_clip_val",
    "max_len": "data.max_length",
    "max_seq_length": "data.max_length",
    "model_name_or_path": "model.encoder.name",
    "model": "model.encoder.name",
    "num_train_epochs": "trainer.max_epochs",
    "output": "name",
    "output_dir": "name",
    "patience": "trainer.callbacks",
    "path": "data.source",
    "per_device_train_batch_size": "data.batch_size",
    "resume": "ckpt_path",
    "resume_from_checkpoint": "ckpt_path",
    "run_name": "name",
    "scheduler": "model.recipe.schedule",
    "seed": "seed_everything",
    "target": "task.label",
    "text_column": "task.text",
    "workers": "data.num_workers",
}
"""What other libraries, most of all the Hugging Face Trainer, call an option."""

VALUE_OF = {
    "data": "data.source",
    "model": "model.encoder.name",
    "model.encoder": "model.encoder.name",
}
"""The option that a plain value given to a whole section is meant for."""

EXTRA = ("config", "help", "help-all", "print_config", "trust")  # no parameters of a function
SPLIT_FILES = re.compile(r"(train|val|valid|validation|dev|eval|test)_(file|path|data|csv)")


def check(command: str, arguments: Sequence[str]) -> None:
    """Refuse options that the command does not have, and values that a section cannot take.

    Classes of the user's own have options that only the parser knows, so what is below `task`,
    `model.pooling` or the trainer's plugins is left to it.

    Args:
        command: The command.
        arguments: What follows it on the command line.

    Raises:
        InputError: It names the option that is probably meant.
    """
    places = options.positional(command)
    known = {option.key for option in options.read(command)}.difference(places) | set(EXTRA)
    sections = {key[: match.start()] for key in known for match in re.finditer(r"\.", key)}
    if arguments and not arguments[0].startswith("-") and not places:
        raise InputError(f"{arguments[0]}: not an option; did you mean --config {arguments[0]}?")
    for key, value in pairs(arguments):
        is_below = any(key.startswith(f"{leaf}.") for leaf in known)
        if key not in known | sections and not is_below and key not in ("c", "h"):
            raise InputError(unknown(command, key))
        if value is not None and key in sections - known and not _is_mapping(value):
            advice = "give a YAML file or a mapping such as '{key: value}'"
            if key in VALUE_OF:
                advice = f"did you mean --{VALUE_OF[key]} {value}?"
            raise InputError(f"{key}={value}: a section with several options; {advice}")
        if value is not None and key == "model.encoder.name":
            check_encoder(value)


def check_encoder(name: str) -> None:
    """Refuse a checkpoint or a run folder as the name of an encoder, and say how to use it.

    Raises:
        InputError: It is a checkpoint of litpool's, or a folder with one.
    """
    path = Path(name)
    if path.suffix != ".ckpt":
        if not os.path.isdir(name):  # False also for what cannot be a path, unlike Path's
            return
        found = [*path.glob("checkpoints/best.ckpt"), *path.glob("best.ckpt")]
        if (path / "config.json").exists() or not found:
            return
        path = found[0]
    raise InputError(
        f"model.encoder.name={name}: a checkpoint of litpool's, not an encoder; to train a new "
        f"model from its weights, use --init_from {path}; to get its answers, use "
        f"predict --ckpt_path {path}"
    )


def unknown(command: str, key: str) -> str:
    """Return the error for an unknown option, from the command line (without dashes) or YAML."""
    return f"{key}: unknown option; did you mean --{nearest(key, options.keys(command))}?"


def nearest(typed: str, keys: Sequence[str]) -> str:
    """Return the key that a mistyped one probably means.

    Args:
        typed: What was typed, without dashes in front, such as `num_epochs`.
        keys: The dotted keys of a command.

    Returns:
        A key; some synonyms also have a value, such as `trainer.precision 16-mixed`.
    """
    typed = typed.replace("-", "_").lower()
    section, _, last = typed.rpartition(".")
    if match := SPLIT_FILES.fullmatch(last):
        split = {"train": "train", "test": "test"}.get(match[1], "validation")
        return f"data.source '{{train: FILE, {'test' if split == 'test' else 'validation'}: FILE}}'"
    for name in (typed, last):
        if name in SYNONYMS and SYNONYMS[name].split()[0] in keys:
            return SYNONYMS[name]
    return max(keys, key=lambda key: _similarity(section, last, key))


def _similarity(section: str, last: str, key: str) -> float:
    """Return how well a key fits what was typed, 0 to about 1; the end of the key counts most."""
    key_section, _, key_last = key.rpartition(".")
    words, key_words = last.split("_"), key_last.split("_")
    by_word = (_coverage(words, key_words) + _coverage(key_words, words)) / 2
    score = max(_ratio(last, key_last), by_word)
    if section and section in key_section:
        score += 0.2
    return score - 0.05 * key.startswith("trainer.")


def _coverage(words: Sequence[str], others: Sequence[str]) -> float:
    """Return which share of some words, by length, is among the others, at least nearly."""
    found = sum(len(word) * max(_ratio(word, other) for other in others) for word in words)
    return found / max(sum(map(len, words)), 1)


def _ratio(first: str, second: str) -> float:
    return difflib.SequenceMatcher(None, first, second).ratio()


def pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each option, without dashes, with the value that follows it, if one does."""
    for position, argument in enumerate(arguments):
        if not re.match(r"--?[A-Za-z]", argument) or argument.startswith("-c="):
            continue
        key, equals, value = argument.lstrip("-").partition("=")
        following = arguments[position + 1 : position + 2]
        if not equals and following and not re.match(r"--[A-Za-z]", following[0]):
            value = following[0]
            equals = " "
        yield key.removesuffix("+"), value if equals else None


def _is_mapping(value: str) -> bool:
    return value.startswith("{") or Path(value).suffix in (".yaml", ".yml", ".json")
