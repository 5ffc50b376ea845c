"""The job that a study proposes, and what fine-tuning says about it."""

import json
import random
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from litpool.data.module import TextDataModule
from litpool.loops.lightning import TextModule
from litpool.model.encoder import Encoder, EncoderOptions, load_config
from litpool.model.pooling import ConcatPooling, LastNPooling, MaxPooling, MeanPooling
from litpool.tasks.classification import Classification
from litpool.tools.study import finetuned, vectors
from litpool.tools.study.grid import Cell
from litpool.tools.study.options import StudyOptions
from litpool.tools.study.proposal import propose
from litpool.tools.study.training import quiet

CONCAT = partial(ConcatPooling, poolings=[MeanPooling, MaxPooling])


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(vectors, "CACHE", tmp_path / "cache")


@pytest.fixture
def job(encoder_folder, tokenizer_folder, csv_file):
    return [
        *("study", "--model.encoder.name", encoder_folder, "--data.tokenizer", tokenizer_folder),
        *("--data.source", csv_file, "--data.max_length", "24", "--data.batch_size", "16"),
        *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1"),
    ]


@pytest.fixture
def proposed(tiny, tmp_path):
    """Propose a cell of an encoder; return the proposal, and the job if there is a file."""

    def proposed(cell, kind="bert", poolings=(), given=()):
        encoder, _ = tiny(kind)
        config = {"model": {"encoder": {"overrides": {}, "freeze": "none"}, "pooling": None}}
        run = SimpleNamespace(
            model=SimpleNamespace(encoder=encoder),
            config=config,
            options={"study": {"poolings": list(given)}},
            folder=tmp_path,
        )
        result = propose(run, cell, StudyOptions(poolings=list(poolings)), "Because")
        file = tmp_path / "fit.yaml"
        return result, yaml.safe_load(file.read_text()) if file.exists() else None

    return proposed


def test_a_lower_layer_cuts_the_encoder(proposed):
    proposal, job = proposed(Cell("MeanPooling", 1, MeanPooling(32, 2)))
    assert (proposal["pooling"], proposal["num_hidden_layers"]) == ("MeanPooling", 1)
    assert job["model"]["encoder"]["overrides"]["num_hidden_layers"] == 1
    assert job["model"]["pooling"]["class_path"] == "litpool.model.pooling.MeanPooling"


def test_an_encoder_that_cannot_be_cut_gets_no_file(proposed):
    assert "modernbert" not in finetuned.CUT
    for cell, kind in (
        (Cell("MeanPooling", 0, MeanPooling(32, 2)), "bert"),
        (Cell("MeanPooling", 1, MeanPooling(32, 2)), "modernbert"),
    ):
        proposal, job = proposed(cell, kind)
        assert (proposal["file"], proposal["num_hidden_layers"], job) == (None, None, None)


def test_settings_and_given_poolings_are_kept(proposed):
    cell = Cell("LastNPooling n=2", None, LastNPooling(32, 2, n=2))
    assert proposed(cell)[1]["model"]["pooling"]["init_args"] == {"n": 2}
    value = {"class_path": "ConcatPooling", "init_args": {"poolings": ["MeanPooling"]}}
    pooling = CONCAT(32, 2)
    _, job = proposed(Cell(pooling.describe(), 2, pooling), poolings=[CONCAT], given=[value])
    assert job["model"]["pooling"] == value


def test_a_cut_encoder_gives_the_vectors_of_the_layer(tokenizer_folder, encoder_folder, csv_file):
    data = TextDataModule(Classification(), source=csv_file, tokenizer=tokenizer_folder)
    data.setup("fit")
    options = EncoderOptions(encoder_folder)
    config = load_config(options)
    whole = Encoder(options, config, True, all_layers=True, attention="eager").eval()
    run = finetuned.Training("", 1, 0, MeanPooling, "")
    module = TextModule(data.task, data, options)
    with quiet():
        network = finetuned.build_module(run, module, data, config).build(torch.device("cpu"))
    batch = next(iter(data.test_dataloader()))
    with torch.no_grad():
        hidden, _ = whole({key: batch[key] for key in ("input_ids", "attention_mask")})
        expected = MeanPooling(32, 2)((hidden[1],), batch["attention_mask"])
        np.testing.assert_allclose(network.eval().embed(batch), expected, atol=2e-6)


@pytest.fixture
def noise_file(tmp_path):
    """A function that writes reviews with labels drawn by lot; some pooling is ahead by chance."""

    def write(seed):
        draw = random.Random(seed)
        words = (" ".join(draw.choices(["good", "bad", "dull", "film"], k=7)) for _ in range(80))
        lines = (f"{text},{draw.choice(['good', 'bad'])}" for text in words)
        (tmp_path / "noise.csv").write_text("\n".join(["text,label", *lines]) + "\n")
        return "noise.csv"

    return write


def test_the_proposed_job_trains_and_confirm_says_what_it_is_worth(cli, job, tmp_path, noise_file):
    options = ("--data.source", noise_file(1), "--study.confirm", "true", "--study.seeds", "2")
    status, out, err = cli(*job, *options)
    assert status == 0, err
    folder = tmp_path / out.split()[-1]
    entry = json.loads((folder / "study.json").read_text())["data"][0]
    proposal, confirm = entry["proposal"], entry["confirm"]
    first = entry["headline"]["first"]
    assert proposal["file"] == "fit.yaml"
    assert (proposal["pooling"], proposal["layer"]) == (first["pooling"], first["layer"])
    assert len(confirm["runs"]) == 4
    gains = [confirm["runs"][seed]["test"] - confirm["runs"][2 + seed]["test"] for seed in (0, 1)]
    assert f"Fine-tuned, {first['name']} scores {np.mean(gains):+.1f} points" in confirm["sentence"]
    assert " for other seeds, not for other test rows; 2 seeds, " in confirm["sentence"]
    assert all(run["seconds"] > 0 and run["milliseconds"] > 0 for run in confirm["runs"])
    assert confirm["sentence"] in out
    text = (folder / "fit.yaml").read_text()
    assert text.startswith(f"# python cli.py fit --config {folder.relative_to(tmp_path)}/fit.yaml")
    status, out, err = cli("fit", "--config", str(folder / "fit.yaml"))
    assert status == 0, err


@pytest.mark.parametrize("kind", ["a tie", "behind"])
def test_cls_is_proposed_where_the_choice_is_not_ahead(
    cli, job, tmp_path, csv_file, noise_file, kind
):
    file = csv_file if kind == "a tie" else noise_file(0)  # every pooling tells csv_file's labels
    status, out, err = cli(*job, "--data.source", file, "--study.confirm", "true")
    assert status == 0, err
    folder = tmp_path / out.split()[-1]
    entry = json.loads((folder / "study.json").read_text())["data"][0]
    headline = entry["headline"]
    assert (headline["difference"] < 0) == (kind == "behind")
    assert headline["first"]["pooling"] != "ClsPooling"
    assert entry["proposal"]["pooling"] == "ClsPooling"
    assert entry["confirm"] == {
        "runs": [],
        "sentence": "ClsPooling of layer 2 is what is proposed: nothing to confirm",
    }
    reason = "fit.yaml is the job with ClsPooling, as the choice is not ahead of it."
    assert reason in (folder / "study.md").read_text()
    assert "# So this job has ClsPooling of layer 2.\n" in (folder / "fit.yaml").read_text()


def test_confirm_needs_the_frozen_arm(cli, job):
    status, _, err = cli(*job, "--study.arms", "[finetuned]", "--study.confirm", "true")
    assert status == 2
    assert "study.confirm=true: the arm frozen proposes" in err
