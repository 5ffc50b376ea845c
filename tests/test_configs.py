"""Every YAML under configs/ is parsed, and the commands in its header are run as far as this machine can."""

import random
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

CONFIGS = Path(__file__).parent.parent / "configs"
FILES = sorted(CONFIGS.glob("*.yaml"))
QUICK = ["--trainer.fast_dev_run", "true"]
TINY = ["--model.encoder.pretrained", "false", "--model.encoder.overrides"]
TINY += ["{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 64}"]


def commands(path):
    """The commands in the comments at the top of a config, as lists of arguments."""
    header = "\n".join(line[1:] for line in path.read_text().splitlines() if line.startswith("#")).replace("\\\n", " ")
    return [shlex.split(line)[2:] for line in re.findall(r"^ +(python cli\.py .*)$", header, re.MULTILINE)]


def write_reviews(folder):
    """Files in the formats of the data sets that the headers speak of, with words of our own."""
    rng = random.Random(0)
    reviews = [
        (" ".join(rng.choices(["a", "fine", "dull", "film", "plays", "on"], k=5)), rng.randint(0, 1)) for _ in range(60)
    ]
    for name in ("SST2", "NSMC"):
        (folder / name).mkdir()
    for part in ("train", "dev", "test"):
        lines = [f"{label} {text}" for text, label in reviews]
        (folder / f"SST2/stsa.binary.{part}").write_text("\n".join(lines) + "\n")
    for part in ("train", "test"):
        lines = [f'{number}\t"{text}\t{label}' for number, (text, label) in enumerate(reviews)]
        (folder / f"NSMC/ratings_{part}.txt").write_text("id\tdocument\tlabel\n9\t\t1\n" + "\n".join(lines) + "\n")
    (folder / "reviews.csv").write_text("review,stars\n" + "\n".join(f"{text},{label}" for text, label in reviews))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_first_line_is_the_command_that_runs_it(path):
    first = commands(path)[0]
    assert first[0] == "fit"
    assert f"configs/{path.name}" in first
    assert path.read_text().startswith("# python cli.py fit --config configs/")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_command_in_the_header_parses(path, cli, tmp_path):
    (tmp_path / "configs").symlink_to(CONFIGS)
    for arguments in commands(path):
        status, out, err = cli(*arguments, "--print_config")
        assert status == 0, err
        assert set(yaml.safe_load(out)) == {"seed_everything", "task", "model", "data", "trainer", "ckpt_path"}


RUNNABLE = [path.stem for path in FILES if path.stem not in ("gpu", "fsdp", "ddp")]  # ddp: test_ddp.py


@pytest.mark.parametrize("name", RUNNABLE)
@pytest.mark.filterwarnings("ignore:.*rows.*left out:UserWarning", "ignore:this tokenizer does not know:UserWarning")
def test_every_command_that_needs_no_hub_runs(name, cli, tmp_path):
    (tmp_path / "configs").symlink_to(CONFIGS)
    write_reviews(tmp_path)
    offline = [a for a in commands(CONFIGS / f"{name}.yaml") if name in ("quickstart", "debug") or "--data.source" in a]
    assert offline
    for arguments in offline:
        tiny = [] if name in ("quickstart", "debug") else TINY
        status, _, err = cli(*arguments, *tiny, *QUICK)
        assert status == 0, err
    assert not (tmp_path / "logs").exists()  # a fast_dev_run leaves nothing


@pytest.mark.parametrize("name", ["gpu", "fsdp"])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_overlays_for_gpus_run(name, cli, tmp_path):
    (tmp_path / "configs").symlink_to(CONFIGS)
    for arguments in commands(CONFIGS / f"{name}.yaml"):
        status, _, err = cli(*arguments, *QUICK)
        assert status == 0, err
