"""What an encoder has to beat: the majority class, averages of word vectors, and TF-IDF."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from torch import Tensor
from torch.nn import functional as F

from litpool import InputError

WORD = re.compile(r"\w+?(?=n't\b)|n't\b|'\w+|\w+")  # splits like the Penn Treebank: do n't, she 's
ALPHAS = (10.0, 1.0, 0.1)  # strengths of the ridge on TF-IDF, the strongest first
CS = (0.01, 0.1)  # of the logistic regression on vectors, the strongest first
Texts = Sequence[Sequence[str]]  # K columns of n


class Fit(NamedTuple):
    """The numbers of the rows for one fit of a baseline."""

    rows: NDArray[np.int64]
    choosing: NDArray[np.int64]  # to choose the strength on
    answered: NDArray[np.int64]


class WordVectors(NamedTuple):
    """The average word vector of each text."""

    vectors: NDArray[np.float32]  # (K, n, d), zeros without a known word
    coverage: float  # the share of the running words of all texts that have a vector


def words(text: str) -> list[str]:
    """Return the words of a text, without punctuation."""
    return WORD.findall(text)


def average_words(path: str, texts: Texts) -> WordVectors:
    """Average the word vectors of each text; a word that is not in the file is tried in lower case.

    Args:
        path: A text file in one of the formats of `read_vectors`.
        texts: The texts of all rows.

    Raises:
        InputError: The file cannot be read, or knows no word of the texts.
    """
    counts = Counter(word for column in texts for text in column for word in words(text))
    known = read_vectors(path, {form for word in counts for form in (word, word.lower())})
    if not known:
        raise InputError(
            f"study.word_vectors={path}: contains no word of the texts; use another file"
        )
    forms = {word: word if word in known else word.lower() for word in counts}
    by_word = {word: known[form] for word, form in forms.items() if form in known}
    vectors = np.stack([_averages(column, by_word) for column in texts])
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


def answer_majority(targets: Tensor, fits: Iterable[Fit], exclusive: bool) -> Tensor:
    """Answer each row with the most frequent label of the rows to fit on: (n, labels), 0 and 1.

    Args:
        targets: Labels, (n, labels), 0 or 1.
        fits: Which rows to fit on, and which to answer.
        exclusive: Whether a row has one label; otherwise, each label has a majority of its own.
    """
    from sklearn.dummy import DummyClassifier

    no_features = np.zeros((len(targets), 1))
    models = [DummyClassifier(strategy="most_frequent")]
    return _answer(no_features, targets, fits, models, exclusive)


def _tfidf(texts: Texts, fitted: slice) -> list[Any]:
    """Compute K sparse matrices (n, words), with the word weights of some rows."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Keeps one-letter words: some scripts have many.
    vectorizer = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b")
    try:
        vectorizer.fit([text for column in texts for text in column[fitted]])
    except ValueError as error:
        raise InputError(
            f"TF-IDF: the texts of the train split contain no word ({error}); fix the text columns"
        ) from error
    return [vectorizer.transform(column) for column in texts]


def answer_tfidf(
    texts: Texts, targets: Tensor, fits: Iterable[Fit], fitted: slice, exclusive: bool, equal: bool
) -> Tensor:
    """Answer each row by a ridge regression on TF-IDF: (n, labels), 0 and 1.

    Args:
        texts: K columns of n texts.
        targets: Labels, (n, labels), 0 or 1.
        fits: Which rows to fit on, which to choose the strength on, and which to answer.
        fitted: The rows that the word weights come from.
        exclusive: Whether a row has one label; otherwise, any number of them.
        equal: Whether a rare label counts as much as a frequent one.
    """
    from scipy.sparse import hstack
    from sklearn.linear_model import RidgeClassifier

    weight = "balanced" if equal and exclusive else None
    models = [
        RidgeClassifier(alpha=alpha, solver="sparse_cg", class_weight=weight) for alpha in ALPHAS
    ]
    features = hstack(_tfidf(texts, fitted), format="csr")
    return _answer(features, targets, fits, models, exclusive)


def answer_logistic(
    vectors: NDArray[np.float32],
    targets: Tensor,
    fits: Iterable[Fit],
    exclusive: bool,
    equal: bool,
) -> Tensor:
    """Answer each row by a logistic regression on standardized vectors (n, d), as `answer_tfidf`.

    It takes much longer than the ridge probes, so it is only for the cells of the sentences.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from threadpoolctl import threadpool_limits

    weight = "balanced" if equal else None
    models = [LogisticRegression(C=C, class_weight=weight, max_iter=1000, tol=1e-3) for C in CS]
    if not exclusive:
        models = [OneVsRestClassifier(model) for model in models]
    # Thousands of small products: threads wait for each other longer than they compute.
    with threadpool_limits(1):
        return _answer(vectors, targets, fits, models, exclusive)


def _answer(
    features: Any, targets: Tensor, fits: Iterable[Fit], models: Sequence[Any], exclusive: bool
) -> Tensor:
    """Answer with the model that answers the rows to choose on best; the first of equals."""
    labels = (targets.argmax(1) if exclusive else targets).numpy()
    answers = torch.zeros_like(targets)
    for fit in fits:
        trained = [clone(model).fit(features[fit.rows], labels[fit.rows]) for model in models]
        points = [model.score(features[fit.choosing], labels[fit.choosing]) for model in trained]
        best = trained[int(np.argmax(points))]
        predicted = torch.from_numpy(best.predict(features[fit.answered])).long()
        given = F.one_hot(predicted, targets.shape[1]) if exclusive else predicted
        answers[fit.answered] = given.to(targets.dtype)
    return answers


def compare_tfidf(texts: Texts, fitted: slice) -> NDArray[np.float64]:
    """Return the cosines of the TF-IDF vectors of pairs, (n,)."""
    first, second = _tfidf(texts, fitted)  # rows of length 1, or 0 without a known word
    return np.asarray(first.multiply(second).sum(1), dtype=np.float64).ravel()
