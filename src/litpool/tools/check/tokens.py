"""What a look at the texts and the tokenizer finds: unknown and split words by script, lengths, what is cut off.

Words are counted in full and the most common ones all judged; of rare ones a sample stands for the rest. Nothing here
asks about the model, nor prints.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np
import regex
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from litpool.data.module import TextDataModule
from litpool.tasks.task import Task

Status = Literal["ok", "warning", "error"]

WORD = regex.compile(
    r"\p{L}[\p{L}\p{M}]+"
)  # two letters or more: a single one is a single character anyway
SAMPLE = 2_000  # texts looked at when a training starts; more do not change the shares
BATCH = 10_000  # words tokenized at once
COMMON, RARE = (
    30_000,
    20_000,
)  # distinct words judged: so many of the most common, and a sample of about so many others
UNCUT = 1_000_000  # tokens: longer than any text
BARS = " ▁▂▃▄▅▆▇█"

LOST = 0.5  # share of a script's words: the tokenizers of a language split a fifth or less to characters
PART = 0.1  # share of all words that a script must have to be warned of: quotations and names are no fault
SHOWN = 0.01  # share of all words from which a script has a line of its own
FERTILE = 2.5  # times the reference: mBERT, which knows a hundred languages a little, stays below 2
ENOUGH = 100  # words: the tokens of fewer tell of these words, not of the language
UNSPACED = 1.5  # tokens a character where there are no spaces: a character a token is usual there, its bytes are not
UNKNOWN = (
    0.01  # share of the tokens: rare characters stay far below, a foreign alphabet is far above
)
CUT = 0.1  # share of the texts: fewer are the long tail that every data set has
LOST_TOKENS = 0.1  # share of the tokens: so much gone is content, whatever the number of texts

REFERENCE = {  # tokens a word and a character of a tokenizer that was trained on the language: rough, for orientation
    "Latin": (1.4, 0.26),
    "Cyrillic": (1.8, 0.30),
    "Greek": (1.8, 0.32),
    "Arabic": (1.8, 0.36),
    "Hebrew": (1.8, 0.40),
    "Devanagari": (1.8, 0.38),
    "Hangul": (2.2, 0.65),
    "Han": (None, 0.85),  # no spaces, so a run of characters is no word
    "Kana": (None, 0.70),
    "Thai": (None, 0.35),
}
NAMES = {"Cjk": "Han", "Hiragana": "Kana", "Katakana": "Kana"}  # Unicode's to ours
WITHOUT_SPACES = ("Han", "Kana", "Thai", "Lao", "Khmer", "Myanmar")


@dataclass(frozen=True)
class Finding:
    """A line of the table: what was looked at, whether it is as it should be, the figures, and what to do."""

    name: str
    status: Status
    message: str
    advice: str = ""  # one sentence; none where all is well
    figures: dict[str, Any] = field(default_factory=dict)


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word of two letters or more occurs."""
    return Counter(WORD.findall("\n".join(texts)))


@cache
def script_of(letter: str) -> str:
    """The script of a letter: Latin, Hangul, Han, Kana, ..."""
    name = unicodedata.name(letter, "other").split()[0].title()
    return NAMES.get(name, name)


@dataclass
class Script:
    """What became of the words of a script; all are counts of running words, tokens and characters."""

    words: int = 0
    lost: int = 0  # words with an unknown token, or split into single characters or less
    tokens: int = 0
    characters: int = 0
    worst: list[str] = field(default_factory=list)  # the most common lost words with their pieces


def measure_scripts(tokenizer: PreTrainedTokenizerBase, words: Counter[str]) -> dict[str, Script]:
    """Tokenize each word by itself, as it stands after a space, and sum up by script, most words first."""
    chosen = _sample(words)
    bare = {
        number for token, number in tokenizer.get_vocab().items() if token in ("▁", "Ġ")
    }  # a space, no piece
    found: dict[str, Script] = {}
    for (word, count), ids in zip(
        chosen, _tokenize(tokenizer, [word for word, _ in chosen]), strict=True
    ):
        pieces = [number for number in ids if number not in bare]
        name = script_of(word[0])
        script = found.setdefault(name, Script())
        script.words += count
        script.tokens += count * len(pieces)
        script.characters += count * len(word)
        if _is_lost(pieces, word, name, tokenizer.unk_token_id):
            script.lost += count
            if len(script.worst) < 5:
                script.worst.append(
                    f"{word} = {' '.join(tokenizer.convert_ids_to_tokens(pieces))[:60]}"
                )
    return dict(sorted(found.items(), key=lambda item: -item[1].words))


