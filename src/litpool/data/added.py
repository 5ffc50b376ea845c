"""Added tokens: how the tokenizer takes them up, what stood in their place before, and whether the texts have them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from litpool import InputError

if TYPE_CHECKING:  # slow to import, and not needed until there are rows
    from datasets import Dataset

Pieces = dict[
    int, list[int]
]  # by the id of a new token: the ids of its pieces in the tokenizer as it was


def add(tokenizer: PreTrainedTokenizerBase, plain: Sequence[str], special: Sequence[str]) -> Pieces:
    """Add tokens to the tokenizer, and warn of those that it already has.

    Args:
        tokenizer: Takes them up; it leaves them whole from now on.
        plain: Tokens like other words.
        special: Tokens that are no words, such as entity markers.

    Returns:
        The ids that are new, each with its pieces: what its text was split into before, unknown tokens left out.

    Raises:
        InputError: A token is empty, is named twice, or is special and would become a plain one.
    """
    _check(tokenizer, plain, special)
    before = tokenizer.get_vocab()
    known = [token for token in plain if _is_whole(tokenizer, token)]
    known += [token for token in special if token in tokenizer.all_special_tokens]
    if known:
        rank_zero_warn(
            f"data.add_tokens, data.add_special_tokens: {_named(known)}: one token already, not added"
        )
    new = [token for token in (*plain, *special) if token not in known]
    pieces = {token: _pieces(tokenizer, token) for token in new}
    tokenizer.add_tokens([token for token in plain if token in new])
    marks = [token for token in special if token in new]
    tokenizer.add_special_tokens(
        {"extra_special_tokens": marks}, replace_extra_special_tokens=False
    )
    if listed := [
        token for token in new if token in before
    ]:  # such as BERT's [unused1], which it would have split
        rank_zero_warn(
            f"the vocabulary has {_named(listed)}: left whole from now on, with the embedding that it has"
        )
    ids = tokenizer.get_added_vocab()
    return {ids[token]: pieces[token] for token in new if token not in before}


def _check(
    tokenizer: PreTrainedTokenizerBase, plain: Sequence[str], special: Sequence[str]
) -> None:
    for name, tokens in (("add_tokens", plain), ("add_special_tokens", special)):
        if any(not token.strip() for token in tokens):
            raise InputError(
                f"data.{name}={list(tokens)}: a token is empty or only spaces; leave it out"
            )
        if spaced := [token for token in tokens if token != token.strip()]:
            raise InputError(
                f"data.{name}: {spaced[0]!r} has spaces at its ends; give {spaced[0].strip()!r}"
            )
        if twice := [token for token in tokens if tokens.count(token) > 1]:
            raise InputError(f"data.{name}: {twice[0]!r} is named twice; once is enough")
    alike = Counter(read := [_as_read(tokenizer, token) for token in plain])
    if same := [token for token, form in zip(plain, read, strict=True) if alike[form] > 1]:
        told = f"{_named(same)}: the tokenizer reads {_as_read(tokenizer, same[0])!r} for each"
        raise InputError(f"data.add_tokens: {told}; name one of them")
    if both := [token for token in plain if token in special]:
        raise InputError(
            f"data.add_tokens and data.add_special_tokens both name {both[0]!r}; leave it in one of them"
        )
    if lost := [token for token in plain if token in tokenizer.all_special_tokens]:
        raise InputError(
            f"data.add_tokens: {lost[0]!r} is a special token already and would become a plain one; leave it out"
        )


def _as_read(tokenizer: PreTrainedTokenizerBase, token: str) -> str:
    """The token as the tokenizer finds it in texts, such as in lower case."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return (
        backend.normalizer.normalize_str(token)
        if backend is not None and backend.normalizer
        else token
    )


def _is_whole(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    return len(tokenizer.tokenize(token)) == 1 and len(_pieces(tokenizer, token)) == 1


def _pieces(tokenizer: PreTrainedTokenizerBase, token: str) -> list[int]:
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    return [piece for piece in ids if piece != tokenizer.unk_token_id]


def _named(tokens: Sequence[str]) -> str:
    return ", ".join(map(repr, tokens))


def mark(encoded: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase) -> None:
    """Set special_tokens_mask to 1 at added special tokens, where a fast tokenizer leaves 0."""
    added = tokenizer.get_added_vocab()
    ids = {added[token] for token in tokenizer.extra_special_tokens}
    if ids and "special_tokens_mask" in encoded:
        masks = zip(encoded["special_tokens_mask"], encoded["input_ids"], strict=True)
        encoded["special_tokens_mask"] = [_marked(mask, row, ids) for mask, row in masks]


def _marked(mask: list[Any], row: list[Any], ids: set[int]) -> list[Any]:
    if row and isinstance(row[0], list):  # several texts in a row
        return [_marked(*text, ids) for text in zip(mask, row, strict=True)]
    return [int(bit or token in ids) for bit, token in zip(mask, row, strict=True)]


def warn_unused(encoded: "Dataset", tokens: Mapping[str, int]) -> None:
    """Warn of added tokens (with their ids) that never occur in the texts, and so will not be trained."""
    left = dict(tokens)
    for flat, _ in _texts(encoded) if left else ():
        left = {token: number for token, number in left.items() if not (flat == number).any()}
    if left:
        rank_zero_warn(
            f"added tokens that never occur in the train split, so they learn nothing: {_named([*left])}"
        )


def require(
    tokens: Mapping[str, int],
    encoded: Mapping[str, "Dataset"],
    rows: Mapping[str, "Dataset"],
    columns: Sequence[str],
) -> None:
    """Refuse texts that lack one of `tokens` (with their ids).

    Raises:
        InputError: It names the split, the row and the text.
    """
    for split, dataset in encoded.items():
        for token, number in tokens.items():
            if (text := _first_without(dataset, number)) is not None:
                first = dataset[0]["input_ids"]
                several = isinstance(first[0], list)  # else two columns are read as one text
                row, part = divmod(text, len(first) if several else 1)
                index = dataset[row]["index"]
                whole = " ".join(
                    rows[split][index][name]
                    for name in (columns[part:][:1] if several else columns)
                )
                cut = token in whole
                told = f"{token!r} is cut off from the text" if cut else f"no {token!r} in the text"
                advice = "raise data.max_length" if cut else "mark every text"
                raise InputError(
                    f"the {split} split, row {index + 1}: {told} {whole[:80]!r}; {advice}"
                )


def _first_without(encoded: "Dataset", number: int) -> int | None:
    """The first text that lacks the token of this id, texts counted over all rows; None if each of them has it."""
    done = 0
    for flat, starts in _texts(encoded):
        has = np.logical_or.reduceat(flat == number, starts)
        if not has.all():
            return done + int(has.argmin())
        done += len(starts)
    return None


def _texts(encoded: "Dataset") -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Batch by batch the token ids of all texts in a row, and where each text begins."""
    for batch in encoded.select_columns(["input_ids"]).with_format("arrow").iter(10_000):
        texts = batch.column("input_ids").combine_chunks()
        while pa.types.is_nested(texts.type.value_type):
            texts = texts.flatten()  # rows of several texts
        lengths = texts.value_lengths().to_numpy(zero_copy_only=False)
        yield texts.flatten().to_numpy(zero_copy_only=False), np.cumsum(lengths) - lengths
