"""Options as people type them: which key they mean, told before anything slow is imported."""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from litpool import InputError
from litpool.command_line import help, options

SYNONYMS = {
    "acc_steps": "trainer.accumulate_grad_batches",
    "accum": "trainer.accumulate_grad_batches",
    "accumulation": "trainer.accumulate_grad_batches",
    "adam_epsilon": "model.recipe.eps",
    "additional_special_tokens": "data.add_special_tokens",
    "additional_tokens": "data.add_tokens",
    "amp": "trainer.precision 16-mixed",
    "arch": "model.encoder.name",
    "backbone": "model.encoder.name",
    "batch": "data.batch_size",
    "bert": "model.encoder.name",
    "bf16": "trainer.precision bf16-mixed",
    "bs": "data.batch_size",
    "bsz": "data.batch_size",
    "category": "task.label",
    "charset": "data.encoding",
    "checkpoint": "ckpt_path",
    "checkpoint_dir": "name",
    "checkpointing": "save.steps",
    "class": "task.label",
    "classes": "task.label",
    "classifier_lr": "model.recipe.head_lr_factor",
    "clip": "trainer.gradient_clip_val",
    "config": "config",
    "corpus": "data.source",
    "cosine": "model.recipe.schedule",
    "cpu": "trainer.accelerator",
    "csv": "data.source",
    "cuda": "trainer.accelerator",
    "data": "data.source",
    "data_dir": "data.source",
    "data_path": "data.source",
    "data_seed": "data.seed",
    "datafile": "data.source",
    "dataset": "data.source",
    "decay": "model.recipe.weight_decay",
    "device": "trainer.accelerator",
    "devices": "trainer.devices",
    "dir": "data.source",
    "do_lower_case": "data.tokenizer",
    "document": "task.text",
    "dtype": "trainer.precision",
    "early_stop": "trainer.callbacks",
    "early_stopping": "trainer.callbacks",
    "encoder": "model.encoder.name",
    "epoch": "trainer.max_epochs",
    "epochs": "trainer.max_epochs",
    "eval_every": "trainer.val_check_interval",
    "eval_freq": "trainer.val_check_interval",
    "eval_frequency": "trainer.val_check_interval",
    "eval_interval": "trainer.val_check_interval",
    "eval_steps": "trainer.val_check_interval",
    "eval_strategy": "trainer.val_check_interval",
    "evaluate": "trainer.val_check_interval",
    "evaluation": "trainer.val_check_interval",
    "evaluation_strategy": "trainer.val_check_interval",
    "experiment": "name",
    "extra_tokens": "data.add_tokens",
    "file": "data.source",
    "finetune": "init_from",
    "folder": "data.source",
    "fp16": "trainer.precision 16-mixed",
    "fp32": "trainer.precision 32-true",
    "frozen": "model.encoder.freeze",
    "gpu": "trainer.devices",
    "gpus": "trainer.devices",
    "grad_acc_steps": "trainer.accumulate_grad_batches",
    "grad_clip": "trainer.gradient_clip_val",
    "gradient_accumulation_steps": "trainer.accumulate_grad_batches",
    "group_by_length": "data.length_grouping",
    "half_precision": "trainer.precision 16-mixed",
    "header": "data.columns",
    "init_checkpoint": "init_from",
    "init_lr": "model.recipe.lr",
    "input": "data.source",
    "input_column": "task.text",
    "instruction": "data.prefix",
    "iterations": "trainer.max_steps",
    "json": "data.source",
    "l2": "model.recipe.weight_decay",
    "layers": "model.encoder.overrides",
    "learning_rate": "model.recipe.lr",
    "length": "data.max_length",
    "limit": "data.max_rows",
    "llrd": "model.recipe.layer_decay",
    "lm": "model.encoder.name",
    "load_best_model_at_end": "ckpt_path",
    "load_from": "init_from",
    "log_dir": "name",
    "log_interval": "trainer.log_every_n_steps",
    "log_steps": "trainer.log_every_n_steps",
    "logging_steps": "trainer.log_every_n_steps",
    "lr_decay": "model.recipe.schedule",
    "lr_init": "model.recipe.lr",
    "lr_scheduler_type": "model.recipe.schedule",
    "lrate": "model.recipe.lr",
    "max_grad_norm": "trainer.gradient_clip_val",
    "max_len": "data.max_length",
    "max_norm": "trainer.gradient_clip_val",
    "max_position_embeddings": "model.encoder.overrides",
    "max_seq": "data.max_length",
    "max_seq_len": "data.max_length",
    "max_seq_length": "data.max_length",
    "max_tokens": "data.max_length",
    "mixed": "trainer.precision bf16-mixed",
    "model": "model.encoder.name",
    "out": "name",
    "output": "name",
    "output_dir": "name",
    "path": "data.source",
    "patience": "trainer.callbacks",
    "per_device_eval_batch_size": "data.batch_size",
    "plm": "model.encoder.name",
    "pretrained_checkpoint": "init_from",
    "pretrained_name": "model.encoder.name",
    "pretrained_path": "model.encoder.name",
    "process_count": "data.num_workers",
    "processes": "data.num_workers",
    "project": "name",
    "prompt": "data.prefix",
    "random_state": "seed_everything",
    "restore": "ckpt_path",
    "restore_file": "ckpt_path",
    "resume": "ckpt_path",
    "resume_from_checkpoint": "ckpt_path",
    "review": "task.text",
    "rng_seed": "seed_everything",
    "roberta": "model.encoder.name",
    "rows": "data.max_rows",
    "run": "name",
    "sample": "data.max_rows",
    "samples": "data.max_rows",
    "save_dir": "name",
    "save_every": "save.steps",
    "save_interval": "save.steps",
    "save_strategy": "save.steps",
    "scheduler": "model.recipe.schedule",
    "score": "task.label",
    "seed": "seed_everything",
    "sentence": "task.text",
    "sentiment": "task.label",
    "sep": "data.delimiter",
    "separator": "data.delimiter",
    "seq_len": "data.max_length",
    "step": "trainer.max_steps",
    "steps": "trainer.max_steps",
    "stopping": "trainer.callbacks",
    "subset": "data.max_rows",
    "tags": "name",
    "target": "task.label",
    "tensorboard": "name",
    "tensorboard_dir": "name",
    "text": "task.text",
    "time_limit": "trainer.max_time",
    "token_length": "data.max_length",
    "tokens": "data.max_length",
    "total_steps": "trainer.max_steps",
    "train_seed": "seed_everything",
    "transformer": "model.encoder.name",
    "truncate": "data.max_length",
    "truncation": "data.max_length",
    "tsv": "data.source",
    "txt": "task.text",
    "update_freq": "trainer.accumulate_grad_batches",
    "updates": "trainer.max_steps",
    "val_interval": "trainer.val_check_interval",
    "warm_start": "init_from",
    "wd": "model.recipe.weight_decay",
    "weights": "model.encoder.name",
    "words": "data.max_length",
    "workers": "data.num_workers",
    "x": "task.text",
    "y": "task.label",
}
"""What other libraries, most of all the Hugging Face Trainer, call an option."""

