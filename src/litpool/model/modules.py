"""What a folder of sentence-transformers says besides the weights: pooling, length and prompts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from litpool import InputError
from litpool.demo.encoder import locate
from litpool.model.encoder import EncoderOptions, load_config, max_length

LIST = "modules.json"
POOLINGS = {
    "cls": "ClsPooling",
    "max": "MaxPooling",
    "mean": "MeanPooling",
    "mean_sqrt_len_tokens": "MeanSqrtLenPooling",
    "weightedmean": "WeightedMeanPooling",
    "lasttoken": "LastTokenPooling",
}
OLD_KEYS = {  # before version 5.4, each kind of pooling had a key of its own, in this order
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass
class Modules:
    """The modules of a model of sentence-transformers.

    Args:
        pooling: The same pooling here, as in a config; None if there is none.
        max_length: Tokens of a text to keep, special ones included.
        prefix: The prompt that is put before each text by default.
        prompts: All prompts by name.
        others: The kinds of modules that litpool does not have, such as Dense.
    """

    pooling: dict[str, Any] | None = None
    max_length: int | None = None
    prefix: str | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)

    def defaults(self, options: EncoderOptions, on_tokens: bool) -> dict[str, Any]:
        """Return the defaults by option.

        Args:
            options: The encoder, which may have positions for fewer tokens.
            on_tokens: Whether the task has no pooling and no prefix.
        """
        length = self.max_length
        limit = max_length(load_config(options)) if length else None
        values: dict[str, Any] = {
            "data.max_length": min(length, limit or length) if length else None
        }
        if not on_tokens:
            values |= {"model.pooling": self.pooling, "data.prefix": self.prefix}
        return {name: value for name, value in values.items() if value is not None}

    def describe(self, taken: Mapping[str, Any], on_tokens: bool) -> str:
        """Return a line about what is taken and what is not; empty if there is nothing to say.

        Args:
            taken: The defaults that the user has not set, by option.
            on_tokens: Whether the task has no pooling and no prefix.
        """
        parts = [f"{name} {_in_words(value)}" for name, value in taken.items()]
        parts = [f"from its files: {', '.join(parts)}"] if parts else []
        if on_tokens:
            return f"encoder     {parts[0]}" if parts else ""
        changing = [kind for kind in self.others if kind != "Normalize"]
        if changing:
            parts.append(f"not used: {', '.join(changing)}, so the vectors are those before it")
        if parts and "Normalize" in self.others:
            parts.append("not used: Normalize, without which the cosine is the same")
        unused = [f"{name} {text!r}" for name, text in self.prompts.items() if text != self.prefix]
        if unused:
            parts.append(f"prompts that data.prefix may be set to: {', '.join(unused)}")
        return f"encoder     {'; '.join(parts)}" if parts else ""


def _in_words(value: Any) -> str:
    """Return a pooling's name without its module, and any other value as it is."""
    if not isinstance(value, Mapping):
        return repr(value)
    parts = value.get("init_args", {}).get("poolings", [])
    names = [part["class_path"].rpartition(".")[2] for part in [value, *parts]]
    return " of ".join([names[0], ", ".join(names[1:])]) if parts else names[0]


def read_modules(name: str) -> Modules | None:
    """Return what a folder or Hub id of sentence-transformers says; None for any other encoder.

    Raises:
        InputError: It names a pooling that litpool does not have, or its files are damaged.
    """
    listed = _read(name, LIST)
    if not isinstance(listed, list):
        return None
    modules = Modules()
    try:
        for module in listed:
            kind, path = module["type"].rpartition(".")[2], module["path"]
            if kind == "Transformer":
                modules.max_length = _max_length(name, path)
            elif kind == "Pooling":
                modules.pooling = _pooling(name, _read(name, f"{path}/config.json") or {})
            else:
                modules.others.append(kind)
        config = _read(name, "config_sentence_transformers.json") or {}
        prompts = config.get("prompts") or {}
        modules.prompts = {key: str(text) for key, text in prompts.items() if text}
        modules.prefix = modules.prompts.get(config.get("default_prompt_name") or "")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"model.encoder.name={name}: its {LIST} or a file that it names is damaged "
            f"({type(error).__name__}: {error}); copy it again"
        ) from error
    return modules


def _read(name: str, file: str) -> Any:
    """Return the content of a JSON file; None if the encoder has none of this name."""
    folder = Path(name if Path(name).is_dir() else locate(name))
    if folder.is_dir():
        path: str | None = str(folder / file)
    else:
        try:
            path = cached_file(
                name,
                file,
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
        except (OSError, ValueError):  # no such encoder: its config will be missing, too
            return None
    if path is None or not Path(path).is_file():
        return None
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"model.encoder.name={name}: its {file} is not JSON ({error}); copy it again"
        ) from error


def _max_length(name: str, path: str) -> int | None:
    config = _read(name, f"{path}/sentence_bert_config.json".lstrip("/")) or {}
    length = config.get("max_seq_length")
    return None if length is None else int(length)


def _pooling(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in OLD_KEYS.items() if config.get(key)] or ["mean"]
    parts = []
    for mode in [modes] if isinstance(modes, str) else modes:
        if mode not in POOLINGS:
            raise InputError(
                f"model.encoder.name={name}: its pooling {mode!r} is unknown here; "
                f"there are {', '.join(POOLINGS)}; use a folder without {LIST}"
            )
        parts.append({"class_path": f"litpool.model.pooling.{POOLINGS[mode]}"})
    if len(parts) == 1:
        return parts[0]
    return {
        "class_path": "litpool.model.pooling.ConcatPooling",
        "init_args": {"poolings": parts},
    }
