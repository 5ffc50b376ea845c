"""Every YAML in configs/ parses, and the commands in its header run, unless they need the Hub."""

import json
import random
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
import yaml
from test_docs import skip_without_tool

CONFIGS = Path(__file__).parent.parent / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
QUICK = ["--trainer.fast_dev_run", "true"]
TINY = ["--model.encoder.pretrained", "false", "--model.encoder.overrides"]
TINY += ["{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 64}"]


def command_of(path):
    """The command that a config is for."""
    return {"studies": "study", "sweeps": "sweep"}.get(path.parent.name, "fit")


def commands(path):
    """The commands in the comments at the top of a config, as lists of arguments."""
    header = "\n".join(
        line[1:] for line in path.read_text().splitlines() if line.startswith("#")
    ).replace("\\\n", " ")
    return [
        shlex.split(line)[2:]
        for line in re.findall(r"^ +(python cli\.py .*)$", header, re.MULTILINE)
    ]


def write_reviews(folder):
    """Files in the formats of the data sets that the headers speak of, with words of our own."""
    rng = random.Random(0)
    reviews = [
        (
            " ".join(rng.choices(["a", "fine", "dull", "film", "plays", "on"], k=5)),
            rng.randint(0, 1),
        )
        for _ in range(60)
    ]
    for name in ("SST2", "NSMC"):
        (folder / name).mkdir()
    for part in ("train", "dev", "test"):
        lines = [f"{label} {text}" for text, label in reviews]
        (folder / f"SST2/stsa.binary.{part}").write_text("\n".join(lines) + "\n")
    for part in ("train", "test"):
        lines = [f'{number}\t"{text}\t{label}' for number, (text, label) in enumerate(reviews)]
        (folder / f"NSMC/ratings_{part}.txt").write_text(
            "id\tdocument\tlabel\n9\t\t1\n" + "\n".join(lines) + "\n"
        )
    write_pairs(folder)
    write_questions(folder)
    write_klue(folder)
    (folder / "reviews.csv").write_text(
        "review,stars\n" + "\n".join(f"{text},{label}" for text, label in reviews)
    )


def write_pairs(folder):
    """Sentence pairs with scores, and with labels."""
    for name in ("STSB", "KorSTS", "MNLI", "NLI"):
        (folder / name).mkdir()
    rng, words = (
        random.Random(1),
        ["a", "fine", "dull", "film", "that", "plays", "is", "on", "the", "good", "old", "screen"],
    )
    texts = [" ".join(rng.choices(words, k=rng.randint(3, 9))) for _ in range(80)]
    pairs = [(texts[number], texts[number + 40], number % 11 / 2) for number in range(40)]
    for part in ("train", "dev", "test"):
        lines = "\n".join(f"{a},{b} {part},{score}" for a, b, score in pairs)
        (folder / f"STSB/stsb-en-{part}.csv").write_text(f"{lines}\n")
        lines = "\n".join(f'main\t{score}\t"{a}\t{b} {part}' for a, b, score in pairs)
        (folder / f"KorSTS/sts-{part}.tsv").write_text(
            f"genre\tscore\tsentence1\tsentence2\n{lines}\n"
        )
        rows = [
            {"premise": a, "hypothesis": b, "label": ["no", "yes"][int(score) % 2]}
            for a, b, score in pairs
        ]
        for name in ("MNLI", "NLI"):
            (folder / f"{name}/{part}.jsonl").write_text(
                "".join(json.dumps(row) + "\n" for row in rows)
            )
    lines = "\n".join(
        f"{a} {number},{b} {number},not {number}" for number, (a, b, _) in enumerate(pairs)
    )
    (folder / "pairs.csv").write_text(f"question,answer,wrong\n{lines}\n")


