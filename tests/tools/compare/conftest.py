"""Training on the small job, recorded step by step as `compare` does it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recording import scores

from litpool.tools.compare import stock
from litpool.tools.compare.recorder import Recorder


@pytest.fixture
def train(
    cli: Callable[..., tuple[int, str, str]], job: list[str], tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """A function that runs a training command on the job and returns its record.

    The record also has the run folder and the metrics.
    """

    def train(command: str, *arguments: Any) -> dict[str, Any]:
        file = tmp_path / f"{command}.json"
        function = None
        if command == "fit_stock":  # not a command of the command line
            command, function = "fit_plain", stock.fit_stock
        recorder = Recorder(str(file))
        status, out, err = cli(command, *job, *arguments, log=recorder, command=function)
        assert status == 0, err
        folder = tmp_path / out.split()[-1] if out else next(tmp_path.glob("logs/*/version_0"))
        return {**json.loads(file.read_text()), "folder": folder, "metrics": scores(folder)}

    return train
