"""Files of version 0.1.0, made by fixtures/make.py, still load and give the same numbers."""

import json
import shutil
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent / "fixtures/v0.1.0"
TASKS = sorted(path.parent.name for path in FOLDER.glob("*/plain.ckpt"))
LOOPS = ["lightning", "plain", "huggingface"]
DIGITS = {"rel": 1e-4, "abs": 1e-5}  # processors add in different orders

# torchmetrics: some fixtures predict nearly the same for all rows
pytestmark = pytest.mark.filterwarnings("ignore:The variance of predictions:UserWarning")


@pytest.fixture
def here(cli, tmp_path):
    """The command line, run next to the rows and the tokenizer of that version."""
    for name in ("rows", "tokenizer"):
        (tmp_path / name).symlink_to(FOLDER / name)
    return cli


def equal(new, old, digits=DIGITS):
    """Whether values from JSON are equal except for rounding; probabilities now have 4 digits."""
    if isinstance(old, dict):
        same = new.keys() == old.keys()
        digits = {key: {"abs": 7e-5} if key.startswith("probab") else digits for key in old}
        return same and all(equal(new[key], old[key], digits[key]) for key in old)
    if isinstance(old, list):
        return len(new) == len(old) and all(map(equal, new, old))
    return new == pytest.approx(old, **digits) if isinstance(old, float) else new == old


def test_there_is_a_checkpoint_of_every_task_and_loop():
    assert len(TASKS) == 7
    assert all((FOLDER / task / f"{loop}.ckpt").exists() for task in TASKS for loop in LOOPS)
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 5e6


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("task", TASKS)
def test_a_checkpoint_gives_the_same_metrics_and_answers(here, task, loop):
    checkpoint = ["--ckpt_path", FOLDER / task / f"{loop}.ckpt"]
    status, out, err = here("test", *checkpoint)
    assert status == 0, err
    new = json.loads((Path(out.split()[-1]) / "metrics.json").read_text())
    old = json.loads((FOLDER / task / f"{loop}.json").read_text())
    tested = {name: value for name, value in old.items() if name.startswith("test/")}
    assert equal({name: new[name] for name in tested}, tested)  # there may be more by now

    status, _, err = here("predict", *checkpoint, "--input", "rows/test.jsonl")
    assert status == 0, err
    files = Path("predictions.jsonl"), FOLDER / task / "predictions.jsonl"
    answers = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    assert equal(*answers)


@pytest.mark.parametrize("task", TASKS)
def test_a_training_resumes(here, task):
    last = Path(f"runs/{task}-lightning/checkpoints/last.ckpt")  # where its logger writes the run
    last.parent.mkdir(parents=True)
    shutil.copy(FOLDER / task / "last.ckpt", last)
    shutil.copy(FOLDER / task / "lightning.ckpt", last.with_name("best.ckpt"))
    before = torch.load(last, weights_only=True)["global_step"]
    status, _, err = here("fit", "--ckpt_path", last, "--trainer.max_epochs", 3)
    assert status == 0, err
    assert torch.load(last, weights_only=True)["global_step"] == before * 3 // 2
