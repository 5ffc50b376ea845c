"""The space of a sweep: which keys of the YAML vary, and which values each one may have."""

import contextlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from litpool import InputError
from litpool.command_line import values
from litpool.command_line.runs import described
from litpool.data.files import Source

Value = bool | int | float | str | None
Parse = Callable[[Mapping[str, Any]], Mapping[str, Any]]

EXAMPLE = "such as {low: 1.0e-5, high: 1.0e-3, log: true} or [16, 32]"
RANGE = ("low", "high", "step", "log")
CLASS_PATH = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+"
DIGITS = 3  # significant digits of a number that is drawn


class Choice(NamedTuple):
    """A key with a list of values; those that are no plain values go by a name."""

    options: dict[Value, Any]  # what the storage holds, and what it stands for
    parsed: dict[Value, Any]  # the same as the parser completes it

    def apply(self, drawn: Any) -> Any:
        """Return the value that a drawn one stands for."""
        return self.options[drawn]

    def place(self, value: Any) -> Value:
        """Return what the storage holds for a value of the parsed job.

        Raises:
            KeyError: It is not one of the choices.
        """
        for plain, parsed in self.parsed.items():
            if _same(parsed, value):
                return plain
        raise KeyError


class Range(NamedTuple):
    """A key with all numbers from `low` to `high`, both included."""

    low: float
    high: float
    step: float | None
    log: bool
    whole: bool  # whether the numbers are whole

    def apply(self, drawn: Any) -> Any:
        """Return a drawn number with as many digits as a person would write."""
        if self.whole or self.step is not None:
            return drawn
        return min(max(float(f"{drawn:.{DIGITS}g}"), self.low), self.high)

    def place(self, value: Any) -> float:
        """Return the number for a value of the config.

        Raises:
            KeyError: It is outside the range.
        """
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high:
            raise KeyError
        if self.step is not None:
            steps = (value - self.low) / self.step
            if not math.isclose(steps, round(steps), abs_tol=1e-9):
                raise KeyError
        return value


Space = dict[str, Choice | Range]


def read(name: str | None) -> dict[str, Any]:
    """Read a space file.

    Args:
        name: The YAML file.

    Returns:
        Each key with its values as they are in the file.

    Raises:
        InputError: There is no such file, or it is not a mapping from keys to values.
    """
    if not name:
        raise InputError("space: name a YAML file, such as --space configs/sweeps/lr_pooling.yaml")
    values.check_file(name)
    path = Path(name)
    if not path.is_file():
        raise InputError(f"space={name}: no such file; name a YAML file with the keys to vary")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not content:
        raise InputError(f"space={name}: empty; name keys of the YAML with values, {EXAMPLE}")
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"space={name}: give a mapping from keys of the YAML to values, {EXAMPLE}")
    return _flat(content)


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted keys; sections may be nested, as in a config."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value and not _is_range(value):
            flat |= _flat(value, f"{key}.")
        else:
            flat[key] = value
    return flat


def _is_range(value: Mapping[str, Any]) -> bool:
    """Return whether a mapping describes a range rather than a section."""
    return not {"low", "high"}.isdisjoint(value) or all(
        not isinstance(part, dict | list) for part in value.values()
    )


def check(content: Mapping[str, Any], parse: Parse) -> Space:
    """Check every value by parsing the job with it.

    Args:
        content: What `read` returned.
        parse: Parses the job with the value of a key, and returns the job.

    Raises:
        InputError: A key does not exist, or a value cannot be used.
    """
    return {key: _check_key(key, value, parse) for key, value in content.items()}


def _check_key(key: str, value: Any, parse: Parse) -> Choice | Range:
    _refuse(key)
    if isinstance(value, list):
        return _check_choice(key, value, parse)
    if isinstance(value, dict):
        return _check_range(key, value, parse)
    parse({key: value})  # the key itself may be wrong
    raise InputError(f"{key}={value}: a single value; give several, {EXAMPLE}")


def _refuse(key: str) -> None:
    """Refuse keys after which scores would not compare."""
    name = key.replace(".init_args.", ".")
    if key.partition(".")[0] in ("config", "name", "save", "ckpt_path", "init_from"):
        raise InputError(
            f"{key}: not part of the job; vary keys of task, model, data and trainer, {EXAMPLE}"
        )
    if name == "seed_everything":
        raise InputError(
            "seed_everything: a seed is no hyperparameter; leave it out of the space, since the "
            "winner is trained with fresh seeds at the end"
        )
    if name in {f"data.{field.name}" for field in fields(Source)} | {"task.label"}:
        raise InputError(
            f"{key}: other rows, so the scores would not compare; leave it out of the space"
        )
    if name in ("task", "task.class_path", "trainer.logger") or name.startswith("trainer.logger."):
        raise InputError(f"{key}: the same for all trials; leave it out of the space")


