"""No code from a checkpoint or a config runs: names are checked before anything is imported."""

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from old_names import JOB

FIXTURE = Path(__file__).parent / "fixtures/v0.1.0"
DEBUG = str(Path(__file__).parent.parent / "configs/debug.yaml")

# functions and classes of the standard library, of torch, of installed packages, and our own
NAMES = """
    os.system os.abort os.mkdir posix.system subprocess.getoutput subprocess.call
    subprocess.Popen runpy.run_path runpy.run_module builtins.exec builtins.eval builtins.print
    pathlib.Path.unlink shutil.rmtree pickle.loads importlib.import_module antigravity.fly
    this.s idlelib.idle.idle turtle.Turtle lib2to3.main.main cgitb.enable webbrowser.open
    socket.create_connection functools.partial collections.OrderedDict logging.FileHandler
    torch.load torch.hub.load torch.save torch.utils.cpp_extension.load torch.nn.Linear
    torch.nn.Identity numpy.load pandas.read_pickle transformers.pipeline
    huggingface_hub.snapshot_download datasets.load_dataset pip.main setuptools.setup
    sklearn.datasets.fetch_openml planted.Pooling lightning.pytorch.Trainer
    jsonargparse.set_parsing_settings litpool.app.main litpool.demo.encoder.locate
""".split()

PLACES = {  # where a config names code, and what stands there
    "model.pooling": lambda name: {"class_path": name, "init_args": {"command": "touch ran"}},
    "model.pooling.text": lambda name: name,
    "model.pooling.nested": lambda name: {
        "class_path": "litpool.model.pooling.ConcatPooling",
        "init_args": {"poolings": [{"class_path": name}]},
    },
    "task": lambda name: {"class_path": name, "init_args": {}},
}
TRAINER = {
    "trainer.callbacks": lambda name: [
        {"class_path": name, "init_args": {"on_fit_start": "os.abort"}}
    ],
    "trainer.logger": lambda name: {"class_path": name},
    "trainer.strategy": lambda name: {"class_path": name},
    "trainer.profiler": lambda name: {"class_path": name},
    "trainer.plugins": lambda name: [{"class_path": name}],
}


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Modules that leave a mark when imported: an installed one, and one of the user's own."""
    mark = "from pathlib import Path\nfrom litpool.model.pooling import MeanPooling\n"
    mark += "Path({!r}).touch()\n"
    mark += "class Pooling(MeanPooling): pass\ndef run(*_, **__) -> Pooling: Path('ran').touch()\n"
    for folder, name in (("site-packages", "planted"), ("own", "mine")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.py").write_text(
            mark.format(str(tmp_path / f"{name}-was-imported"))
        )
        monkeypatch.syspath_prepend(str(tmp_path / folder))
    yield tmp_path
    for name in ("planted", "mine"):
        sys.modules.pop(name, None)


def checkpoint_with(place, value, path):
    """A good checkpoint whose stored config has another value somewhere."""
    saved = torch.load(FIXTURE / "classification/last.ckpt", weights_only=True)
    saved["callbacks"] = {}  # so that `fit` does not look for the best checkpoint
    config = saved[JOB]["config"]
    *parents, last = place.removesuffix(".text").removesuffix(".nested").split(".")
    for parent in parents:
        config = config.setdefault(parent, {})
    config[last] = value
    torch.save(saved, path)
    return str(path)


def refused(cli, folder, name, *arguments):
    """Run a command that must be refused in one line, without a trace of the name's code."""
    before = set(sys.modules)
    status, out, err = cli(*arguments)
    assert status == 2, out + err
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert name.rpartition(".")[2] in err  # of this package the class alone
    assert not list(folder.glob("*ran*")) + list(folder.glob("*-was-imported"))
    new = {
        module for module in set(sys.modules) - before if module.split(".")[0] == name.split(".")[0]
    }
    assert not {
        module for module in new if not module.startswith(("lightning", "litpool", "torch"))
    }, new
    return err


