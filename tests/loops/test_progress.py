"""Progress without a terminal, on a clock that the test sets."""

import re

import pytest
import torch
from torch import nn

from litpool.loops import progress
from litpool.loops.progress import ProgressLines

BATCH = {"input_ids": torch.zeros(4, 8)}


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def printed(clock):
    return []


@pytest.fixture
def lines(clock, printed):
    lines = ProgressLines(steps=100, print_line=printed.append, clock=clock)
    lines.start(nn.Identity(), None)
    return lines


def train(lines, clock, steps, seconds=7.0):
    for step in steps:
        lines.batch(BATCH)
        clock.now += seconds
        lines.step(step, torch.tensor(1 / step), 0.0, 0.0, 0.0)


def score(lines, clock, batches, seconds, total):
    for number in batches:
        clock.now += seconds
        lines.scored("validation", number, total, 4)


def test_a_minute_of_training_gives_a_line_with_loss_speed_and_time_left(lines, clock, printed):
    train(lines, clock, range(1, 9))
    assert not printed  # 56 s
    train(lines, clock, [9])
    # 36 rows in 63 s; 91 steps of 7 s are left
    assert printed == ["training    step 9 of 100 (9%), loss 0.111, 0.6 rows/s, 10:37 left"]


def test_there_is_a_line_a_minute_at_most(lines, clock, printed):
    train(lines, clock, range(1, 61))
    assert len(printed) == 60 * 7 // 63


def test_an_evaluation_does_not_slow_the_speed_but_counts_in_the_time_left(lines, clock, printed):
    train(lines, clock, range(1, 6), seconds=1.0)
    score(lines, clock, range(1, 11), 5.0, total=10)
    train(lines, clock, range(6, 12), seconds=1.0)
    # 4 rows in a step of 1 s; 9 steps took 59 s, so the other 90 take 590 s
    assert printed == ["training    step 10 of 100 (10%), loss 0.100, 4.0 rows/s, 09:50 left"]


def test_a_long_evaluation_reports_itself(lines, clock, printed):
    score(lines, clock, range(1, 14), 5.0, total=60)
    assert printed == ["validation  batch 12 of 60 (20%), 0.8 rows/s, 04:00 left"]


def test_the_next_evaluation_starts_anew(lines, clock, printed):
    score(lines, clock, range(1, 4), 1.0, total=3)
    score(lines, clock, range(1, 3), 60.0, total=3)
    assert printed == [
        "validation  batch 1 of 3 (33%)",
        "validation  batch 2 of 3 (67%), 0.1 rows/s, 01:00 left",
    ]


def test_a_resumed_run_does_not_count_the_steps_before_it(lines, clock, printed):
    train(lines, clock, range(51, 62), seconds=6.0)
    assert printed == ["training    step 60 of 100 (60%), loss 0.017, 0.7 rows/s, 04:00 left"]


# ---- in the loops

TRAINING = re.compile(
    r"training    step (\d+) of 10 \(\d+%\), loss (\d\.\d{3}), [\d.,]+ rows/s(, \d\d:\d\d left)?"
)


@pytest.fixture
def no_wait(monkeypatch):
    monkeypatch.setattr(progress, "MINUTE", 0.0)


@pytest.mark.parametrize("command", ["fit", "fit_hf", "fit_plain"])
def test_every_loop_reports_training_and_evaluations(command, cli, job, no_wait):
    status, _, err = cli(command, *job, "--trainer.enable_progress_bar", "null")
    assert status == 0, err
    lines = err.splitlines()
    steps = [TRAINING.fullmatch(line) for line in lines if line.startswith("training")]
    assert all(steps), err
    assert [int(match[1]) for match in steps] == list(range(1, 11))
    assert [bool(match[3]) for match in steps] == [False, *[True] * 9]
    batches = [line for line in lines if line.startswith("validation")]
    assert len(batches) == 2  # of one batch each
    assert any(line.startswith("test        batch 1 of 1 (100%)") for line in lines)


def test_prediction_reports_itself_and_keeps_off_standard_output(cli, job, no_wait, csv_file):
    status, out, err = cli("fit", *job)
    assert status == 0
    assert "training" not in err  # the job turns progress off
    best = f"{out.split()[-1]}/checkpoints/best.ckpt"
    arguments = ["--ckpt_path", best, "--input", csv_file, "--output", "-"]
    status, out, err = cli("predict", *arguments)
    assert status == 0
    assert err.count("prediction  row 60 of 60 (100%)") == 1
    assert len(out.splitlines()) == 60
