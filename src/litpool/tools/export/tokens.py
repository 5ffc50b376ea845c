"""tokenizer.json: a tokenizer that truncates and pads by itself, for the tokenizers library."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from litpool import InputError
from litpool.tools.export.graph import Model

FILE = "tokenizer.json"


def check(model: Model) -> None:
    """Refuse a tokenizer that the tokenizers library cannot run."""
    if getattr(model.tokenizer, "backend_tokenizer", None) is None:
        raise InputError(
            f"format: {type(model.tokenizer).__name__} is a tokenizer in Python, which "
            "tokenizer.json cannot express; use --format huggingface"
        )


def write(model: Model, folder: Path) -> None:
    """Write tokenizer.json with the model's truncation and padding."""
    tokenizer = model.tokenizer
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.enable_truncation(
        model.max_length,
        strategy="only_second" if model.output == "spans" else "longest_first",
        direction=tokenizer.truncation_side,
    )
    backend.enable_padding(
        direction=tokenizer.padding_side,
        pad_id=tokenizer.pad_token_id,
        pad_type_id=tokenizer.pad_token_type_id,
        pad_token=tokenizer.pad_token,
    )
    backend.save(str(folder / FILE))


def encode(folder: Path, rows: list[list[str]]) -> list[Any]:
    """Return the encodings of rows of one text or two, padded to the longest."""
    tokenizer = Tokenizer.from_file(str(folder / FILE))
    return tokenizer.encode_batch([tuple(row) if len(row) == 2 else row[0] for row in rows])
