"""A checkpoint is enough to rebuild the network; any other file is refused in one line."""

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from litpool import InputError, JobError, __version__
from litpool.data.tokenizer import dump_tokenizer, restore_tokenizer
from litpool.loops.checkpoint import (
    contents,
    encoder_config,
    not_finite,
    read,
    remove_unfinished,
    restore_rng,
    resumable,
    write,
)
from litpool.model.encoder import EncoderOptions
from litpool.model.network import TextModel
from litpool.model.pooling import FirstLastPooling
from litpool.tasks.classification import Classification

Build = Callable[..., TextModel]

CONFIG = {
    "seed_everything": 42,
    "task": {"class_path": "Classification"},
    "model": {},
    "data": {"source": "rows.csv", "add_tokens": ["ü"], "columns": None},
}
KINDS = [
    "bert",
    "roberta",
    "distilbert",
    "albert",
    "electra",
    "mpnet",
    "deberta-v2",
    "modernbert",
    "xlm-roberta",
]


def learned() -> Classification:
    task = Classification(class_weights={"c": 2.0})
    task.learn({"train": Dataset.from_dict({"label": ["a", "b", "c"]})})
    return task


def save(
    path: Path, network: TextModel, task: Classification, tokenizer: PreTrainedTokenizerBase
) -> str:
    saved = contents(network, task, dump_tokenizer(tokenizer), CONFIG, {"val/accuracy": 0.5})
    torch.save({"state_dict": network.state_dict(), "optimizer_states": [], **saved}, path)
    return str(path)