@pytest.mark.parametrize("number", range(0, len(NAMES), 4))
def test_a_checkpoint_names_only_classes_of_ours(cli, planted, number):
    for offset, name in enumerate(NAMES[number : number + 4]):
        place = [*PLACES][offset]
        path = checkpoint_with(place, PLACES[place](name), planted / "evil.ckpt")
        command = ["predict", "test", "validate", "fit"][offset]
        assert "evil.ckpt" in refused(cli, planted, name, command, "--ckpt_path", path)


@pytest.mark.parametrize("place", TRAINER)
def test_a_checkpoint_does_not_bring_its_own_callbacks_loggers_and_strategies(cli, planted, place):
    for name in (
        "os.system",
        "planted.Pooling",
        "mine.Pooling",
        "lightning.pytorch.callbacks.LambdaCallback",
    ):
        path = checkpoint_with(place, TRAINER[place](name), planted / "evil.ckpt")
        refused(cli, planted, name, "fit", "--ckpt_path", path)


@pytest.mark.parametrize("number", range(0, len(NAMES), 4))
def test_a_config_names_only_plugins_and_the_users_own_modules(cli, planted, number):
    for offset, name in enumerate(NAMES[number : number + 4]):
        option = ["--model.pooling", "--task", "--trainer.callbacks+", "--trainer.logger"][offset]
        refused(cli, planted, name, "fit", "--config", DEBUG, f"{option}={name}")


@pytest.mark.parametrize("function", ["os.abort", "mine.run", "litpool.demo.encoder.locate"])
def test_a_config_does_not_hand_functions_to_a_callback(cli, planted, function):
    name = "lightning.pytorch.callbacks.LambdaCallback"
    callback = f"[{{class_path: {name}, init_args: {{on_fit_start: {function}}}}}]"
    status, _, err = cli("fit", "--config", DEBUG, "--trainer.callbacks", callback)
    assert status == 2
    assert err.count("\n") == 1
    assert "LambdaCallback: not supported" in err  # it takes nothing but functions
    assert not (planted / "ran").exists()


def test_a_function_of_the_users_own_is_not_called_for_a_pooling(cli, planted):
    status, _, err = cli("fit", "--config", DEBUG, "--model.pooling", "mine.run")
    assert (status, err.count("\n")) == (2, 1), err
    assert "mine.run" in err
    assert not (planted / "ran").exists()


def test_a_pooling_of_the_users_own_works_from_yaml_and_needs_trust_from_a_checkpoint(cli, planted):
    (planted / "rows.csv").write_text("text,label\n" + "a good film,pos\na bad film,neg\n" * 10)
    job = ["fit", "--config", DEBUG, "--data.source", "rows.csv", "--model.pooling", "mine.Pooling"]
    status, out, err = cli(*job)
    assert status == 0, err
    assert "best.ckpt --input FILE --trust mine\n" in out
    (planted / "mine-was-imported").unlink()
    sys.modules.pop("mine")
    predict = [
        "predict",
        "--ckpt_path",
        "logs/debug/version_0-pooling=Pooling/checkpoints/best.ckpt",
        "--input",
        "rows.csv",
    ]
    assert "--trust mine" in refused(cli, planted, "mine.Pooling", *predict)
    status, _, err = cli(*predict, "--trust", "mine")
    assert status == 0, err
    status, _, err = cli(*predict, "--trust=planted")
    assert status == 2, err


def test_what_looks_like_a_class_in_a_free_form_value_stays_a_value(cli, planted):
    override = "{id2label: {class_path: planted.Pooling}}"
    cli("fit", "--config", DEBUG, "--model.encoder.overrides", override, "--trainer.max_steps", 1)
    assert not (planted / "planted-was-imported").exists()


@pytest.mark.parametrize("module", ["", "my-poolings", "jsonargparse"])
def test_a_module_that_cannot_be_trusted_is_refused(cli, module):
    status, _, err = cli("fit", "--config", DEBUG, f"--trust={module}")
    assert (status, err.count("\n")) == (2, 1)
    assert f"trust={module}: " in err


def test_a_checkpoint_of_another_shape_is_refused(cli, tmp_path):
    good = torch.load(FIXTURE / "classification/plain.ckpt", weights_only=True)
    for number, key in enumerate(("config", "task", "tokenizer", "encoder", "metrics", "rng")):
        bad = copy.deepcopy(good)
        bad[JOB][key] = 7
        torch.save(bad, tmp_path / f"{number}.ckpt")
        status, _, err = cli("predict", "--ckpt_path", f"{number}.ckpt", "--input", "x.txt")
        assert (status, err.count("\n")) == (2, 1)
        assert "not written by litpool" in err


