"""Made-up contents of study.json, for the tests of the report: every kind of study once."""

from typing import Any

Json = dict[str, Any]

LAYERS = 6
# pooling: its score at the last layer, and how fast lower layers lose
OF_A_LAYER = {
    "ClsPooling": 73.5,
    "MeanPooling": 82.0,
    "MeanPooling without special tokens": 81.7,
    "MaxPooling": 78.8,
    "MinPooling": 61.3,
    "MeanSqrtLenPooling": 82.0,
    "WeightedMeanPooling": 81.6,
    "LastTokenPooling": 74.0,
}
OF_NO_LAYER = {
    "PoolerOutput": 73.1,
    "FirstLastPooling": 81.6,
    "LastNPooling n=2": 82.1,
    "LastNPooling n=4": 81.2,
}
HOSTILE = "<script>alert('a|b')</script> & 'quoted' </script><!-- \n ``` 한국어"


def make_cell(pooling: str, layer: int | None, whitened: bool = False) -> Json:
    best = OF_A_LAYER[pooling] if layer is not None else OF_NO_LAYER[pooling]
    depth = LAYERS if layer is None else layer
    # the embeddings are far behind, as on real data; the last layer but one is the best
    lost = 30.25 if layer == 0 else 1.3 * abs(LAYERS - 1 - depth) ** 0.9
    test = best + 0.41 - lost + 1.37 * whitened
    return {
        "pooling": pooling,
        "layer": layer,
        "whitened": whitened,
        "C": None,
        "validation": test + 1.234,
        "test": test,
        "selectivity": None,
        "logistic": None,
        "geometry": {
            "anisotropy": 0.72 / (1 + depth) * (not whitened),
            "uniformity": -0.9 - 0.41 * depth,
            "alignment": 0.3 + 0.031 * depth,
            "effective_rank": 41.25 + 17.1 * depth + 90 * whitened,
        },
    }


def make_cells(whitened: bool = False) -> list[Json]:
    cells = [make_cell(name, layer, whitened) for name in OF_A_LAYER for layer in range(LAYERS + 1)]
    return cells + [make_cell(name, None, whitened) for name in OF_NO_LAYER]


def find(cells: list[Json], pooling: str, layer: int | None, whitened: bool = False) -> Json:
    key = (pooling, layer, whitened)
    (cell,) = [row for row in cells if (row["pooling"], row["layer"], row["whitened"]) == key]
    return cell


def against(difference: float, width: float = 1.9) -> Json:
    p = 0.0004 if abs(difference) > width else 0.412
    low, high = difference - width, difference + 1.03 * width
    return {"difference": difference, "low": low, "high": high, "p": p}


def choose(cell: Json, reference: Json) -> Json:
    same = cell is reference
    place = {name: cell[name] for name in ("pooling", "layer", "whitened", "test")}
    return {
        **place,
        "low": cell["test"] - 2.1,
        "high": cell["test"] + 1.9,
        "against_cls": None if same else against(cell["test"] - reference["test"]),
    }


def same_layer(cells: list[Json], reference: Json) -> Json:
    last = [cell for cell in cells if cell["layer"] == LAYERS and not cell["whitened"]]
    keys = ("pooling", "test", "low", "high", "against_cls")
    rows = [{key: choose(cell, reference)[key] for key in keys} for cell in last]
    return {"layer": LAYERS, "poolings": rows}


def name_of(cell: Json) -> str:
    layer = "" if cell["layer"] is None else f" of layer {cell['layer']}"
    return f"{cell['pooling']}{layer}{', whitened' * cell['whitened']}"


def compare(claim: str, first: Json, second: Json, numbers: Json, sentence: str) -> Json:
    keys = ("pooling", "layer", "whitened")
    extra = {"equivalence_p": 0.7301, "rows_needed": 4321 if claim == "not shown" else None}
    return {
        "claim": claim,
        "sentence": sentence,
        "first": {"name": name_of(first), **{key: first[key] for key in keys}},
        "second": {"name": name_of(second), **{key: second[key] for key in keys}},
        **(numbers | extra),
    }


def to_baseline(claim: str, first: Json, name: str, numbers: Json, sentence: str) -> Json:
    second = {**first, "layer": None, "whitened": False, "pooling": name}
    comparison = compare(claim, first, second, numbers, sentence)
    comparison["second"] |= {"pooling": None}
    return comparison


def baseline(name: str, test: float, *interval: float, coverage: float | None = None) -> Json:
    low, high = interval or (None, None)
    return {"name": name, "test": test, "low": low, "high": high, "coverage": coverage}


def how(resampling: str, groups: str = "identical texts", **changes: Any) -> Json:
    kfold = resampling == "kfold"
    return {
        "resampling": resampling,
        "folds": 5 if kfold else None,
        "repeats": 2 if kfold else None,
        "groups": groups,
        "clusters": 1377,
        "scored_rows": 1379,
        "last_layer_only": False,
        "margin": 1.0,
        "probe": None,
        "resamples": 10_000,
        **changes,
    }


