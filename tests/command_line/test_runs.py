"""The names of run folders, and what TensorBoard's HPARAMS shows."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from litpool import InputError
from litpool.command_line import runs
from litpool.command_line.runs import RunFolder, label

DEBUG = str(Path(__file__).parents[2] / "configs/debug.yaml")


def test_two_runs_that_start_together_take_different_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "next_number", lambda _: 0)  # both see no folder
    names = [RunFolder(str(tmp_path), "job", label=label).version for label in ("", "-lr=1", "")]
    assert names == ["version_0", "version_1-lr=1", "version_2"]
    assert {path.name for path in (tmp_path / "job").iterdir()} == set(names)


def test_a_number_is_never_used_twice(tmp_path):
    for name in ("version_7-lr=1e-3", "version_12", "version_x", "other"):
        (tmp_path / "job" / name).mkdir(parents=True)
    assert RunFolder(str(tmp_path), "job").version == "version_13"


def test_a_name_is_taken_once(tmp_path):
    assert RunFolder(str(tmp_path), "job", "lr1e-3").version == "lr1e-3"
    with pytest.raises(InputError, match=r"name=lr1e-3: .* exists; choose another name"):
        RunFolder(str(tmp_path), "job", "lr1e-3")


@pytest.mark.parametrize("name", ["", "a b", "../a", "a/b", ".a", "-a", "x" * 81, "a\n", "é"])
def test_a_name_that_is_no_folder_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="name="):
        RunFolder(str(tmp_path), "job", name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ("--model.recipe.lr 1e-3", "-lr=1e-3"),
        ("--model.recipe.lr 1e-3 --model.recipe.lr=1e-4", "-lr=1e-4"),
        ("--model.recipe.lr=1e-3 --seed_everything 7", "-lr=1e-3-seed_everything=7"),
        ("--model.encoder.name intfloat/e5-small", "-encoder=e5-small"),
        ("--model.pooling my.module.Pooling", "-pooling=Pooling"),
        ("--data.source a.csv --task.text review --task.label stars --config x.yaml", ""),
        ("--trainer.max_epochs 3 --data.batch_size 8", "-batch_size=8"),
        ("--model.encoder.overrides {hidden_size: 32}", "-overrides=hidden_size"),
    ],
)
def test_the_label_names_what_the_command_line_changes(arguments, shown):
    assert label(arguments.split()) == shown


def test_a_long_label_is_cut(tmp_path):
    name = RunFolder(str(tmp_path), "job", label=label(["--model.recipe.lr", "1" * 200])).version
    assert len(name) == 80


def test_the_folder_and_hparams_of_a_run(cli, csv_file, tmp_path):
    arguments = ["fit", "--config", DEBUG, "--data.source", csv_file]
    status, out, err = cli(*arguments, "--model.recipe.lr", "2e-3")
    assert status == 0, err
    folder = tmp_path / "logs/debug/version_0-lr=2e-3"
    assert out.splitlines()[-1] == "wrote logs/debug/version_0-lr=2e-3"
    names, metrics, values = hparams(folder)
    shown = ["lr", "model.encoder.name", "model.pooling", "seed_everything", "trainer.max_epochs"]
    assert names[:5] == shown  # TensorBoard shows five
    assert len(names) <= 24
    assert {"model.pooling", "model.encoder.name", "data.source", "task"} <= set(names)
    assert values["lr"].number_value == 2e-3
    assert values["model.pooling"].string_value == "MeanPooling(special_tokens=True)"
    scores = json.loads((folder / "metrics.json").read_text())
    assert {name for name in scores if name.count("/") == 1} == set(metrics)
    status, _, err = cli(*arguments, "--name", "1e-3")  # YAML would read a number
    assert status == 0, err
    assert (tmp_path / "logs/debug/1e-3/checkpoints/best.ckpt").exists()
    assert hparams(tmp_path / "logs/debug/1e-3")[0] == names
    status, _, err = cli(*arguments, "--name", "1e-3")
    assert status == 2
    assert "name=1e-3: logs/debug/1e-3 exists" in err
    last = "logs/debug/1e-3/checkpoints/last.ckpt"
    status, _, err = cli("fit", "--ckpt_path", last, "--name", "other")
    assert (status, err) == (
        2,
        "error: name=other: a resumed run stays in its folder; leave it out\n",
    )


def hparams(folder):
    """Return the names of the hyperparameters and of the metrics, and the values.

    The order is TensorBoard's: `_sort_and_reduce_to_hparams_limit` in its hparams plugin.
    """
    plugin = {}
    for path in sorted(folder.glob("events*")):
        events = EventAccumulator(str(path)).Reload()
        for tag, metadata in events.summary_metadata.items():
            if tag.startswith("_hparams_"):
                content = metadata.plugin_data.content
                plugin[tag] = plugin_data_pb2.HParamsPluginData.FromString(content)
    experiment = plugin["_hparams_/experiment"].experiment
    return (
        [
            info.name
            for info in sorted(
                experiment.hparam_infos, key=lambda info: (not info.differs, info.name)
            )
        ],
        [info.name.tag for info in experiment.metric_infos],
        plugin["_hparams_/session_start_info"].session_start_info.hparams,
    )
