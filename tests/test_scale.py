"""docs/scale.md: what changes with the number of processes, and SLURM's script with stand-ins."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from test_ddp import JOB, TWO, check_close, metrics, run, write_rows

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts/slurm.sh"
OVERLAY = ROOT / "configs/overlays/slurm.yaml"

# srun starts the tasks of a job, with their numbers in the environment, and ends with the highest
# of their exit statuses. --signal's SIGTERM goes to the tasks, which are its children.
SRUN = """#!/bin/bash
for task in $(seq 0 $((SLURM_NTASKS - 1))); do
  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
  pids+=($!)
done
echo "${pids[@]}" > pids
status=0
for pid in "${pids[@]}"; do
  wait "$pid" || status=$?
done
exit $status
"""
SCONTROL = '#!/bin/bash\necho "$@" >> requeued\n'


def settings(script):
    """Return the options of the lines #SBATCH."""
    return dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", script, re.MULTILINE))


def test_the_script_and_its_overlay_agree():
    text = SCRIPT.read_text()
    assert subprocess.run(["bash", "-n", SCRIPT]).returncode == 0
    assert len(settings(text)) == text.count("#SBATCH")
    options = settings(text)
    trainer = yaml.safe_load(OVERLAY.read_text())["trainer"]
    assert int(options["ntasks-per-node"]) == trainer["devices"]
    assert options["gpus-per-node"] == options["ntasks-per-node"]
    assert int(options["nodes"]) == trainer["num_nodes"]
    assert options["signal"].startswith("TERM@")
    assert "requeue" in options


@pytest.fixture
def slurm(tmp_path):
    """A function that starts the script as job 7 on a machine with two tasks; in a folder."""
    for name, content in {"srun": SRUN, "scontrol": SCONTROL}.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
        file.chmod(0o755)
    shutil.copy(ROOT / "cli.py", tmp_path)
    write_rows(tmp_path / "train.csv", 400, 0)
    for split in ("validation", "test"):
        write_rows(tmp_path / f"{split}.csv", 40, len(split))
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT / 'src'}:{os.environ.get('PYTHONPATH', '')}",
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "litpool",
        "SLURM_JOB_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NODEID": "0",
        "MASTER_ADDR": "127.0.0.1",
    }

    def start(*options):
        job = ["--config", ROOT / "configs/debug.yaml", "--config", OVERLAY, "--data.source", "."]
        return subprocess.Popen(
            ["bash", *map(str, [SCRIPT, *job, "--data.max_rows", "null", *options])],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.mark.slow
def test_a_job_at_its_time_limit_is_requeued_and_goes_on(slurm, tmp_path):
    job = slurm("--trainer.max_epochs", 12, "--save.steps", 1)
    last = tmp_path / "logs/debug/job-7/checkpoints/last.ckpt"
    deadline = time.monotonic() + 300
    while not last.exists() and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in (tmp_path / "pids").read_text().split():
        os.kill(int(pid), signal.SIGTERM)
    printed, _ = job.communicate(timeout=120)
    assert job.returncode == 143, printed
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    before = torch.load(last, weights_only=True)["global_step"]
    steps = 12 * 13  # 400 rows in batches of 2 * 16, the last one smaller
    assert before < steps

    job = slurm("--trainer.max_epochs", 12, "--save.steps", 1)
    printed, _ = job.communicate(timeout=600)
    assert job.returncode == 0, printed
    assert torch.load(last, weights_only=True)["global_step"] == steps
    assert "wrote logs/debug/job-7" in printed
    assert [folder.name for folder in (tmp_path / "logs/debug").iterdir()] == ["job-7"]
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def steps(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"]


@pytest.mark.slow
def test_torchrun_trains_like_one_process_with_the_global_batch(tmp_path):
    """The batch size is per device: two of 32 rows are one of 64, with half as many steps."""
    for split, count in {"train": 96, "validation": 31, "test": 33}.items():
        write_rows(tmp_path / f"{split}.csv", count, count)
    small = run(tmp_path, *JOB, "--data.batch_size", 32)
    one = run(tmp_path, *JOB, "--data.batch_size", 64)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--master-port", "29541", ROOT / "cli.py"]
    command = [*torchrun, *JOB, "--data.batch_size", 32, *TWO, "--name", "torchrun"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*map(str, command)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two = tmp_path / "logs/debug/torchrun"
    assert done.stdout.count("wrote logs/debug/torchrun") == 1
    assert (steps(small), steps(one), steps(two)) == (9, 6, 6)
    check_close(one, two)
    assert metrics(two) == pytest.approx(metrics(one), abs=1e-5)


def test_the_page_shows_the_commands_that_are_tested_here():
    page = (ROOT / "docs/scale.md").read_text()
    submitted = re.search(r"^#     (sbatch .*)$", SCRIPT.read_text(), re.MULTILINE)
    assert submitted
    assert f"\n    {submitted[1]}\n" in page
    assert "torchrun --nproc-per-node 2 cli.py fit --config configs/quickstart.yaml" in page
    overlay = yaml.safe_load((ROOT / "configs/overlays/ddp.yaml").read_text())
    assert overlay["trainer"]["devices"] == 2
