"""Three loops are equal to the bit, differences are explained, interrupted comparisons resume."""

import itertools
import json
import re
from types import SimpleNamespace

import pytest
import torch

from litpool.data.batches import TrainOrder
from litpool.loops import huggingface, plain
from litpool.loops.optimizer import configure
from litpool.model.network import TextModel
from litpool.tasks.classification import Classification
from litpool.tasks.multilabel import MultiLabelClassification
from litpool.tools.compare import runs, stock
from litpool.tools.compare.verdict import verdict

LOOPS = ("fit", "fit_hf", "fit_plain")
MATRIX = {
    "float32": "",
    "without dropout": "--task.dropout 0 --model.encoder.overrides.hidden_dropout_prob 0",
    "windows of 2": "--trainer.accumulate_grad_batches 2",
    "windows of 3": "--trainer.accumulate_grad_batches 3",
    "no clipping": "--trainer.gradient_clip_val null",
    "much clipping, windows of 3": (
        "--trainer.gradient_clip_val 0.1 --trainer.accumulate_grad_batches 3"
    ),
    "warmup, cosine": "--model.recipe.warmup 3 --model.recipe.schedule cosine",
    "weight decay": "--model.recipe.weight_decay 0.5",
    "layer decay": "--model.recipe.layer_decay 0.6 --model.recipe.head_lr_factor 4",
    "frozen layer": "--model.encoder.freeze 1",
    "frozen encoder": "--model.encoder.freeze all",
    "evaluation within the epoch": "--trainer.val_check_interval 2",
    "max_steps": "--trainer.max_steps 7 --trainer.max_epochs 3 --trainer.val_check_interval 3",
    "bfloat16": "--trainer.precision bf16-mixed",
    "bfloat16, windows of 2": "--trainer.precision bf16-mixed --trainer.accumulate_grad_batches 2",
    "bfloat16, windows of 3, frozen": (
        "--trainer.precision bf16-mixed --trainer.accumulate_grad_batches 3 "
        "--model.encoder.freeze embeddings"
    ),
    "bfloat16, no clipping, shared layers": (
        "--trainer.precision bf16-mixed --trainer.gradient_clip_val null "
        "--model.encoder.name albert"
    ),
}


STEP = {
    "rows": "a",
    "training": True,
    "lr": 0.1,
    "loss": 1.0,
    "grad_norm": 1.0,
    "clipped_norm": 1.0,
}


def verdict_of(records):
    return verdict({loop: [record] for loop, record in records.items()})


def test_the_three_loops_are_equal(train):
    records = {loop: train(loop, "--trainer.accumulate_grad_batches", 2) for loop in LOOPS}
    assert (
        verdict_of(records)
        == "identical for all 6 steps, and in the weights at the end: fit, fit_hf, fit_plain"
    )
    assert (
        records["fit"]["metrics"] == records["fit_hf"]["metrics"] == records["fit_plain"]["metrics"]
    )
    assert records["fit"]["metrics"].keys() >= {"val/accuracy", "val/loss", "test/accuracy"}


@pytest.mark.slow
@pytest.mark.parametrize("case", MATRIX)
def test_the_three_loops_are_equal_in_every_case(case, train):
    records = {loop: train(loop, *MATRIX[case].split()) for loop in LOOPS}
    assert verdict_of(records).startswith("identical for all ")
    assert (
        records["fit"]["metrics"] == records["fit_hf"]["metrics"] == records["fit_plain"]["metrics"]
    )


# ---- planted differences


def steps_once_an_epoch(monkeypatch):
    def faulty(*arguments, **options):
        optimizer, schedule = configure(*arguments, **options)
        counter = itertools.count(1)

        class Faulty(type(schedule)):
            def step(self, *epoch):
                if next(counter) % 5 == 0:
                    super().step(*epoch)

        schedule.__class__ = Faulty
        return optimizer, schedule

    monkeypatch.setattr(plain, "configure", faulty)


def decays_biases(monkeypatch):
    def faulty(network, recipe, steps, fused=True):
        optimizer, schedule = configure(network, recipe, steps, fused)
        for group in optimizer.param_groups:
            group["weight_decay"] = recipe.weight_decay
        return optimizer, schedule

    monkeypatch.setattr(plain, "configure", faulty)


def trains_in_eval_mode(monkeypatch):
    monkeypatch.setattr(
        TextModel, "train", lambda self, mode=True: torch.nn.Module.train(self, False)
    )


