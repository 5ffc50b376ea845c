"""What a space may contain, and the one line for what it may not."""

import ast
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from litpool import InputError
from litpool.command_line import options
from litpool.tools.sweep import space

SWEEPS = Path(__file__).parents[3] / "configs/sweeps"
JOB = {
    "model": {
        "recipe": {"lr": 5e-5},
        "pooling": {"class_path": "litpool.model.pooling.MeanPooling", "init_args": {"a": True}},
    },
    "task": {"class_path": "litpool.T", "init_args": {"dropout": 0.1}},
    "data": {"batch_size": 32, "length_grouping": True},
}
TYPES = {"model.recipe.lr": float, "task.dropout": float, "data.batch_size": int}


def parse(values):
    """What the parser does with one value of the job."""
    ((key, value),) = values.items()
    if key == "model.pooling":
        path = value if isinstance(value, str) else value["class_path"]
        init_args = {"a": True} if isinstance(value, str) else value["init_args"]
        part = {"class_path": f"litpool.model.pooling.{path}", "init_args": init_args}
        return {"model": {"pooling": part}}
    *sections, name = key.split(".")
    job = {name: TYPES.get(key, lambda given: given)(value)}
    if sections == ["task"]:
        job = {"init_args": job}
    for section in reversed(sections):
        job = {section: job}
    return job


def read(text, tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return space.read(str(path))


def test_a_range_has_the_type_of_its_key(tmp_path):
    content = read(
        "{data.batch_size: {low: 8, high: 64, step: 8}, model.recipe.lr: {low: 0, high: 1}}",
        tmp_path,
    )
    checked = space.check(content, parse)
    assert checked["data.batch_size"] == space.Range(8, 64, 8, False, whole=True)
    assert checked["model.recipe.lr"] == space.Range(0, 1, None, False, whole=False)


def test_numbers_without_a_point_and_nested_sections_are_read(tmp_path):
    content = read("model: {recipe: {lr: {low: 1e-5, high: 1e-3, log: true}}}", tmp_path)
    checked = space.check(content, parse)
    assert checked["model.recipe.lr"] == space.Range(1e-5, 1e-3, None, True, whole=False)


def test_a_class_with_options_is_stored_by_its_name(tmp_path):
    text = "model.pooling: [MeanPooling, {class_path: AttentionPooling, init_args: {heads: 4}}]"
    choice = space.check(read(text, tmp_path), parse)["model.pooling"]
    assert list(choice.options) == ["MeanPooling", "AttentionPooling(heads=4)"]
    assert choice.apply("AttentionPooling(heads=4)")["init_args"] == {"heads": 4}


def test_the_job_as_it_is_is_a_point_of_the_space_or_outside_it(tmp_path):
    text = """
        model.pooling: [ClsPooling, MeanPooling]
        task.dropout: [0.0, 0.1]
        data.batch_size: {low: 16, high: 48, step: 16}
    """
    checked = space.check(read(text, tmp_path), parse)
    assert space.default(checked, JOB) == {
        "model.pooling": "MeanPooling",
        "task.dropout": 0.1,
        "data.batch_size": 32,
    }
    narrow = space.check({"data.batch_size": {"low": 16, "high": 48, "step": 32}}, parse)
    assert space.default(narrow, JOB) is None
    assert space.default(space.check({"model.recipe.lr": [1e-3, 1e-4]}, parse), JOB) is None


def test_a_drawn_number_has_three_digits_and_stays_in_the_range():
    part = space.Range(1.2345e-5, 1e-3, None, True, whole=False)
    assert part.apply(0.000234567) == 2.35e-4
    assert part.apply(1.2346e-5) == 1.2345e-5


def test_values_are_shown_as_one_would_type_them():
    values = {
        "model.recipe.lr": 2.35e-4,
        "model.pooling": "ClsPooling",
        "data.length_grouping": True,
    }
    assert space.label(values) == "lr=2.35e-4 pooling=ClsPooling length_grouping=true"
    assert space.show(0.1) == "0.1"
    assert space.show(3e-5) == "3e-5"
    alike = {"model.recipe.name": "a", "data.recipe": 1}
    assert (
        space.label({"task.dropout": 0.1, "model.dropout": 0.2})
        == "task.dropout=0.1 model.dropout=0.2"
    )
    assert space.label(alike) == "model.recipe=a data.recipe=1"


BROKEN = {
    "lr: 0.1": "a single value; give several",
    "lr: [0.1]": "at least two values",
    "lr: [0.1, 0.1]": "lr: 0.1 is listed twice",
    "lr: {lo: 1, high: 2}": "lr.lo: a range has low, high, step, log",
    "lr: {low: 1}": "its range has no high",
    "lr: {low: 2, high: 1}": "low 2 is not below high 1; swap them",
    "lr: {low: 0, high: 1, log: true}": "lr.low=0: a logarithmic range starts above 0",
    "lr: {low: 1, high: 2, step: 5}": "lr.step=5: give a number over 0 and up to 1",
    "lr: {low: 1, high: 2, log: true, step: 1}": "a logarithmic range has no step",
    "lr: {low: a, high: 2}": "lr.low=a: give a number",
    "lr: {low: 1, high: .inf}": "lr.high=inf: give a number",
    "lr: {low: 1, high: 2, log: maybe}": "lr.log=maybe: give true or false",
    "data.batch_size: {low: 1, high: 8, step: 0.5}": "give a whole number",
    "seed_everything: [1, 2]": "a seed is no hyperparameter",
    "data.max_rows: [100, 200]": "the scores would not compare",
    "data: {source: [a.csv, b.csv]}": "the scores would not compare",
    "task.init_args.label: [a, b]": "the scores would not compare",
    "trainer.logger: [true, false]": "the same for all trials",
    "[1, 2]": "give a mapping",
    "": "empty; name keys",
    "a: [": "is not valid YAML",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_space_is_refused(text, tmp_path):
    with pytest.raises(InputError, match=BROKEN[text].replace("[", r"\[")):
        space.check(read(text, tmp_path), parse)


def test_a_space_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        space.read(str(tmp_path / "none.yaml"))
    with pytest.raises(InputError, match="a folder"):
        space.read(str(tmp_path))
    with pytest.raises(InputError, match="name a YAML file"):
        space.read(None)


# ---- files for other ways to search: parsed, not run


def test_the_slurm_array_is_a_script_whose_command_parses(tmp_path, cli):
    script = SWEEPS / "slurm_array.sh"
    subprocess.run(["bash", "-n", script], check=True)
    directives = re.findall(r"^#SBATCH --([\w-]+)(?:=\S+)?$", script.read_text(), re.MULTILINE)
    assert {"array", "requeue", "signal"} <= set(directives)
    (command,) = re.findall(r"python cli\.py (.*)", script.read_text().replace("\\\n", " "))
    (tmp_path / "configs").symlink_to(SWEEPS.parent)
    status, out, err = cli(*shlex.split(command), "--print_config")
    assert status == 0, err
    parsed = yaml.safe_load(out)
    assert parsed["sweep"]["trials"] == 40
    assert Path(parsed["space"]).name == "lr_pooling.yaml"


def test_the_ray_file_is_python_over_keys_that_exist():
    tree = ast.parse((SWEEPS / "ray_tune.py").read_text())
    (space,) = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and node.targets[0].id == "SPACE"
    ]
    keys = {key.value for key in space.keys}
    assert keys == set(yaml.safe_load((SWEEPS / "lr_pooling.yaml").read_text()))
    assert keys <= set(options.keys("fit"))
