"""What exports answer where litpool is not installed; `test_real.py` runs this as a program.

    python -I -S fresh_answers.py PACKAGES FORMAT FORBIDDEN

Each line on standard input is a job: a folder with an export, texts, and the padding sides. The
answers go to SIDE.npz in that folder: the ids of the real tokens, and the output of each row, or,
where there is one for each token, of each real token. A line on standard output says that they
are there. The lines that load a model are those of the model card.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Rows = list[list[str]]
Answer = tuple[Any, Any, Any]  # token ids and their mask, each (B, T); outputs (B, ...)
Run = Callable[[Rows, str], Answer]


def graph() -> Callable[[Rows, str], tuple[dict[str, Any], Any]]:
    """Return a function that gives the inputs of a graph, and the mask of the real tokens."""
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file("tokenizer.json")
    (fields,) = re.findall(r"^fields = (.*)$", Path("README.md").read_text(), re.MULTILINE)
    of_tokens = json.loads(Path("labels.json").read_text())["output"] == "spans"

    def encode(texts: Rows, side: str) -> tuple[dict[str, Any], Any]:
        tokenizer.enable_padding(**{**tokenizer.padding, "direction": side})
        rows = tokenizer.encode_batch([row[0] if len(row) == 1 else tuple(row) for row in texts])
        inputs = {
            name: np.array([getattr(row, field) for row in rows])
            for name, field in json.loads(fields).items()
        }
        if of_tokens:  # 1 outside the context
            mask = [[int(part != 1) for part in row.sequence_ids] for row in rows]
            inputs["special_tokens_mask"] = np.array(mask)
        return inputs, inputs["attention_mask"].astype(bool)

    return encode


def onnx(job: Any) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession("model.onnx")
    encode = graph()

    def run(texts: Rows, side: str) -> Answer:
        inputs, mask = encode(texts, side)
        return inputs["input_ids"], mask, session.run(None, inputs)[0]

    return run


def torch(job: Any) -> Run:
    import torch

    program = torch.export.load("model.pt2").module()
    encode = graph()

    def run(texts: Rows, side: str) -> Answer:
        inputs, mask = encode(texts, side)
        tensors = {name: torch.tensor(array) for name, array in inputs.items()}
        return inputs["input_ids"], mask, program(**tensors).detach().numpy()

    return run


def sentence_transformers(job: Any) -> Run:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(".")

    def run(texts: Rows, side: str) -> Answer:
        model.tokenizer.padding_side = side
        given: list[Any] = [row[0] if len(row) == 1 else row for row in texts]
        tokens = model.tokenize(given)
        output = model.encode(given, batch_size=len(given), show_progress_bar=False)
        return tokens["input_ids"].numpy(), tokens["attention_mask"].numpy().astype(bool), output

    return run


def huggingface(job: Any) -> Run:
    """Run the stock model; without one, the encoder, which gives the last states of the tokens."""
    import torch
    import transformers

    kind = job["kind"]
    if kind == "pipeline":
        classify: Any = transformers.pipeline("text-classification", model=".", device="cpu")
        tokenizer, model = classify.tokenizer, classify.model
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(".")
        model = getattr(transformers, kind).from_pretrained(".")
    cut = "only_second" if kind == "AutoModelForQuestionAnswering" else True

    @torch.no_grad()
    def run(texts: Rows, side: str) -> Answer:
        columns = [list(column) for column in zip(*texts, strict=True)]
        tokenizer.padding_side = side
        batch = tokenizer(*columns, truncation=cut, padding=True, return_tensors="pt")
        output = model(**batch)
        if kind == "AutoModelForQuestionAnswering":
            numbers = torch.stack([output.start_logits, output.end_logits], -1)
        elif kind == "pipeline":
            numbers = output.logits
        else:
            numbers = output.last_hidden_state
        mask = batch["attention_mask"].bool()
        return batch["input_ids"].numpy(), mask.numpy(), numbers.numpy()

    return run


def batches(job: Any) -> Iterator[Rows]:
    rows, size = job["rows"], job["batch"]
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def main(folder: str, format: str, forbidden: str) -> None:
    sys.path.insert(0, folder)
    for name in json.loads(forbidden):
        if find_spec(name):
            raise SystemExit(f"{name} can be imported")
    import numpy as np

    load = globals()[format.replace("-", "_")]
    for line in sys.stdin:
        job = json.loads(line)
        os.chdir(job["folder"])
        run = load(job)
        for side in job["sides"]:
            ids, outputs = [], []
            for texts in batches(job):
                numbers, mask, output = run(texts, side)
                ids.append(numbers[mask])
                outputs.append(output[mask] if output.ndim == 3 else output)
            np.savez(f"{side}.npz", ids=np.concatenate(ids), output=np.concatenate(outputs))
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
