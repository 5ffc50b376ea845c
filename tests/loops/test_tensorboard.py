"""What a run shows in TensorBoard: the same in every loop, without cards of no use."""

import html
import json
import time

import numpy as np
import pytest
from markdown import markdown
from one_loop import ONE_LOOP
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from litpool.loops.evaluation import Evaluation
from litpool.loops.tensorboard import _cell, _unbroken, curves, label_table

LOOPS = ("fit", "fit_hf", "fit_plain")
SLOW = 2  # seconds


def read(folder):
    """The curves, images and texts of a run folder, and its points."""
    tags, points = {"scalars": set(), "images": set(), "tensors": set()}, {}
    for file in sorted(folder.glob("events*")):
        events = EventAccumulator(str(file), {"images": 0}).Reload()
        for kind in tags:
            tags[kind] |= set(events.Tags()[kind])
        for tag in events.Tags()["scalars"]:
            points.setdefault(tag, []).extend(events.Scalars(tag))
    return tags, points


def steps(points):
    return {tag: [point.step for point in curve] for tag, curve in points.items()}


@pytest.fixture
def runs(train):
    return {loop: train(loop) for loop in LOOPS}


def test_every_loop_shows_the_same_at_a_glance(runs):
    shown = {loop: read(run["folder"])[0] for loop, run in runs.items()}
    assert shown["fit_plain"] == shown["fit_hf"]
    own = {"train/padding"}  # Lightning's
    assert {**shown["fit"], "scalars": shown["fit"]["scalars"] - own} == shown["fit_plain"]
    tags = shown["fit"]
    scores = {f"{split}/{name}" for split in ("val", "test") for name in ("accuracy", "f1", "loss")}
    training = {f"train/{name}" for name in ("loss", "lr", "grad_norm", "tokens_per_second")}
    assert tags["scalars"] == scores | training | own
    names = ("confusion_matrix", "reliability")
    figures = {f"{split}/{name}" for split in ("val", "test") for name in names}
    assert tags["images"] == figures | {"train/losses", "train/text_lengths"}
    texts = {
        f"{split}/{name}/text_summary" for split in ("val", "test") for name in ("labels", "wrong")
    }
    assert texts | {"config/text_summary", "custom_scalars__config__"} <= tags["tensors"]


