"""What a loop does step by step on the small job, as `compare` records it."""

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
    """A function that runs a training command on the job: its record, with its run folder and its metrics."""

    def train(command: str, *arguments: Any) -> dict[str, Any]:
        file, replaced = tmp_path / f"{command}.json", None
        if command == "fit_stock":  # no command of the command line
            command, replaced = "fit_plain", stock.fit_stock
        log = Recorder(str(file))
        status, out, err = cli(command, *job, *arguments, log=log, command=replaced)
        assert status == 0, err
        folder = tmp_path / out.split()[-1] if out else next(tmp_path.glob("logs/*/version_0"))
        return {**json.loads(file.read_text()), "folder": folder, "metrics": scores(folder)}

    return train
