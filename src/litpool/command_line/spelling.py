"""Options as people type them: which key they mean, told before anything slow is imported."""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from litpool import InputError
from litpool.command_line import help, options

OTHER_NAMES = {
    "ckpt_path": "checkpoint resume resume_from_checkpoint",
    "config": "config",
    "data.batch_size": "batch bs bsz",
    "data.columns": "header",
    "data.delimiter": "sep separator",
    "data.encoding": "charset",
    "data.max_length": (
        "length max_len max_seq max_seq_len max_seq_length max_tokens seq_len tokens truncate "
        "truncation"
    ),
    "data.max_rows": "limit rows sample samples subset",
    "data.num_workers": "workers",
    "data.prefix": "instruction prompt",
    "data.source": "corpus csv data data_dir data_path dataset dir file folder input json path tsv",
    "init_from": "finetune init_checkpoint load_from pretrained_checkpoint",
    "model.encoder.freeze": "frozen",
    "model.encoder.name": "backbone bert encoder model plm pretrained_name roberta transformer",
    "model.recipe.eps": "adam_epsilon",
    "model.recipe.layer_decay": "llrd",
    "model.recipe.lr": "learning_rate lr_init",
    "model.recipe.schedule": "lr_scheduler_type scheduler",
    "model.recipe.weight_decay": "decay l2 wd",
    "name": "checkpoint_dir experiment log_dir out output output_dir project run save_dir tags",
    "save.steps": "save_every",
    "seed_everything": "random_state rng_seed seed",
    "task.label": "category class classes target y",
    "task.text": "input_column sentence text txt x",
    "trainer.accelerator": "cpu cuda device",
    "trainer.accumulate_grad_batches": (
        "acc_steps accum accumulation grad_acc_steps gradient_accumulation_steps"
    ),
    "trainer.callbacks": "early_stop early_stopping patience",
    "trainer.devices": "devices gpu gpus",
    "trainer.gradient_clip_val": "clip grad_clip max_grad_norm max_norm",
    "trainer.log_every_n_steps": "log_steps logging_steps",
    "trainer.max_epochs": "epoch epochs",
    "trainer.max_steps": "iterations step steps total_steps",
    "trainer.max_time": "time_limit",
    "trainer.precision": "dtype",
    "trainer.precision 16-mixed": "amp fp16 half_precision",
    "trainer.precision 32-true": "fp32",
    "trainer.precision bf16-mixed": "bf16 mixed",
    "trainer.val_check_interval": "eval_every eval_interval eval_steps val_interval",
}
"""What other libraries, most of all the Hugging Face Trainer, call an option."""

SYNONYMS = {name: key for key, names in OTHER_NAMES.items() for name in names.split()}

FILLERS = (  # noqa: SIM905 (as a list, it would take 40 lines)
    "base col column columns count csv data device exp field fields file hf id initial input max "
    "my n name nb num number of or path per pretrained random size train training type value"
).split()
"""Words that people put around the name of an option, and that may be left out."""

COMMON = frozenset({"batch", "layer", "max", "name", "rate", "size", "steps", "type"})
"""Words of many options, which say less about which one is meant."""

CERTAIN = 0.7  # how well a key must fit to be preferred over a synonym of a single word

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
    return f"{key}: unknown option; did you mean --{nearest(key, keys)}?"


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
    synonyms = {name: key for name, key in SYNONYMS.items() if key.split()[0] in keys}
    words = last.split("_")
    shorter = "_".join(word for word in words if word not in FILLERS)
    for name in (typed, last, shorter):
        if near := difflib.get_close_matches(name, synonyms, n=1, cutoff=0.9):
            return synonyms[near[0]]
    nearest_key = max(keys, key=lambda key: _similarity(section, last, key))
    if not shorter or _similarity(section, last, nearest_key) < CERTAIN:
        nearest_key = next((synonyms[word] for word in words if word in synonyms), nearest_key)
    return nearest_key


def _similarity(section: str, last: str, key: str) -> float:
    """Return how well a key fits what was typed, 0 to about 1; the end of the key counts most."""
    key_section, _, key_last = key.rpartition(".")
    words, key_words = last.split("_"), key_last.split("_")
    by_word = (_coverage(words, key_words) + _coverage(key_words, words)) / 2
    score = max(_ratio(last, key_last), by_word)
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
        return 0.95
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
