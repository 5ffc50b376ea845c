"""The tokenizer: its own tokens and added ones, to and from files."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from litpool import InputError
from litpool.data.added import Pieces, add
from litpool.demo.encoder import locate


def load_tokenizer(
    name: str,
    add_tokens: Sequence[str],
    add_special_tokens: Sequence[str],
    pad_token: str | None = None,
) -> PreTrainedTokenizerBase:
    """The tokenizer of an encoder with the added tokens.

    Args:
        name: The encoder's Hub id or folder.
        add_tokens: Plain tokens to add; a tokenizer leaves them whole.
        add_special_tokens: Special tokens to add, such as entity markers.
        pad_token: The token to pad with, for a tokenizer that names none.

    Raises:
        InputError: No such tokenizer, one without a vocabulary, one that cannot pad, or tokens that cannot be added.
    """
    return grown_tokenizer(name, add_tokens, add_special_tokens, pad_token)[0]


def grown_tokenizer(
    name: str,
    add_tokens: Sequence[str],
    add_special_tokens: Sequence[str],
    pad_token: str | None = None,
) -> tuple[PreTrainedTokenizerBase, Pieces]:
    """What `load_tokenizer` gives, and the new ids with the pieces that their tokens were split into before."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(locate(name), trust_remote_code=False)
    except (OSError, ValueError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"data.tokenizer={name}: no tokenizer there ({reason})") from error
    if set(tokenizer.get_vocab()) <= set(
        tokenizer.all_special_tokens
    ):  # transformers makes one up from a config.json
        raise InputError(
            f"data.tokenizer={name}: no tokenizer files there; save the tokenizer beside the encoder"
        )
    if pad_token is not None:
        if pad_token not in tokenizer.get_vocab():
            raise InputError(
                f"data.pad_token={pad_token}: no token of {name}; name one that it has"
            )
        tokenizer.pad_token = pad_token
    if tokenizer.pad_token is None:
        some = tokenizer.eos_token or next(iter(tokenizer.all_special_tokens), "<pad>")
        raise InputError(
            f"data.tokenizer={name}: it has no padding token, which batches need; set data.pad_token to a token that "
            f"it has, such as {some!r}, or take another encoder"
        )
    return tokenizer, add(tokenizer, add_tokens, add_special_tokens)


def dump_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, bytes]:
    """The tokenizer's files by name, with added tokens, to be kept in a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def restore_tokenizer(files: Mapping[str, bytes]) -> PreTrainedTokenizerBase:
    """The tokenizer whose files `dump_tokenizer` gave; code among them never runs.

    Raises:
        InputError: They are no tokenizer's files.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name, content in files.items():
                (Path(folder) / Path(name).name).write_bytes(content)
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # a checkpoint may hold anything
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"ckpt_path: its tokenizer cannot be loaded ({reason})") from error
