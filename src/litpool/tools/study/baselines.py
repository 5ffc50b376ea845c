"""What an encoder has to beat: the majority class, averages of word vectors, TF-IDF with logistic regression."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from litpool import InputError

WORD = re.compile(
    r"\w+?(?=n't\b)|n't\b|'\w+|\w+"
)  # as the Penn Treebank parts them: do n't, she 's
STRENGTHS = (
    0.1,
    1.0,
    10.0,
    100.0,
)  # scikit-learn's C of the regression on TF-IDF: its features are small
Texts = Mapping[str, Sequence[Sequence[str]]]  # by split: K columns of n texts


class WordVectors(NamedTuple):
    """Averages of word vectors."""

    vectors: dict[
        str, NDArray[np.float32]
    ]  # by split: (1, K, n, d), zeros where no word of the text is known
    coverage: float  # the share of the running words of all texts that have a vector


def words(text: str) -> list[str]:
    """The words of a text, without punctuation."""
    return WORD.findall(text)


def average(path: str, texts: Texts) -> WordVectors:
    """The average of the word vectors of each text; a word that is not there as it stands is looked up in lower case.

    Args:
        path: A text file as `read` takes it.
        texts: Of all splits.

    Raises:
        InputError: As `read` does, or the file knows no word of the texts.
    """
    counts = Counter(
        word
        for columns in texts.values()
        for column in columns
        for text in column
        for word in words(text)
    )
    known = read(path, {form for word in counts for form in (word, word.lower())})
    if not known:
        raise InputError(
            f"study.word_vectors={path}: it knows none of the words of the texts; take another file"
        )
    found = {word: known[form] for word in counts for form in (word.lower(), word) if form in known}
    size = len(next(iter(known.values())))
    vectors = {
        split: np.stack([_averages(column, found, size) for column in part])
        for split, part in texts.items()
    }
    share = sum(counts[word] for word in found) / max(1, counts.total())
    return WordVectors({split: part[None] for split, part in vectors.items()}, share)


def _averages(
    texts: Sequence[str], known: Mapping[str, NDArray[np.float32]], size: int
) -> NDArray[np.float32]:
    averages = np.zeros((len(texts), size), dtype=np.float32)
    for row, text in enumerate(texts):
        if found := [known[word] for word in words(text) if word in known]:
            averages[row] = np.mean(found, axis=0)
    return averages


def read(path: str, wanted: set[str]) -> dict[str, NDArray[np.float32]]:
    """The vectors of the wanted words; the others are checked for their size and passed over.

    Args:
        path: A text file with a word and its numbers in each line, blanks between them, as GloVe writes it; or, as
            word2vec and fastText do, with a first line that holds the number of words and of numbers.
        wanted: Words.

    Raises:
        InputError: No such file, no text, or a line with more or fewer numbers than the first.
    """
    found: dict[str, NDArray[np.float32]] = {}
    try:
        with Path(path).open(encoding="utf-8", newline="\n") as lines:
            size = promised = number = 0
            for number, line in enumerate(lines, start=1):
                parts = line.rstrip().split(" ")
                if number == 1 and len(parts) == 2 and all(part.isdigit() for part in parts):
                    promised, size = map(int, parts)  # a header
                    continue
                size = size or len(parts) - 1
                word = _word(parts, size, f"study.word_vectors={path}, line {number}")
                if word in wanted and word not in found:
                    found[word] = _numbers(
                        parts[-size:], f"study.word_vectors={path}, line {number}"
                    )
            if promised > number - 1:
                told = f"{number - 1:,} words, of {promised:,} that the first line promises"
                raise InputError(f"study.word_vectors={path}: {told}; take the whole file")
    except OSError as error:
        raise InputError(
            f"study.word_vectors={path}: cannot be read ({error.strerror}); name a text file"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"study.word_vectors={path}: no UTF-8 text; convert it to the text format of GloVe"
        ) from error
    return found


def _word(parts: Sequence[str], size: int, where: str) -> str:
    """The word of a line, which may hold blanks; the numbers are counted from the right."""
    if len(parts) == size + 1 and size:
        return parts[0]
    count = 0
    while count < len(parts) - 1 and _is_number(parts[-1 - count]):
        count += 1
    if count != size or not size:
        must = f"must be {size} as in the first line" if size else "must be a word and its numbers"
        raise InputError(f"{where}: {count} numbers, {must}; mend the line or take a whole file")
    return " ".join(parts[:-size])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(parts: Sequence[str], where: str) -> NDArray[np.float32]:
    strange = next(
        (part for part in parts if not (_is_number(part) and np.isfinite(float(part)))), None
    )
    if strange is not None:
        raise InputError(
            f"{where}: {strange[:40]!r} is no finite number; mend the line or take a whole file"
        )
    return np.array(parts, dtype=np.float32)


def majority(train: Tensor, test: Tensor) -> NDArray[np.float64]:
    """1 or 0 for each test example, (n,), if all are given the label that most of train have.

    Args:
        train: Labels, (n,); or for several labels at once 0 and 1, (n, labels), and each is decided by itself.
        test: Likewise.
    """
    most = (
        (train.float().mean(0) > 0.5).to(test.dtype)
        if train.ndim == 2
        else train.bincount().argmax()
    )
    return _correct(most.expand_as(test), test)


def _correct(predicted: Tensor, labels: Tensor) -> NDArray[np.float64]:
    """(n,), or of (n, labels) the share that is right, (n,)."""
    right: Tensor = (predicted == labels).double().view(len(labels), -1).mean(1)
    return right.numpy()


def tfidf(texts: Texts) -> dict[str, list[Any]]:
    """For each split K sparse matrices (n, words), weighed as train has them (scikit-learn's TfidfVectorizer)."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # late: slow to import

    weigh = TfidfVectorizer(
        token_pattern=r"(?u)\b\w+\b"
    )  # one-letter words too: in some scripts they are many
    try:
        weigh.fit([text for column in texts["train"] for text in column])
    except ValueError as error:
        raise InputError(
            f"TF-IDF: the train split's texts hold no word ({error}); mend the text columns"
        ) from error
    return {
        split: [weigh.transform(column) for column in columns] for split, columns in texts.items()
    }


def classify_tfidf(texts: Texts, labels: Mapping[str, Tensor]) -> NDArray[np.float64]:
    """1 or 0 for each test example, (n,): logistic regression on TF-IDF, its strength chosen on validation."""
    from scipy.sparse import hstack
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    features = {split: hstack(columns, format="csr") for split, columns in tfidf(texts).items()}
    best, outcomes = -1.0, np.zeros(0)
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1000)
        model = OneVsRestClassifier(model) if labels["train"].ndim == 2 else model
        model.fit(features["train"], labels["train"].numpy())
        predicted = {
            split: torch.as_tensor(model.predict(features[split]))
            for split in ("validation", "test")
        }
        validation = _correct(predicted["validation"], labels["validation"]).mean()
        if validation > best:
            best, outcomes = validation, _correct(predicted["test"], labels["test"])
    return outcomes


def compare_tfidf(texts: Texts) -> NDArray[np.float64]:
    """The cosines of the TF-IDF vectors of the test split's pairs, (n,)."""
    first, second = tfidf(texts)["test"]  # of length 1, or 0 where no word is known
    return np.asarray(first.multiply(second).sum(1), dtype=np.float64).ravel()


def side_by_side(vectors: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """The averages of K columns as one vector a row: (1, K, n, d) -> (1, 1, n, K * d)."""
    return {
        split: np.concatenate(list(part[0]), axis=-1)[None, None] for split, part in vectors.items()
    }
