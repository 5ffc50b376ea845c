"""What a person can say about a study."""

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
TUNED: list[Callable[[int, int], Pooling]] = [
    ClsPooling,
    MeanPooling,
    MaxPooling,
    AttentionPooling,
    LayerMixPooling,
]


@dataclass
class StudyOptions:
    """What is studied, beside all layers and all poolings without weights of their own.

    Args:
        arms: `frozen`: the encoder as it is, all at once. `finetuned`: some poolings, each trained like any job, with
            several seeds.
        poolings: Further poolings of the frozen arm, such as concatenations: `{class_path: ConcatPooling, init_args:
            {poolings: [MeanPooling, MaxPooling]}}`.
        tuned: The poolings of the fine-tuned arm; those that learn belong here.
        layers: The layers of the fine-tuned arm, 0 the embeddings; the last by default.
        seeds: The number of seeds of the fine-tuned arm, counted from `seed_everything`.
        loop: What trains the fine-tuned arm.
        word_vectors: A text file of word vectors as GloVe and word2vec write them; their average is a baseline.
        data: Several data sets, studied in turn, by the names that they shall have: each with the keys of `data` in
            which it differs, under `task` those of the task, and under `paper` figures to be shown beside, such as
            `[{pooling: MeanPooling, test: 46.35}]`.
        seed: Of the resamples behind intervals and p values, and of the pairs that the geometry is told from.
    """

    arms: list[Arm] = field(default_factory=lambda: ["frozen"])
    poolings: list[Callable[[int, int], Pooling]] = field(default_factory=list)
    tuned: list[Callable[[int, int], Pooling]] = field(default_factory=lambda: [*TUNED])
    layers: list[int] | None = None
    seeds: int = 3
    loop: Literal["lightning", "huggingface"] = "lightning"
    word_vectors: str | None = None
    data: dict[str, dict[str, Any]] | None = None
    seed: int = 0