def shuffles_differently(monkeypatch):
    original = TrainOrder.set_epoch
    monkeypatch.setattr(
        TrainOrder, "set_epoch", lambda self, epoch, skip=0: original(self, epoch + 100, skip)
    )


def scales_by_the_true_length(monkeypatch):
    monkeypatch.setattr(huggingface.TextTrainer, "loss_is_scaled_for_ga", False)
    monkeypatch.setattr(
        huggingface.TextTrainer,
        "compute_loss",
        lambda self, model, inputs, **_: model(**inputs)["loss"],
    )


@pytest.mark.parametrize(
    ("loop", "plant", "cause"),
    [
        (
            "fit_plain",
            "--trainer.gradient_clip_val 0.25",
            "step 1: gradient norm after clipping .*fit_plain clips at 0.25",
        ),
        (
            "fit_plain",
            steps_once_an_epoch,
            "step 2: learning rate .*it changes .* and after 1 in fit_plain",
        ),
        (
            "fit_plain",
            decays_biases,
            "fit_plain decays weights by 0.01, including 23 of 23 biases and norms",
        ),
        (
            "fit_plain",
            trains_in_eval_mode,
            "step 1: training mode; fit_plain trains in eval mode, without dropout",
        ),
        ("fit_plain", shuffles_differently, "step 1: rows; the loops shuffle differently"),
        (
            "fit_hf",
            scales_by_the_true_length,
            "step 2: loss .*scaled differently, by a factor of 2/3",
        ),
    ],
    ids=["clip", "schedule", "decay", "mode", "shuffle", "scale"],
)
def test_a_planted_difference_is_explained(loop, plant, cause, train, monkeypatch):
    window = ("--trainer.accumulate_grad_batches", 3) if plant is scales_by_the_true_length else ()
    records = {"fit": train("fit", *window)}
    if callable(plant):
        plant(monkeypatch)
    records[loop] = train(loop, *window, *(plant.split() if isinstance(plant, str) else ()))
    line = verdict_of(records)
    assert line.startswith(f"fit and {loop} first differ at step ")
    assert re.search(cause, line), line


def test_a_loop_whose_repeats_differ_is_named():
    one, other = [{"steps": [STEP], "groups": [], "sha256": digest} for digest in ("a", "b")]
    assert verdict({"plain": [one, other]}) == "plain differs from itself"
    line = verdict_of({"plain": one, "lightning": other})
    assert "differ only in the weights at the end" in line


# ---- the command


@pytest.fixture
def fake_loops(monkeypatch):
    """Loops that only write their results.

    `loops` lists those that ran; `interrupt` is the one during which Ctrl-C is pressed.
    """
    fake = SimpleNamespace(loops=[], interrupt=None)

    def run_loop(config, path, command):
        if fake.interrupt == path.name:
            raise KeyboardInterrupt
        fake.loops.append(path.name)
        path.mkdir(parents=True, exist_ok=True)
        steps = [{**STEP, "seconds": 0.01, "tokens": 100}] * 10
        record = {"steps": steps, "groups": [], "sha256": "ab" * 32, "peak_memory": 2**30}
        (path / "record.json").write_text(json.dumps(record))
        metrics = {"val/accuracy": 0.5, "val/f1/a": 0.25, "test/accuracy": 0.75}
        (path / "metrics.json").write_text(json.dumps(metrics))

    monkeypatch.setattr(runs, "_run_loop", run_loop)
    return fake


def test_an_interrupted_comparison_keeps_the_finished_loops(fake_loops, cli, job):
    fake_loops.interrupt = "huggingface-1"
    status, _, err = cli("compare", *job)
    assert status == 130
    assert "run the same command again" in err
    assert fake_loops.loops == ["plain-1", "lightning-1"]
    fake_loops.loops, fake_loops.interrupt = [], None
    status, out, err = cli("compare", *job)
    assert status == 0, err
    assert fake_loops.loops == ["huggingface-1", "stock-1"]
    assert out.count("already finished") == 2


def test_another_job_or_a_finished_comparison_starts_from_scratch(fake_loops, cli, job):
    for arguments in ([], [], ["--model.recipe.lr", "0.02"], ["--steps", "3"]):
        assert cli("compare", *job, "--loops", "[plain]", *arguments)[0] == 0
    assert fake_loops.loops == ["plain-1"] * 4


