"""What the comparisons show, each in one sentence of plain English."""

from typing import Literal

from litpool.tools.study.choice import MIN_CHOOSING, Chooser, Json, Pick
from litpool.tools.study.statistics import MIN_CLUSTERS, MIN_ROWS, Estimate

Question = Literal["headline", "published", "baseline"]


def compare(chooser: Chooser, question: Question, first: Pick, second: Pick) -> Json:
    """Compare the choice with a reference: a comparison of study.json.

    Args:
        chooser: The rows and the options.
        question: What the reference is: [CLS] of the last layer, the encoder's own pooling, or the
            best baseline.
        first: The choice.
        second: The reference.
    """
    examples = chooser.examples
    estimate = chooser.difference(first, second)
    low, high, p, equivalence, needed = None, None, None, None, None
    if first.row is second.row:
        claim = "same"
    elif not examples.design.is_enough:
        claim = "too few"
    else:
        claim = estimate.claim(chooser.margin)
        low, high = estimate.interval()
        p, equivalence = estimate.p(), estimate.equivalence_p(chooser.margin)
        if claim == "not shown":
            needed = estimate.rows_needed(len(examples.design.clusters), _points(chooser, estimate))
    own = "the encoder's own " if question == "published" else ""
    comparison = {
        "claim": claim,
        "first": _side(first, first.row.cell.name),
        "second": _side(second, own + second.row.cell.name),
        "difference": estimate.value,
        "low": low,
        "high": high,
        "p": p,
        "equivalence_p": equivalence,
        "rows_needed": needed,
    }
    return {**comparison, "sentence": _say(chooser, question, comparison, estimate, first, second)}


def _side(pick: Pick, name: str) -> Json:
    cell = pick.row.cell
    return {
        "name": name,
        "pooling": None if cell.static else cell.pooling,
        "layer": cell.layer,
        "whitened": pick.row.whitened,
    }


def _points(chooser: Chooser, estimate: Estimate) -> float:
    """Return the difference that more rows should show: the margin, unless these rows show it."""
    rows = len(chooser.examples.design.clusters)
    if estimate.rows_needed(rows, chooser.margin) > rows:
        return chooser.margin
    return abs(estimate.value)


def _say(
    chooser: Chooser,
    question: Question,
    comparison: Json,
    estimate: Estimate,
    first: Pick,
    second: Pick,
) -> str:
    ours, theirs = comparison["first"]["name"], comparison["second"]["name"]
    difference, margin, examples = estimate.value, chooser.margin, chooser.examples
    rows, unit = len(examples.design.clusters), examples.unit
    match comparison["claim"]:
        case "same":
            sentence = f"The choice is {theirs}"
        case "too few":
            groups = int(examples.design.clusters.max()) + 1
            few = f"{rows} {unit} are too few for intervals, {MIN_ROWS} are needed"
            if rows >= MIN_ROWS:
                few = f"{groups} groups are too few for intervals, {MIN_CLUSTERS} are needed"
            sentence = f"{few}; {ours} scores {first.test:.1f}, {theirs} {second.test:.1f}"
        case "beats":
            sentence = (
                f"{ours} beats {theirs} by {difference:.1f} points {_how(chooser, comparison)}"
            )
            if comparison["high"] < margin:
                sentence += f"; that is less than {_count_points(margin)}"
        case "behind":
            sentence = (
                f"{ours}, chosen on other rows, is {-difference:.1f} points behind {theirs} "
                f"{_how(chooser, comparison)}"
            )
        case "equivalent":
            sentence = (
                f"{ours} and {theirs} show no difference worth having: {difference:+.1f} points "
                f"{_how(chooser, comparison)}, all of it within {_count_points(margin)}"
            )
        case _:
            points = _points(chooser, estimate)
            sentence = (
                f"{ours} is not shown to differ from {theirs}: {difference:+.1f} points "
                f"{_how(chooser, comparison)}; about {comparison['rows_needed']:,} {unit} would "
                f"show a difference of {_count_points(points)}"
            )
    if question == "headline":
        if comparison["claim"] != "too few":
            sentence = f"Here {sentence}"
        if chooser.last_only:
            sentence += (
                f"; only the last layer is considered: the choice goes by {examples.choosing:,} "
                f"{unit}, and another layer needs {MIN_CHOOSING}"
            )
    if question == "baseline" and comparison["claim"] != "beats":
        sentence = f"Mind the baseline: {sentence}"
    return sentence


def _count_points(points: float) -> str:
    return f"{points:.2g} point{'' if points == 1 else 's'}"


def _how(chooser: Chooser, comparison: Json) -> str:
    """Say how certain a difference is: interval, p, rows, and what was resampled."""
    examples = chooser.examples
    p = "p < 0.001" if comparison["p"] < 0.001 else f"p = {comparison['p']:.3f}"
    facts = [
        f"95% CI {comparison['low']:.1f} to {comparison['high']:.1f}",
        p,
        f"{len(examples.design.clusters):,} {examples.unit}",
    ]
    if examples.resampling == "kfold":
        facts.append(f"{examples.design.fold_count}-fold cross-validation")
    elif examples.labels is not None:
        facts.append("one train split")
    return f"({', '.join(facts)})"
