"""A full disk and damaged bytes: one line, and the previous checkpoint stays whole."""

import contextlib
import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from faulty_disk import FaultyDisk, check_failed, file_size_limit
from recording import Steps

from litpool import JobError
from litpool.disk import write_text
from litpool.loops.checkpoint import load, resumable

ROOT = Path(__file__).parent.parent
LOOPS = ["fit", "fit_plain", "fit_hf"]
POINTS = 20  # of a run at which the disk is full


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_whole(folder):
    """Each file with its final name is complete, and there is no other."""
    assert not list(folder.rglob("*.part"))
    for path in folder.rglob("*.ckpt"):
        load(str(path))
    for path in folder.rglob("*.json"):
        json.loads(path.read_text())
    for path in folder.rglob("config.yaml"):
        assert set(yaml.safe_load(path.read_text())) > {"task", "model", "data", "trainer"}


@pytest.fixture
def saved(monkeypatch):
    """The digest of each checkpoint that was written completely, by its path."""
    replace, digests = os.replace, {}

    def record(source, target):
        replace(source, target)
        if Path(target).suffix == ".ckpt":
            digests[Path(target).resolve()] = digest(Path(target))

    monkeypatch.setattr(os, "replace", record)
    return digests


# ---- files


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "your quota is used up"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EROFS, "not read-only"),
        (errno.EACCES, "that you may write to"),
        (errno.EIO, "check this disk"),
        (errno.ENXIO, "check the disk"),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, code, advice):
    path = tmp_path / "metrics.json"
    write_text(path, "first")
    for space in (0, 3):
        with FaultyDisk(tmp_path, space, code).mounted(), pytest.raises(JobError) as error:
            write_text(path, "second")
        assert str(error.value).startswith(f"{path}: cannot be written ({os.strerror(code)}); ")
        assert advice in str(error.value)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match=r"file/run: cannot be written \(Not a directory\)"):
        write_text(tmp_path / "file" / "run" / "metrics.json", "{}")


# ---- a training

NAMES = ["config.yaml*", "last.ckpt*", "best.ckpt*", "metrics.json*", "hparams.yaml", "events*"]


@pytest.mark.parametrize(
    ("command", "names"),
    [
        *(("fit", names) for names in NAMES),
        *((command, names) for command in LOOPS[1:] for names in ("last.ckpt*", "events*")),
    ],
)
def test_a_training_ends_in_one_line_that_names_the_file(cli, job, tmp_path, command, names):
    space = 2000 if names == "events*" else 0  # fails in the middle
    with FaultyDisk(tmp_path, space, names=names).mounted():
        status, _, err = cli(command, *job)
    check_failed(status, err, "No space left on device")
    assert names.strip("*") in err or names == "hparams.yaml"
    check_whole(tmp_path)