def test_the_report_is_one_table_and_a_verdict(fake_loops, cli, job, tmp_path):
    status, out, err = cli("compare", *job, "--repeat", 2)
    assert status == 0, err
    folder = tmp_path / out.split()[-1]
    lines = (folder / "compare.md").read_text().splitlines()
    assert lines[0] == (
        "**identical for all 10 steps, and in the weights at the end: "
        "plain, lightning, huggingface**"
    )
    assert lines[2] == "| | plain | lightning | huggingface | stock |"
    rows = [line.strip("| ").split(" | ") for line in lines[4:]]
    cells = {name: values for name, *values in rows}
    assert cells["val/accuracy"] == ["0.5000"] * 4
    assert cells["ms a step"] == ["10.0 (10.0 to 10.0)"] * 4
    assert cells["tokens a second"] == ["10000"] * 4
    assert cells["peak memory"] == ["1024 MiB"] * 4
    assert "val/f1/a" not in cells
    assert any(line.startswith("- learning rate: 0.01 here, 5e-05 there") for line in lines)
    assert json.loads((folder / "compare.json").read_text())["verdict"] == lines[0].strip("*")


@pytest.mark.parametrize(
    "arguments", ["--trainer.limit_train_batches 2", "--loops [plane]", "--loops []", "--steps 0"]
)
def test_bad_arguments_are_refused_before_anything_runs(arguments, fake_loops, cli, job):
    status, _, err = cli("compare", *job, *arguments.split())
    assert (status, err.count("\n")) == (2, 1)
    assert not fake_loops.loops


def test_stock_is_left_out_if_it_does_not_support_the_task(fake_loops, cli, job, monkeypatch):
    monkeypatch.setattr(stock, "PROBLEMS", {})
    status, out, err = cli("compare", *job)
    assert status == 0, err
    assert (
        "stock is left out: AutoModelForSequenceClassification does not support Classification."
        in out
    )
    assert "stock-1" not in fake_loops.loops


@pytest.mark.parametrize(
    ("task", "supported"),
    [
        (Classification(["a", "b"]), True),
        (MultiLabelClassification(), True),
        (SimpleNamespace(), False),
    ],
)
def test_stock_supports_tasks_with_labels_and_scores(task, supported):
    assert (stock.unsupported(task) is None) == supported


@pytest.mark.parametrize(
    ("task", "label", "score"),
    [
        ("Classification", "kind", "f1"),
        ("MultiLabelClassification", "kind", "f1"),
        ("Regression", "stars", "spearman"),
    ],
)
# After 4 steps all predictions are about equal.
@pytest.mark.filterwarnings(
    "ignore:The variance of predictions or target is close to zero:UserWarning"
)
def test_stock_trains_on_pairs_with_a_label_several_labels_or_a_score(
    task, label, score, train, tmp_path
):
    kinds = ["bad", "good", "bad|good"]
    rows = [f"a good film {n},the play is {n},{kinds[n % 3]},{n % 7}" for n in range(40)]
    file = tmp_path / "pairs.csv"
    file.write_text("\n".join(["left,right,kind,stars", *rows]))
    columns = ("--task.text", "[left,right]", "--task.label", label)
    options = ("--data.source", file, "--trainer.max_epochs", 1)
    record = train("fit_stock", "--task", task, *columns, *options)
    assert len(record["steps"]) == 4
    assert record["metrics"].keys() >= {f"val/{score}", f"test/{score}"}


def test_stock_uses_the_trainers_defaults(train):
    groups = train("fit_stock")["groups"]
    assert {group["lr"] for group in groups} == {5e-5}
    assert {group["weight_decay"] for group in groups} == {0.0}


@pytest.mark.slow
def test_compare_runs_each_loop_in_its_own_process(cli, job, tmp_path):
    status, out, err = cli("compare", *job, "--steps", 3)
    assert status == 0, err
    assert (
        "identical for all 3 steps, and in the weights at the end: plain, lightning, huggingface"
        in out
    )
    folder = tmp_path / out.split()[-1]
    content = json.loads((folder / "compare.json").read_text())
    digests = {loop: column["sha256 of the weights"] for loop, column in content["table"].items()}
    assert digests["plain"] == digests["lightning"] == digests["huggingface"]
    assert digests["stock"] != digests["plain"]
    for loop in ("plain", "lightning", "huggingface", "stock"):
        assert list((folder / f"{loop}-1").glob("events*"))
