"""Three loops, one job: equal to the bit; what parts them is found and named; an interrupted comparison goes on."""

import json
import re
from types import SimpleNamespace

import pytest
import torch

from litpool.data.batches import TrainOrder
from litpool.loops import huggingface, plain
from litpool.loops import optimizer as optimizers
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
    "much clipping, windows of 3": "--trainer.gradient_clip_val 0.1 --trainer.accumulate_grad_batches 3",
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
        "--trainer.precision bf16-mixed --trainer.accumulate_grad_batches 3 --model.encoder.freeze embeddings"
    ),
    "bfloat16, no clipping, shared layers": (
        "--trainer.precision bf16-mixed --trainer.gradient_clip_val null --model.encoder.name albert"
    ),
}


def said(runs):
    return verdict({loop: [run] for loop, run in runs.items()})


def test_the_three_loops_are_equal(train):
    runs = {loop: train(loop, "--trainer.accumulate_grad_batches", 2) for loop in LOOPS}
    assert (
        said(runs)
        == "identical for all 6 steps, and in the weights at the end: fit, fit_hf, fit_plain"
    )
    assert runs["fit"]["metrics"] == runs["fit_hf"]["metrics"] == runs["fit_plain"]["metrics"]
    assert runs["fit"]["metrics"].keys() >= {"val/accuracy", "val/loss", "test/accuracy"}


@pytest.mark.slow
@pytest.mark.parametrize("case", MATRIX)
def test_the_three_loops_are_equal_in_every_case(case, train):
    runs = {loop: train(loop, *MATRIX[case].split()) for loop in LOOPS}
    assert said(runs).startswith("identical for all ")
    assert runs["fit"]["metrics"] == runs["fit_hf"]["metrics"] == runs["fit_plain"]["metrics"]


# ---- planted differences


def steps_once_an_epoch(monkeypatch):
    def configure(*arguments, **options):
        optimizer, schedule = optimizers.configure(*arguments, **options)
        counter, step = iter(range(1000)), schedule.step
        schedule.step = lambda: step() if (next(counter) + 1) % 5 == 0 else None
        return optimizer, schedule

    monkeypatch.setattr(plain, "configure", configure)


def decays_biases(monkeypatch):
    def configure(network, settings, steps, fused=True):
        optimizer, schedule = optimizers.configure(network, settings, steps, fused)
        for group in optimizer.param_groups:
            group["weight_decay"] = settings.weight_decay
        return optimizer, schedule

    monkeypatch.setattr(plain, "configure", configure)


def trains_in_eval_mode(monkeypatch):
    monkeypatch.setattr(
        TextModel, "train", lambda self, mode=True: torch.nn.Module.train(self, False)
    )


def shuffles_otherwise(monkeypatch):
    monkeypatch.setattr(
        TrainOrder, "set_epoch", lambda self, epoch: setattr(self, "epoch", epoch + 100)
    )


def scales_by_the_true_length(monkeypatch):
    monkeypatch.setattr(huggingface.TextTrainer, "loss_is_scaled_for_ga", False)
    monkeypatch.setattr(
        huggingface.TextTrainer,
        "compute_loss",
        lambda self, model, inputs, **_: model(**inputs)["loss"],
    )


@pytest.mark.parametrize(
    ("loop", "plant", "found"),
    [
        (
            "fit_plain",
            "--trainer.gradient_clip_val 0.25",
            "step 1: gradient norm after clipping .*fit_plain clips at 0.25",
        ),
        ("fit_plain", steps_once_an_epoch, "step 2: learning rate .*fit_plain's changes after 1"),
        ("fit_plain", decays_biases, "fit_plain decays weights by 0.01, 23 of 23 biases and norms"),
        (
            "fit_plain",
            trains_in_eval_mode,
            "step 1: training mode; fit_plain trains in eval mode, without dropout",
        ),
        ("fit_plain", shuffles_otherwise, "step 1: rows; they shuffle otherwise"),
        (
            "fit_hf",
            scales_by_the_true_length,
            "step 2: loss .*scaled otherwise, by a factor of 2/3",
        ),
    ],
    ids=["clip", "schedule", "decay", "mode", "shuffle", "scale"],
)
def test_a_planted_difference_is_found_and_named(loop, plant, found, train, monkeypatch):
    window = ("--trainer.accumulate_grad_batches", 3) if plant is scales_by_the_true_length else ()
    runs = {"fit": train("fit", *window)}
    if callable(plant):
        plant(monkeypatch)
    runs[loop] = train(loop, *window, *(plant.split() if isinstance(plant, str) else ()))
    line = said(runs)
    assert line.startswith(f"fit and {loop} first differ at step ")
    assert re.search(found, line), line


def test_a_loop_that_does_not_repeat_itself_is_named():
    step = {
        "rows": "a",
        "training": True,
        "lr": 0.1,
        "loss": 1.0,
        "grad_norm": 1.0,
        "clipped_norm": 1.0,
    }
    runs = [{"steps": [step], "groups": [], "sha256": digest} for digest in ("a", "b")]
    assert verdict({"plain": runs}) == "plain differs from itself"
    assert "differ only in the weights at the end" in verdict(
        {"plain": runs[:1], "lightning": runs[1:]}
    )


# ---- the command


