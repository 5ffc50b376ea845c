"""A study that was recorded on the rows of version 0.1.0 gives the same numbers when run again.

The record has today's layout. No command reads a study.json, so none has to read older ones.
"""

import json
from pathlib import Path

import pytest
import yaml
from old_names import JOB

from litpool.tools.study import report

FOLDER = Path(__file__).parents[2] / "fixtures/v0.1.0"


def equal(new, old):
    """Compare values from JSON up to rounding: another processor adds in another order."""
    if isinstance(old, dict):
        return new.keys() == old.keys() and all(equal(new[key], old[key]) for key in old)
    if isinstance(old, list):
        return len(new) == len(old) and all(map(equal, new, old))
    return new == pytest.approx(old, rel=1e-4, abs=1e-5) if isinstance(old, float) else new == old


def test_a_study_gives_the_same_numbers(cli, tmp_path):
    for name in ("rows", "tokenizer"):
        (tmp_path / name).symlink_to(FOLDER / name)
    # A config names the package, so in a renamed project it has to be changed.
    text = (FOLDER / "study.json").read_text().replace(f"{JOB}.", "litpool.")
    old = json.loads(text)
    del old["config"]["model"]["recipe"]["eps"]  # version 0.1.0 rounded it to 0
    Path("job.yaml").write_text(
        yaml.safe_dump({**old["config"], "trainer": {"accelerator": "cpu", "max_epochs": 2}})
    )
    status, out, err = cli("study", "--config", "job.yaml", "--name", "again")
    assert status == 0, err
    assert Path(out.split()[-1]).name == "again"
    new = json.loads((Path(out.split()[-1]) / "study.json").read_text())
    assert new.keys() == old.keys()
    assert new["verdict"] == old["verdict"]
    assert equal(new["data"], old["data"])


def test_the_recorded_study_can_be_drawn(tmp_path):
    report.write(tmp_path, json.loads((FOLDER / "study.json").read_text()))
    assert {path.name for path in tmp_path.iterdir()} >= {"study.csv", "study.md", "study.html"}
