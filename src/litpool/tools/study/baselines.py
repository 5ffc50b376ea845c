"""What an encoder has to beat: the majority class, averages of word vectors, and TF-IDF."""

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

WORD = re.compile(r"\w+?(?=n't\b)|n't\b|'\w+|\w+")  # splits like the Penn Treebank: do n't, she 's
CS = (0.1, 1.0, 10.0, 100.0)  # higher than for the probes: TF-IDF features are small
Texts = Mapping[str, Sequence[Sequence[str]]]  # by split: K columns of n texts


class WordVectors(NamedTuple):
    """The average word vector of each text."""

    vectors: dict[str, NDArray[np.float32]]  # by split: (1, K, n, d), zeros without a known word
    coverage: float  # the share of the running words of all texts that have a vector


def words(text: str) -> list[str]:
    """Return the words of a text, without punctuation."""
    return WORD.findall(text)


def average_words(path: str, texts: Texts) -> WordVectors:
    """Average the word vectors of each text; a word that is not in the file is tried in lower case.

    Args:
        path: A text file in one of the formats of `read_vectors`.
        texts: The texts of all splits.

    Raises:
        InputError: The file cannot be read, or knows no word of the texts.
    """
    columns = [column for part in texts.values() for column in part]
    counts = Counter(word for column in columns for text in column for word in words(text))
    known = read_vectors(path, {form for word in counts for form in (word, word.lower())})
    if not known:
        raise InputError(
            f"study.word_vectors={path}: contains no word of the texts; use another file"
        )
    forms = {word: word if word in known else word.lower() for word in counts}
    by_word = {word: known[form] for word, form in forms.items() if form in known}
    vectors = {
        split: np.stack([_averages(column, by_word) for column in part])[None]
        for split, part in texts.items()
    }
    return WordVectors(vectors, sum(counts[word] for word in by_word) / counts.total())


def _averages(
    texts: Sequence[str], by_word: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.float32]:
    size = len(next(iter(by_word.values())))
    averages = np.zeros((len(texts), size), dtype=np.float32)
    for row, text in enumerate(texts):
        if vectors := [by_word[word] for word in words(text) if word in by_word]:
            averages[row] = np.mean(vectors, axis=0)
    return averages


def read_vectors(path: str, vocabulary: set[str]) -> dict[str, NDArray[np.float32]]:
    """Read the vectors of some words. Of all other lines, only the length is checked.

    Args:
        path: A text file with a word and its numbers in each line, separated by spaces, as GloVe
            writes it. In the format of word2vec and fastText, the first line holds the number of
            words and of dimensions.
        vocabulary: The words.

    Raises:
        InputError: The file is missing, is no text, or has a line of another length than the first.
    """
    source = f"study.word_vectors={path}"
    vectors: dict[str, NDArray[np.float32]] = {}
    try:
        with Path(path).open(encoding="utf-8", newline="\n") as lines:
            size = promised = number = 0
            for number, line in enumerate(lines, start=1):
                parts = line.rstrip().split(" ")
                if number == 1 and len(parts) == 2 and all(part.isdigit() for part in parts):
                    promised, size = map(int, parts)  # a header
                    continue
                size = size or _count_numbers(parts)
                word = _word(parts, size, f"{source}, line {number}")
                if word in vocabulary and word not in vectors:
                    vectors[word] = _numbers(parts[-size:], f"{source}, line {number}")
    except OSError as error:
        raise InputError(
            f"{source}: cannot be read ({error.strerror}); name a text file"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source}: is not UTF-8 text; convert it to the text format of GloVe"
        ) from error
    if promised > number - 1:
        raise InputError(
            f"{source}: {number - 1:,} words, but the first line promises {promised:,}; "
            "use the complete file"
        )
    return vectors


def _word(parts: Sequence[str], size: int, where: str) -> str:
    """Return the word of a line; it may contain spaces, so the numbers are counted from the end."""
    if len(parts) == size + 1 and size:
        return parts[0]
    count = _count_numbers(parts)
    if count != size or not size:
        rule = f"must be {size} as in the first line" if size else "must be a word and its numbers"
        raise InputError(f"{where}: {count} numbers, {rule}; fix the line or use a complete file")
    return " ".join(parts[:-size])


def _count_numbers(parts: Sequence[str]) -> int:
    """Return how many numbers end a line, after at least one part for the word."""
    count = 0
    while count < len(parts) - 1 and _is_number(parts[-1 - count]):
        count += 1
    return count


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(parts: Sequence[str], where: str) -> NDArray[np.float32]:
    for part in parts:
        if not _is_number(part) or not np.isfinite(float(part)):
            raise InputError(
                f"{where}: {part[:40]!r} is no finite number; fix the line or use a complete file"
            )
    return np.array(parts, dtype=np.float32)


def score_majority(train: Tensor, test: Tensor) -> NDArray[np.float64]:
    """Score the most frequent label of train as the answer to every test example.

    Args:
        train: Labels, (n,); or 0 and 1 for multi-label tasks, (n, labels), one majority per label.
        test: The same for test.

    Returns:
        1 or 0 for each test example, (n,); for multi-label tasks, the share that is right.
    """
    multilabel = train.ndim == 2
    majority = train.float().mean(0) > 0.5 if multilabel else train.bincount().argmax()
    return _correct(majority.expand_as(test), test)


def _correct(predictions: Tensor, labels: Tensor) -> NDArray[np.float64]:
    """Return what is right of (n,), or the share that is right of (n, labels): (n,)."""
    correct: Tensor = (predictions == labels).double().view(len(labels), -1).mean(1)
    return correct.numpy()


def _tfidf(texts: Texts) -> dict[str, list[Any]]:
    """Compute K sparse matrices (n, words) for each split, with the word weights of train."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Keeps one-letter words: some scripts have many.
    vectorizer = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b")
    try:
        vectorizer.fit([text for column in texts["train"] for text in column])
    except ValueError as error:
        raise InputError(
            f"TF-IDF: the texts of the train split contain no word ({error}); fix the text columns"
        ) from error
    return {
        split: [vectorizer.transform(column) for column in columns]
        for split, columns in texts.items()
    }


def score_tfidf(texts: Texts, labels: Mapping[str, Tensor]) -> NDArray[np.float64]:
    """Score a logistic regression on TF-IDF, its C chosen on validation: (n,), as the majority."""
    from scipy.sparse import hstack
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    features = {split: hstack(columns, format="csr") for split, columns in _tfidf(texts).items()}
    best, outcomes = -1.0, np.zeros(0)
    for C in CS:
        model = LogisticRegression(C=C, max_iter=1000)
        model = OneVsRestClassifier(model) if labels["train"].ndim == 2 else model
        model.fit(features["train"], labels["train"].numpy())
        correct = {
            split: _correct(torch.as_tensor(model.predict(features[split])), labels[split])
            for split in ("validation", "test")
        }
        if correct["validation"].mean() > best:
            best, outcomes = correct["validation"].mean(), correct["test"]
    return outcomes


def compare_tfidf(texts: Texts) -> NDArray[np.float64]:
    """Return the cosines of the TF-IDF vectors of the test split's pairs, (n,)."""
    first, second = _tfidf(texts)["test"]  # rows of length 1, or 0 without a known word
    return np.asarray(first.multiply(second).sum(1), dtype=np.float64).ravel()


def concatenate(vectors: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Join the K vectors of each row: (1, K, n, d) -> (1, 1, n, K * d)."""
    return {
        split: np.concatenate(list(part[0]), axis=-1)[None, None] for split, part in vectors.items()
    }
