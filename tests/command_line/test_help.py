"""`COMMAND --help`: a page that is short, in plain text, and litpool's own first."""

import inspect
import re

import lightning.pytorch as pl
import pytest

from litpool.__main__ import main
from litpool.command_line import help, options, toolbox


def page(capsys, *arguments):
    main([*arguments])
    return capsys.readouterr().out


@pytest.mark.parametrize("command", [*toolbox.commands()])
def test_the_help_is_one_page(command, capsys):
    lines = page(capsys, command, "--help").splitlines()
    assert len(lines) <= 100
    assert max(map(len, lines)) <= 100
    keys = [line.split()[0] for line in lines if line.startswith("  --")]
    if not options.needs_job(command):
        assert {"--config", "--task"}.isdisjoint(keys)
        return
    firsts = [
        keys.index(key) for key in ("--task", "--data.batch_size", "--model.encoder.name")
    ] + [min(keys.index(key) for key in keys if key.startswith("--trainer."))]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize("option", ["--help", "--help-all"])
def test_every_option_has_a_default_and_a_description_without_markup(option, capsys):
    text = page(capsys, "fit", option)
    entries = re.findall(r"^  --(\S+)\s+(.*?)(?=^  --|^\n|\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(entries) > 50
    for key, description in entries:
        words = " ".join(description.split())
        assert len(words) > 15, key
        assert not re.search(r":\w+:`|``|Defaults? ?(to|:)", words), words
        is_value = not key.endswith(".help")
        if is_value and key.partition(".")[0] in ("model", "data", "trainer", "save"):
            assert re.search(r"\[.*\]$", words), words


def test_the_rest_is_lightnings(capsys):
    short, long = (page(capsys, "fit", option) for option in ("--help", "--help-all"))
    for name in list(inspect.signature(pl.Trainer).parameters):
        assert f"--trainer.{name} " in f"{long} " or f"--trainer.{name}\n" in long, name
        assert (f"--trainer.{name}" in short) == (name in help.TRAINER), name


def test_the_help_shows_the_options_of_a_class(capsys):
    text = page(capsys, "fit", "--help", "--task", "Similarity", "--model.pooling=AttentionPooling")
    assert "--task.objective" in text
    assert "--task.class_weights" not in text
    assert "--model.pooling.heads" in text


def test_the_help_of_study_lists_no_classes_of_its_own(capsys):
    if "study" in toolbox.tools():
        assert "OfLayer" not in page(capsys, "study", "--help-all")
