"""Added tokens, MarkerPooling and overrides, from the command line and in every loop."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from litpool.data.tokenizer import restore_tokenizer
from litpool.loops.lightning import TextModule

Cli = Callable[..., tuple[int, str, str]]
WORDS = "network.encoder.model.embeddings.word_embeddings.weight"
MEAN = ["--model.pooling", "MeanPooling"]


@pytest.fixture
def marked(
    job: list[str], encoder_folder: str, rows: list[dict[str, str]], tmp_path: Path
) -> list[str]:
    """The job of the loops on texts with two markers, from pretrained weights."""
    lines = [{**row, "text": f"[S1] {row['text']} [S2] film"} for row in rows]
    (tmp_path / "marked.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return [
        *job[6:],
        *("--data.source", "marked.jsonl", "--data.add_special_tokens", "['[S1]', '[S2]']"),
        *("--model.encoder.name", encoder_folder, "--model.recipe.weight_decay", "0.5"),
        *("--model.pooling", "MarkerPooling", "--model.pooling.markers", "['[S1]', '[S2]']"),
    ]


def last(folder: str) -> dict[str, Any]:
    return torch.load(Path(folder) / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("command", ["fit", "fit_plain", "fit_hf"])
def test_only_the_new_rows_train_in_every_loop(
    cli: Cli, marked: list[str], encoder_folder: str, command: str
) -> None:
    only = ["--model.encoder.freeze", "all", "--model.encoder.train_new_tokens", "true"]
    status, out, err = cli(command, *marked, *only)
    assert status == 0, err
    checkpoint = last(out.split()[-1])
    old = load_file(f"{encoder_folder}/model.safetensors")
    now, tokenizer = checkpoint["state_dict"], restore_tokenizer(checkpoint["job"]["tokenizer"])
    assert torch.equal(now[WORDS][:60], old["embeddings.word_embeddings.weight"])
    for name, weight in old.items():
        if not name.startswith("pooler.") and "word_embeddings" not in name:
            assert torch.equal(now[f"network.encoder.model.{name}"], weight)
    assert list(checkpoint["job"]["new_ids"]) == tokenizer.convert_tokens_to_ids(["[S1]", "[S2]"])
    assert now["network.pooling.ids"].tolist() == list(checkpoint["job"]["new_ids"])
    for number, pieces in checkpoint["job"]["new_ids"].items():
        assert not torch.allclose(
            now[WORDS][number], now[WORDS][pieces].mean(0) if pieces else torch.zeros(32)
        )


@pytest.mark.parametrize("freeze", ["all", "none"])
def test_an_interrupted_fit_resumes_to_the_same_weights(
    cli: Cli, marked: list[str], monkeypatch: pytest.MonkeyPatch, freeze: str
) -> None:
    options = ["--model.encoder.freeze", freeze, "--model.encoder.train_new_tokens", "true"]
    arguments = ["fit", *marked, *options]
    status, out, err = cli(*arguments)
    assert status == 0, err
    expected = last(out.split()[-1])
    calls, step = [], TextModule.training_step

    def interrupted(
        self: TextModule, batch: dict[str, torch.Tensor], batch_idx: int
    ) -> torch.Tensor:
        calls.append(batch_idx)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(TextModule, "training_step", interrupted)
    _, _, err = cli(*arguments)
    path = err.split()[-1]
    status, out, err = cli("fit", "--ckpt_path", path)
    assert status == 0, err
    resumed = torch.load(path, weights_only=True)
    assert resumed["job"]["new_ids"] == expected["job"]["new_ids"]
    for name, weight in expected["state_dict"].items():
        assert torch.equal(weight, resumed["state_dict"][name]), name


def test_predict_finds_the_markers_and_names_a_text_without(cli: Cli, marked: list[str]) -> None:
    _, out, _ = cli("fit", *marked)
    checkpoint = Path(out.split()[-1]) / "checkpoints" / "best.ckpt"
    command = ["predict", "--ckpt_path", checkpoint, "--output", "-"]
    status, out, err = cli(*command, stdin="[S1] good [S2] film\nbad [S2] film is [S1] dull\n")
    assert (status, len(out.splitlines())) == (0, 2), err
    status, out, err = cli(*command, stdin="[S1] good [S2] film\n[S1] a film\n")
    assert status == 2
    assert "row 2: no '[S2]' in the text '[S1] a film'; mark every text" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--data.add_special_tokens", "['[S1]']"],
            "'[S2]' is not an added token of this tokenizer; set",
        ),
        (["--data.max_length", "7"], "; shorten the text, or raise data.max_length"),
        (["--model.pooling.markers", "[]"], "MarkerPooling: markers=[]; give one or more"),
        (["--data.add_tokens", "[covid, ' ']"], "a token is empty or only spaces; leave it out"),
        (
            ["--data.add_tokens", "[covid, covid]"],
            "data.add_tokens: 'covid' is named twice; name it once",
        ),
        (["--data.add_tokens", "[' covid']"], "' covid' begins or ends with a space; use 'covid'"),
        (
            ["--data.add_tokens", "[COVID, covid]"],
            "the tokenizer reads both 'COVID' and 'covid' as 'covid'; name one of them",
        ),
        (
            ["--data.add_tokens", "['[S1]']"],
            "data.add_tokens and data.add_special_tokens both name '[S1]'",
        ),
        (
            ["--data.add_tokens", "['[CLS]']"],
            "'[CLS]' is a special token already and would become a plain one",
        ),
        (
            ["--data.add_special_tokens", "[]", "--model.encoder.train_new_tokens", "true", *MEAN],
            "there are no new tokens",
        ),
        (["--data.pad_token", "<pad>"], "data.pad_token=<pad>: not in the vocabulary of"),
        (["--model.encoder.new_tokens", "mean"], "model.encoder"),
        (
            ["--model.encoder.overrides", "{hidden_size: 64}"],
            "overrides.hidden_size=64: the pretrained weights",
        ),
        (
            ["--model.encoder.overrides", "{num_attention_heads: 2}"],
            "or set model.encoder.allow_unsafe: true",
        ),
    ],
)
def test_bad_options_are_refused_in_one_line_and_leave_no_run(
    cli: Cli, marked: list[str], arguments: list[str], message: str, tmp_path: Path
) -> None:
    status, _, err = cli("fit", *marked, *arguments)
    assert status == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "logs").exists()
