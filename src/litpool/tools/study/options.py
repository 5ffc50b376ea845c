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
Resampling = Literal["auto", "split", "kfold"]
Score = Literal["auto", "accuracy", "macro_f1", "balanced_accuracy"]
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
        arms: `frozen` scores the encoder as it is, and `finetuned` trains some poolings, each with
            several seeds, as `fit` would.
        poolings: Further poolings for the frozen arm, such as concatenations: `{class_path:
            ConcatPooling, init_args: {poolings: [MeanPooling, MaxPooling]}}`.
        tuned: The poolings to fine-tune, including those that learn.
        layers: The layers that the fine-tuned arm pools; 0 is the embeddings; the last layer by
            default.
        seeds: How many seeds to fine-tune with, counting up from `seed_everything`.
        loop: The loop that trains the fine-tuned arm.
        word_vectors: Word vectors, as a text file like those of GloVe or word2vec; their average
            becomes a baseline.
        data: Several data sets to study in turn, by name. Each lists the keys of `data` in which it
            differs; under `task`, those of the task; and under `paper`, published figures to show
            next to ours, such as `[{pooling: MeanPooling, test: 46.35}]`.
        resampling: Score the test split once, or all rows by repeated K-fold. With `split`
            the choice is made on validation, with `kfold` anew for each fold. By default K-fold
            where litpool divided the rows, and the split where it came with the data.
        score: What to measure of labels; by default accuracy, or macro-F1 where more than 80% of
            the rows have the same label. Pairs have Spearman's correlation.
        margin: The difference, in points, that is too small to matter.
        confirm: Whether to fine-tune the proposed pooling as well; it and [CLS] of the last layer
            get `seeds` seeds each.
        seed: The seed of folds and draws.
    """

    arms: list[Arm] = field(default_factory=lambda: ["frozen"])
    poolings: list[Callable[[int, int], Pooling]] = field(default_factory=list)
    tuned: list[Callable[[int, int], Pooling]] = field(default_factory=TUNED.copy)
    layers: list[int] | None = None
    seeds: int = 3
    loop: Loop = "lightning"
    word_vectors: str | None = None
    data: dict[str, dict[str, Any]] | None = None
    resampling: Resampling = "auto"
    score: Score = "auto"
    margin: float = 1.0
    confirm: bool = False
    seed: int = 0
