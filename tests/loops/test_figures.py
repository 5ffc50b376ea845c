"""The figures: their numbers, worked out here, and that no label covers another."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from litpool.loops import figures

LONG = "card payment with the number"


@pytest.fixture(autouse=True)
def style():
    with figures.style():
        yield


def texts_of(axes):
    return [text.get_text() for text in axes.texts]


def title_of(figure):
    return figure.get_suptitle()


def boxes_of(figure):
    """The boxes around the texts of a figure, in pixels, by axis."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = {"title": [figure._suptitle]}
    for number, axes in enumerate(figure.axes):
        for name, axis in {"x": axes.xaxis, "y": axes.yaxis}.items():
            ticks = [tick.label1 for tick in axis._update_ticks()]  # without those out of view
            boxes[f"{name}{number}"] = [*ticks, axis.label]
        boxes[f"inside{number}"] = list(axes.texts)
    return {
        name: [
            text.get_window_extent(renderer)
            for text in texts
            if text.get_text() and text.get_visible()
        ]
        for name, texts in boxes.items()
    }


def random_matrix(labels, rows=3000):
    rng = np.random.default_rng(0)
    true, other = rng.integers(labels, size=(2, rows))
    predicted = np.where(rng.random(rows) < 0.7, true, other)
    matrix = np.zeros((labels, labels), dtype=np.int64)
    np.add.at(matrix, (true, predicted), 1)
    return matrix


def drawings():
    rng = np.random.default_rng(0)
    for labels in (2, 8, 10, 20, 30, 77):
        names = [f"{LONG} {number}" for number in range(labels)]
        matrix = random_matrix(labels, 80_000)
        yield f"{labels} long labels", lambda m=matrix, n=names: figures.confusion_matrix(m, n)
    short = random_matrix(2, 99_999)
    yield "2 short labels", lambda: figures.confusion_matrix(short, ["0", "1"])
    sure, right = rng.random(500) / 2 + 0.5, rng.random(500) < 0.7
    yield "reliability", lambda: figures.reliability(sure, right)
    curve = np.stack([np.arange(10, 20_010, 10), rng.random(2000) * 3])
    yield "losses", lambda: figures.losses(curve, curve[:, 99::100], 12_000)
    true = rng.random(500) * 5
    names = "true score (0 to 5, as 0 to 1)", "cosine"
    yield "scores", lambda: figures.scatter(true, true[::-1], names)
    lengths = rng.integers(3, 900, 2000)
    for limit in (16, 512):
        yield f"lengths {limit}", lambda n=limit: figures.text_lengths(lengths, n, 1_000_000)


@pytest.mark.parametrize("draw", [pytest.param(draw, id=name) for name, draw in drawings()])
def test_no_text_covers_another_or_leaves_the_figure(draw):
    figure = draw()
    boxes = boxes_of(figure)
    width, height = figure.canvas.get_width_height()
    for name, group in boxes.items():
        for box in group:
            assert box.x0 >= -1, name
            assert box.y0 >= -1, name
            assert box.x1 <= width + 1, name
            assert box.y1 <= height + 1, name
        if name == "x0" and any(text.get_rotation() for text in figure.axes[0].get_xticklabels()):
            continue  # boxes of slanted texts overlap, the texts do not
        for number, box in enumerate(group):
            assert not any(box.overlaps(other) for other in group[number + 1 :]), name


def test_a_matrix_shows_shares_of_the_true_label_and_counts():
    axes = figures.confusion_matrix(np.array([[30, 10], [0, 5]]), ["no", "yes"]).axes[0]
    assert texts_of(axes) == ["75%\n30", "25%\n10", "100%\n5"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["no", "yes"]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0.25], [0, 1]])


def test_a_label_without_rows_is_an_empty_row():
    axes = figures.confusion_matrix(np.array([[4, 0], [0, 0]]), ["no", "yes"]).axes[0]
    assert texts_of(axes) == ["100%\n4"]


