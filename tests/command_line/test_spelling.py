"""Mistyped options: the right key is named, at once; what is read from the sources is complete."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from litpool import InputError, app
from litpool.__main__ import main
from litpool.command_line import options, spelling, toolbox

ROOT = Path(__file__).parents[2]

MISTYPED = {
    "lr": "model.recipe.lr",
    "epochs": "trainer.max_epochs",
    "batch_size": "data.batch_size",
    "label": "task.label",
    "text": "task.text",
    "seed": "seed_everything",
    "max_len": "data.max_length",
    "learning_rate": "model.recipe.lr",
    "dropout": "task.dropout",
    "output_dir": "name",
    "gpus": "trainer.devices",
    "fp16": "trainer.precision 16-mixed",
    "val_file": "data.source '{train: FILE, validation: FILE}'",
    "num_epochs": "trainer.max_epochs",
    "warmup_ratio": "model.recipe.warmup",
    "weight-decay": "model.recipe.weight_decay",
    "model.lr": "model.recipe.lr",
    "data.batchsize": "data.batch_size",
    "pool": "model.pooling",
    "max_seq_len": "data.max_length",
    "freeze_layers": "model.encoder.freeze",
    "lr_scheduler": "model.recipe.schedule",
    "accumulation_steps": "trainer.accumulate_grad_batches",
    "train_file": "data.source '{train: FILE, validation: FILE}'",
    "per_device_train_batch_size": "data.batch_size",
}

FURTHER = {
    "epcohs": "trainer.max_epochs",
    "n_train_epochs": "trainer.max_epochs",
    "train_steps": "trainer.max_steps",
    "learning_rte": "model.recipe.lr",
    "peak_lr": "model.recipe.lr",
    "wd": "model.recipe.weight_decay",
    "warmup_steps": "model.recipe.warmup",
    "backbone": "model.encoder.name",
    "base_model": "model.encoder.name",
    "model_path": "model.encoder.name",
    "freeze_encoder": "model.encoder.freeze",
    "data_path": "data.source",
    "input_file": "data.source",
    "config_file": "config",
    "text_columns": "task.text",
    "label_field": "task.label",
    "sequence_length": "data.max_length",
    "batchsz": "data.batch_size",
    "workers_num": "data.num_workers",
    "num_devices": "trainer.devices",
    "clip_grad_norm": "trainer.gradient_clip_val",
    "max_samples": "data.max_rows",
    "random_seed": "seed_everything",
    "experiment_name": "name",
    "pooling_method": "model.pooling",
}


@pytest.mark.parametrize("mistyped", [MISTYPED, FURTHER])
def test_the_right_key_is_named_for_23_of_25_mistyped_options(mistyped):
    assert len(mistyped) == 25
    keys = [*options.keys("fit"), "config"]
    wrong = {
        typed: nearest
        for typed, meant in mistyped.items()
        if meant not in (nearest := spelling.nearest(typed, keys))
    }
    assert len(wrong) <= 2, wrong


@pytest.mark.parametrize(
    ("command", "typed", "meant"),
    [
        ("study", "layers", "study.layers"),
        ("study", "score", "study.score"),
        ("export", "score", "scores"),
        ("predict", "inpt", "input"),
        ("fit", "layr_decay", "model.recipe.layer_decay"),
        ("fit", "weights", "task.class_weights"),
    ],
)
def test_an_option_of_the_command_is_named_next_to_a_synonym(command, typed, meant):
    if command not in toolbox.commands():
        pytest.skip(f"there is no tool {command}")
    assert meant in spelling.nearest(typed, options.keys(command))


def test_no_option_is_named_that_the_command_lacks():
    keys = options.keys("validate")
    keys = [key for key in keys if not key.startswith("data.s")]
    for typed in ("train_file", "valdata", "test_size"):
        assert {name.split()[0] for name in spelling.nearest(typed, keys)} <= set(keys)


@pytest.mark.parametrize("command", [*filter(options.needs_job, toolbox.commands())])
def test_the_sources_give_exactly_the_parsers_options(command, monkeypatch):
    parsers = []

    class Stop(Exception):
        pass

    def keep(self, parser, args):
        parsers.append(self._parser(command))
        raise Stop

    monkeypatch.setattr(app.CLI, "parse_arguments", keep)
    with pytest.raises(Stop):
        app.CLI([command], None, toolbox.function(command))
    dests = {action.dest for action in parsers[0]._actions} - set(spelling.EXTRA)
    linked = {"data.task", "model.task", "model.data"}  # the command line sets them
    dests = {key for key in dests - linked if not key.endswith(".help")}
    sections = {key for key in dests if any(other.startswith(f"{key}.") for other in dests)}
    found = {option.key for option in options.read(command)}
    below_task = {key for key in found if key.startswith("task.")}  # the parser has them per class
    assert found - below_task == dests - sections


@pytest.mark.parametrize(
    "command", [name for name in toolbox.commands() if not options.needs_job(name)]
)
def test_the_sources_give_exactly_the_options_of_a_command_without_a_job(command):
    parameters = inspect.signature(toolbox.function(command)).parameters.values()
    assert [option.key for option in options.read(command)] == [part.name for part in parameters]
    needed = [part.name for part in parameters if part.default is part.empty]
    assert options.positional(command) == needed
    with pytest.raises(InputError, match="unknown option; did you mean --"):
        spelling.check(command, [*needed, "--epochs", "3"])


def test_the_defaults_are_the_parsers():
    found = {option.key: option.default for option in options.read("fit")}
    assert found["model.recipe.lr"] == "5e-05"
    assert found["model.recipe.layer_decay"] == "1.0"
    assert found["data.num_workers"] == "0"
    assert found["data.source"] == "docstrings"
    assert found["trainer.log_every_n_steps"] == "10"  # Lightning's own is 50
    assert found["trainer.num_nodes"] == "1"


@pytest.mark.parametrize("name", [*spelling.SYNONYMS.values(), *spelling.VALUE_OF.values()])
def test_a_synonym_stands_for_an_option_that_exists(name):
    assert name.split()[0] in [*options.keys("fit"), "config"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--lr 1e-3", "lr: unknown option; did you mean --model.recipe.lr?"),
        (
            "--model bert-base-uncased",
            "model=bert-base-uncased: a section with several options; "
            "did you mean --model.encoder.name bert-base-uncased?",
        ),
        ("--data=x.csv", "did you mean --data.source x.csv?"),
        ("--trainer 3", "a section with several options; give a YAML file or a mapping"),
        ("debug.yaml", "debug.yaml: not an option; did you mean --config debug.yaml?"),
        ("--trainer.epochs=3", "did you mean --trainer.max_epochs?"),
        ("-lr 1e-3", "did you mean --model.recipe.lr?"),
        (
            "--model.encoder.name run/checkpoints/last.ckpt",
            "use --init_from run/checkpoints/last.ckpt; to get its answers, use predict "
            "--ckpt_path run/checkpoints/last.ckpt",
        ),
        ("--model.encoder.name run", "use --init_from run/checkpoints/best.ckpt"),
    ],
)
def test_a_mistake_is_explained(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/best.ckpt").touch()
    with pytest.raises(SystemExit) as stop:
        main(["fit", *arguments.split()])
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.parametrize(
    "arguments",
    [
        "--config x.yaml --data.source=- --data.add_tokens+ [a] --task.anything 3",
        "--task.help Similarity --model.pooling.heads 2 --trainer.callbacks.patience 3",
        "--model {pooling: MaxPooling} --data my.yaml --seed_everything -1 --print_config",
        "--trust my_module -c x.yaml",
    ],
)
def test_what_the_parser_may_accept_is_left_to_it(arguments):
    spelling.check("fit", arguments.split())


def test_an_encoder_folder_may_hold_a_checkpoint_as_well(tmp_path):
    (tmp_path / "best.ckpt").touch()
    with pytest.raises(InputError):
        spelling.check_encoder(str(tmp_path))
    (tmp_path / "config.json").touch()
    spelling.check_encoder(str(tmp_path))


def test_a_mistake_and_the_help_need_no_slow_imports():
    code = "import sys; from litpool.__main__ import main\ntry: main({})\nfinally: print({})"
    slow = "sorted({'torch', 'lightning', 'transformers', 'jsonargparse'} & set(sys.modules))"
    for arguments in (["fit", "--lr", "1"], ["fit", "--help"]):
        command = [sys.executable, "-c", code.format(arguments, slow)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "[]", done.stderr