def _sample(words: Counter[str]) -> list[tuple[str, int]]:
    """The words to judge, the most common first; a rare one stands for its like, and has their count."""
    ranked = words.most_common()
    step = max(1, -(-(len(ranked) - COMMON) // RARE))
    return ranked[:COMMON] + [(word, count * step) for word, count in ranked[COMMON::step]]


def _tokenize(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> Iterator[list[int]]:
    for start in range(0, len(words), BATCH):
        batch = [f" {word}" for word in words[start : start + BATCH]]
        yield from tokenizer(
            batch, add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]


def _is_lost(pieces: Sequence[int], word: str, script: str, unknown: int | None) -> bool:
    """Whether nothing of the word is left but characters, bytes or unknown tokens."""
    if unknown in pieces:
        return True
    return (
        len(pieces) > UNSPACED * len(word) if script in WITHOUT_SPACES else len(pieces) >= len(word)
    )


def check_scripts(scripts: dict[str, Script]) -> list[Finding]:
    """A line for each script; the rare ones are left out."""
    total = sum(script.words for script in scripts.values())
    lines = [
        _check_script(name, script, total)
        for name, script in scripts.items()
        if script.words >= SHOWN * total
    ]
    return lines or [Finding("words", "ok", "no words of two letters or more")]


def _check_script(name: str, script: Script, total: int) -> Finding:
    lost, share = script.lost / script.words, script.words / total
    a_word, a_character = script.tokens / script.words, script.tokens / script.characters
    usual_word, usual = REFERENCE.get(name, (None, None))
    per_word = f" (usual: {usual_word:.2f})" if usual_word else ""
    message = f"{share:.0%} of the words; {lost:.1%} split into single characters or unknown"
    message += f"; {a_word:.2f} tokens a word"
    message += f"{per_word}, {a_character:.2f} a character" + (
        f" (usual: {usual:.2f})" if usual else ""
    )
    message += "".join(f"\n{example}" for example in script.worst if lost > LOST)
    advice = ""
    if share > PART and lost > LOST:
        advice = (
            f"this tokenizer does not know the language: it splits {lost:.0%} of the {name} words into single "
            "characters or unknown tokens; take an encoder that was trained on this language"
        )
    elif share > PART and script.words >= ENOUGH and usual and a_character > FERTILE * usual:
        advice = (
            f"this tokenizer hardly knows the language: it needs {a_character / usual:.1f} times the usual tokens for "
            f"the {name} words; take an encoder that was trained on this language"
        )
    figures = {
        "words": script.words, "share_of_words": share, "lost": lost, "tokens_per_word": a_word,
        "tokens_per_character": a_character, "usual_tokens_per_word": usual_word,
        "usual_tokens_per_character": usual, "worst": script.worst,
    }  # fmt: skip
    return Finding(f"script {name}", "warning" if advice else "ok", message, advice, figures)


def warn(data: TextDataModule) -> None:
    """Warn, before a training or a scoring, of each script in the train split that the tokenizer does not know."""
    if "train" in data.rows:
        sample = data.rows["train"].select(range(min(SAMPLE, len(data.rows["train"]))))
        for message in language_warnings(
            data.tokenizer, (text for name in data.task.texts for text in sample[name])
        ):
            rank_zero_warn(message)


def language_warnings(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[str]:
    """What must be known before a training starts: a sentence for each script that the tokenizer does not know."""
    return [
        line.advice
        for line in check_scripts(measure_scripts(tokenizer, count_words(texts)))
        if line.status != "ok"
    ]


@dataclass
class Tokens:
    """Token counts of texts that are not cut."""

    lengths: NDArray[np.int64]  # (N,) tokens of each text, special ones included
    counts: NDArray[np.int64]  # (V,) how often each id occurs
    bare: int = 0  # texts of which nothing but special tokens is left


def count_tokens(
    task: Task, tokenizer: PreTrainedTokenizerBase, rows: dict[str, list[Any]]
) -> Tokens:
    """Tokenize rows, given by columns, as the task does, but whole; texts that the task reads as one count as one."""
    encoded = task.encode(rows, tokenizer, UNCUT)
    ids, masks = ([*_flat(encoded[key])] for key in ("input_ids", "special_tokens_mask"))
    lengths = np.array([len(text) for text in ids], dtype=np.int64)
    joined = np.fromiter(
        (number for text in ids for number in text), dtype=np.int64, count=int(lengths.sum())
    )
    return Tokens(
        lengths, np.bincount(joined, minlength=len(tokenizer)), sum(all(mask) for mask in masks)
    )


def _flat(rows: list[Any]) -> Iterator[list[int]]:
    """The texts of all rows, where a row may hold several."""
    for row in rows:
        if row and isinstance(row[0], list):
            yield from row
        else:
            yield row


def merge(parts: Sequence[Tokens]) -> Tokens:
    """The counts of all parts together."""
    size = max(len(part.counts) for part in parts)
    lengths = np.concatenate([part.lengths for part in parts])
    counts = np.sum([np.pad(part.counts, (0, size - len(part.counts))) for part in parts], axis=0)
    return Tokens(lengths, counts, sum(part.bare for part in parts))


def check_unknown(tokens: Tokens, tokenizer: PreTrainedTokenizerBase) -> Finding:
    """The share of unknown tokens."""
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return Finding(
            "unknown tokens",
            "ok",
            "this tokenizer has none; see the tokens a character",
            "",
            {"share": 0.0},
        )
    share = int(tokens.counts[unknown]) / max(1, int(tokens.counts.sum()))
    message = f"{share:.2%} of the tokens are {tokenizer.unk_token}"
    advice = "what is unknown is the same to the encoder, whatever it was; take an encoder that knows these characters"
    return Finding(
        "unknown tokens",
        "warning" if share > UNKNOWN else "ok",
        message,
        advice * (share > UNKNOWN),
        {"share": share},
    )


def check_lengths(tokens: Tokens, max_length: int, windows: bool) -> list[Finding]:
    """The lengths as a histogram, and what `max_length` cuts off; nothing where long texts are read in windows."""
    lengths, most = tokens.lengths, int(tokens.lengths.max())
    median, high = (int(value) for value in np.percentile(lengths, [50, 95]))
    heights, edges = np.histogram(lengths, bins=min(20, most), range=(0, most))
    bars = "".join(BARS[-(-int(height) * 8 // int(heights.max()))] for height in heights)
    message = f"0 |{bars}| {most}; median {median}, 95% have {high} or fewer"
    figures = {
        "median": median,
        "p95": high,
        "longest": most,
        "bins": edges.tolist(),
        "texts": heights.tolist(),
    }
    lines = [Finding("tokens a text", "ok", message, "", figures)]
    if windows:
        return [
            *lines,
            Finding(
                "cut off",
                "ok",
                f"longer than {max_length} are read in windows, and nothing is lost",
            ),
        ]
    cut = float((lengths > max_length).mean())
    lost = int(np.maximum(lengths - max_length, 0).sum()) / max(1, int(lengths.sum()))
    bad = cut > CUT and lost > LOST_TOKENS
    message = f"{cut:.1%} of {len(lengths):,} texts are longer than {max_length} tokens"
    message += f"; {lost:.1%} of the tokens are lost"
    advice = f"raise data.max_length (95% of the texts have {high} tokens or fewer), or put what counts first"
    status: Status = "warning" if bad else "ok"
    return [
        *lines,
        Finding("cut off", status, message, advice * bad, {"texts": cut, "tokens": lost}),
    ]
