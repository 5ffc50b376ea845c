"""The options of `study`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from litpool.model.pooling import (
    AttentionPooling,
    ClsPooling,
    LayerMixPooling,
    MaxPooling,
    MeanPooling,
    Pooling,
)

Arm = Literal["frozen", "finetuned"]
Loop = Literal["lightning", "huggingface"]
TUNED: list[Callable[[int, int], Pooling]] = [
    ClsPooling,
    MeanPooling,
    MaxPooling,
    AttentionPooling,
    LayerMixPooling,
]


@dataclass
class StudyOptions:
    """What to study. The frozen arm always covers every layer and every pooling without weights.

    Args:
        arms: `frozen`: score the encoder as it is. `finetuned`: train some poolings, each with
            several seeds, as `fit` would.
        poolings: Further poolings for the frozen arm, such as concatenations: `{class_path:
            ConcatPooling, init_args: {poolings: [MeanPooling, MaxPooling]}}`.
        tuned: The poolings to fine-tune, including those that learn.
        layers: The layers that the fine-tuned arm pools; 0 is the embeddings; the last layer by
            default.
        seeds: How many seeds to fine-tune with, counting up from `seed_everything`.
        loop: The loop that trains the fine-tuned arm.
        word_vectors: A text file of word vectors in the format of GloVe or word2vec; their average
            becomes a baseline.
        data: Several data sets to study in turn, by name. Each lists the keys of `data` in which it
            differs; under `task`, those of the task; and under `paper`, published figures to show
            next to ours, such as `[{pooling: MeanPooling, test: 46.35}]`.
        seed: The seed of the bootstrap, and of the pairs sampled for the geometry.
    """

    arms: list[Arm] = field(default_factory=lambda: ["frozen"])
    poolings: list[Callable[[int, int], Pooling]] = field(default_factory=list)
    tuned: list[Callable[[int, int], Pooling]] = field(default_factory=TUNED.copy)
    layers: list[int] | None = None
    seeds: int = 3
    loop: Loop = "lightning"
    word_vectors: str | None = None
    data: dict[str, dict[str, Any]] | None = None
    seed: int = 0
