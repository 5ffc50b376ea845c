"""What a person can say about a study."""

from collections.abc import Callable
from dataclasses import dataclass, field

from litpool.model.pooling import Pooling


@dataclass
class StudyOptions:
    """What is studied beside all layers and all poolings without weights of their own.

    Args:
        poolings: Further poolings, such as concatenations: `{class_path: ConcatPooling, init_args: {poolings:
            [MeanPooling, MaxPooling]}}`.
        word_vectors: A text file of word vectors as GloVe and word2vec write them; their average is a baseline.
        seed: Of the resamples behind intervals and p values, and of the pairs that the geometry is told from.
    """

    poolings: list[Callable[[int, int], Pooling]] = field(default_factory=list)
    word_vectors: str | None = None
    seed: int = 0
