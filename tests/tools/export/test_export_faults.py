"""Planted faults: `verify` names each, in a folder and in a server, and raises no false alarm."""

import contextlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from litpool import JobError
from litpool.model.pooling import ClsPooling, MaxPooling
from litpool.tools.export.certificate import verify_folder
from litpool.tools.export.graph import Graph
from litpool.tools.export.server import verify_server

TOKENS = ("[S]",)
ST, HF = "sentence-transformers", "huggingface"


def edit(name, change):
    """Return a function that changes a JSON file of a folder."""

    def plant(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text())
        result = change(content)
        path.write_text(json.dumps(content if result is None else result))

    return plant


def rewrite(change, name="model.safetensors"):
    """Return a function that changes the tensors of a folder."""

    def plant(folder: Path) -> None:
        weights = load_file(folder / name)
        save_file(change(weights), folder / name, metadata={"format": "pt"})

    return plant


def pooling(mode):
    return edit("1_Pooling/config.json", lambda config: config.update(pooling_mode=mode))


def drop_module(folder: Path) -> None:
    edit("modules.json", lambda modules: modules[:-1])(folder)


def normalize(folder: Path) -> None:
    kind = "sentence_transformers.sentence_transformer.modules.Normalize"
    kind = kind.replace("sentence_transformer.modules", "base.modules.normalize")
    entry = {"idx": 9, "name": "9", "path": "9_Normalize", "type": kind}
    edit("modules.json", lambda modules: [*modules, entry])(folder)
    (folder / "9_Normalize").mkdir()


def cast(dtype):
    return rewrite(
        lambda weights: {name: value.to(dtype).float() for name, value in weights.items()}
    )


def noise(weights):
    torch.manual_seed(3)
    return {
        name: value + torch.randn_like(value) * value.std().nan_to_num()
        if value.ndim == 2
        else value
        for name, value in weights.items()
    }


def truncate(name):
    def plant(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return plant


def delete(name):
    return lambda folder: (folder / name).unlink()


def shuffle_vocab(content):
    vocab = content["model"]["vocab"]
    words = [word for word in vocab if word.isalpha()]
    numbers = [vocab[word] for word in words]
    vocab.update(zip(words, numbers[1:] + numbers[:1], strict=True))


def tokenizer(change):
    """Return a function that changes tokenizer.json, and makes transformers read all of it."""

    def plant(folder: Path) -> None:
        edit("tokenizer.json", change)(folder)
        backend = {"tokenizer_class": "PreTrainedTokenizerFast"}
        edit("tokenizer_config.json", lambda config: config.update(backend))(folder)

    return plant


def keep_case(content):
    content["normalizer"]["lowercase"] = False


def no_special(content):
    content["post_processor"] = None


def no_added(content):
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != "[S]"]


def forget_added(folder: Path) -> None:
    tokenizer(no_added)(folder)
    edit("tokenizer_config.json", lambda config: config.update(extra_special_tokens=[]))(folder)


def swap_labels(config):
    config["id2label"] = {"0": "good", "1": "fair", "2": "bad"}


def swap_rows(weights):
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name].flip(0).contiguous()
    return weights


def max_length(length):
    return edit("tokenizer_config.json", lambda config: config.update(model_max_length=length))


def no_prompt(config):
    config.update(prompts={}, default_prompt_name=None)


def left(config):
    config["truncation_side"] = "left"


VECTORS = ("Similarity", "MeanPooling")
LOGITS = ("Classification", "PoolerOutput")
POOLER = ("Similarity", "PoolerOutput")
MIX = ("Similarity", "FirstLastPooling")
FIRST = ("Classification", "MeanPooling")