def entry(name: str, cells: list[Json], headline: Json | None, **values: Any) -> Json:
    reference = find(cells, "ClsPooling", LAYERS) if cells else {}
    poolings = dict.fromkeys((cell["pooling"], cell["whitened"]) for cell in cells)
    best = [
        max(
            (cell for cell in cells if (cell["pooling"], cell["whitened"]) == pooling),
            key=lambda cell: (cell["test"], cell["layer"] or 0),
        )
        for pooling in poolings
    ]
    parts = {"published": None, "baseline": None, **values}
    claims = [
        part["sentence"] for part in (headline, parts["published"], parts["baseline"]) if part
    ]
    return {
        "name": name,
        "task": "Similarity",
        "metric": "spearman",
        "unit": "pairs",
        "rows": {"train": 5749, "validation": 1500, "test": 1379},
        "layers": LAYERS,
        "paper": [],
        "finetuned": [],
        "method": how("split") if cells else None,
        "headline": headline,
        "cells": cells,
        "chosen": [choose(cell, reference) for cell in best],
        "same_layer": same_layer(cells, reference) if cells else None,
        "baselines": [],
        "proposal": None,
        "confirm": None,
        "verdict": ". ".join(claims),
        "notes": [],
        **parts,
    }


def scores(name: str = "stsb") -> Json:
    """Pairs with scores, raw and whitened; a published pooling and a published figure."""
    cells = make_cells() + make_cells(whitened=True)
    first, reference = find(cells, "MeanPooling", 5), find(cells, "ClsPooling", LAYERS)
    published = find(cells, "MeanPooling", LAYERS)
    return entry(
        name,
        cells,
        compare(
            "beats",
            first,
            reference,
            {"difference": 9.814, "low": 7.713, "high": 11.906, "p": 0.0002},
            "MeanPooling of layer 5 beats [CLS] of layer 6 by 9.8 points (95% CI 7.7 to 11.9, "
            f"p < 0.001, 1,379 pairs of {name}, one train split)",
        ),
        published=compare(
            "equivalent",
            first,
            published,
            {"difference": 0.314, "low": -0.311, "high": 0.934, "p": 0.3117},
            "Against the encoder's own MeanPooling of layer 6 there is no difference worth having "
            "(+0.3 points, 95% CI -0.3 to 0.9)",
        ),
        baseline=to_baseline(
            "beats",
            first,
            "static embeddings, mean",
            {"difference": 12.4, "low": 9.2, "high": 15.61, "p": 0.0003},
            "It beats the best baseline, static embeddings, by 12.4 points (95% CI 9.2 to 15.6)",
        ),
        baselines=[
            baseline("static embeddings, mean", 55.6, 51.9, 59.2),
            baseline("average of word vectors", 47.93, 43.4, 52.1, coverage=0.9134),
        ],
        paper=[
            {"pooling": "MeanPooling", "test": 54.81},
            {"pooling": "ClsPooling", "test": 20.16},
        ],
        notes=["the whitening was fitted on train"],
        proposal={
            "pooling": "MeanPooling",
            "layer": 5,
            "num_hidden_layers": 5,
            "file": "fit.yaml",
        },
        confirm={
            "runs": [
                {
                    "pooling": pooling,
                    "layer": layer,
                    "seed": seed,
                    "validation": 86.61 + seed / 7,
                    "test": 85.12 + seed / 3,
                    "seconds": 61.25 + layer,
                    "milliseconds_a_text": 0.415 * layer,
                }
                for pooling, layer in (("MeanPooling", 5), ("ClsPooling", 6))
                for seed in range(3)
            ],
            "sentence": "Fine-tuned with 3 seeds, MeanPooling of 5 layers scores 0.4 points more "
            "than [CLS] of 6, trains 17% faster and takes 2.1 ms a text instead of 2.5",
        },
    )


def labels(name: str = "docstrings") -> Json:
    """Labels with K-fold; the rows are grouped; nothing is shown."""
    cells = [
        {**cell, "C": 0.1, "validation": None, "selectivity": cell["test"] - 41.13}
        for cell in make_cells()
    ]
    first, reference = find(cells, "LastNPooling n=2", None), find(cells, "ClsPooling", LAYERS)
    return entry(
        name,
        cells,
        compare(
            "not shown",
            first,
            reference,
            {"difference": 1.604, "low": -0.703, "high": 3.911, "p": 0.1684},
            "No difference is shown between LastNPooling n=2 and [CLS] of layer 6: +1.6 points "
            "(95% CI -0.7 to 3.9, 2,999 examples); about 4,300 would show it",
        ),
        baseline=to_baseline(
            "behind",
            first,
            "TF-IDF, logistic regression",
            {"difference": -2.718, "low": -4.93, "high": -0.51, "p": 0.0161},
            "It is behind the best baseline, TF-IDF, by 2.7 points (95% CI -4.9 to -0.5)",
        ),
        baselines=[
            baseline("majority class", 19.2),
            baseline("TF-IDF, logistic regression", 84.6, 82.2, 86.7),
        ],
        task="Classification",
        metric="macro_f1",
        unit="examples",
        rows={"train": 2100, "validation": 299, "test": 600},
        method=how("kfold", "data.group=package", probe="ridge classification"),
        finetuned=runs(),
    )


