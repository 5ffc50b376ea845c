"""Training the same job with each loop, every time in a fresh process."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from litpool import JobError
from litpool.command_line.runs import logger_of
from litpool.disk import make_folder, write_text
from litpool.loops.outputs import versions
from litpool.tools.compare.report import seconds_per_step
from litpool.tools.compare.verdict import Record


def folder_of(config: Mapping[str, Any], parent: Path) -> Path:
    """Return the folder of a job's comparison: always the same one, so that it can be resumed."""
    content = json.dumps([config, versions()], sort_keys=True, default=str)
    return parent / f"compare-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def run_loops(
    config: Mapping[str, Any], folder: Path, loops: Sequence[str], repeat: int
) -> dict[str, list[Record]]:
    """Run each loop that has not finished yet.

    The repeats take turns, so that a busy minute does not slow down one loop only.
    """
    report = folder / "compare.json"
    if report.exists():  # finished, not interrupted: start from scratch
        for path in [report, *folder.glob("*/record.json")]:
            path.unlink()
    records: dict[str, list[Record]] = {loop: [] for loop in loops}
    for turn in range(1, repeat + 1):
        for loop in loops:
            path = folder / f"{loop}-{turn}"
            finished = (path / "metrics.json").exists() and (path / "record.json").exists()
            if not finished:
                _run_loop(config, path, loop)
            record = _read(path)
            records[loop].append(record)
            note = "  (already finished)" if finished else ""
            print(f"{loop:<12}{seconds_per_step(record) * 1e3:.1f} ms per step{note}", flush=True)
    return records


def _run_loop(config: Mapping[str, Any], path: Path, loop: str) -> None:
    """Train in a fresh process; its config also works on the command line."""
    shutil.rmtree(path, ignore_errors=True)  # of an interrupted run
    make_folder(path)
    trainer = {**config["trainer"], "logger": logger_of(path), "enable_progress_bar": False}
    file = path.parent / f"{path.name}.yaml"
    text = yaml.safe_dump({**config, "trainer": trainer}, sort_keys=False)
    write_text(file, text)
    module = "litpool.tools.compare.child"
    command = [sys.executable, "-m", module, loop, str(file), str(path / "record.json")]
    process = subprocess.run(command, capture_output=True, text=True)
    output = path / "output.txt"
    write_text(output, process.stdout + process.stderr)
    if process.returncode:
        last = (process.stderr.strip().splitlines() or ["it printed no error"])[-1]
        raise JobError(f"the loop {loop} failed: {last}; its full output is in {output}")


def _read(path: Path) -> Record:
    record = json.loads((path / "record.json").read_text(encoding="utf-8"))
    metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    return {**record, "metrics": metrics}
