"""The figures of a run, all in one style, small enough to read on a phone.

Each function returns a figure. Create and save figures within `style()`, because matplotlib reads
some of its settings only when it draws.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from litpool.loops.intervals import accuracy_interval

INK = "#1f2933"
MUTED = "#7b8794"
GRID = "#e4e7eb"
BLUE = "#2f6690"
ORANGE = "#c8553d"
SHADES = LinearSegmentedColormap.from_list("litpool", ["#ffffff", "#a9c5da", BLUE, "#16324f"])

SETTINGS: dict[Any, Any] = {
    "figure.dpi": 87.5,  # 350 pixels, like TensorBoard's cards: it shrinks without smoothing
    "figure.facecolor": "white",
    "font.size": 9,
    "text.parse_math": False,  # a label may contain dollar signs
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "figure.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
# Fonts with Chinese, Japanese or Korean characters, for labels in these languages.
FONTS = ("Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Apple SD Gothic Neo", "Malgun Gothic")

WIDTH = 4.0  # of a figure, in inches
MATRIX_LABELS = 30  # with more labels, the largest confusions are shown instead of all
CONFUSIONS = 20
POINTS = 5_000  # in a scatter plot
BINS = 10  # of a reliability diagram
STEPS = [1, 2, 5, 10]  # ticks at round numbers
SMOOTHED = 20  # a point of the training loss is the mean of this part of all of them


@contextmanager
def style() -> Iterator[None]:
    """Use the style of litpool's figures."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    family = ["DejaVu Sans", *(font for font in FONTS if font in installed)]
    with matplotlib.rc_context({**SETTINGS, "font.family": family}):
        yield


def _canvas(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """Return an empty figure, in inches, with a title, and its axes."""
    figure = Figure((width, height), layout="constrained")
    figure.suptitle(title, x=0.02, ha="left")
    return figure, figure.subplots()


def losses(train: NDArray[np.float64], validation: NDArray[np.float64], best: int | None) -> Figure:
    """Draw training and validation loss by step, and where the best checkpoint is.

    Args:
        train: The steps and the losses of their batches, (2, N).
        validation: The steps and the losses of the validation split, (2, M).
        best: The step of the best checkpoint, if there is one.
    """
    step, loss = validation[:, np.argmin(validation[1])]
    title = f"lowest validation loss {loss:.3f} at step {int(step):,}"
    if best is not None:
        title += f"\nbest checkpoint (dashed line) at step {best:,}"
    figure, axes = _canvas(WIDTH, 3.4, title)
    window = max(train.shape[1] // SMOOTHED, 1)
    mean = np.stack([np.convolve(row, np.ones(window) / window, "valid") for row in train])
    name = "training" if window == 1 else f"training, mean of {window} points"
    if window > 1:
        axes.plot(*train, color=BLUE, alpha=0.25, linewidth=0.8)
    axes.plot(*mean, color=BLUE, linewidth=1.5, label=name)
    axes.plot(*validation, "o-", color=ORANGE, linewidth=1.5, markersize=4, label="validation")
    shown = np.concatenate([mean[1], validation[1]])  # single batches may be far higher
    margin = 0.05 * float(np.ptp(shown)) or 0.1
    axes.set_ylim(float(shown.min()) - margin, float(shown.max()) + margin)
    if best is not None:
        axes.axvline(best, color=INK, linestyle="--", linewidth=1)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=STEPS))
    axes.grid()
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def confusion_matrix(counts: NDArray[np.int64], labels: Sequence[str]) -> Figure:
    """Draw which labels are taken for which.

    Args:
        counts: How often each true label (rows) was predicted as each label (columns), (C, C).
        labels: The label names. With more than 30, only the largest confusions are shown.
    """
    if len(labels) > MATRIX_LABELS:
        return _largest_confusions(counts, labels)
    roomy = len(labels) <= 10  # for two lines in a cell
    names = [_shorten(label, 16) for label in labels]
    longest = max(map(len, names)) * 0.075  # inches, like what follows
    margin = longest + 0.5
    cell = float(np.clip((WIDTH - margin) / len(labels), 0.29, 0.8))
    side = cell * len(labels)
    totals = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    title = (
        f"{int(totals.sum()):,} rows, {'with' if roomy else 'shaded by'} shares of the true label"
    )
    figure, axes = _canvas(max(side + margin, WIDTH), side + min(longest, 0.9) + 0.7, title)
    axes.imshow(shares, cmap=SHADES, vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            text = _compact(int(count))
            if roomy:
                text = f"{shares[row, column]:.0%}\n{text}"
            color = "white" if shares[row, column] > 0.55 else INK  # what contrasts more
            size = 8 if cell > 0.4 else 6.5
            cell_text = axes.text(column, row, text, color=color, fontsize=size)
            cell_text.set(ha="center", va="center", in_layout=False)  # to lay it out costs seconds
    ticks = range(len(labels))
    axes.set_yticks(ticks, names)
    flat = max(map(len, names)) * 0.08 <= side / len(labels)  # whether they fit side by side
    axes.set_xticks(ticks, names)
    if not flat:
        for name in axes.get_xticklabels():
            name.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(len(labels) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(labels) + 1) - 0.5, minor=True)
    axes.grid(which="minor")
    axes.tick_params(which="minor", length=0)
    return figure


