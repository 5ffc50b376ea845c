"""A comparison by version 0.1.0 still gets the same verdict."""

import json
from pathlib import Path

from litpool.tools.compare.verdict import verdict

FOLDER = Path(__file__).parents[2] / "fixtures/v0.1.0"


def test_an_old_comparison_gets_the_same_verdict():
    old = json.loads((FOLDER / "compare.json").read_text())
    records = {loop: repeats for loop, repeats in old["runs"].items() if loop != "stock"}
    assert verdict(records) == old["verdict"]
    assert old["verdict"].startswith("identical for all 6 steps")