def write_klue(folder):
    """Rows as in the files that KLUE publishes: a JSON list, and scores inside an object."""
    for part in ("train", "dev"):
        rows = {"ynat": [], "klue-sts": [], "klue-nli": []}
        for number in range(40):
            first, second = f"{part} 기사 {number}", f"영화가 {number}번째로 좋다"
            rows["ynat"].append({"title": first, "label": ["정치", "스포츠"][number % 2]})
            scores = {"label": 0.0, "real-label": number % 6 / 1.2, "binary-label": 0}
            rows["klue-sts"].append({"sentence1": first, "sentence2": second, "labels": scores})
            label = ["entailment", "neutral", "contradiction"][number % 3]
            rows["klue-nli"].append(
                {"premise": first, "hypothesis": second, "gold_label": label, "label2": "neutral"}
            )
        for name, content in rows.items():
            text = json.dumps(content, ensure_ascii=False, indent=4)
            (folder / f"{name}-v1.1_{part}.json").write_text(text, encoding="utf-8")


def write_questions(folder):
    """Write questions in SQuAD's JSON from four articles; in version 2.0, half have no answer."""
    for name in (
        "train-v1.1",
        "dev-v1.1",
        "train-v2.0",
        "dev-v2.0",
        "KorQuAD_v1.0_train",
        "KorQuAD_v1.0_dev",
    ):
        articles = []
        for title in ("Ada", "Bea", "Cleo", "Dora"):
            context = f"{title} wrote notes about the film."
            answers = [{"text": title, "answer_start": 0}]
            there = {"id": f"{name} {title} 1", "question": "Who wrote notes?", "answers": answers}
            none = {
                "id": f"{name} {title} 2",
                "question": "Who lost them?",
                "answers": [],
                "is_impossible": True,
            }
            asked = [there, none] if "2.0" in name else [there]
            articles.append({"title": title, "paragraphs": [{"context": context, "qas": asked}]})
        (folder / f"{name}.json").write_text(json.dumps({"version": "1", "data": articles}))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_first_line_is_the_command_that_runs_it(path):
    first = commands(path)[0]
    assert first[0] == command_of(path)
    assert f"configs/{path.relative_to(CONFIGS)}" in first
    assert path.read_text().startswith(f"# python cli.py {command_of(path)} --config configs/")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_command_in_the_header_parses(path, cli, tmp_path):
    skip_without_tool(command_of(path))
    (tmp_path / "configs").symlink_to(CONFIGS)
    for arguments in commands(path):
        if "--ckpt_path" in arguments:  # of a run that is not there
            continue
        status, out, err = cli(*arguments, "--print_config")
        assert status == 0, err
        tools = {"study": ["study", "name"], "sweep": ["space", "sweep"]}
        own = tools.get(arguments[0], ["ckpt_path", "init_from", "name", "save"])
        assert set(yaml.safe_load(out)) == {
            "seed_everything",
            "task",
            "model",
            "data",
            "trainer",
            *own,
        }


MINILM = "sentence-transformers/all-MiniLM-L6-v2"
OFFLINE = ("quickstart", "debug", "contrastive")


def runs_on_files(arguments):
    return "--data.source" in arguments and "--ckpt_path" not in arguments


STUDIES = [path.stem for path in FILES if command_of(path) == "study"]
RUNNABLE = [  # ddp: test_ddp.py
    # The pairs of functions and docstrings are collected anew, which takes long.
    pytest.param(path.stem, marks=pytest.mark.slow) if path.stem == "contrastive" else path.stem
    for path in CONFIGS.glob("*.yaml")
]