def published_split(name: str = "sst2") -> Json:
    """Labels with the splits of the data set; [CLS] is ahead of what was chosen."""
    cells = [{**cell, "C": 1.0} for cell in make_cells()]
    first, reference = find(cells, "MinPooling", 5), find(cells, "ClsPooling", LAYERS)
    return entry(
        name,
        cells,
        compare(
            "behind",
            first,
            reference,
            {"difference": -11.8, "low": -14.2, "high": -9.3, "p": 0.0002},
            "MinPooling of layer 5 is behind [CLS] of layer 6 by 11.8 points (95% CI -14.2 to "
            "-9.3, p < 0.001, 1,821 examples, one train split)",
        ),
        task="Classification",
        metric="accuracy",
        unit="examples",
        method=how("split", probe="ridge classification"),
    )


def only_test(name: str = "STS12") -> Json:
    """Pairs without a split to choose on."""
    cells = [{**cell, "validation": None, "geometry": None} for cell in make_cells()]
    data = scores(name)
    return {
        **entry(name, cells, data["headline"], paper=data["paper"]),
        "rows": {"test": 3108},
        "method": how("kfold"),
    }


def tie(name: str = "tie") -> Json:
    """The chosen cell and [CLS] score the same."""
    cells = [{**cell, "test": 80.0, "validation": 80.0} for cell in make_cells()]
    first, reference = find(cells, "MeanPooling", LAYERS), find(cells, "ClsPooling", LAYERS)
    return entry(
        name,
        cells,
        compare(
            "equivalent",
            first,
            reference,
            {"difference": 0.0, "low": -0.4, "high": 0.4, "p": 1.0},
            "There is no difference worth having between MeanPooling and [CLS] of layer 6",
        ),
    )


def one_pooling(name: str = "one") -> Json:
    """[CLS] alone, so another layer is compared with the last."""
    cells = [cell for cell in make_cells() if cell["pooling"] == "ClsPooling"]
    first, reference = find(cells, "ClsPooling", LAYERS - 3), find(cells, "ClsPooling", LAYERS)
    sentence = "ClsPooling of layer 3 is not shown to differ from ClsPooling of layer 6"
    difference = against(first["test"] - reference["test"])
    data = entry(name, cells, compare("not shown", first, reference, difference, sentence))
    chosen = [choose(first, reference), choose(reference, reference)]
    proposal = {"pooling": "ClsPooling", "layer": LAYERS, "num_hidden_layers": None}
    return {**data, "chosen": chosen, "proposal": {**proposal, "file": "fit.yaml"}}


def few(name: str = "few") -> Json:
    """A data set too small for intervals."""
    cells = make_cells()
    first, reference = find(cells, "MeanPooling", LAYERS), find(cells, "ClsPooling", LAYERS)
    nothing = {"difference": 8.5, "low": None, "high": None, "p": None}
    sentence = "12 test examples are too few for an interval; 20 are needed"
    data = entry(name, cells, compare("too few", first, reference, nothing, sentence))
    for row in [*data["chosen"], *data["same_layer"]["poolings"]]:
        row.update(low=None, high=None)
        if row["against_cls"]:
            row["against_cls"] |= {"low": None, "high": None, "p": None}
    return {**data, "rows": {"train": 40, "validation": 12, "test": 12}}


def runs() -> list[Json]:
    means = {"MeanPooling": 85.2, "ClsPooling": 84.9, "AttentionPooling": 85.6}
    return [
        {
            "pooling": pooling,
            "layer": LAYERS,
            "seed": seed,
            "validation": mean + 0.31 * seed,
            "test": mean + 0.37 * seed * (-1) ** seed,
        }
        for pooling, mean in means.items()
        for seed in range(3)
    ]


def finetuned_only(name: str = "tuned") -> Json:
    """The fine-tuned arm alone."""
    verdict = "AttentionPooling has the highest mean over 3 seeds, 85.7"
    return entry(name, [], None, finetuned=runs(), verdict=verdict)


def study(*data: Json) -> Json:
    encoder = {"name": "sentence-transformers/all-MiniLM-L6-v2", "pretrained": True}
    return {
        "verdict": data[0]["verdict"] if len(data) == 1 else "the verdict on all data sets",
        "command": "python cli.py study --config configs/studies/stsb.yaml --study.seed 0",
        "config": {
            "seed_everything": 0,
            "model": {"encoder": encoder},
            "data": {"batch_size": 32, "max_length": 128},
        },
        "versions": {"litpool": "0.1.0", "torch": "2.13.0"},
        "seconds": {"encoding": 41.2, "total": 63.55},
        "data": list(data),
    }
