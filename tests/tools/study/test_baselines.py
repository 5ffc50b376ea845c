"""Word-vector files, averages, the majority class, TF-IDF; expected values worked out by hand."""

import numpy as np
import pytest
import torch

from litpool import InputError
from litpool.tools.study import baselines
from litpool.tools.study.baselines import Fit

TEXTS = [["A fine film!", "film film", "dull"]]


@pytest.fixture
def write(tmp_path):
    def write(content, encoding="utf-8"):
        path = tmp_path / "vectors.txt"
        path.write_bytes(content.encode(encoding))
        return str(path)

    return write


def test_words_are_split_as_in_the_penn_treebank():
    assert baselines.words("She's here: don't go, can't 3.5 naïve 영화") == [
        *("She", "'s", "here", "do", "n't", "go", "ca", "n't", "3", "5", "naïve", "영화")
    ]


@pytest.mark.parametrize("header", ["", "4 2\n"])
@pytest.mark.parametrize("end", ["\n", " \n", "\r\n"])
def test_glove_and_word2vec_files_are_read(write, header, end):
    path = write(header + f"film 1 2{end}fine -0.5 4e-1{end}of the 7 8{end}dull 5 6{end}")
    vectors = baselines.read_vectors(path, {"film", "fine", "of the"})
    assert set(vectors) == {"film", "fine", "of the"}
    np.testing.assert_array_equal(vectors["fine"], np.float32([-0.5, 0.4]))
    np.testing.assert_array_equal(vectors["of the"], np.float32([7, 8]))


def test_a_text_is_the_average_of_its_known_words_and_the_coverage_is_of_running_words(write):
    averages = baselines.average_words(write("film 1 2\nfine 3 6\nDULL 9 9\n"), TEXTS)
    assert averages.vectors.shape == (1, 3, 2)
    np.testing.assert_allclose(averages.vectors[0], [[2, 4], [1, 2], [0, 0]])
    # Of A fine film, film film, dull: fine and three times film.
    assert averages.coverage == pytest.approx(4 / 6)


def test_a_word_is_tried_before_its_lower_case(write):
    texts = [["Film", "Fine"]]
    averages = baselines.average_words(write("film 1\nFilm 2\nfine 3\n"), texts)
    np.testing.assert_allclose(averages.vectors[0], [[2], [3]])


def test_a_file_without_a_word_of_the_texts_is_refused(write):
    with pytest.raises(InputError, match="contains no word of the texts; use another file"):
        baselines.average_words(write("other 1 2\n"), TEXTS)


def test_a_file_with_fewer_words_than_its_first_line_promises_is_refused(write):
    assert len(baselines.read_vectors(write("2 2\nfilm 1 2\nfine 3 6\n"), {"film", "fine"})) == 2
    with pytest.raises(
        InputError, match="2 words, but the first line promises 99; use the complete file"
    ):
        baselines.read_vectors(write("99 2\nfilm 1 2\nfine 3 6\n"), {"film"})


def test_pairs_have_a_vector_for_each_text(write):
    averages = baselines.average_words(write("a 1\nb 2\n"), [["a", "b"], ["b", "b"]])
    np.testing.assert_allclose(averages.vectors, [[[1], [2]], [[2], [2]]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("film 1 2\nfine 3\n", r"line 2: 1 numbers, must be 2 as in the first line"),
        ("film 1 2\nfine 3 4\ndull 5 6 7\n", r"line 3: 3 numbers, must be 2 as in the first line"),
        ("3 4\nfilm 1 2\n", r"line 2: 2 numbers, must be 4 as in the first line"),
        ("film 1 2\n\n", r"line 2: 0 numbers, must be 2"),
        ("film\n", r"line 1: 0 numbers, must be a word and its numbers"),
        ("film 1 2\nfine 3 x\n", r"line 2: 'x' is no finite number"),
        ("film 1 2\nfine 3 nan\n", r"line 2: 'nan' is no finite number"),
    ],
)
def test_a_malformed_line_is_reported_with_its_number(write, content, message):
    with pytest.raises(InputError, match=message) as error:
        baselines.average_words(write(content), TEXTS)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_text_is_refused(write, tmp_path):
    with pytest.raises(InputError, match="is not UTF-8 text"):
        baselines.read_vectors(write("é 1 2\n", "latin-1"), {"film"})
    with pytest.raises(InputError, match="cannot be read"):
        baselines.read_vectors(str(tmp_path), {"film"})


def rows(*parts):
    return Fit(*(np.array(part) for part in parts))


def test_the_majority_is_that_of_the_rows_to_fit_on():
    targets = torch.eye(3)[[1, 1, 2, 0, 2, 2]]
    fits = [rows([0, 1, 2], [3], [4, 5]), rows([2, 4, 5], [3], [0, 1])]
    answers = baselines.answer_majority(targets, fits, exclusive=True)
    assert answers[[4, 5]].argmax(1).tolist() == [1, 1]
    assert answers[[0, 1]].argmax(1).tolist() == [2, 2]
    several = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    answers = baselines.answer_majority(several, [rows([0, 1, 2], [3], [3])], exclusive=False)
    assert answers[3].tolist() == [1, 0]


def test_tfidf_cosines_are_those_worked_out_by_hand():
    texts = [["a b", "a c", "a b", "c"], ["a b", "a", "a", "b"]]
    # Smoothed idf: log((1 + 4 texts) / (1 + n)) + 1, with a in all 4 texts and b in 2.
    a, b = 1.0, np.log(5 / 3) + 1
    cosines = baselines.compare_tfidf(texts, slice(0, 2))
    np.testing.assert_allclose(cosines[2:], [a / np.hypot(a, b), 0])


@pytest.mark.parametrize("equal", [True, False])
def test_ridge_on_tfidf_learns_the_words_that_matter(equal):
    texts = [["good x", "bad x", "good y", "bad y"] * 6]
    labels = torch.tensor([1, 0, 1, 0] * 6)
    fit = rows(range(8), range(8, 12), range(12, 24))
    for exclusive in (True, False):
        targets = torch.eye(2)[labels]
        answers = baselines.answer_tfidf(texts, targets, [fit], slice(0, 8), exclusive, equal)
        assert (answers[12:] == targets[12:]).all()


def test_texts_without_a_word_are_refused():
    with pytest.raises(InputError, match="contain no word"):
        baselines.compare_tfidf([["!"], ["?"]], slice(None))
