"""Windows of a long context, and the tokens of the gold answers in them."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from litpool import InputError
from litpool.tasks.answers import Gold

Span = tuple[int, int]  # its first character and the one after its last

NOWHERE = (0, 0)  # the characters of a token that cannot be part of an answer


def encode_windows(
    questions: Sequence[str],
    contexts: Sequence[str],
    golds: Sequence[list[Gold]] | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    doc_stride: int,
) -> dict[str, list[Any]]:
    """Return the columns that QuestionAnswering.encode describes; no labels without `golds`.

    The tokenizer must be a fast one. `doc_stride` tokens are shared with the previous window.
    """
    if not tokenizer.is_fast:
        raise InputError(
            f"{type(tokenizer).__name__} does not know the characters of its tokens; "
            "use a fast tokenizer"
        )
    questions = [text.strip() for text in questions]
    windows = []
    for overlap, numbers in rows_by_overlap(questions, tokenizer, max_length, doc_stride).items():
        encoded = tokenizer(
            [questions[number] for number in numbers],
            [contexts[number] for number in numbers],
            truncation="only_second",
            max_length=max_length,
            stride=overlap,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=False,
        )
        for number, place in enumerate(encoded["overflow_to_sample_mapping"]):
            row = numbers[place]
            window = window_columns(encoded, number, contexts[row]) | {"row": row}
            if golds is not None:
                window["labels"] = answer_positions(window["offsets"], contexts[row], golds[row])
            windows.append(window)
    windows.sort(key=lambda window: window["row"])
    if not windows:
        return {}
    return {name: [window[name] for window in windows] for name in windows[0]}


def rows_by_overlap(
    questions: Sequence[str], tokenizer: Any, max_length: int, doc_stride: int
) -> dict[int, list[int]]:
    """Return the numbers of the rows, grouped by how many tokens their windows share.

    They share at most half of the context in a window, so that every window moves on.
    """
    longest = max_length - tokenizer.num_special_tokens_to_add(pair=True) - 1
    encoded = tokenizer(questions, add_special_tokens=False, verbose=False)
    groups: dict[int, list[int]] = {}
    for number, ids in enumerate(encoded["input_ids"]):
        if len(ids) > longest:
            raise InputError(
                f"the question {questions[number][:60]!r}: its {len(ids)} tokens leave no room "
                f"for the context, must be {max(longest, 0)} or fewer; "
                "shorten it, or raise data.max_length"
            )
        overlap = min(doc_stride, (longest + 1 - len(ids)) // 2)
        groups.setdefault(overlap, []).append(number)
    return groups


def window_columns(encoded: Any, window: int, context: str) -> dict[str, Any]:
    """Return the columns of one window."""
    spans = zip(encoded["offset_mapping"][window], encoded.sequence_ids(window), strict=True)
    offsets = [trim(context, span) if text == 1 else NOWHERE for span, text in spans]
    names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
    return {
        **{name: encoded[name][window] for name in names},
        "special_tokens_mask": [int(end == 0) for _, end in offsets],
        "offsets": offsets,
    }


def trim(context: str, span: Span) -> Span:
    """Return the span without surrounding white space, which some tokenizers include."""
    start, end = span
    while start < end and context[start].isspace():
        start += 1
    while start < end and context[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else NOWHERE


def answer_positions(offsets: list[Span], context: str, golds: list[Gold]) -> list[int]:
    """Return the first and last token of the first gold answer; [CLS] twice if it is outside."""
    if not golds:
        return [0, 0]
    text, offset = golds[0]
    start, end = trim(context, (offset, offset + len(text)))
    spans = [span for span in offsets if span[1]]
    if not (spans and spans[0][0] <= start and end <= spans[-1][1]):
        return [0, 0]
    tokens = [token for token, span in enumerate(offsets) if span[1] > start and span[0] < end]
    return [tokens[0], tokens[-1]] if tokens else [0, 0]
