"""A comparison of version 0.1.0 still gets its verdict."""

import json
from pathlib import Path

from litpool.tools.compare.verdict import verdict

FOLDER = Path(__file__).parents[2] / "fixtures/v0.1.0"


def test_a_comparison_of_then_gets_the_same_verdict():
    old = json.loads((FOLDER / "compare.json").read_text())
    assert (
        verdict({loop: runs for loop, runs in old["runs"].items() if loop != "stock"})
        == old["verdict"]
    )
    assert old["verdict"].startswith("identical for all 6 steps")