@pytest.mark.parametrize("name", RUNNABLE)
@pytest.mark.filterwarnings(
    "ignore:.*rows.*left out:UserWarning", "ignore:this tokenizer does not know:UserWarning"
)
def test_every_command_that_needs_no_hub_runs(name, cli, tmp_path):
    (tmp_path / "configs").symlink_to(CONFIGS)
    write_reviews(tmp_path)
    offline = [a for a in commands(CONFIGS / f"{name}.yaml") if name in OFFLINE or runs_on_files(a)]
    assert offline
    for arguments in offline:
        tiny = [] if name in ("quickstart", "debug") else [*TINY, "--model.encoder.name", MINILM]
        status, _, err = cli(*arguments, *tiny, *QUICK)
        assert status == 0, err
    assert not (tmp_path / "logs").exists()  # a fast_dev_run leaves nothing


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.filterwarnings(
    "ignore:The variance of predictions:UserWarning"
)  # torchmetrics; the pairs are all alike
@pytest.mark.slow
def test_every_study_that_needs_no_hub_runs(name, cli, tmp_path):
    (tmp_path / "configs").symlink_to(CONFIGS)
    write_reviews(tmp_path)
    (tmp_path / "glove.6B.50d.txt").write_text("a 1 2\nfilm 3 4\n")
    offline = [
        a
        for a in commands(CONFIGS / f"studies/{name}.yaml")
        if name == "quickstart" or runs_on_files(a)
    ]
    assert offline
    few = [
        "--model.encoder.name",
        MINILM,
        "--data.max_rows",
        60,
        "--study.seeds",
        1,
        "--trainer.accelerator",
        "cpu",
    ]
    for arguments in offline:
        status, out, err = cli(*arguments, *TINY, *few)
        assert status == 0, err
        assert out.splitlines()[-1] == f"wrote logs/studies/{name}/version_0"


@pytest.mark.parametrize("name", ["gpu", "fsdp"])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_overlays_for_gpus_run(name, cli, tmp_path):
    (tmp_path / "configs").symlink_to(CONFIGS)
    for arguments in commands(CONFIGS / f"overlays/{name}.yaml"):
        status, _, err = cli(*arguments, *QUICK)
        assert status == 0, err


OLD = """
task:
  class_path: litpool.tasks.classification.MultiLabelClassification
  init_args: {label: labels}
model:
  pooling:
    class_path: litpool.model.pooling.ConcatPooling
    init_args:
      poolings:
      - class_path: own_poolings.OwnPooling
      - class_path: litpool.model.pooling.MaxPooling
"""


@pytest.mark.parametrize("command", ["fit", "fit_hf", "fit_plain", "validate", "test"])
def test_a_config_with_the_module_of_version_0_1_0_is_read(command, cli, tmp_path, monkeypatch):
    """MultiLabelClassification has moved since; a class of the user's own keeps its module."""
    monkeypatch.syspath_prepend(str(tmp_path))
    source = "from litpool.model.pooling import MeanPooling\nclass OwnPooling(MeanPooling): pass\n"
    (tmp_path / "own_poolings.py").write_text(source)
    (tmp_path / "old.yaml").write_text(OLD)
    status, out, err = cli(command, "--config", "old.yaml", "--print_config")
    sys.modules.pop("own_poolings")  # a later study would find its pooling
    assert status == 0, err
    config = yaml.safe_load(out)
    assert config["task"]["class_path"] == "litpool.tasks.multilabel.MultiLabelClassification"
    assert config["task"]["init_args"]["label"] == "labels"
    poolings = config["model"]["pooling"]["init_args"]["poolings"]
    assert [pooling["class_path"] for pooling in poolings] == [
        "own_poolings.OwnPooling",
        "litpool.model.pooling.MaxPooling",
    ]


def test_a_config_of_version_0_1_0_trains(cli, tmp_path):
    rows = [{"text": f"a film {n}", "labels": ["good", "bad"][: n % 3]} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "old.yaml").write_text(
        OLD.replace("own_poolings.OwnPooling", "litpool.model.pooling.ClsPooling")
    )
    arguments = ["--config", CONFIGS / "debug.yaml", "--config", "old.yaml"]
    status, _, err = cli("fit", *arguments, "--data.source", "rows.jsonl", *QUICK)
    assert status == 0, err