def test_with_more_than_30_labels_the_20_largest_confusions_are_bars():
    matrix = np.diag(np.full(31, 50))
    for place in range(25):
        matrix[place, place + 1] = 40 - place
    figure = figures.confusion_matrix(matrix, [f"label {number}" for number in range(31)])
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == list(range(40, 20, -1))
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names[:2] == ["label 0 → label 1", "label 1 → label 2"]
    assert texts_of(axes)[0].strip() == "40 of 90"
    shown, total = sum(range(21, 41)), sum(range(16, 41))
    assert title_of(figure).endswith(f"true → predicted: {shown} of {total} errors")


def test_no_confusion_is_said():
    figure = figures.confusion_matrix(np.eye(40, dtype=np.int64), [str(n) for n in range(40)])
    assert title_of(figure) == "no row is wrong"


def test_losses_are_drawn_in_two_colors_with_the_best_checkpoint():
    train = np.array([[1.0, 2, 3, 4], [2.0, 1.5, 1, 0.5]])
    figure = figures.losses(train, np.array([[2.0, 4], [1.25, 1.75]]), 4)
    assert title_of(figure) == (
        "lowest validation loss 1.250 at step 2\nbest checkpoint (dashed line) at step 4"
    )
    training, validation, best = figure.axes[0].lines
    np.testing.assert_array_equal(training.get_xydata().T, train)
    assert training.get_color() != validation.get_color()
    assert list(best.get_xdata()) == [4, 4]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["training", "validation"]


def test_a_long_training_loss_is_smoothed_over_a_twentieth():
    train = np.stack([np.arange(40.0), np.tile([1.0, 3], 20)])
    figure = figures.losses(train, np.array([[39.0], [2.5]]), None)
    batches, mean, _ = figure.axes[0].lines
    np.testing.assert_array_equal(batches.get_xydata().T, train)
    np.testing.assert_array_equal(mean.get_xydata().T, [np.arange(39) + 0.5, np.full(39, 2.0)])
    low, high = figure.axes[0].get_ylim()
    assert low <= 2 < 2.5 <= high < 3  # not the range of single batches


def test_the_calibration_error_is_the_mean_distance_weighted_by_answers():
    confidence = np.array([0.55, 0.55, 0.95, 0.95, 0.95, 1.0])
    right = np.array([True, False, True, True, False, True])
    # two answers: |0.5 - 0.55|; four: |0.75 - 0.9625|
    error = (2 * 0.05 + 4 * 0.2125) / 6
    figure = figures.reliability(confidence, right)
    assert title_of(figure) == f"calibration error (ECE) {error:.3f}, 6 answers"


def test_a_sure_and_right_model_has_no_calibration_error():
    figure = figures.reliability(np.ones(9), np.ones(9, dtype=bool))
    assert title_of(figure).startswith("calibration error (ECE) 0.000")


@pytest.mark.parametrize("rows", [10, 4_999, 12_345])
def test_a_scatter_says_how_many_rows_it_shows(rows):
    true = np.linspace(0, 1, rows)
    figure = figures.scatter(true, true + 0.25, ("true", "predicted"))
    shown = len(figure.axes[0].collections[0].get_offsets())
    assert shown <= 5000
    text = f"{rows:,}" if shown == rows else f"{shown:,} of {rows:,}"
    assert title_of(figure) == f"mean absolute error 0.25, {text} rows"


def test_the_texts_beyond_max_length_are_marked():
    lengths = np.array([5] * 6 + [16] * 2 + [17, 90])
    figure = figures.text_lengths(lengths, 16, 50)
    assert title_of(figure) == (
        "20.0% of the texts have more than max_length 16 tokens\n"
        "(10 of 50 texts; the longest has 90)"
    )
    fits, cut = figure.axes[0].containers
    assert sum(bar.get_height() for bar in fits) == 8
    assert sum(bar.get_height() for bar in cut) == 2


def test_labels_are_shortened_in_the_middle():
    assert figures._shorten("card payment not recognised", 16) == "card …recognised"
    assert figures._shorten("two\nlines", 16) == "two lines"
    assert len(figures._shorten("x" * 99, 16)) == 16


def test_a_label_with_dollar_signs_is_no_formula():
    figure = figures.confusion_matrix(np.eye(2, dtype=np.int64), ["$5_", r"a \frac $ b"])
    assert boxes_of(figure)