# format, task and pooling, what is planted, what `verify` must say
FAULTS: dict[str, tuple[str, tuple[str, str], Any, str]] = {
    "cls": (ST, VECTORS, pooling("cls"), "pooled as [CLS]"),
    "max": (ST, VECTORS, pooling("max"), "pooled as the maximum"),
    "last": (ST, VECTORS, pooling("lasttoken"), "pooled as the last token"),
    "weighted": (ST, VECTORS, pooling("weightedmean"), "pooled as the weighted mean"),
    "sqrt": (ST, VECTORS, pooling("mean_sqrt_len_tokens"), "square root"),
    "mean for cls": (
        ST,
        ("Similarity", "ClsPooling"),
        pooling("mean"),
        "pooled as the mean of the tokens",
    ),
    "mean for max": (
        ST,
        ("Similarity", "MaxPooling"),
        pooling("mean"),
        "pooled as the mean of the tokens",
    ),
    "no pooler": (ST, POOLER, drop_module, "the pooler (Dense) is missing"),
    "no head": (ST, FIRST, drop_module, "the head (Dense) is missing"),
    "last layer": (
        ST,
        MIX,
        edit("modules.json", lambda m: [m[0], *m[2:]]),
        "the last layer alone",
    ),
    "normalized": (ST, VECTORS, normalize, "vectors are normalized"),
    "no prefix": (
        ST,
        VECTORS,
        edit("config_sentence_transformers.json", no_prompt),
        "the prefix is missing",
    ),
    "short": (ST, VECTORS, max_length(12), "texts are cut off at 12 tokens instead of 24"),
    "left": (ST, VECTORS, edit("tokenizer_config.json", left), "long texts lose their left end"),
    "casing": (ST, VECTORS, tokenizer(keep_case), "texts are not lower-cased"),
    "no [CLS]": (ST, VECTORS, tokenizer(no_special), "[CLS] and [SEP] are missing"),
    "no added": (HF, VECTORS, forget_added, "added tokens are missing"),
    "vocabulary": (HF, LOGITS, tokenizer(shuffle_vocab), "another tokenizer"),
    "labels": (HF, LOGITS, edit("config.json", swap_labels), "labels are in another order"),
    "rows": (HF, LOGITS, rewrite(swap_rows), "labels are in another order"),
    "half": (HF, LOGITS, cast(torch.float16), "half precision"),
    "bfloat": (ST, VECTORS, cast(torch.bfloat16), "half precision"),
    "truncated": (HF, LOGITS, truncate("model.safetensors"), "model.safetensors: damaged"),
    "no file": (HF, LOGITS, delete("model.safetensors"), "model.safetensors: missing"),
    "noise": (HF, LOGITS, rewrite(noise), "damaged"),
    "head": (HF, FIRST, delete("head.safetensors"), "head.safetensors: missing"),
}
QUICK = ("cls", "labels", "half", "truncated", "no pooler", "short")


def plant_and_verify(model, written, name):
    format, (task, kind), plant, expected = FAULTS[name]
    if format == ST:
        pytest.importorskip("sentence_transformers", reason="needs the extra `export`")
    prefix = "was it " if name == "no prefix" else ""
    folder = written(model(task, kind, tokens=TOKENS, prefix=prefix), format)
    assert not verify_folder(folder)[0], "a false alarm"
    plant(folder)
    problems, _ = verify_folder(folder)
    assert any(expected in problem for problem in problems), problems
    assert any("sha256" in problem or "missing" in problem for problem in problems), problems
    return problems


@pytest.mark.parametrize("name", QUICK)
def test_a_fault_is_named(model, written, name):
    plant_and_verify(model, written, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FAULTS.keys() - set(QUICK)))
def test_each_planted_fault_is_named(model, written, name):
    plant_and_verify(model, written, name)


def test_an_edited_card_is_no_fault(model, written):
    folder = written(model(*LOGITS), HF)
    with (folder / "README.md").open("a") as card:
        card.write("\nMy notes.\n")
    assert not verify_folder(folder)[0]


def swap_onnx_labels(content):
    content["labels"] = content["labels"][::-1]


def shorter(content):
    content["truncation"]["max_length"] = 12


GRAPH_FAULTS = {
    "labels.json": (edit("labels.json", swap_onnx_labels), "labels are in another order"),
    "length": (edit("tokenizer.json", shorter), "texts are cut off at 12 tokens"),
    "damaged": (truncate("model.onnx"), "model.onnx: damaged"),
}