def test_a_validation_is_drawn_at_the_step_it_followed(runs):
    drawn = {loop: steps(read(run["folder"])[1]) for loop, run in runs.items()}
    assert drawn["fit_plain"] == drawn["fit_hf"]
    del drawn["fit"]["train/padding"]
    assert drawn["fit"] == drawn["fit_plain"]
    taken = drawn["fit"]["train/loss"][-1]
    assert drawn["fit"]["val/loss"] == [taken // 2, taken]  # two epochs


@pytest.mark.parametrize("loop", ONE_LOOP)
def test_tokens_per_second_leave_out_evaluations(loop, train, monkeypatch):
    compute = Evaluation.compute

    def slow(evaluation):
        time.sleep(SLOW)
        return compute(evaluation)

    monkeypatch.setattr(Evaluation, "compute", slow)
    _, points = read(train(loop, "--trainer.val_check_interval", 0.5)["folder"])
    speeds = [point.value for point in points["train/tokens_per_second"]]
    # The bound is what a whole batch and an evaluation would come to. The first step warms up.
    assert min(speeds[1:]) > 10 * 24 / SLOW


def hyperparameters(folder):
    """The hyperparameters of a run, and the tags and values of its metrics in HPARAMS."""
    infos = {}
    for file in sorted(folder.glob("events*")):
        events = EventAccumulator(str(file)).Reload()
        for tag, content in events.summary_metadata.items():
            if content.plugin_data.plugin_name == metadata.PLUGIN_NAME:
                infos[tag] = plugin_data_pb2.HParamsPluginData.FromString(
                    content.plugin_data.content
                )
    names = set(infos[metadata.SESSION_START_INFO_TAG].session_start_info.hparams)
    values = {}
    for info in infos[metadata.EXPERIMENT_TAG].experiment.metric_infos:
        _, points = read(folder / info.name.group)
        values[info.name.tag] = points[info.name.tag][-1].value
    return names, values


@pytest.mark.parametrize("loop", ONE_LOOP)
def test_hparams_has_the_metrics_of_the_best_checkpoint(loop, train):
    folder = train(loop, "--trainer.max_epochs", 4)["folder"]
    names, values = hyperparameters(folder)
    assert "lr" in names
    metrics = json.loads((folder / "metrics.json").read_text())
    assert values == {
        name: pytest.approx(value) for name, value in metrics.items() if name.count("/") == 1
    }
    assert set(values) == {
        f"{split}/{name}" for split in ("val", "test") for name in ("accuracy", "f1", "loss")
    }


def test_a_test_of_a_checkpoint_is_a_row_of_hparams_too(train, cli, tmp_path):
    best = train("fit_plain")["folder"] / "checkpoints/best.ckpt"
    status, out, err = cli("test", "--ckpt_path", best)
    assert status == 0, err
    _, values = hyperparameters(tmp_path / out.split()[-1])
    assert set(values) == {"test/accuracy", "test/f1", "test/loss"}


def test_curves_leave_out_single_labels_and_details():
    values = {"epoch": 1, "val/f1": 2, "val/f1/a/b": 3, "test/accuracy/low": 4, "train/loss": 5}
    others = {"lr-AdamW": 6, "DeviceStatsMonitor.on_train_batch_start/cpu/percent": 7}
    assert curves({**values, **others}) == {"val/f1": 2, "train/loss": 5, **others}


def test_the_table_of_labels_has_the_worst_first():
    counts = np.array([[8, 2, 0], [4, 6, 0], [1, 1, 0]])
    assert label_table(counts, ["a", "b|c", "d"]).splitlines() == [
        "| label | F1 | precision | recall | rows | predicted |",
        "|---|---|---|---|---|---|",
        "| d | 0.000 | none | 0.000 | 2 | 0 |",
        "| b\\|c | 0.632 | 0.667 | 0.600 | 10 | 9 |",
        "| a | 0.696 | 0.615 | 0.800 | 10 | 13 |",
    ]


@pytest.mark.parametrize(
    "text", ["*args, **kwargs", "__init__ | <b>", "[a](b) `c` \\frac &lt;", "5.00"]
)
def test_a_cell_shows_the_text_as_it_is(text):
    for cell in (_cell(text), _unbroken(text)):
        shown = markdown(f"| a | b |\n|---|---|\n| {cell} | 1 |", extensions=["tables"])
        content = shown.split("<td>")[1].split("</td>")[0]
        assert content.removeprefix("<pre>").removesuffix("</pre>") == html.escape(text, False)


def test_only_short_answers_stay_in_one_line():
    assert _unbroken("huggingface_hub") == "<pre>huggingface\\_hub</pre>"
    assert _unbroken("x" * 25) == "x" * 25


def test_the_table_of_several_labels_a_row_counts_each_label():
    counts = np.array([[[5, 1], [2, 4]], [[12, 0], [0, 0]]])  # [[no, wrong], [missed, right]]
    assert label_table(counts, ["a", "b"]).splitlines()[2:] == [
        "| a | 0.727 | 0.800 | 0.667 | 6 | 5 |",
        "| b | none | none | none | 0 | 0 |",  # not last for its name: it has no F1
    ]


PAIRS = "--task.text [left,right] --task.label score --task.score_range [0,5]".split()


@pytest.fixture
def pairs(tmp_path):
    rows = [
        {"left": "good " * (n % 7 + 1), "right": "bad " * (n % 5 + 1), "score": n % 11 / 2}
        for n in range(60)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [*PAIRS, "--data.source", "pairs.jsonl"]


@pytest.mark.parametrize("task", ["Regression", "Similarity"])
def test_scores_are_drawn_next_to_the_truth(task, pairs, train):
    run = train("fit_plain", "--task", task, *pairs)
    tags, _ = read(run["folder"])
    assert tags["images"] == {"val/scores", "test/scores", "train/losses", "train/text_lengths"}
    assert {"test/spearman/low", "test/spearman/high"} <= set(run["metrics"])
    assert "val/spearman/low" not in run["metrics"]