def test_code_among_a_checkpoints_tokenizer_files_never_runs(cli, planted):
    """And standard input, which holds the rows, is not read as an answer to a question about it."""
    saved = torch.load(FIXTURE / "classification/plain.ckpt", weights_only=True)
    files = saved[JOB]["tokenizer"]
    settings = json.loads(files["tokenizer_config.json"])
    settings |= {
        "tokenizer_class": "Evil",
        "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]},
    }
    files["tokenizer_config.json"] = json.dumps(settings).encode()
    files["evil.py"] = f"open({str(planted / 'ran')!r}, 'w')".encode()
    torch.save(saved, planted / "evil.ckpt")
    status, _, err = cli("predict", "--ckpt_path", "evil.ckpt", stdin="a good film\n1\ny\n")
    assert not (planted / "ran").exists()
    assert (status, err.count("\n")) == (2, 1), err


def test_code_in_an_encoders_folder_never_runs(cli, planted):
    code = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}
    (planted / "encoder").mkdir()
    (planted / "encoder/config.json").write_text(json.dumps(code))
    (planted / "encoder/evil.py").write_text(f"open({str(planted / 'ran')!r}, 'w')")
    status, _, err = cli("fit", "--config", DEBUG, "--model.encoder.name", "encoder", stdin="1\n")
    assert not (planted / "ran").exists()
    assert (status, err.count("\n")) == (2, 1), err


def test_a_checkpoint_deletes_no_file_outside_its_run_folder(cli, planted):
    for name in ("rows", "tokenizer"):
        (planted / name).symlink_to(FIXTURE / name)
    (planted / "victim").mkdir()
    (planted / "victim/thesis.txt").write_text("four years of work")
    folder = planted / "runs/classification-lightning/checkpoints"
    folder.mkdir(parents=True)
    saved = torch.load(FIXTURE / "classification/last.ckpt", weights_only=True)
    for state in saved["callbacks"].values():
        state |= {"dirpath": str(folder), "best_model_path": str(folder / "../../../victim")}
    torch.save(saved, folder / "last.ckpt")
    _, _, err = cli("fit", "--ckpt_path", folder / "last.ckpt", "--trainer.max_epochs", 4)
    assert (planted / "victim/thesis.txt").exists()
    assert err.count("\n") == 1, err


def test_a_checkpoint_does_not_choose_where_predictions_go(cli, planted):
    saved = torch.load(FIXTURE / "classification/plain.ckpt", weights_only=True)
    saved[JOB]["config"] |= {
        "output": str(planted / "chosen.jsonl"),
        "config": ["/etc/passwd"],
    }
    torch.save(saved, planted / "own.ckpt")
    status, out, err = cli("predict", "--ckpt_path", "own.ckpt", stdin="bright warm\n")
    assert (status, out) == (0, "wrote predictions.jsonl\n"), err
    assert not (planted / "chosen.jsonl").exists()


def test_what_can_be_called_is_refused_in_any_disguise(cli, planted):
    (planted / "own/disguised.py").write_text(
        "import functools, mine\n"
        "part = functools.partial(mine.run)\n"
        "class Factory:\n"
        "    def __call__(self, width: int, layers: int) -> mine.Pooling: return mine.run()\n"
        "factory = Factory()\n"
    )
    for name in ("disguised.part", "disguised.factory"):
        status, _, err = cli("fit", "--config", DEBUG, "--model.pooling", name)
        assert (status, err.count("\n")) == (2, 1), err
        assert not (planted / "ran").exists()
    sys.modules.pop("disguised", None)


def test_a_folder_of_data_does_not_let_a_package_in(cli, planted, monkeypatch):
    (planted / "own/datasets").mkdir()
    status, _, err = cli("fit", "--config", DEBUG, "--model.pooling", "datasets.Dataset")
    assert status == 2
    assert "datasets.Dataset: not allowed here" in err
