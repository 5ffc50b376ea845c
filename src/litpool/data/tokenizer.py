"""The tokenizer: loading it with added tokens, and storing it in a checkpoint."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from litpool import InputError, JobError, disk, reason
from litpool.data.added import Pieces, add
from litpool.demo.encoder import locate


def load_tokenizer(
    name: str,
    add_tokens: Sequence[str] = (),
    add_special_tokens: Sequence[str] = (),
    pad_token: str | None = None,
) -> tuple[PreTrainedTokenizerBase, Pieces]:
    """Load the tokenizer of an encoder and add tokens to it.

    `pad_token` is for a tokenizer that names none.

    Returns:
        The tokenizer, and the new ids with the pieces that their tokens were split into before.

    Raises:
        InputError: There is no tokenizer, it has no vocabulary, it cannot pad, or the tokens cannot
            be added.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(locate(name), trust_remote_code=False)
    except (OSError, ValueError, StrictDataclassError) as error:
        raise InputError(
            f"data.tokenizer={name}: not a tokenizer ({reason(error)}); give a Hub id or a folder"
        ) from error
    # With nothing but a config.json, transformers makes up a tokenizer of special tokens.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise InputError(
            f"data.tokenizer={name}: has no tokenizer files; "
            "save the tokenizer in the encoder's folder"
        )
    if pad_token is not None:
        if pad_token not in tokenizer.get_vocab():
            raise InputError(
                f"data.pad_token={pad_token}: not in the vocabulary of {name}; name a token that is"
            )
        tokenizer.pad_token = pad_token
    if tokenizer.pad_token is None:
        candidate = tokenizer.eos_token or next(iter(tokenizer.all_special_tokens), "<pad>")
        raise InputError(
            f"data.tokenizer={name}: has no padding token, which batches need; set data.pad_token "
            f"to a token of its vocabulary, such as {candidate!r}, or use another encoder"
        )
    return tokenizer, add(tokenizer, add_tokens, add_special_tokens)


def dump_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, bytes]:
    """Return the tokenizer's files by name, with added tokens, to store in a checkpoint.

    Raises:
        JobError: The folder for temporary files is full, for example.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    except Exception as error:  # the tokenizers library raises no OSError when the disk is full
        raise _failed_write(error) from error


def restore_tokenizer(files: Mapping[str, bytes]) -> PreTrainedTokenizerBase:
    """Load the tokenizer from the files that `dump_tokenizer` returned; never run code among them.

    Raises:
        InputError: The files are not a tokenizer's.
        JobError: The folder for temporary files is full, for example.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / Path(name).name).write_bytes(content)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            tokenizer.pad(tokenizer(["a", "an unknown \u16a0"]))  # a damaged one fails here
            return tokenizer
    except Exception as error:  # a checkpoint may contain anything
        if isinstance(error, OSError) and error.errno in disk.ADVICE:
            raise _failed_write(error) from error
        raise InputError(f"ckpt_path: its tokenizer cannot be loaded ({reason(error)})") from error


def _failed_write(error: Exception) -> JobError:
    """Return the error for a temporary file that cannot be written."""
    return JobError(
        f"the tokenizer's temporary files: cannot be written ({reason(error)}); "
        "free some space, or set TMPDIR to another folder"
    )
