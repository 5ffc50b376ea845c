"""SIGINT and SIGTERM end any command with 130 and 143, within seconds, and save a checkpoint."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forkserver import ForkServer
from test_docs import skip_without_tool

from litpool.loops.checkpoint import read

ROOT = Path(__file__).parent.parent
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
LOOPS = ["fit", "fit_plain", "fit_hf"]
SIGNALS = pytest.mark.parametrize("signum", STATUS)


def start(code, *arguments, cwd=None, environment=None):
    return subprocess.Popen(
        [sys.executable, *(["-c", code] if code else []), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # a background job ignores it
    )


def line_by_line(body):
    """A program that prints `ready` and goes on with `body` within `exit_status`."""
    head = "import sys, time; from litpool import interrupt\n"
    head += "interrupt.DEADLINE = 0.5\nwith interrupt.exit_status():\n"
    return head + "".join(
        f"    {line}\n" for line in ["print('ready', flush=True)", *body.splitlines()]
    )


@SIGNALS
@pytest.mark.parametrize(
    "body",
    [
        "time.sleep(60)",
        "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    sys.exit(0)",  # a library
        "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    pass",
        "try:\n    time.sleep(60)\nfinally:\n    raise ValueError('on the way out')",
        "with interrupt.deferred():\n    while True: time.sleep(0.01)",  # never checks
        "with interrupt.deferred():\n    while True: time.sleep(0.01), interrupt.check()",
    ],
    ids=["asleep", "exits with 0", "swallowed", "another error", "deferred for ever", "deferred"],
)
def test_the_status_is_the_signals(body, signum):
    process = start(line_by_line(body))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signum)
    _, err = process.communicate(timeout=10)
    assert process.returncode == STATUS[signum], err
    assert "Traceback" not in err


def test_an_ignored_signal_stays_ignored():
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + line_by_line(
        "time.sleep(0.3)"
    )
    process = start(code)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)
    assert process.returncode == 0


def test_a_forked_process_does_not_end_its_parent():
    body = "import os, signal\npid = os.fork()\n"
    body += "if not pid:\n    os.kill(os.getpid(), signal.SIGTERM)\n"
    body += "os.waitpid(pid, 0)\ntime.sleep(1)"
    process = start(line_by_line(body))
    process.communicate(timeout=20)
    assert process.returncode == 0


@SIGNALS
def test_a_signal_while_the_libraries_are_imported(signum, tmp_path):
    process = start(
        None, ROOT / "cli.py", "fit", "--config", ROOT / "configs/debug.yaml", cwd=tmp_path
    )
    time.sleep(1.0)
    process.send_signal(signum)
    _, err = process.communicate(timeout=10)
    assert process.returncode == STATUS[signum]
    assert err.strip() == "interrupted"


HOOKS = {  # where the signal comes, and whether something is trained by then
    "setup": ("litpool.data.module.TextDataModule.setup", False),
    "build": ("litpool.model.network.TextModel.__init__", False),
    "forward": ("litpool.model.network.TextModel.forward", True),
    "evaluate": ("litpool.loops.evaluation.Evaluation.feed", True),
    "save": ("torch.save", True),
}


@SIGNALS
@pytest.mark.parametrize("command", LOOPS)
@pytest.mark.parametrize("hook", HOOKS)
def test_a_training_ends_with_a_checkpoint(cli, job, monkeypatch, command, hook, signum, tmp_path):
    place, trained = HOOKS[hook]
    owner, name = place.rpartition(".")[::2]
    module, _, kind = owner.rpartition(".") if owner != "torch" else (owner, "", "")
    target = getattr(sys.modules[module], kind) if kind else sys.modules[module]
    original, calls = getattr(target, name), []

    def signalling(*arguments, **options):
        calls.append(name)
        if len(calls) == 2 or not trained:
            signal.raise_signal(signum)
        return original(*arguments, **options)

    monkeypatch.setattr(target, name, signalling)
    status, _, err = cli(command, *job, "--trainer.max_epochs", 2)
    assert status == STATUS[signum], err
    assert "Traceback" not in err
    assert err.startswith("\ninterrupted")
    last = list(tmp_path.rglob("last.ckpt"))
    assert bool(last) is trained
    for path in last:
        read(str(path))
        assert str(path.relative_to(tmp_path)) in err
    assert not list(tmp_path.rglob("*.part"))


@SIGNALS
@pytest.mark.parametrize("command", ["test", "predict", "check"])
def test_other_commands_end_as_well(cli, monkeypatch, signum, command, tmp_path):
    skip_without_tool(command)
    fixture = ROOT / "tests/fixtures/v0.1.0"
    (tmp_path / "rows").symlink_to(fixture / "rows")
    (tmp_path / "tokenizer").symlink_to(fixture / "tokenizer")
    hook = (
        "litpool.model.network.TextModel.forward"
        if command != "check"
        else "litpool.data.module.dump_tokenizer"
    )
    monkeypatch.setattr(hook, lambda *_: signal.raise_signal(signum))
    arguments = ["--ckpt_path", fixture / "classification/plain.ckpt"]
    if command == "predict":
        arguments += ["--input", "rows/test.jsonl"]
    if command == "check":
        arguments = ["--data.source", "rows", "--data.tokenizer", "tokenizer"]
    status, _, err = cli(command, *arguments)
    assert (status, err) == (STATUS[signum], "\ninterrupted\n")
    assert not Path("predictions.jsonl").exists()


@pytest.mark.slow
@SIGNALS
def test_ten_random_moments_of_a_real_process(job, signum, tmp_path):
    """From the first import to the last line; the process takes some 12 seconds."""
    rng = random.Random(signum)
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        command = LOOPS[number % 3]
        process = start(
            None, ROOT / "cli.py", command, *job, "--trainer.max_epochs", 400, cwd=folder
        )
        time.sleep(0.3 + 15 * rng.random())
        process.send_signal(signum)
        sent = time.monotonic()
        _, err = process.communicate(timeout=30)
        assert process.returncode == STATUS[signum], err
        assert time.monotonic() - sent < 10
        assert "Traceback" not in err
        for path in folder.rglob("last.ckpt"):
            read(str(path))


@pytest.fixture(scope="module")
def server():
    server = ForkServer()
    yield server
    server.close()


@pytest.mark.slow
@pytest.mark.parametrize("command", LOOPS)
def test_a_kill_during_a_save_leaves_a_checkpoint_that_can_be_read(server, job, command, tmp_path):
    """20 kills, the temporary folder on the same file system and on another one."""
    other = Path("/dev/shm")
    big = "{hidden_size: 256, num_hidden_layers: 2, num_attention_heads: 4"
    big += ", intermediate_size: 2048, vocab_size: 9000}"
    often = [
        "--model.encoder.overrides",
        big,
        "--trainer.max_epochs",
        1000,
        "--trainer.val_check_interval",
        2,
    ]
    rng, cut = random.Random(0), 0
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        temporary = str(other if number % 2 and other.is_dir() else folder)
        child = server.start(folder, command, *job, *often, TMPDIR=temporary)
        saves, wanted, deadline = 0, rng.randint(3, 6), time.monotonic() + 60
        while saves < wanted and time.monotonic() < deadline:
            unfinished = list(folder.rglob("*.part"))
            saves += bool(unfinished and list(folder.rglob("last.ckpt")))
            time.sleep(0.001 if not unfinished else rng.random() / 50)
        child.kill(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL, child.printed
        cut += bool(list(folder.rglob("*.part")))
        (path,) = folder.rglob("last.ckpt")
        read(str(path))
        assert torch.load(path, weights_only=True)["global_step"] > 0
    assert cut > 5  # so many kills fell into the writing itself