def _largest_confusions(counts: NDArray[np.int64], labels: Sequence[str]) -> Figure:
    """Draw the pairs of labels that are confused most often, as bars."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [divmod(int(place), len(labels)) for place in order if wrong.flat[place]]
    shown = int(sum(wrong[pair] for pair in pairs))
    title = f"largest confusions, true → predicted: {shown:,} of {int(wrong.sum()):,} errors"
    figure, axes = _canvas(
        WIDTH, 0.9 + 0.26 * max(len(pairs), 3), title if pairs else "no row is wrong"
    )
    rows = counts.sum(1)
    for height, (true, predicted) in enumerate(pairs):
        count = int(wrong[true, predicted])
        axes.barh(height, count, color=BLUE, height=0.7)
        text = f" {count:,} of {rows[true]:,}"
        axes.text(count, height, text, va="center", fontsize=8, color=MUTED)
    names = [
        f"{_shorten(labels[true], 16)} → {_shorten(labels[predicted], 16)}"
        for true, predicted in pairs
    ]
    axes.set_yticks(range(len(pairs)), names, fontsize=7.5)
    axes.invert_yaxis()
    axes.margins(x=0.65, y=0.02)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=STEPS))
    axes.set_xlabel("rows")
    return figure


def reliability(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> Figure:
    """Draw how often the answers are right, by how sure the model is, with the 95% intervals.

    The title gives the expected calibration error, ECE: the mean distance between the two, weighted
    by the answers in each of 10 bins of equal width (Guo et al. 2017, arXiv 1706.04599).

    Args:
        confidence: How sure each answer is (N,), 0 to 1.
        right: Whether it is right (N,).
    """
    figure = Figure((WIDTH, 4.2), layout="constrained")
    axes, below = figure.subplots(2, sharex=True, height_ratios=[4, 1])
    axes.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1)
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)  # the bin of each answer
    for text, corner, side in (("not sure enough", 0.02, "left"), ("too sure", 0.98, "right")):
        axes.text(corner, 1 - corner, text, ha=side, va="center", color=MUTED, fontsize=8)
    error = 0.0
    for place in np.unique(number):
        chosen = number == place
        sure, share = confidence[chosen].mean(), right[chosen].mean()
        error += float(abs(share - sure)) * chosen.mean()
        low, high = accuracy_interval(int(right[chosen].sum()), int(chosen.sum()))
        axes.vlines(sure, low, high, color=BLUE, linewidth=1.5, alpha=0.5)
        axes.plot(sure, share, "o", color=BLUE, markersize=5, clip_on=False)
    figure.suptitle(
        f"calibration error (ECE) {error:.3f}, {len(right):,} answers", x=0.02, ha="left"
    )
    axes.set_ylabel("share that is right")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.grid()
    below.hist(confidence, bins=BINS, range=(0, 1), color=BLUE, rwidth=0.9)
    below.set_ylabel("answers")
    below.set_xlabel("how sure the model is")
    below.yaxis.set_major_locator(MaxNLocator(2, integer=True, steps=STEPS))
    for part in (axes.xaxis, axes.yaxis):
        part.set_major_formatter(PercentFormatter(1))
    return figure


def scatter(
    true: NDArray[np.float64], predicted: NDArray[np.float64], names: tuple[str, str]
) -> Figure:
    """Draw predicted against true scores; on the dashed line they are equal.

    Args:
        true: The true scores (N,). Of more than 5,000 rows, evenly spaced ones are drawn.
        predicted: The predicted scores (N,).
        names: What the two are called.
    """
    points = slice(None, None, -(-len(true) // POINTS))
    rows = len(true[points])
    of_all = f"{rows:,} of {len(true):,}" if rows < len(true) else f"{rows:,}"
    error = float(np.abs(predicted - true).mean())
    figure, axes = _canvas(WIDTH, WIDTH, f"mean absolute error {error:.3g}, {of_all} rows")
    low = float(min(true.min(), predicted.min()))
    high = float(max(true.max(), predicted.max()))
    axes.plot([low, high], [low, high], color=MUTED, linestyle="--", linewidth=1)
    alpha = float(np.clip(10 / np.sqrt(rows), 0.15, 0.8))
    axes.scatter(
        true[points], predicted[points], s=9, color=BLUE, alpha=alpha, linewidths=0, rasterized=True
    )
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    axes.grid()
    return figure


def text_lengths(lengths: NDArray[np.int64], max_length: int, texts: int) -> Figure:
    """Draw how many tokens the texts have, and where `max_length` is.

    Args:
        lengths: Tokens of each text, without truncation (N,).
        max_length: How many of them the encoder reads.
        texts: Of how many texts these are a sample.
    """
    fits = lengths <= max_length
    of_all = f"{len(lengths):,} of {texts:,}" if len(lengths) < texts else f"{texts:,}"
    title = f"{1 - fits.mean():.1%} of the texts have more than max_length {max_length} tokens"
    figure, axes = _canvas(
        WIDTH, 3.0, f"{title}\n({of_all} texts; the longest has {lengths.max():,})"
    )
    end = int(max(max_length * 1.15, np.percentile(lengths, 99.5)))  # a few may be far longer
    width = -(-end // 40)  # of a bar; one begins just beyond max_length
    edges = np.arange((max_length + 1) % width - width, end + width + 1, width) - 0.5
    inside = np.minimum(lengths, end)
    axes.hist(
        [inside[fits], inside[~fits]], bins=edges.tolist(), stacked=True, color=[BLUE, ORANGE]
    )
    axes.axvline(max_length + 0.5, color=INK, linestyle="--", linewidth=1)
    beyond = " (longer texts in the last bar)" if lengths.max() > end else ""
    axes.set_xlabel(f"tokens of a text{beyond}")
    axes.set_ylabel("texts")
    axes.set_xlim(0, end + width)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=STEPS))
    return figure


def _shorten(text: str, length: int) -> str:
    """Return a label in one line of so many characters at most, without its middle."""
    line = " ".join(text.split())
    head = length // 3  # labels often begin alike
    return line if len(line) <= length else f"{line[:head]}…{line[head + 1 - length :]}"


def _compact(count: int) -> str:
    """Return a count in at most four characters, such as 12k."""
    return f"{count}" if count < 10_000 else f"{count // 1000}k"