@pytest.mark.parametrize("command", LOOPS)
@pytest.mark.parametrize("kind", ["full disk", "limit"])
@pytest.mark.parametrize(
    "points", [2, pytest.param(POINTS, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_a_full_disk_keeps_the_last_good_checkpoint(
    cli, job, tmp_path, saved, command, kind, points
):
    with FaultyDisk(tmp_path, 10**9).mounted() as disk:
        assert cli(command, *job)[0] == 0
    largest = max(path.stat().st_size for path in tmp_path.rglob("*.ckpt"))
    rng = random.Random(command)
    for point in range(points):
        saved.clear()
        shutil.rmtree(tmp_path / "logs")
        share = (point + rng.random()) / points
        if kind == "limit":
            with file_size_limit(int(share * largest)):
                status, _, err = cli(command, *job)
            check_failed(status, err, "File too large")
        else:
            with FaultyDisk(tmp_path, int(share * disk.written)).mounted():
                status, _, err = cli(command, *job)
            check_failed(status, err, "No space left on device")
        check_whole(tmp_path)
        for path, expected in saved.items():
            assert digest(path) == expected


@pytest.mark.slow
def test_a_run_resumes_once_there_is_space(cli, job, tmp_path):
    """It ends with the weights of a run on a disk with enough space."""
    whole = Steps()
    with FaultyDisk(tmp_path, 10**9).mounted() as disk:
        assert cli("fit", *job, log=whole)[0] == 0
    resumed = 0
    for point in range(10):
        shutil.rmtree(tmp_path / "logs")
        with FaultyDisk(tmp_path, disk.written * point // 10).mounted():
            assert cli("fit", *job)[0] == 1
        for last in tmp_path.rglob("last.ckpt"):
            steps = Steps()
            status, _, err = cli("fit", "--ckpt_path", last, log=steps)
            assert status == 0, err
            assert steps.record["sha256"] == whole.record["sha256"]
            resumed += 1
    assert resumed >= 3


# ---- other commands


@pytest.fixture
def checkpoint(train):
    return train("fit_plain")["folder"] / "checkpoints" / "best.ckpt"


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_predictions_are_written_completely_or_not_at_all(cli, checkpoint, tmp_path, ending):
    rows = tmp_path / "rows.txt"
    rows.write_text("".join(f"{'good bad '[number % 9 :]}{number}\n" for number in range(2000)))
    output = tmp_path / f"answers.{ending}"
    output.write_text("first")
    arguments = ["predict", "--ckpt_path", checkpoint, "--input", rows, "--output", output]
    whole = tmp_path / f"whole.{ending}"
    assert cli(*arguments[:-1], whole)[0] == 0  # this also fills the cache of tokens
    with file_size_limit(whole.stat().st_size - 1):
        status, _, err = cli(*arguments)
    check_failed(status, err, "File too large")
    assert str(output) in err or (ending == "parquet" and "/rows/" in err)  # its blocks, on the way
    assert output.read_text() == "first"
    assert not list(tmp_path.glob("*.part"))
    link = tmp_path / f"link.{ending}"
    link.symlink_to(output)
    assert cli(*arguments[:-1], link)[0] == 0
    assert link.is_symlink()
    assert digest(output) == digest(whole)


@pytest.mark.parametrize("command", ["fit", "predict"])
def test_a_full_folder_for_temporary_files(cli, job, checkpoint, csv_file, command):
    arguments = job if command == "fit" else ["--ckpt_path", checkpoint, "--input", csv_file]
    with file_size_limit(100):
        status, _, err = cli(command, *arguments)
    assert status == 1
    if command == "predict":
        assert "/rows/" in err  # the copy of its input
        assert "cannot be written (File too large); raise the limit on the size of files" in err
    else:
        assert err.startswith("error: the tokenizer's temporary files: cannot be written (")
        assert err.endswith("; free some space, or set TMPDIR to another folder\n")
    assert err.count("\n") == 1


def run_cli(*arguments, stdout, unbuffered):
    return subprocess.run(
        [sys.executable, ROOT / "cli.py", *map(str, arguments)],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


@contextlib.contextmanager
def closed_pipe():
    """A pipe whose reader is gone."""
    source, sink = os.pipe()
    os.close(source)
    yield sink
    os.close(sink)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["list", pytest.param("predict", marks=pytest.mark.slow)])
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_standard_output_that_cannot_be_written(request, tmp_path, command, unbuffered):
    arguments = []
    if command == "predict":
        path = request.getfixturevalue("checkpoint")
        rows = tmp_path / "rows.txt"  # more than the buffer takes
        rows.write_text("good film\n" * 2000)
        arguments = ["predict", "--ckpt_path", path, "--input", rows, "--output", "-"]
    with open("/dev/full", "w") as full:
        process = run_cli(*arguments, stdout=full, unbuffered=unbuffered)
    check_failed(process.returncode, process.stderr, "No space left on device")
    assert process.stderr.startswith("error: standard output: ")
    with closed_pipe() as pipe:
        process = run_cli(*arguments, stdout=pipe, unbuffered=unbuffered)
    check_failed(process.returncode, process.stderr, "Broken pipe")
    assert process.stderr.startswith("error: standard output: ")


# ---- damaged bytes


def equal(value, other):
    """Whether two loaded values are the same, bit by bit."""
    if isinstance(value, torch.Tensor):
        return (
            isinstance(other, torch.Tensor)
            and value.dtype == other.dtype
            and value.shape == other.shape
            and value.numpy().tobytes() == other.numpy().tobytes()
        )
    if isinstance(value, dict):
        return (
            isinstance(other, dict)
            and list(value) == list(other)
            and all(equal(value[key], other[key]) for key in value)
        )
    if isinstance(value, list | tuple):
        return (
            type(value) is type(other)
            and len(value) == len(other)
            and all(map(equal, value, other))
        )
    return type(value) is type(other) and value == other


def check_reported(last, original):
    """A damaged last.ckpt is reported with its fallback, or loads to equal values."""
    usable, _, reason = resumable(str(last), original["job"].get("command", "fit"))
    if reason is None:
        assert equal(load(str(last)), original)
        return False
    assert usable == str(last.with_name("last.prev.ckpt"))
    assert reason.startswith(f"ckpt_path={last}: damaged or incomplete (")
    assert "\n" not in reason
    return True


@pytest.fixture
def last(train, command):
    """A last.ckpt, with a last.prev.ckpt next to it."""
    path = train(command)["folder"] / "checkpoints" / "last.ckpt"
    assert path.with_name("last.prev.ckpt").exists()
    return path


@pytest.mark.parametrize(
    "command", ["fit", *(pytest.param(name, marks=pytest.mark.slow) for name in LOOPS[1:])]
)
def test_a_flipped_byte_or_a_missing_end_is_reported(command, last):
    content = last.read_bytes()
    original = load(str(last))
    previous = digest(last.with_name("last.prev.ckpt"))
    rng = random.Random(command)
    reported = 0
    for _ in range(200):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= rng.randrange(1, 256)
        last.write_bytes(damaged)
        reported += check_reported(last, original)
    assert reported > 150  # the other bytes are padding and dates
    for point in range(20):
        last.write_bytes(content[: int(len(content) * (point + rng.random()) / 20)])
        assert check_reported(last, original)
    assert digest(last.with_name("last.prev.ckpt")) == previous


@pytest.mark.slow
@pytest.mark.parametrize("command", ["fit_plain"])
def test_a_flipped_byte_outside_of_the_records_is_reported_or_changes_nothing(last):
    """Of the headers and the directory of the zip file."""
    content = last.read_bytes()
    original = load(str(last))
    outside = set(range(len(content)))
    with zipfile.ZipFile(last) as archive:
        for record in archive.infolist():
            with archive.open(record) as file:
                start = file._orig_compress_start
            outside -= set(range(start, start + record.file_size))
    rng = random.Random(0)
    for place in rng.sample(sorted(outside), 2000):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.randrange(8)
        last.write_bytes(damaged)
        check_reported(last, original)


@pytest.mark.parametrize("command", ["fit"])
def test_a_fit_resumes_from_the_checkpoint_before_a_damaged_one(cli, last):
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    status, _, err = cli("fit", "--ckpt_path", last)
    assert status == 0, err
    assert err.startswith(f"warning: ckpt_path={last}: damaged or incomplete (")
    assert err.endswith(f"resuming from {last.with_name('last.prev.ckpt')} instead\n")
    last.write_bytes(content)
    last.with_name("last.prev.ckpt").unlink()
    status, _, err = cli("fit", "--ckpt_path", last)
    assert status == 2
    assert err.count("\n") == 1
    assert "(the checksum of its record archive/data/" in err