FILLERS = frozenset(
    {
        "base",
        "col",
        "column",
        "columns",
        "count",
        "csv",
        "data",
        "device",
        "exp",
        "field",
        "fields",
        "file",
        "hf",
        "id",
        "init",
        "initial",
        "input",
        "manual",
        "max",
        "my",
        "n",
        "name",
        "nb",
        "num",
        "number",
        "of",
        "or",
        "path",
        "per",
        "pretrained",
        "rand",
        "random",
        "size",
        "train",
        "training",
        "type",
        "value",
    }
)
"""Words that people put around the name of an option, and that may be left out."""

COMMON = frozenset({"batch", "layer", "max", "name", "rate", "size", "steps", "type"})
"""Words of many options, which say less about which one is meant."""

CERTAIN = 0.7  # how well a key must fit to be preferred over a synonym of a single word
POSSIBLE = 0.6  # how well it must fit to be named beside one

VALUE_OF = {
    "data": "data.source",
    "model": "model.encoder.name",
    "model.encoder": "model.encoder.name",
}
"""The option that a plain value given to a whole section is meant for."""

EXTRA = ("config", "help", "help-all", "print_config", "trust")  # no parameters of a function
SPLIT = r"(train|val|valid|validation|dev|eval|test)"
SPLIT_FILES = re.compile(rf"{SPLIT}_?(file|path|data|csv)")
SPLIT_SIZES = re.compile(rf"{SPLIT}_?(size|split|fraction|ratio)")


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
    keys = [*options.keys(command), "config"]
    meant = " or ".join(f"--{name}" for name in nearest(key, keys))
    return f"{key}: unknown option; did you mean {meant}?"


