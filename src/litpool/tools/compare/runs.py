"""The loops side by side: the same job, each in a fresh process, step by step; and where they part, why."""

import hashlib
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from litpool import JobError
from litpool.loops.outputs import versions
from litpool.tools.compare.verdict import verdict

FIRST = 5  # steps that say nothing about speed: memory is allocated, caches are filled
Record = dict[str, Any]


def folder_of(config: Mapping[str, Any], parent: Path) -> Path:
    """Where a job's comparison is finished: an interrupted one is found again, another job has a folder of its own."""
    content = json.dumps([config, versions()], sort_keys=True, default=str)
    return parent / f"compare-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def run_loops(
    config: Mapping[str, Any], folder: Path, loops: Sequence[str], repeat: int
) -> dict[str, list[Record]]:
    """Run each loop that has not finished yet.

    The repeats take turns, so that a busy minute does not slow down one loop only.
    """
    if (folder / "compare.json").exists():  # finished, not interrupted: start anew
        for path in [folder / "compare.json", *folder.glob("*/record.json")]:
            path.unlink()
    runs: dict[str, list[Record]] = {loop: [] for loop in loops}
    for turn in range(1, repeat + 1):
        for loop in loops:
            path = folder / f"{loop}-{turn}"
            finished = (path / "metrics.json").exists() and (path / "record.json").exists()
            if not finished:
                _run_loop(config, path, loop)
            runs[loop].append(_read(path))
            note = "  (kept from before)" if finished else ""
            print(f"{loop:<12}{_seconds(runs[loop][-1]) * 1e3:.1f} ms a step{note}", flush=True)
    return runs


def _run_loop(config: Mapping[str, Any], path: Path, loop: str) -> None:
    """Train in a fresh process. Its config can be run by hand just as well."""
    shutil.rmtree(path, ignore_errors=True)  # what an interrupted one left
    path.mkdir(parents=True)
    logger_options = {
        "save_dir": str(path.parent),
        "name": "",
        "version": path.name,
        "default_hp_metric": False,
    }
    trainer = {
        **config["trainer"],
        "logger": {"class_path": "TensorBoardLogger", "init_args": logger_options},
        "enable_progress_bar": False,
    }
    file = path.parent / f"{path.name}.yaml"
    file.write_text(
        yaml.safe_dump({**config, "trainer": trainer}, sort_keys=False), encoding="utf-8"
    )
    child = [
        sys.executable,
        "-m",
        "litpool.tools.compare.child",
        loop,
        str(file),
        str(path / "record.json"),
    ]
    process = subprocess.run(child, capture_output=True, text=True)
    (path / "output.txt").write_text(process.stdout + process.stderr, encoding="utf-8")
    if process.returncode:
        last = (process.stderr.strip().splitlines() or ["it did not say why"])[-1]
        raise JobError(f"the loop {loop} failed ({last}); all it said is in {path / 'output.txt'}")


def _read(path: Path) -> Record:
    record = json.loads((path / "record.json").read_text(encoding="utf-8"))
    return {**record, "metrics": json.loads((path / "metrics.json").read_text(encoding="utf-8"))}


def _seconds(run: Record) -> float:
    steps = run["steps"]
    return statistics.median(step["seconds"] for step in steps[min(FIRST, len(steps) // 2) :])


def _tokens(run: Record) -> float:
    steps = run["steps"][min(FIRST, len(run["steps"]) // 2) :]
    return sum(step["tokens"] for step in steps) / sum(step["seconds"] for step in steps)


def report(
    folder: Path,
    runs: Mapping[str, list[Record]],
    differences: list[tuple[str, str, str]],
    left_out: str | None,
) -> None:
    """Write compare.json and compare.md.

    Args:
        folder: Where to.
        runs: The repeats of each loop.
        differences: The settings in which `stock` differs.
        left_out: Why there is no column `stock`, if it was asked for and cannot be.
    """
    ours = {loop: repeats for loop, repeats in runs.items() if loop != "stock"}
    line = verdict(ours) if ours else "no loop of ours was run"
    columns = {loop: _column(loop, repeats) for loop, repeats in runs.items()}
    content = {
        "verdict": line,
        "table": columns,
        "stock_differs": [
            dict(zip(("setting", "ours", "stock"), row, strict=True)) for row in differences
        ],
        "left_out": left_out,
        "versions": versions(),
        "runs": runs,
    }
    (folder / "compare.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    lines = [f"**{line}**", "", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    names = dict.fromkeys(name for column in columns.values() for name in column)
    lines += [
        f"| {name} | {' | '.join(column.get(name, '') for column in columns.values())} |"
        for name in names
    ]
    if left_out:
        lines += ["", f"stock is left out: {left_out}."]
    if "stock" in runs:
        lines += ["", "In stock these settings differ:", ""]
        lines += [f"- {name}: {ours} here, {stock} there" for name, ours, stock in differences]
    (folder / "compare.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def _column(loop: str, repeats: list[Record]) -> dict[str, str]:
    run = repeats[0]
    seconds = [_seconds(repeat) * 1e3 for repeat in repeats]
    span = f" ({min(seconds):.1f} to {max(seconds):.1f})" if len(seconds) > 1 else ""
    scores = {
        name: f"{value:.4f}"
        for name, value in run["metrics"].items()
        if name.startswith(("val/", "test/"))
    }
    return {
        "steps": str(len(run["steps"])),
        "loss, first step": f"{run['steps'][0]['loss']:.6f}",
        "loss, last step": f"{run['steps'][-1]['loss']:.6f}",
        **{name: value for name, value in scores.items() if name.count("/") == 1},
        "ms a step": f"{statistics.median(seconds):.1f}{span}",
        "tokens a second": f"{statistics.median(map(_tokens, repeats)):.0f}",
        "peak memory": f"{max(repeat['peak_memory'] for repeat in repeats) / 2**20:.0f} MiB",
        "sha256 of the weights": run["sha256"][:12],
    }
