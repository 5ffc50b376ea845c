"""A measurement in a process of its own, so that nothing is warm."""

import json
import os
import subprocess
import sys
import tempfile
from typing import Any


def measure(script: str, *arguments: str) -> Any:
    """Run a script in an empty folder with empty caches; return the JSON in its last line."""
    with tempfile.TemporaryDirectory() as empty:
        places = {
            "LITPOOL_CACHE": f"{empty}/litpool",
            "HF_HOME": f"{empty}/huggingface",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        done = subprocess.run(
            [sys.executable, script, "--work", *arguments],
            cwd=empty,
            env={**os.environ, **places},
            capture_output=True,
            text=True,
        )
    if done.returncode != 0:
        sys.exit(f"{arguments[0]}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