@pytest.fixture
def faked(monkeypatch):
    """Loops that only write their results; the list of those that ran, and the one at which Ctrl-C is pressed."""
    ran = SimpleNamespace(loops=[], interrupt=None)

    def run_loop(config, path, command):
        if ran.interrupt == path.name:
            raise KeyboardInterrupt
        ran.loops.append(path.name)
        path.mkdir(parents=True, exist_ok=True)
        step = {
            "rows": "a",
            "training": True,
            "lr": 0.1,
            "loss": 1.0,
            "grad_norm": 1.0,
            "clipped_norm": 1.0,
        }
        steps = [{**step, "seconds": 0.01, "tokens": 100}] * 10
        record = {"steps": steps, "groups": [], "sha256": "ab" * 32, "peak_memory": 2**30}
        (path / "record.json").write_text(json.dumps(record))
        (path / "metrics.json").write_text(
            json.dumps({"val/accuracy": 0.5, "val/f1/a": 0.25, "test/accuracy": 0.75})
        )

    monkeypatch.setattr(runs, "_run_loop", run_loop)
    return ran


def test_an_interrupted_comparison_keeps_what_is_finished(faked, cli, job):
    faked.interrupt = "huggingface-1"
    status, _, err = cli("compare", *job)
    assert status == 130
    assert "goes on" in err
    assert faked.loops == ["plain-1", "lightning-1"]
    faked.loops, faked.interrupt = [], None
    status, out, err = cli("compare", *job)
    assert status == 0, err
    assert faked.loops == ["huggingface-1", "stock-1"]
    assert out.count("kept from before") == 2


def test_another_job_is_another_comparison_and_a_finished_one_starts_anew(faked, cli, job):
    for arguments in ([], [], ["--model.recipe.lr", "0.02"], ["--steps", "3"]):
        assert cli("compare", *job, "--loops", "[plain]", *arguments)[0] == 0
    assert faked.loops == ["plain-1"] * 4


def test_the_report_is_one_table_and_a_verdict(faked, cli, job, tmp_path):
    status, out, err = cli("compare", *job, "--repeat", 2)
    assert status == 0, err
    folder = tmp_path / out.split()[-1]
    lines = (folder / "compare.md").read_text().splitlines()
    assert (
        lines[0]
        == "**identical for all 10 steps, and in the weights at the end: plain, lightning, huggingface**"
    )
    assert lines[2] == "| | plain | lightning | huggingface | stock |"
    cells = {
        line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in lines[4:]
    }
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
def test_what_cannot_be_compared_is_refused_before_anything_runs(arguments, faked, cli, job):
    status, _, err = cli("compare", *job, *arguments.split())
    assert (status, err.count("\n")) == (2, 1)
    assert not faked.loops


def test_a_task_that_stock_cannot_express_is_left_out_and_said(faked, cli, job, monkeypatch):
    monkeypatch.setattr(stock, "PROBLEMS", {})
    status, out, err = cli("compare", *job)
    assert status == 0, err
    assert (
        "stock is left out: AutoModelForSequenceClassification does not do Classification." in out
    )
    assert "stock-1" not in faked.loops


@pytest.mark.parametrize(
    ("task", "can"),
    [
        (Classification(["a", "b"]), True),
        (MultiLabelClassification(), True),
        (SimpleNamespace(), False),
    ],
)
def test_stock_knows_what_it_can_express(task, can):
    assert (stock.unsupported(task) is None) == can


@pytest.mark.parametrize(
    ("task", "label", "score"),
    [
        ("Classification", "kind", "f1"),
        ("MultiLabelClassification", "kind", "f1"),
        ("Regression", "stars", "spearman"),
    ],
)
@pytest.mark.filterwarnings(
    "ignore:The variance of predictions or target is close to zero:UserWarning"
)  # 4 steps
def test_stock_trains_on_pairs_on_sets_of_labels_and_on_scores(task, label, score, train, tmp_path):
    rows = [
        f"a good film {n},the play is {n},{['bad', 'good', 'bad|good'][n % 3]},{n % 7}"
        for n in range(40)
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(["left,right,kind,stars", *rows]))
    task_arguments = ("--task", task, "--task.text", "[left,right]", "--task.label", label)
    run = train(
        "fit_stock",
        *task_arguments,
        "--data.source",
        tmp_path / "pairs.csv",
        "--trainer.max_epochs",
        1,
    )
    assert len(run["steps"]) == 4
    assert run["metrics"].keys() >= {f"val/{score}", f"test/{score}"}


def test_stock_starts_with_the_trainers_defaults(train):
    groups = train("fit_stock")["groups"]
    assert {group["lr"] for group in groups} == {5e-5}
    assert {group["weight_decay"] for group in groups} == {0.0}


@pytest.mark.slow
def test_compare_runs_the_loops_in_processes_of_their_own(cli, job, tmp_path):
    status, out, err = cli("compare", *job, "--steps", 3)
    assert status == 0, err
    assert (
        "identical for all 3 steps, and in the weights at the end: plain, lightning, huggingface"
        in out
    )
    folder = tmp_path / out.split()[-1]
    content = json.loads((folder / "compare.json").read_text())
    assert (
        len(
            {
                content["table"][loop]["sha256 of the weights"]
                for loop in ("plain", "lightning", "huggingface")
            }
        )
        == 1
    )
    assert (
        content["table"]["stock"]["sha256 of the weights"]
        != content["table"]["plain"]["sha256 of the weights"]
    )
    for loop in ("plain", "lightning", "huggingface", "stock"):
        assert list((folder / f"{loop}-1").glob("events*"))