@pytest.mark.slow
def test_faults_of_an_onnx_graph_are_named(model, written, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra `export`")
    folder = written(model("Classification"), "onnx")
    for name, (plant, expected) in GRAPH_FAULTS.items():
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        plant(copy)
        problems, _ = verify_folder(copy)
        assert any(expected in problem for problem in problems), (name, problems)
    other = model("Classification", "ClsPooling")
    wrong = written(other, "onnx", "wrong")
    shutil.copy(wrong / "model.onnx", folder / "model.onnx")
    assert any("pooled as [CLS]" in problem for problem in verify_folder(folder)[0])


# ---- servers


@contextlib.contextmanager
def serving(answer):
    """Run a server on 127.0.0.1 whose POST answers are those of a function; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = answer(self.path, body)
            content = json.dumps(found).encode()
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self):
            self.send_response(404)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Server:
    """A server of a network, with the protocols of OpenAI and text-embeddings-inference."""

    def __init__(self, model, **faults):
        self.model = model
        self.graph = Graph(model.network, model.task, model.added_special_ids).eval()
        self.faults = faults

    def outputs(self, texts):
        encoded = self.model.encode(
            texts, self.faults.get("length"), self.faults.get("prefix", True)
        )
        rows = []
        for batch in self.model.batches(encoded):
            rows.append(self.graph.run(batch))
        output = torch.cat(rows)
        if self.faults.get("half"):
            output = output.bfloat16().float()
        if self.faults.get("normalize"):
            output = torch.nn.functional.normalize(output, dim=-1)
        return output

    def __call__(self, path, body):
        texts = body.get("input", body.get("inputs"))
        output = self.outputs([[text] if isinstance(text, str) else text for text in texts])
        if path == "/v1/embeddings" and self.faults.get("openai", True):
            data = [{"index": n, "embedding": row} for n, row in enumerate(output.tolist())]
            return {"object": "list", "data": data[::-1]}
        if path == "/embed":
            return output.tolist()
        if path == "/predict":
            labels = self.faults.get("labels", self.model.task.labels)
            rows = (output.softmax(-1) if self.faults.get("softmax") else output).tolist()
            pairs = [zip(labels, row, strict=True) for row in rows]
            return [
                sorted(
                    ({"label": label, "score": score} for label, score in row),
                    key=lambda item: -item["score"],
                )
                for row in pairs
            ]
        return None


@pytest.mark.parametrize("path", ["", "/v1/embeddings", "/embed"])
def test_a_good_server_of_vectors_is_verified(model, written, path):
    exported = model(*VECTORS)
    folder = written(exported, HF)
    with serving(Server(exported, openai=path != "/embed")) as url:
        problems, summary = verify_server(url + path, folder)
    assert not problems
    assert "32 texts by /" in summary


def test_a_server_may_normalize_vectors_since_some_protocols_do(model, written):
    exported = model(*VECTORS)
    folder = written(exported, HF)
    with serving(Server(exported, normalize=True)) as url:
        problems, summary = verify_server(url, folder)
    assert not problems
    assert "normalized by the server" in summary


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ({"prefix": False}, "the prefix is missing"),
        ({"length": 12}, "texts are cut off at 12 tokens"),
        ({"half": True}, "half precision"),
        ({"pooling": ClsPooling}, "pooled as [CLS]"),
        ({"pooling": ClsPooling, "normalize": True}, "pooled as [CLS]"),
        ({"pooling": MaxPooling}, "pooled as the maximum"),
    ],
    ids=str,
)
def test_a_fault_of_a_server_of_vectors_is_named(model, written, faults, expected):
    exported = model(*VECTORS, prefix="was it ")
    folder = written(exported, HF)
    if "pooling" in faults:
        exported.network.pooling = faults["pooling"](32, 2)
    with serving(Server(exported, **faults)) as url:
        problems, _ = verify_server(url, folder)
    assert any(expected in problem for problem in problems), problems


def test_a_good_server_of_logits_is_verified(model, written):
    exported = model(*LOGITS)
    folder = written(exported, HF)
    for labels in (exported.task.labels, ["LABEL_0", "LABEL_1", "LABEL_2"]):
        with serving(Server(exported, labels=labels)) as url:
            assert not verify_server(url, folder)[0]


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ({"labels": ["good", "bad", "fair"]}, "labels are in another order"),
        ({"softmax": True}, "probabilities"),
        ({"length": 12}, "texts are cut off at 12 tokens"),
    ],
    ids=str,
)
def test_a_fault_of_a_server_of_logits_is_named(model, written, faults, expected):
    exported = model(*LOGITS)
    folder = written(exported, HF)
    with serving(Server(exported, **faults)) as url:
        problems, _ = verify_server(url, folder)
    assert any(expected in problem for problem in problems), problems


def test_a_server_with_other_labels_is_an_error(model, written):
    exported = model(*LOGITS)
    folder = written(exported, HF)
    with (
        serving(Server(exported, labels=["x", "y", "z"])) as url,
        pytest.raises(JobError, match="has the labels"),
    ):
        verify_server(url, folder)
