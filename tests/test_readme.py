"""The README's commands are run, on the files that it speaks of, with a smaller job in place of the large one."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
SMALL = ["--data.max_rows", "48", "--trainer.max_epochs", "1", "--model.encoder.pretrained", "false"]
SMALL += ["--model.encoder.overrides", "{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4}"]


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # the libraries' remarks on so small a job
def test_every_command_runs(cli, tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    rows = "\n".join(f"a film that is {word},{stars}" for word, stars in [("fine", 5), ("dull", 1)] * 20)
    (tmp_path / "reviews.csv").write_text(f"review,stars\n{rows}\n")
    cli("fit", "--config", "configs/quickstart.yaml", *SMALL)  # what `make quickstart` runs
    ran = []
    for line in COMMANDS:
        before, _, arguments = line.partition("python cli.py ")
        if not arguments:
            if not line.startswith("make "):
                subprocess.run(line, shell=True, check=True)
            continue
        stdin = subprocess.run(before.rstrip("| "), shell=True, capture_output=True, text=True).stdout if before else ""
        words = shlex.split(arguments)
        small = SMALL if words[0] != "predict" and "--ckpt_path" not in words else []
        small = [*small, "--loops", "[plain]", "--steps", "2", "--repeat", "1"] if words[0] == "compare" else small
        small += ["--data.max_rows", "48"] if words[0] == "test" else []
        if not any("ddp" in word for word in words):  # two processes: test_ddp.py
            status, out, err = cli(*words, *small, stdin=stdin)
            assert status == 0, f"{line}\n{err}"
            assert "wrote" in out or "--output" in words
        ran.append(words[0])
    assert {"fit", "test", "predict"} <= set(ran)


@pytest.mark.parametrize(
    ("target", "recipe"),
    [
        ("quickstart", "cli.py fit --config configs/quickstart.yaml"),
        ("test", '-m pytest -m "not slow"'),
        ("check", "-m mypy src cli.py"),
        ("tensorboard", "-m tensorboard.main --logdir logs"),
    ],
)
def test_make_does_what_the_readme_says(target, recipe):
    assert f"make {target}" in README
    made = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert recipe in made.stdout


def test_the_pictures_and_pages_are_there():
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path
