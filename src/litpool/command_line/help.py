"""`COMMAND --help`: litpool's options on a page; with --help-all, those of Lightning's as well."""

import re
import textwrap
from collections.abc import Iterator, Sequence

from litpool import program
from litpool.command_line import options
from litpool.command_line.options import Option

WIDTH = 100  # columns of a page
LEFT = 32  # columns of the keys
CUTS = {  # from how many characters on the short page leaves out which part of a description
    r"(?P<kept>) \([^()]*\)": 60,
    r"(?P<kept>); .*": 60,
    r"(?P<kept>), such as .*": 60,
    r"(?P<kept>), (?:with a|and of|to|independent|counting up|which is) .*": 60,
    r"^(?P<kept>(?:[^`:]|`[^`]*`|:(?! ))*): .*": 125,  # after a colon outside of backquotes
}

TRAINER = {
    "max_epochs": ("3", "How often to go through the train split; -1 for no limit."),
    "max_steps": ("-1", "How many optimizer steps at most; -1 for no limit."),
    "max_time": ("null", "When to stop at the latest, as days:hours:minutes:seconds."),
    "precision": ("32-true", "How to compute: 32-true, bf16-mixed or 16-mixed."),
    "accelerator": ("auto", "Where to train: cpu, gpu, mps or auto."),
    "devices": ("auto", "How many devices to use, or a list of their numbers."),
    "accumulate_grad_batches": ("1", "How many batches make an optimizer step."),
    "gradient_clip_val": ("null", "The largest norm of the gradient; null for no limit."),
}
"""The trainer's options on the short page: default, and description."""

HARDWARE = ("precision", "accelerator", "devices")  # all that matters where no run is saved

OTHERS = [
    Option("config", "", "A YAML file with options; of several, a later one overrides."),
    Option("trust", "", "A module whose classes a checkpoint or YAML may name."),
]
FURTHER = [
    Option("print_config", "", "Print the config that these options make, and exit."),
    Option("task.help", "", "Print the options of a class, as in --task.help Similarity."),
    Option("model.pooling.help", "", "The same for poolings, such as LastNPooling."),
    Option("trainer.callbacks.help", "", "The same for callbacks, such as EarlyStopping."),
]


def show(command: str, arguments: Sequence[str]) -> None:
    """Print the options of a command; what follows it may ask for all, or for another class."""
    if not options.needs_job(command):
        _show_alone(command)
        return
    everything = "--help-all" in arguments
    task = _value("--task", arguments) or "Classification"
    pooling = _value("--model.pooling", arguments) or ""
    found = options.read(command, task.rpartition(".")[2])
    sections = _sections(found, everything)
    trains = any(option.key.startswith("save.") for option in found)
    if not trains and not everything:
        hardware = {f"trainer.{name}" for name in HARDWARE}
        sections["trainer"] = [option for option in sections["trainer"] if option.key in hardware]
    sections["model"] += options.class_options("model", pooling.rpartition(".")[2])
    print(f"usage: {program()} {command} --config configs/NAME.yaml [--key value ...]\n")
    print(textwrap.fill(options.summary(command), WIDTH))
    for title, section in sections.items():
        if section:
            print(f"\n{title}:")
            for option in section:
                print("\n".join(_lines(f"--{option.key}", option, everything)))
    if not everything:
        print(
            "\n--help-all: the trainer's other options, and full descriptions. "
            "--help --task NAME: another task."
        )


def _show_alone(command: str) -> None:
    """Print the options of a command without a job."""
    places = options.positional(command)
    words = [command, *map(str.upper, places), "[--key value ...]"]
    print(f"usage: {program()} {' '.join(words)}\n")
    print(f"{textwrap.fill(options.summary(command), WIDTH)}\n\noptions:")
    for option in options.read(command):
        left = option.key.upper() if option.key in places else f"--{option.key}"
        print("\n".join(_lines(left, option, everything=True)))


def _sections(found: Sequence[Option], everything: bool) -> dict[str, list[Option]]:
    """Sort the options into sections; a short page leaves most of the trainer's out."""
    sections: dict[str, list[Option]] = {"options": [*OTHERS, *(FURTHER if everything else [])]}
    sections |= {"task": [], "data": [], "model": [], "trainer": []}
    for option in found:
        section, _, name = option.key.partition(".")
        if section != "trainer":
            sections[section if section in sections else "options"].append(option)
        elif everything and name not in TRAINER:
            sections["trainer"].append(option._replace(text=plain(option.text)))
    brief = [Option(f"trainer.{name}", *texts) for name, texts in TRAINER.items()]
    sections["trainer"] = [*brief, *sections["trainer"]]
    return sections


def _value(key: str, arguments: Sequence[str]) -> str | None:
    """Return the value of an option on the command line."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == key:
            return following
        if argument.startswith(f"{key}="):
            return argument.partition("=")[2]
    return None


def _lines(name: str, option: Option, everything: bool) -> Iterator[str]:
    """Yield the lines of an option: its name, its description, and its default in brackets."""
    text = option.text if everything else _brief(option.text)
    default = f" [{option.default}]" if option.default else ""
    left = f"  {name}"
    if len(left) >= LEFT:
        yield left
        left = ""
    for line in textwrap.wrap(f"{text}{default}", WIDTH - LEFT, break_on_hyphens=False):
        yield f"{left:<{LEFT}}{line}"
        left = ""


def _brief(text: str) -> str:
    """Return the first sentence; if it is long, without parentheses and what only explains it."""
    sentence = re.split(r"(?<=[^.]\.)\s", text)[0]
    for explanation, length in CUTS.items():
        if len(sentence) > length:
            kept = re.sub(explanation, r"\g<kept>", sentence)
            sentence = f"{kept.rstrip('.')}."
    return sentence


def plain(text: str) -> str:
    """Return a description of Lightning's without Sphinx markup and without its own default."""
    text = re.sub(r":\w+:`~?([\w.]+)`", lambda match: match[1].rpartition(".")[2], text)
    text = re.sub(r"Defaults?(?::| to) ?``[^`]*``\.?", "", text)
    return _brief(text.replace("`", "")).strip()