def nearest(typed: str, keys: Sequence[str]) -> list[str]:
    """Return the key that a mistyped one probably means, or the two that it may mean.

    Args:
        typed: What was typed, without dashes in front, such as `num_epochs`.
        keys: The dotted keys of a command.

    Returns:
        Keys; some synonyms also have a value, such as `trainer.precision 16-mixed`.
    """
    typed = typed.replace("-", "_").lower()
    section, _, last = typed.rpartition(".")
    if match := SPLIT_FILES.fullmatch(last):
        split = {"train": "train", "test": "test"}.get(match[1], "validation")
        other = "test" if split == "test" else "validation"
        return [f"data.source '{{train: FILE, {other}: FILE}}'"]
    if SPLIT_SIZES.fullmatch(last):
        return ["data.splits"]
    synonyms = {name: key for name, key in SYNONYMS.items() if key.split()[0] in keys}
    words = last.split("_")
    shorter = "_".join(word for word in words if word not in FILLERS)
    for name in (typed, last, shorter):
        if near := difflib.get_close_matches(name, synonyms, n=1, cutoff=0.88):
            return [synonyms[near[0]]]
    similarities = {key: _similarity(section, last, key) for key in keys}
    most_similar = max(keys, key=similarities.__getitem__)
    if shorter and similarities[most_similar] >= CERTAIN:
        return [most_similar]
    by_word = [synonyms[word] for word in reversed(words) if word in synonyms]
    if similarities[most_similar] >= POSSIBLE or not by_word:
        by_word.insert(1, most_similar)
    return list(dict.fromkeys(by_word))[:2]


def _similarity(section: str, last: str, key: str) -> float:
    """Return how well a key fits what was typed, 0 to about 1; the end of the key counts most."""
    key_section, _, key_last = key.rpartition(".")
    words, key_words = last.split("_"), key_last.split("_")
    by_word = (_coverage(words, key_words) + _coverage(key_words, words)) / 2
    score = max(_ratio(last, key_last), by_word)
    if "_" in key_last and f"_{key_last}_" in f"_{last}_":
        score = max(score, 0.97)  # as in tokenizer_max_length
    elif key_last not in COMMON and last.endswith(f"_{key_last}"):
        score = max(score, 0.75)  # as in encoder_lr: the last word says what it is
    if section and section in key_section:
        score += 0.2
    if key.startswith("trainer."):
        score -= 0.05 if key_last in help.TRAINER else 0.15
    return score


def _coverage(words: Sequence[str], others: Sequence[str]) -> float:
    """Return which share of some words, by length, is among the others, at least nearly."""
    weights = {word: len(word) / (3 if word in COMMON else 1) for word in words}
    found = sum(weights[word] * max(_ratio(word, other) for other in others) for word in words)
    return found / max(sum(weights.values()), 0.1)


def _ratio(first: str, second: str) -> float:
    """Return how alike two words are, 0 to 1; an abbreviation is nearly the word."""
    shorter, longer = sorted((first, second), key=len)
    if len(shorter) > 3 and longer.startswith(shorter):
        return 0.9
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
