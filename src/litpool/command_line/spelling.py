"""Options as people type them: which key they mean, told before anything slow is imported."""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from litpool import InputError
from litpool.command_line import help, options

OTHER_NAMES = {
    "ckpt_path": (
        "checkpoint load_best_model_at_end restore restore_file resume resume_from_checkpoint"
    ),
    "config": "config",
    "data.add_special_tokens": "additional_special_tokens",
    "data.add_tokens": "additional_tokens extra_tokens",
    "data.batch_size": "batch bs bsz per_device_eval_batch_size",
    "data.columns": "header",
    "data.delimiter": "sep separator",
    "data.encoding": "charset",
    "data.length_grouping": "group_by_length",
    "data.max_length": (
        "length max_len max_seq max_seq_len max_seq_length max_tokens seq_len token_length "
        "tokens truncate truncation words"
    ),
    "data.max_rows": "limit rows sample samples subset",
    "data.num_workers": "process_count processes workers",
    "data.prefix": "instruction prompt",
    "data.seed": "data_seed",
    "data.source": (
        "corpus csv data data_dir data_path datafile dataset dir file folder input json path tsv"
    ),
    "data.tokenizer": "do_lower_case",
    "init_from": "finetune init_checkpoint load_from pretrained_checkpoint warm_start",
    "model.encoder.freeze": "frozen",
    "model.encoder.name": (
        "arch backbone bert encoder lm model plm pretrained_name pretrained_path roberta "
        "transformer"
    ),
    "model.encoder.overrides": "layers max_position_embeddings",
    "model.recipe.eps": "adam_epsilon",
    "model.recipe.head_lr_factor": "classifier_lr",
    "model.recipe.layer_decay": "llrd",
    "model.recipe.lr": "init_lr learning_rate lr_init lrate",
    "model.recipe.schedule": "cosine lr_decay lr_scheduler_type scheduler",
    "model.recipe.weight_decay": "decay l2 wd",
    "name": (
        "checkpoint_dir experiment log_dir out output output_dir project run save_dir tags "
        "tensorboard tensorboard_dir"
    ),
    "save.steps": "checkpointing save_every save_interval save_strategy",
    "seed_everything": "random_state rng_seed seed train_seed",
    "task.label": "category class classes score sentiment target y",
    "task.text": "document input_column review sentence text txt x",
    "trainer.accelerator": "cpu cuda device",
    "trainer.accumulate_grad_batches": (
        "acc_steps accum accumulation grad_acc_steps gradient_accumulation_steps update_freq"
    ),
    "trainer.callbacks": "early_stop early_stopping patience stopping",
    "trainer.devices": "devices gpu gpus",
    "trainer.gradient_clip_val": "clip grad_clip max_grad_norm max_norm",
    "trainer.log_every_n_steps": "log_interval log_steps logging_steps",
    "trainer.max_epochs": "epoch epochs",
    "trainer.max_steps": "iterations step steps total_steps updates",
    "trainer.max_time": "time_limit",
    "trainer.precision": "dtype",
    "trainer.precision 16-mixed": "amp fp16 half_precision",
    "trainer.precision 32-true": "fp32",
    "trainer.precision bf16-mixed": "bf16 mixed",
    "trainer.val_check_interval": (
        "eval_every eval_freq eval_frequency eval_interval eval_steps eval_strategy evaluate "
        "evaluation evaluation_strategy val_interval"
    ),
}
"""What other libraries, most of all the Hugging Face Trainer, call an option."""

SYNONYMS = {name: key for key, names in OTHER_NAMES.items() for name in names.split()}

FILLERS = (  # noqa: SIM905 (as a list, it would take 40 lines)
    "base col column columns count csv data device exp field fields file hf id init initial "
    "input manual max my n name nb num number of or path per pretrained rand random size "
    "train training type value"
).split()
"""Words that people put around the name of an option, and that may be left out."""

COMMON = frozenset({"batch", "layer", "max", "name", "rate", "size", "steps", "type"})
"""Words of many options, which say less about which one is meant."""

NEARLY_THE_SAME = 0.85  # how well a key must fit to be named next to a synonym of all the words
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
    if "data.source" in keys and (match := SPLIT_FILES.fullmatch(last)):
        split = {"train": "train", "test": "test"}.get(match[1], "validation")
        other = "test" if split == "test" else "validation"
        return [f"data.source '{{train: FILE, {other}: FILE}}'"]
    if "data.splits" in keys and SPLIT_SIZES.fullmatch(last):
        return ["data.splits"]
    synonyms = {name: key for name, key in SYNONYMS.items() if key.split()[0] in keys}
    words = last.split("_")
    shorter = "_".join(word for word in words if word not in FILLERS)
    similarities = {key: _similarity(section, last, key) for key in keys}
    most_similar = max(keys, key=similarities.__getitem__)
    own = [most_similar] if similarities[most_similar] >= NEARLY_THE_SAME else []
    for name in (typed, last, shorter):
        if near := difflib.get_close_matches(name, synonyms, n=1, cutoff=0.88):
            return list(dict.fromkeys([*own, synonyms[near[0]]]))
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
        score = max(score, 0.9)  # as in tokenizer_max_length
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
        return 0.85
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
