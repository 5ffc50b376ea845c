"""A sweep over two keys of the tiny job."""

import json
from pathlib import Path

import pytest

SPACE = """
model.recipe.lr: {low: 1e-3, high: 1e-1, log: true}
model:
  pooling: [MeanPooling, ClsPooling]
"""


@pytest.fixture
def space_file(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return str(path)


@pytest.fixture
def sweep(cli, job, space_file, tmp_path):
    """A function that runs a sweep; returns its folder, its sweep.json and what it prints."""
    pytest.importorskip("optuna", reason="needs the extra `sweep`")

    def sweep(*options, trials=3, seeds=0):
        counts = ["--sweep.trials", trials, "--sweep.seeds", seeds]
        status, out, err = cli("sweep", *job, "--space", space_file, *counts, *options)
        assert status == 0, err
        folder = tmp_path / Path(out.split()[-1])
        return folder, json.loads((folder / "sweep.json").read_text()), out

    return sweep
