"""Baselines: word-vector files, averages and coverage, the majority class, TF-IDF; expected values by hand."""

import numpy as np
import pytest
import torch

from litpool import InputError
from litpool.tools.study import baselines as word_vectors

TEXTS = {
    split: [["A fine film!", "film film", "dull"]] for split in ("train", "validation", "test")
}


@pytest.fixture
def write(tmp_path):
    def write(content, encoding="utf-8"):
        path = tmp_path / "vectors.txt"
        path.write_bytes(content.encode(encoding))
        return str(path)

    return write


def test_words_are_parted_as_in_the_penn_treebank():
    assert word_vectors.words("She's here: don't go, can't 3.5 naïve 영화") == [
        *("She", "'s", "here", "do", "n't", "go", "ca", "n't", "3", "5", "naïve", "영화")
    ]


@pytest.mark.parametrize("header", ["", "4 2\n"])
@pytest.mark.parametrize("end", ["\n", " \n", "\r\n"])
def test_glove_and_word2vec_files_are_read(write, header, end):
    path = write(header + f"film 1 2{end}fine -0.5 4e-1{end}of the 7 8{end}dull 5 6{end}")
    found = word_vectors.read(path, {"film", "fine", "of the"})
    assert set(found) == {"film", "fine", "of the"}
    np.testing.assert_array_equal(found["fine"], np.float32([-0.5, 0.4]))
    np.testing.assert_array_equal(found["of the"], np.float32([7, 8]))


def test_a_text_is_the_average_of_its_known_words_and_the_coverage_is_of_running_words(write):
    found = word_vectors.average(write("film 1 2\nfine 3 6\nDULL 9 9\n"), TEXTS)
    assert found.vectors["test"].shape == (1, 1, 3, 2)
    np.testing.assert_allclose(found.vectors["test"][0, 0], [[2, 4], [1, 2], [0, 0]])
    assert found.coverage == pytest.approx(
        4 / 6
    )  # of A fine film, film film, dull: fine and three times film


def test_a_word_as_it_stands_comes_before_its_lower_case(write):
    texts = {"test": [["Film", "Fine"]]}
    found = word_vectors.average(write("film 1\nFilm 2\nfine 3\n"), texts)
    np.testing.assert_allclose(found.vectors["test"][0, 0], [[2], [3]])


def test_a_file_that_knows_no_word_of_the_texts_is_refused(write):
    with pytest.raises(
        InputError, match="it knows none of the words of the texts; take another file"
    ):
        word_vectors.average(write("other 1 2\n"), TEXTS)


def test_a_file_with_fewer_words_than_its_first_line_promises_is_refused(write):
    assert len(word_vectors.read(write("2 2\nfilm 1 2\nfine 3 6\n"), {"film", "fine"})) == 2
    with pytest.raises(
        InputError, match="2 words, of 99 that the first line promises; take the whole file"
    ):
        word_vectors.read(write("99 2\nfilm 1 2\nfine 3 6\n"), {"film"})


def test_pairs_have_a_vector_for_each_text(write):
    found = word_vectors.average(write("a 1\nb 2\n"), {"test": [["a", "b"], ["b", "b"]]})
    np.testing.assert_allclose(found.vectors["test"], [[[[1], [2]], [[2], [2]]]])
    np.testing.assert_allclose(
        word_vectors.side_by_side(found.vectors)["test"], [[[[1, 2], [2, 2]]]]
    )


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
def test_a_line_that_is_no_use_is_told_with_its_number(write, content, message):
    with pytest.raises(InputError, match=message) as error:
        word_vectors.average(write(content), TEXTS)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_text_is_told(write, tmp_path):
    with pytest.raises(InputError, match="no UTF-8 text"):
        word_vectors.read(write("é 1 2\n", "latin-1"), {"film"})
    with pytest.raises(InputError, match="cannot be read"):
        word_vectors.read(str(tmp_path), {"film"})


def test_the_majority_is_that_of_the_train_split():
    test = torch.tensor([0, 1, 2, 1])
    assert word_vectors.majority(torch.tensor([1, 1, 2, 0]), test).tolist() == [0, 1, 0, 1]
    several = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    assert word_vectors.majority(several, torch.tensor([[1.0, 0.0], [0.0, 1.0]])).tolist() == [1, 0]


def test_tfidf_cosines_are_those_worked_out_by_hand():
    texts = {"train": [["a b", "a c"], ["a b", "a"]], "test": [["a b", "c"], ["a", "b"]]}
    a, b = (
        1.0,
        np.log(5 / 3) + 1,
    )  # smoothed idf: log((1 + 4 texts) / (1 + n)) + 1, a in all 4, b in 2
    np.testing.assert_allclose(word_vectors.compare_tfidf(texts), [a / np.hypot(a, b), 0])


def test_logistic_regression_on_tfidf_learns_words_that_tell():
    texts = {
        split: [["good x", "bad x", "good y", "bad y"] * 3]
        for split in ("train", "validation", "test")
    }
    labels = {split: torch.tensor([1, 0, 1, 0] * 3) for split in texts}
    assert word_vectors.classify_tfidf(texts, labels).tolist() == [1.0] * 12
    several = {
        split: torch.stack([part, 1 - part], dim=1).float() for split, part in labels.items()
    }
    assert word_vectors.classify_tfidf(texts, several).tolist() == [1.0] * 12


def test_texts_without_a_word_are_told():
    with pytest.raises(InputError, match="hold no word"):
        word_vectors.compare_tfidf({"train": [["!"], ["?"]], "test": [["!"], ["?"]]})
