"""What saving costs: the two checkpoints of an evaluation, before 0.2.0 and now.

    python bench/saving.py [FOLDER]   # where to write; by default a temporary folder

Before: best.ckpt and last.ckpt with the optimizer's state, and `isfinite` of all weights.
Now: best.ckpt with weights only, and a check of each tensor's extremes. The network has the size of
all-MiniLM-L6-v2. The two take turns, so that a busy moment of the machine or the disk affects both.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from litpool.loops import checkpoint

REPEATS = 15
MINILM = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}


def contents() -> dict[str, Any]:
    """Return weights, and AdamW's two averages of each."""
    network = BertModel(BertConfig(**MINILM), add_pooling_layer=False)
    optimizer = torch.optim.AdamW(network.parameters())
    for weight in network.parameters():
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    return {"state_dict": network.state_dict(), "optimizer": optimizer.state_dict()}


def earlier_not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first weight that is not finite, as before 0.2.0."""
    return next((name for name, weight in weights.items() if not weight.isfinite().all()), None)


def seconds(save: Callable[[], None]) -> float:
    start = time.perf_counter()
    save()
    return time.perf_counter() - start


def main(folder: Path) -> None:
    full = contents()
    weights = {"state_dict": full["state_dict"]}
    best, last = folder / "best.ckpt", folder / "last.ckpt"

    def before() -> None:
        with mock.patch.object(checkpoint, "not_finite", earlier_not_finite):
            checkpoint.write(full, best)
            checkpoint.write(full, last)

    def now() -> None:
        checkpoint.write(weights, best)
        checkpoint.write(full, last)

    seconds(before)  # warm-up
    pairs = [(seconds(before), seconds(now)) for _ in range(REPEATS)]
    ratios = [new / old for old, new in pairs]
    megabytes = [path.stat().st_size / 1e6 for path in (best, last)]
    print(f"best.ckpt {megabytes[0]:.0f} MB, last.ckpt {megabytes[1]:.0f} MB")
    print(f"| median of {REPEATS} | s | range |")
    print("|---|---|---|")
    for name, values in zip(("before", "now"), zip(*pairs, strict=True), strict=True):
        print(
            f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f} |"
        )
    print(
        f"| now / before | {statistics.median(ratios):.2f} | "
        f"{min(ratios):.2f} to {max(ratios):.2f} |"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
