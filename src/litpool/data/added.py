"""Added tokens: adding them to the tokenizer, and finding texts that lack them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from litpool import InputError

if TYPE_CHECKING:
    from datasets import Dataset

# The ids of new tokens, each with the ids of the pieces that its text was split into before.
Pieces = dict[int, list[int]]


def add(tokenizer: PreTrainedTokenizerBase, plain: Sequence[str], special: Sequence[str]) -> Pieces:
    """Add tokens to the tokenizer, which no longer splits them, and warn about known ones.

    Returns:
        The new ids, each with its pieces; unknown tokens are left out of the pieces.

    Raises:
        InputError: A token is empty, is named twice, or is special and would become a plain one.
    """
    from lightning.pytorch.utilities import rank_zero_warn

    _check(tokenizer, plain, special)
    vocab = tokenizer.get_vocab()
    known = [token for token in plain if _is_one_token(tokenizer, token)]
    known += [token for token in special if token in tokenizer.all_special_tokens]
    if known:
        rank_zero_warn(
            "data.add_tokens, data.add_special_tokens: the tokenizer already has these tokens, "
            f"which are not added: {_listed(known)}"
        )
    plain = [token for token in plain if token not in known]
    special = [token for token in special if token not in known]
    pieces = {token: _pieces(tokenizer, token) for token in [*plain, *special]}
    tokenizer.add_tokens(plain)
    tokenizer.add_special_tokens(
        {"extra_special_tokens": special}, replace_extra_special_tokens=False
    )
    # Such as BERT's [unused1], which it would have split.
    listed = [token for token in pieces if token in vocab]
    if listed:
        rank_zero_warn(
            f"the vocabulary already has {_listed(listed)}: no longer split, "
            "and used with its existing embedding"
        )
    ids = tokenizer.get_added_vocab()
    return {ids[token]: pieces[token] for token in pieces if token not in vocab}


def _check(
    tokenizer: PreTrainedTokenizerBase, plain: Sequence[str], special: Sequence[str]
) -> None:
    for option, tokens in (("data.add_tokens", plain), ("data.add_special_tokens", special)):
        for token in tokens:
            if not token.strip():
                raise InputError(
                    f"{option}={list(tokens)}: a token is empty or only spaces; leave it out"
                )
            if token != token.strip():
                raise InputError(
                    f"{option}: {token!r} begins or ends with a space; use {token.strip()!r}"
                )
            if tokens.count(token) > 1:
                raise InputError(f"{option}: {token!r} is named twice; name it once")
    first: dict[str, str] = {}
    for token in plain:
        form = _normalize(tokenizer, token)
        if form in first:
            raise InputError(
                f"data.add_tokens: the tokenizer reads both {first[form]!r} and {token!r} as "
                f"{form!r}; name one of them"
            )
        first[form] = token
        if token in special:
            raise InputError(
                f"data.add_tokens and data.add_special_tokens both name {token!r}; "
                "remove it from one of them"
            )
        if token in tokenizer.all_special_tokens:
            raise InputError(
                f"data.add_tokens: {token!r} is a special token already and would become "
                "a plain one; leave it out"
            )


def _normalize(tokenizer: PreTrainedTokenizerBase, token: str) -> str:
    """Return the form in which the tokenizer looks for a token in texts, such as lower case."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    return normalizer.normalize_str(token) if normalizer else token


def _is_one_token(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    return len(tokenizer.tokenize(token)) == 1 and len(_pieces(tokenizer, token)) == 1


def _pieces(tokenizer: PreTrainedTokenizerBase, token: str) -> list[int]:
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    return [piece for piece in ids if piece != tokenizer.unk_token_id]


def _listed(tokens: Sequence[str]) -> str:
    return ", ".join(map(repr, tokens))


def mark(encoded: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase) -> None:
    """Set special_tokens_mask to 1 at added special tokens, where a fast tokenizer leaves 0."""
    added_vocab = tokenizer.get_added_vocab()
    ids = {added_vocab[token] for token in tokenizer.extra_special_tokens}
    if ids and "special_tokens_mask" in encoded:
        mask = _marked(encoded["special_tokens_mask"], encoded["input_ids"], ids)
        encoded["special_tokens_mask"] = mask


def _marked(mask: list[Any], tokens: list[Any], ids: set[int]) -> list[Any]:
    if tokens and isinstance(tokens[0], list):  # of rows, or of several texts in a row
        return [_marked(*row, ids) for row in zip(mask, tokens, strict=True)]
    return [int(bit or token in ids) for bit, token in zip(mask, tokens, strict=True)]


def warn_unused(encoded: "Dataset", tokens: Mapping[str, int]) -> None:
    """Warn about tokens, given with their ids, that never occur in the texts."""
    from lightning.pytorch.utilities import rank_zero_warn

    unused = dict(tokens)
    for ids, _ in _batches(encoded) if tokens else ():
        unused = {token: number for token, number in unused.items() if number not in ids}
    if unused:
        rank_zero_warn(
            "added tokens that never occur in the train split, so their embeddings are not "
            f"trained: {_listed([*unused])}"
        )


def require(
    tokens: Mapping[str, int],
    encoded: Mapping[str, "Dataset"],
    rows: Mapping[str, "Dataset"],
    columns: Sequence[str],
) -> None:
    """Refuse texts that lack one of the tokens.

    Raises:
        InputError: A text lacks a token; the message names the split, the row and the text.
    """
    for split, dataset in encoded.items():
        for token, number in tokens.items():
            position = _first_without(dataset, number)
            if position is None:
                continue
            ids = dataset[0]["input_ids"]
            if isinstance(ids[0], list):  # each column is a text of its own
                row, part = divmod(position, len(ids))
                names = [columns[part]]
            else:
                row = position
                names = list(columns)
            index = dataset[row]["index"]
            text = " ".join(rows[split][index][name] for name in names)
            where = f"the {split} split, row {index + 1}"
            raise no_marker(where, token, text)


def no_marker(where: str, token: str, text: str) -> InputError:
    """Return the error for a text whose ids lack a marker: it was cut off, or was never there."""
    if token in text:
        return InputError(
            f"{where}: {token!r} is cut off from the text {text[:80]!r}; "
            "shorten the text, or raise data.max_length"
        )
    return InputError(f"{where}: no {token!r} in the text {text[:80]!r}; mark every text")


def _first_without(encoded: "Dataset", number: int) -> int | None:
    """Return the position, among all texts of all rows, of the first that lacks a token id."""
    count = 0
    for ids, starts in _batches(encoded):
        has_token = np.logical_or.reduceat(ids == number, starts)
        if not has_token.all():
            return count + int(has_token.argmin())
        count += len(starts)
    return None


def _batches(encoded: "Dataset") -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield, per batch of rows, the token ids of all texts and the position where each begins."""
    for batch in encoded.select_columns(["input_ids"]).with_format("arrow").iter(10_000):
        texts = batch.column("input_ids").combine_chunks()
        while pa.types.is_nested(texts.type.value_type):
            texts = texts.flatten()  # rows of several texts
        lengths = texts.value_lengths().to_numpy(zero_copy_only=False)
        yield texts.flatten().to_numpy(zero_copy_only=False), np.cumsum(lengths) - lengths