def _check_choice(key: str, listed: list[Any], parse: Parse) -> Choice:
    choice = Choice({}, {})
    for value in listed:
        parsed = _find(parse({key: value}), key)
        if isinstance(parsed, int | float):
            value = parsed  # YAML 1.1 reads 1e-5, without a point, as text
        plain = value if isinstance(value, Value) else _name(value)
        if plain in choice.options or any(_same(parsed, other) for other in choice.parsed.values()):
            raise InputError(f"{key}: {show(plain)} is listed twice; leave one out")
        choice.options[plain] = value
        choice.parsed[plain] = parsed
    if len(listed) < 2:
        raise InputError(f"{key}={json.dumps(listed)}: give at least two values, {EXAMPLE}")
    return choice


def _name(value: Any) -> str:
    """Return the name of a value that is a mapping or a list."""
    if isinstance(value, dict) and "class_path" in value:
        return described(value)
    return json.dumps(value)


def _same(first: Any, second: Any) -> bool:
    """Compare parsed values; 1 is not true."""
    return type(first) is type(second) and first == second


def _check_range(key: str, value: Mapping[str, Any], parse: Parse) -> Range:
    if unknown := [name for name in value if name not in RANGE]:
        raise InputError(f"{key}.{unknown[0]}: a range has {', '.join(RANGE)}, {EXAMPLE}")
    if missing := [name for name in ("low", "high") if name not in value]:
        raise InputError(f"{key}: its range has no {missing[0]}; give one, {EXAMPLE}")
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise InputError(f"{key}.log={log}: give true or false")
    low, high, step = (_number(key, name, value.get(name)) for name in RANGE[:3])
    if low is None or high is None:
        raise InputError(f"{key}: null is no end of a range; give numbers, {EXAMPLE}")
    if low >= high:
        raise InputError(f"{key}: low {low} is not below high {high}; swap them")
    if log and low <= 0:
        raise InputError(f"{key}.low={low}: a logarithmic range starts above 0; raise it")
    if log and step is not None:
        raise InputError(f"{key}.step={step}: a logarithmic range has no step; leave one out")
    if step is not None and not 0 < step <= high - low:
        raise InputError(f"{key}.step={step}: give a number over 0 and up to {high - low}")
    ends = [_find(parse({key: end}), key) for end in (low, high)]
    if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends):
        raise InputError(f"{key}: not a number; list its values, such as [a, b]")
    whole = all(isinstance(end, int) for end in ends)
    if whole and step is not None and not isinstance(step, int):
        raise InputError(f"{key}.step={step}: give a whole number, as the key takes whole numbers")
    return Range(low, high, step, log, whole)


def _number(key: str, name: str, value: Any) -> int | float | None:
    """Return a number of a range; YAML 1.1 reads 1e-5, without a point, as text."""
    if value is None:
        return None
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"{key}.{name}={value}: give a number")
    return value


def _find(job: Mapping[str, Any], key: str) -> Any:
    """Return the value of a key in a job, whether or not the key says `init_args`.

    Raises:
        KeyError: The job has no such key.
    """
    found: Any = job
    for part in key.split("."):
        if part not in found and isinstance(found.get("init_args"), Mapping):
            found = found["init_args"]
        found = found[part]
    return found


def default(space: Space, job: Mapping[str, Any]) -> dict[str, Value] | None:
    """Return the point of the space that is the job as it is; None if it lies outside.

    Args:
        space: The space.
        job: The job as plain values, including all defaults.
    """
    try:
        return {key: part.place(_find(job, key)) for key, part in space.items()}
    except (KeyError, TypeError, AttributeError):
        return None


def point(
    space: Space, drawn: Mapping[str, Any], default: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the values of the keys for what was drawn; the config's own are not rounded."""
    if drawn == default:
        ranges = {key: drawn[key] for key, part in space.items() if isinstance(part, Range)}
    else:
        ranges = {}
    return {key: part.apply(drawn[key]) for key, part in space.items()} | ranges


def arguments(values: Mapping[str, Any]) -> list[str]:
    """Return the options of the command line that set these keys."""
    return [f"--{key}={_typed(value)}" for key, value in values.items()]


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def label(values: Mapping[str, Any], separator: str = " ") -> str:
    """Return values as one would say them: `lr=2.3e-4 pooling=ClsPooling`."""
    names = _short_names(values)
    return separator.join(f"{names[key]}={show(value)}" for key, value in values.items())


def _short_names(keys: Mapping[str, Any]) -> dict[str, str]:
    """Return the last part of each key, with the part before it where two end alike."""
    parts = {key: key.replace(".init_args.", ".").removesuffix(".name").split(".") for key in keys}
    lasts = [part[-1] for part in parts.values()]
    return {
        key: ".".join(part[-2:] if lasts.count(part[-1]) > 1 else part[-1:])
        for key, part in parts.items()
    }


def show(value: Any) -> str:
    """Return a value as one would type it, without modules: 2.3e-4, not 0.00023."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        text = f"{value:.{DIGITS}g}"
        if 0 < abs(value) < 0.01:
            text = f"{value:.{DIGITS - 1}e}"
            mantissa, _, exponent = text.partition("e")
            text = f"{float(mantissa):g}e{int(exponent)}"
        return text
    if isinstance(value, str):
        return described(value) if re.fullmatch(CLASS_PATH, value) else value
    return str(value) if isinstance(value, int) else _name(value)
