"""The command `export`."""

import os
import shutil
import sys
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import HfApi, get_token

from litpool import InputError, JobError, trust
from litpool.commands import Run
from litpool.loops import checkpoint
from litpool.tasks.similarity import Similarity
from litpool.tools.export import card, golden, onnx_graph, quantization
from litpool.tools.export.alternatives import signatures
from litpool.tools.export.certificate import verify_folder
from litpool.tools.export.graph import Graph, Model
from litpool.tools.export.runtimes import Format, module_of
from litpool.tools.export.scores import Cost, Scores, score
from litpool.tools.export.texts import golden_questions, golden_texts


def export(  # noqa: D417
    run: Run,
    ckpt_path: str | None = None,
    format: Format = "onnx",
    output: str = "export",
    quantize: Literal["int8"] | None = None,
    scores: bool = True,
    license: str = "unknown",
    push: str | None = None,
) -> None:
    """Export a checkpoint for ONNX Runtime, PyTorch, sentence-transformers or transformers.

    Args:
        ckpt_path: The checkpoint, such as RUN/checkpoints/best.ckpt, or the run folder.
        format: What to write: `onnx` (one graph), `torch` (a program of torch.export),
            `sentence-transformers`, or `huggingface`.
        output: The folder to write; it must be empty, or not exist.
        quantize: `int8`: store the weights of `onnx` in 8 bits, and measure what that costs.
        scores: Whether to score the test split for the model card.
        license: The license to name in the model card, such as apache-2.0.
        push: A repository on the Hugging Face Hub to push to, such as NAME/MODEL; by default none.
    """
    folder = Path(output)
    _check_folder(folder)
    if quantize and format != "onnx":
        raise InputError(f"quantize={quantize}: only for --format onnx; leave it out")
    if push and get_token() is None:
        raise InputError(
            f"push={push}: no token for the Hugging Face Hub; run `hf auth login`, or set HF_TOKEN"
        )
    model = load_model(run, ckpt_path)
    module_of(format).check(model)
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of an export that was killed
    part.mkdir(parents=True)
    try:
        test = score(run, model) if scores else Scores(reason="not scored")
        write_folder(part, format, model, test, license, run if quantize else None)
        if folder.exists():
            folder.rmdir()
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    if push:
        _push(folder, push)
    print(f"wrote {folder}")


def _check_folder(folder: Path) -> None:
    """Refuse a folder with something in it, or a file."""
    if folder.is_symlink() or folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"output={folder}: not an empty folder; name another, or empty it")


def load_model(run: Run, ckpt_path: str | None) -> Model:
    """Return the network with the weights of a checkpoint, or untrained if nothing is random.

    Raises:
        InputError: Without a checkpoint, some weights would be random.
    """
    module, data = run.model, run.data
    if ckpt_path is None:
        _refuse_random(run)
    module.read("predict")  # loads the tokenizer only
    network = module.build(torch.device("cpu"))
    metrics: dict[str, float] = {}
    if ckpt_path is not None:
        content = checkpoint.load(ckpt_path)
        weights = content["state_dict"].items()
        try:
            network.load_state_dict({key.removeprefix("network."): value for key, value in weights})
        except RuntimeError as error:
            raise InputError(f"ckpt_path={ckpt_path}: {error}") from error
        metrics = content["job"]["metrics"]
    new_ids = module.saved.get("new_ids", {}) if module.saved else data.new_ids
    return Model(
        network.eval(),
        module.task,
        data.tokenizer,
        data.max_length,
        data.prefixes,
        run.config,
        metrics,
        list(new_ids),
    )


def _refuse_random(run: Run) -> None:
    """Refuse to export a network with weights that nobody has trained."""
    module, task = run.model, run.model.task
    has_head = not isinstance(task, Similarity) or task.objective == "softmax"
    if has_head or module.pooling_alone().has_weights or not module.encoder.pretrained:
        raise InputError(
            "export needs --ckpt_path RUN/checkpoints/best.ckpt, since this network has weights "
            "that are random before training; `fit` writes it"
        )


def write_folder(
    folder: Path,
    format: Format,
    model: Model,
    scores: Scores,
    license: str,
    quantized_for: Run | None = None,
) -> None:
    """Write an export with its card and its certificate, and verify it.

    Args:
        folder: An empty folder.
        format: The format.
        model: What to export.
        scores: The metrics of the test split.
        license: The license to name.
        quantized_for: The job whose test split measures what 8 bits cost; by default it stays in
            single precision.

    Raises:
        JobError: The format's own runtime gives other outputs than the network.
    """
    writer = module_of(format)
    graph = Graph(model.network, model.task, model.added_special_ids).eval()
    reason = writer.write(model, graph, folder) or ""
    costs: Cost | None = None
    if quantized_for is not None:
        costs = quantization.to_int8(folder, model, quantized_for)
        print(f"int8        {costs}")
        if costs.warning:
            print(f"warning: {costs.warning}", file=sys.stderr)
    content = certificate(model, graph, format)
    content["stock"] = format == "huggingface" and not reason
    if quantized_for is not None:
        quantization.recertify(folder, content)
    inputs = list(onnx_graph.example(model, graph))
    card.write(folder, model, content, scores, license, reason, costs, inputs)
    golden.write(folder, content)
    problems, summary = verify_folder(folder, trust.modules(content["job"]))
    if problems:
        raise JobError(
            f"format={format}: its own runtime does not give the network's outputs "
            f"({'; '.join(problems)}); nothing was written"
        )
    if reason:
        print(f"encoder     without a task model: {reason}")
    print(f"verified    {summary}")


def certificate(model: Model, graph: Graph, format: Format) -> golden.Golden:
    """Return what golden.json will contain, but for the files."""
    vocab = model.tokenizer.get_added_vocab()
    added = [token for token, number in vocab.items() if number in model.new_ids]
    if model.output == "spans":
        tokenizer, room = model.tokenizer, model.max_length // 3
        texts = golden_questions(
            model.max_length,
            lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]) <= room,
        )
    else:
        texts = golden_texts(model.max_length, added, len(model.columns))
    encoded = model.encode(texts)
    content = golden.describe(model, format, texts, encoded)
    for row, output in zip(content["rows"], golden.outputs(graph, model, encoded), strict=True):
        row["output"] = golden.numbers(output)
    content["faults"] = signatures(graph, model, texts)
    return content


def _push(folder: Path, repository: str) -> None:
    """Upload an export to a repository on the Hub, which is private if it is new.

    Raises:
        JobError: The Hub refuses.
    """
    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    except Exception as error:  # the network and the Hub raise many kinds
        reason = " ".join(str(error).split())[:200]
        raise JobError(f"push={repository}: {reason}; {folder} was written") from error
    print(f"pushed      {repository}")