@pytest.fixture
def path(build: Build, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> str:
    task = learned()
    return save(tmp_path / "best.ckpt", build(task=task), task, tokenizer)


def refused(path: str | Path) -> str:
    with pytest.raises(InputError) as error:
        read(str(path))
    assert str(error.value).startswith(f"ckpt_path={path}: ")
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- round trip


def test_what_is_written_is_read(path: str, tokenizer: PreTrainedTokenizerBase) -> None:
    saved = read(path)
    assert saved["version"] == __version__
    assert saved["config"] == CONFIG
    assert saved["metrics"] == {"val/accuracy": 0.5}
    assert saved["task"] == {"labels": ["a", "b", "c"], "weights": [1.0, 1.0, 2.0]}
    assert restore_tokenizer(saved["tokenizer"]).get_vocab() == tokenizer.get_vocab()


def test_the_random_state_is_restored(path: str) -> None:
    expected = torch.rand(4)
    saved = read(path)
    torch.manual_seed(99)
    restore_rng(saved["rng"])
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_is_rebuilt_with_equal_logits(
    kind: str,
    build: Build,
    batch: dict[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> None:
    task = learned()
    network = build(FirstLastPooling, kind, task).eval()
    path = save(tmp_path / "best.ckpt", network, task, tokenizer)
    saved = read(path)
    other = Classification()
    other.load_state_dict(saved["task"])
    torch.manual_seed(99)
    again = TextModel(
        other, FirstLastPooling, EncoderOptions("missing"), encoder_config(saved), pretrained=False
    ).eval()
    again.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    assert torch.equal(again(batch), network(batch))


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoders_config_survives_the_round_trip(
    kind: str, build: Build, tokenizer: PreTrainedTokenizerBase
) -> None:
    network = build(kind=kind)
    config = encoder_config(contents(network, learned(), dump_tokenizer(tokenizer), {}, {})["job"])
    assert type(config) is type(network.encoder.config)
    assert config.to_dict() == network.encoder.config.to_dict()


def test_the_encoders_config_is_complete_so_that_later_defaults_cannot_change_it(
    path: str,
) -> None:
    assert json.loads(read(path)["encoder"])["layer_norm_eps"] == 1e-12  # BERT's default


def test_added_tokens_are_in_the_rebuilt_encoder(
    tiny: Callable[..., tuple[EncoderOptions, PretrainedConfig]], tokenizer: PreTrainedTokenizerBase
) -> None:
    network = TextModel(learned(), FirstLastPooling, *tiny("bert"), pretrained=False, vocab_size=75)
    saved = contents(network, learned(), dump_tokenizer(tokenizer), {}, {})["job"]
    again = TextModel(
        learned(),
        FirstLastPooling,
        EncoderOptions("missing"),
        encoder_config(saved),
        pretrained=False,
    )
    again.load_state_dict(network.state_dict())
    assert again.encoder.config.vocab_size == 75


def test_reading_draws_no_random_numbers(path: str) -> None:
    before = torch.get_rng_state()
    read(path)
    assert torch.equal(torch.get_rng_state(), before)


# ---- written completely, or not at all

STEPS = ["torch.save", "os.fsync", "os.link", "os.replace"]


def content(number: int) -> dict[str, Any]:
    return {"state_dict": {"weight": torch.full((1000,), float(number))}, "job": {}}


def number_in(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["state_dict"]["weight"][0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_leaves_a_complete_checkpoint(
    step: str, call: int, links: bool, tmp_path: Path
) -> None:
    path = tmp_path / "last.ckpt"
    for number in (1, 2):
        write(content(number), path)
    child = os.fork()
    if not child:
        if not links:
            os.link = lambda *_: (_ for _ in ()).throw(OSError("no links here"))  # type: ignore[assignment]
        module, name = {"torch": torch, "os": os}[step.split(".")[0]], step.split(".")[1]
        original, calls = getattr(module, name), []

        def dying(*arguments: Any) -> Any:
            calls.append(name)
            if len(calls) == call:
                if name == "save":  # half of it
                    arguments[1].write(b"PK" * 100)
                    arguments[1].flush()
                os._exit(9)
            return original(*arguments)

        setattr(module, name, dying)
        write(content(3), path)
        os._exit(0)
    os.waitpid(child, 0)
    assert {number_in(file) for file in tmp_path.glob("last*.ckpt")} <= {1, 2, 3}
    assert path.exists() or (not links and number_in(tmp_path / "last.prev.ckpt") == 2)
    assert not path.exists() or number_in(path) >= 2
    write(content(4), path)
    assert number_in(path) == 4
    remove_unfinished(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"last.ckpt", "last.prev.ckpt"}


def test_only_last_has_a_previous_version(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write(content(number), tmp_path / "last.ckpt")
        write(content(number), tmp_path / "best.ckpt")
    assert {path.name: number_in(path) for path in tmp_path.iterdir()} == {
        "last.ckpt": 3,
        "last.prev.ckpt": 2,
        "best.ckpt": 3,
    }


def test_an_error_while_writing_leaves_no_unfinished_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(content(1), tmp_path / "last.ckpt")

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        JobError, match=r"last.ckpt: cannot be written \(No space left on device\); free"
    ):
        write(content(2), tmp_path / "last.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert number_in(tmp_path / "last.ckpt") == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_not_written(tmp_path: Path, value: float) -> None:
    write(content(1), tmp_path / "last.ckpt")
    bad = content(2)
    bad["state_dict"]["weight"][7] = value
    with pytest.raises(JobError, match="weight is not finite"):
        write(bad, tmp_path / "last.ckpt")
    assert number_in(tmp_path / "last.ckpt") == 1


def test_only_numbers_that_a_float32_can_hold_are_finite() -> None:
    kinds = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
    for kind in kinds:
        good = torch.randn(3, 5).to(kind)
        others = {"empty": torch.empty(0, 5), "ids": torch.arange(3)}
        assert not_finite({**others, "network.weight": good}) is None
        for value in (float("nan"), float("inf"), -float("inf")):
            bad = good.clone()
            bad[1, 2] = value
            assert not_finite({**others, "network.weight": bad}) == "weight"
    assert not_finite({"weight": torch.tensor([1e300], dtype=torch.float64)}) == "weight"


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(path: str, tmp_path: Path) -> None:
    torch.save({**torch.load(path, weights_only=True), "loops": {}}, path)
    complete = Path(path).read_bytes()
    (tmp_path / "last.prev.ckpt").write_bytes(complete)
    for damaged in (complete[:5000], b"", None):
        (tmp_path / "last.ckpt").unlink(missing_ok=True)
        if damaged is not None:
            (tmp_path / "last.ckpt").write_bytes(damaged)
        usable, _, reason = resumable(str(tmp_path / "last.ckpt"), "fit")
        assert usable == str(tmp_path / "last.prev.ckpt")
        assert reason
        assert reason.startswith(f"ckpt_path={tmp_path / 'last.ckpt'}: ")
    assert resumable(path, "fit")[::2] == (path, None)
    (tmp_path / "last.prev.ckpt").write_bytes(complete[:5000])
    with pytest.raises(InputError, match=r"last.prev.ckpt: damaged or incomplete"):
        resumable(str(tmp_path / "last.ckpt"), "fit")


# ---- files that are no checkpoints


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "no such file; checkpoints are at RUN/checkpoints/" in refused(tmp_path / "best.ckpt")
    assert "a folder; checkpoints are at RUN/checkpoints/" in refused(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.00005, 0.01, 0.25, 0.5, 0.9, 0.999, 0.99999])
def test_a_truncated_file_is_refused(path: str, share: float) -> None:
    complete = Path(path).read_bytes()
    Path(path).write_bytes(complete[: int(share * len(complete))])
    assert "damaged or incomplete" in refused(path)


@pytest.mark.parametrize(
    "value",
    [{"state_dict": {"weight": torch.ones(2)}}, {}, [1, 2], torch.ones(3), "litpool"],
    ids=str,
)
def test_a_torch_file_with_other_content_is_refused(value: Any, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "other.ckpt")
    assert "not written by litpool" in refused(tmp_path / "other.ckpt")


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    return stream.getvalue()


def legacy() -> bytes:
    stream = io.BytesIO()
    torch.save({"state_dict": {}}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"text,label\ngood film,pos\n",
        "영화".encode(),
        b"PK\x03\x04 and no more",
        bytes(1000),
        zipped(),
        legacy(),
    ],
    ids=[
        "empty",
        "newline",
        "csv",
        "korean",
        "zip's first bytes",
        "zeros",
        "zip",
        "torch before 1.6",
    ],
)
def test_a_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "other.ckpt").write_bytes(content)
    refused(tmp_path / "other.ckpt")


class Trap:
    """Code that runs when it is unpickled, as in a hostile checkpoint."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    torch.save({"job": {}, "callbacks": Trap(tmp_path / "ran")}, tmp_path / "trap.ckpt")
    assert "could run code, so it was not loaded" in refused(tmp_path / "trap.ckpt")
    assert not (tmp_path / "ran").exists()
