"""200 malicious inputs: whatever a file contains, none of its code runs. See SECURITY.md."""

import builtins
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from old_names import JOB
from test_trust import DEBUG, FIXTURE, NAMES, PLACES, TRAINER, checkpoint_with

COMMANDS = ("predict", "test", "validate", "fit")
slow = pytest.mark.slow


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, function, *arguments):
        self.parts = (function, arguments)

    def __reduce__(self):
        return self.parts


PAYLOADS = {
    "system": Payload(os.system, "touch ran"),
    "mkdir": Payload(os.mkdir, "ran"),
    "exec": Payload(builtins.exec, "open('ran', 'w')"),
    "eval": Payload(builtins.eval, "open('ran', 'w')"),
    "open": Payload(builtins.open, "ran", "w"),
    "getattr": Payload(builtins.getattr, Payload(__import__, "planted"), "run"),
}


PAYLOAD_CASES = ["system", *(pytest.param(name, marks=slow) for name in [*PAYLOADS][1:])]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a module that leaves a mark if it is imported."""
    (tmp_path / "site-packages").mkdir()
    mark = f"open({str(tmp_path / 'ran-planted')!r}, 'w')\n"
    (tmp_path / "site-packages/planted.py").write_text(mark)
    monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
    return tmp_path


def harmless(cli, folder, *arguments):
    """Run a command that must end in one line, without running any code of its input."""
    status, out, err = cli(*arguments)
    assert not list(folder.rglob("ran*")), arguments
    assert status in (1, 2), out + err
    assert [line for line in err.splitlines() if line.startswith("error: ")], err
    assert "Traceback" not in err
    return err


def name_cases():
    """Every name in every place of a config in a checkpoint; quick for a name in eleven."""
    places = PLACES | TRAINER
    rows = [(name, places[kind], kind) for kind in places for name in NAMES]
    return [
        pytest.param(*row, marks=[] if number % 41 == 0 else [slow], id=f"{row[2]}-{row[0]}")
        for number, row in enumerate(rows)
    ]


@pytest.mark.parametrize(("name", "place", "kind"), name_cases())
def test_a_name_in_a_checkpoint_runs_nothing(cli, folder, name, place, kind):
    path = checkpoint_with(kind, place(name), folder / "evil.ckpt")
    command = "fit" if kind in TRAINER else COMMANDS[len(name) % 4]
    assert name.rpartition(".")[2] in harmless(cli, folder, command, "--ckpt_path", path)


def _raw(payload, path):
    path.write_bytes(pickle.dumps(payload))


def _old_pickle(payload, path):
    path.write_bytes(pickle.dumps({"state_dict": payload}, protocol=0))


def _zip(payload, path):
    torch.save(payload, path)


def _legacy(payload, path):
    torch.save(payload, path, _use_new_zipfile_serialization=False)


def _inside(*keys):
    """Return a function that puts a payload into a good checkpoint."""

    def write(payload, path):
        saved = torch.load(FIXTURE / "classification/last.ckpt", weights_only=True)
        value = saved
        for key in keys[:-1]:
            value = value[key]
        value[keys[-1]] = payload
        torch.save(saved, path)

    return write


def _second_pickle(payload, path):
    torch.save(torch.load(FIXTURE / "classification/last.ckpt", weights_only=True), path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{path.stem}/data.pkl", pickle.dumps(payload))


PICKLES = {
    "raw": _raw,
    "old": _old_pickle,
    "zip": _zip,
    "legacy": _legacy,
    "weights": _inside("state_dict", "network.head.1.bias"),
    "task": _inside(JOB, "task"),
    "labels": _inside(JOB, "task", "labels"),
    "config": _inside(JOB, "config"),
    "rng": _inside(JOB, "rng"),
    "callbacks": _inside("callbacks"),
    "optimizer": _inside("optimizer_states"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # zipfile's, for second pickles
@pytest.mark.parametrize("payload", PAYLOAD_CASES)
@pytest.mark.parametrize("kind", [*PICKLES, "second"])
def test_a_pickle_in_a_checkpoint_runs_nothing(cli, folder, kind, payload):
    write = PICKLES.get(kind, _second_pickle)
    write(PAYLOADS[payload], folder / "evil.ckpt")
    command = COMMANDS[(len(kind) + len(payload)) % 4]
    harmless(cli, folder, command, "--ckpt_path", folder / "evil.ckpt")


CODE = "open('ran', 'w')\nclass Evil: pass\n"
AUTO_MAP = {
    "config": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"},
    "model": {"AutoModel": "evil.Evil"},
    "tokenizer": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]},
}


@pytest.mark.parametrize("option", ["--model.encoder.name", "--data.tokenizer"])
@pytest.mark.parametrize("auto_map", AUTO_MAP)
@pytest.mark.parametrize("model_type", ["evil", "bert", "custom"])
def test_code_in_a_folder_of_an_encoder_or_a_tokenizer_runs_nothing(
    cli, folder, option, auto_map, model_type
):
    remote = folder / "remote"
    remote.mkdir()
    for name in ("evil", "modeling_evil", "tokenization_evil", "configuration_evil", "__init__"):
        (remote / f"{name}.py").write_text(CODE)
    settings = {"model_type": model_type, "auto_map": AUTO_MAP[auto_map], "tokenizer_class": "Evil"}
    for name in ("config.json", "tokenizer_config.json"):
        (remote / name).write_text(json.dumps(settings))
    harmless(cli, folder, "fit", "--config", DEBUG, option, remote)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")  # torch's
@pytest.mark.parametrize("payload", PAYLOAD_CASES)
@pytest.mark.parametrize("kind", ["raw", "zip", "legacy"])
def test_a_pickle_as_an_encoders_weights_runs_nothing(
    cli, folder, encoder_folder, tokenizer_folder, csv_file, kind, payload
):
    remote = folder / "remote"
    remote.mkdir()
    config = Path(encoder_folder, "config.json").read_text()
    (remote / "config.json").write_text(config)
    weights = {"embeddings.word_embeddings.weight": PAYLOADS[payload]}
    PICKLES[kind](weights, remote / "pytorch_model.bin")
    encoder = f"{{name: {remote}, pretrained: true, overrides: {{}}}}"
    data = ["--data.source", csv_file, "--data.tokenizer", tokenizer_folder]
    model = ["--model.encoder", encoder, "--data.max_length", "20"]
    harmless(cli, folder, "fit", "--config", DEBUG, *model, *data)


@pytest.mark.parametrize("name", ["rows.pkl", "rows.py", "rows.npy", "rows.csv", "rows.parquet"])
def test_a_pickle_as_data_runs_nothing(cli, folder, name):
    (folder / name).write_bytes(pickle.dumps(PAYLOADS["system"]))
    harmless(cli, folder, "fit", "--config", DEBUG, "--data.source", folder / name)


@pytest.mark.parametrize("name", ["config.yaml", "metrics.json", "hparams.yaml"])
def test_a_resumed_run_does_not_write_through_a_link(cli, folder, name):
    for shared in ("rows", "tokenizer"):
        (folder / shared).symlink_to(FIXTURE / shared)
    run = folder / "runs/job/version_0"
    (run / "checkpoints").mkdir(parents=True)
    (folder / "thesis.txt").write_text("four years of work")
    (run / name).symlink_to(folder / "thesis.txt")
    path = checkpoint_with("data.seed", 0, run / "checkpoints/last.ckpt")
    err = harmless(cli, folder, "fit", "--ckpt_path", path)
    assert f"{name}: a symbolic link" in err
    assert (folder / "thesis.txt").read_text() == "four years of work"
