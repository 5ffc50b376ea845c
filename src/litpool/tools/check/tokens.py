"""Checks of the tokenized texts: words that the tokenizer does not know, lengths, truncation.

All words are counted. The most common ones are all tokenized, and a sample of the rare ones.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import regex
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from litpool.data.module import TextDataModule
from litpool.data.prefix import encode_with_prefixes
from litpool.tasks.task import Task
from litpool.tools.check.finding import Finding, problem_if

# Two letters or more: a word of one letter is a single character anyway.
WORD = regex.compile(r"\p{L}[\p{L}\p{M}]+")
SAMPLE = 2_000  # texts to look at when training starts; more do not change the shares
COMMON = 30_000  # distinct words to tokenize, the most common ones
RARE = 20_000  # about how many of the other words to tokenize
UNCUT = 1_000_000  # tokens; longer than any text
BARS = " ▁▂▃▄▅▆▇█"

# Share of a script's words. Tokenizers split at most a fifth of the words of a language that they
# know into characters.
LOST = 0.5
PART = 0.1  # share of all words that a script needs for a warning: quotations and names are fine
SHOWN = 0.01  # share of all words that a script needs for a line of its own
FERTILE = 2.5  # times the reference: mBERT, which knows many languages a little, stays below 2
ENOUGH = 100  # words; the tokens of fewer say nothing about the language
# Tokens per character in scripts without spaces. A token per character is usual there; a token
# per byte is not.
UNSPACED = 1.5
# Share of the tokens. Rare characters stay far below it, and a foreign alphabet is far above.
UNKNOWN = 0.01
CUT = 0.1  # share of the texts; every data set has a few long ones
LOST_TOKENS = 0.1  # share of the tokens; to lose more is to lose content

# Tokens per word and per character of a tokenizer that was trained on the language: rough values.
REFERENCE = {
    "Latin": (1.4, 0.26),
    "Cyrillic": (1.8, 0.30),
    "Greek": (1.8, 0.32),
    "Arabic": (1.8, 0.36),
    "Hebrew": (1.8, 0.40),
    "Devanagari": (1.8, 0.38),
    "Hangul": (2.2, 0.65),
    "Han": (None, 0.85),  # no spaces, so a run of characters is not a word
    "Kana": (None, 0.70),
    "Thai": (None, 0.35),
}
NAMES = {"Cjk": "Han", "Hiragana": "Kana", "Katakana": "Kana"}  # from Unicode's names to ours
WITHOUT_SPACES = ("Han", "Kana", "Thai", "Lao", "Khmer", "Myanmar")


# ---- words and scripts


def count_words(texts: Iterable[str]) -> Counter[str]:
    """Count how often each word of two letters or more occurs."""
    return Counter(WORD.findall("\n".join(texts)))


@cache
def script_of(letter: str) -> str:
    """Return the script of a letter: Latin, Hangul, Han, Kana, ..."""
    name = unicodedata.name(letter, "other").split()[0].title()
    return NAMES.get(name, name)


@dataclass
class Script:
    """What the tokenizer makes of a script's words, each counted as often as it occurs."""

    words: int = 0
    lost: int = 0  # words with an unknown token, or split into single characters or less
    tokens: int = 0
    characters: int = 0
    worst: list[str] = field(default_factory=list)  # the most common lost words, with their pieces


def measure_scripts(tokenizer: PreTrainedTokenizerBase, words: Counter[str]) -> dict[str, Script]:
    """Tokenize each word alone, as after a space, and add up by script, largest script first."""
    sample = _sample(words)
    if not sample:
        return {}
    encoded = tokenizer(
        [f" {word}" for word, _ in sample],
        add_special_tokens=False,
        return_attention_mask=False,
        verbose=False,
    )
    vocab = tokenizer.get_vocab()
    spaces = {vocab[token] for token in ("▁", "Ġ") if token in vocab}  # not pieces of the word
    scripts: dict[str, Script] = {}
    for (word, count), ids in zip(sample, encoded["input_ids"], strict=True):
        pieces = [number for number in ids if number not in spaces]
        name = script_of(word[0])
        script = scripts.setdefault(name, Script())
        script.words += count
        script.tokens += count * len(pieces)
        script.characters += count * len(word)
        if _is_lost(pieces, word, name, tokenizer.unk_token_id):
            script.lost += count
            if len(script.worst) < 5:
                spelling = " ".join(tokenizer.convert_ids_to_tokens(pieces))[:60]
                script.worst.append(f"{word} = {spelling}")
    return dict(sorted(scripts.items(), key=lambda item: -item[1].words))


def _sample(words: Counter[str]) -> list[tuple[str, int]]:
    """Return the words to tokenize, most common first, with their counts.

    A rare word represents its neighbors, so its count is multiplied.
    """
    ranked = words.most_common()
    step = max(1, -(-(len(ranked) - COMMON) // RARE))
    return ranked[:COMMON] + [(word, count * step) for word, count in ranked[COMMON::step]]


def _is_lost(pieces: Sequence[int], word: str, script: str, unknown: int | None) -> bool:
    """Whether the word has become single characters, bytes or unknown tokens."""
    if unknown in pieces:
        return True
    if script in WITHOUT_SPACES:
        return len(pieces) > UNSPACED * len(word)
    return len(pieces) >= len(word)


def check_scripts(scripts: dict[str, Script]) -> list[Finding]:
    """Check whether the tokenizer knows each script's words; rare scripts are left out."""
    total = sum(script.words for script in scripts.values())
    findings = [
        _check_script(name, script, total)
        for name, script in scripts.items()
        if script.words >= SHOWN * total
    ]
    return findings or [Finding("words", "ok", "no word has two letters or more")]


def _check_script(name: str, script: Script, total: int) -> Finding:
    lost, share = script.lost / script.words, script.words / total
    per_word, per_character = script.tokens / script.words, script.tokens / script.characters
    usual_per_word, usual = REFERENCE.get(name, (None, None))
    message = f"{share:.0%} of the words; {lost:.1%} split into characters or unknown tokens"
    message += f"; {per_word:.2f} tokens per word"
    if usual_per_word:
        message += f" (usual: {usual_per_word:.2f})"
    message += f", {per_character:.2f} per character"
    if usual:
        message += f" (usual: {usual:.2f})"
    advice = ""
    if lost > LOST:
        message += "".join(f"\n{example}" for example in script.worst)
    if share > PART and lost > LOST:
        advice = (
            f"this tokenizer does not know the language: it splits {lost:.0%} of the {name} words "
            "into single characters or unknown tokens; use an encoder trained on this language"
        )
    elif share > PART and script.words >= ENOUGH and usual and per_character > FERTILE * usual:
        advice = (
            "this tokenizer hardly knows the language: it needs "
            f"{per_character / usual:.1f} times the usual number of tokens for the {name} words; "
            "use an encoder trained on this language"
        )
    figures = {
        "words": script.words,
        "share_of_words": share,
        "lost": lost,
        "tokens_per_word": per_word,
        "tokens_per_character": per_character,
        "usual_tokens_per_word": usual_per_word,
        "usual_tokens_per_character": usual,
        "worst": script.worst,
    }
    return problem_if(bool(advice), f"script {name}", message, advice, figures)


def warn(data: TextDataModule) -> None:
    """Warn about each script in the train split that the tokenizer does not know."""
    if "train" not in data.rows:
        return
    rows = data.rows["train"]
    sample = rows.select(range(min(SAMPLE, len(rows))))
    texts = chain.from_iterable(sample[column] for column in data.task.texts)
    for message in language_warnings(data.tokenizer, texts):
        rank_zero_warn(message)


def language_warnings(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[str]:
    """Return a sentence for each script that the tokenizer does not know."""
    findings = check_scripts(measure_scripts(tokenizer, count_words(texts)))
    return [finding.advice for finding in findings if finding.status != "ok"]


# ---- tokens


@dataclass
class Tokens:
    """Token counts of texts that are not truncated."""

    lengths: NDArray[np.int64]  # (N,) tokens of each text, special ones included
    counts: NDArray[np.int64]  # (V,) how often each id occurs
    empty: int = 0  # texts with special tokens only


def count_tokens(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    rows: dict[str, list[Any]],
    prefixes: Mapping[str, str],
) -> Tokens:
    """Tokenize rows as the task does, with the prefixes of its columns, but without truncation.

    Texts that the task joins into one input count as one text.
    """
    encoded = encode_with_prefixes(task, rows, tokenizer, UNCUT, prefixes)
    ids, masks = list(_flat(encoded["input_ids"])), _flat(encoded["special_tokens_mask"])
    lengths = np.array([len(text) for text in ids], dtype=np.int64)
    flat = np.fromiter(chain.from_iterable(ids), dtype=np.int64)
    counts = np.bincount(flat, minlength=len(tokenizer))
    return Tokens(lengths, counts, sum(all(mask) for mask in masks))


def _flat(rows: list[Any]) -> Iterator[list[int]]:
    """Yield the texts of all rows, where a row is a text or a list of texts."""
    for row in rows:
        if row and isinstance(row[0], list):
            yield from row
        else:
            yield row


def merge(parts: Sequence[Tokens]) -> Tokens:
    """Add up the counts of all parts."""
    size = max(len(part.counts) for part in parts)
    lengths = np.concatenate([part.lengths for part in parts])
    counts = np.sum([np.pad(part.counts, (0, size - len(part.counts))) for part in parts], axis=0)
    return Tokens(lengths, counts, sum(part.empty for part in parts))


def check_unknown(tokens: Tokens, tokenizer: PreTrainedTokenizerBase) -> Finding:
    """Check the share of unknown tokens."""
    unknown = tokenizer.unk_token_id
    if unknown is None:
        message = "this tokenizer has no unknown token; see its tokens per character"
        return Finding("unknown tokens", "ok", message, "", {"share": 0.0})
    share = int(tokens.counts[unknown]) / max(1, int(tokens.counts.sum()))
    message = f"{share:.2%} of the tokens are {tokenizer.unk_token}"
    advice = (
        "the encoder cannot tell unknown tokens apart; use an encoder that knows these characters"
    )
    return problem_if(share > UNKNOWN, "unknown tokens", message, advice, {"share": share})


def check_lengths(tokens: Tokens, max_length: int, windows: bool) -> list[Finding]:
    """Draw the lengths as a histogram, and check what `max_length` cuts off.

    Args:
        tokens: The lengths.
        max_length: The longest input in tokens.
        windows: Whether the task reads a longer text in several windows.
    """
    lengths, longest = tokens.lengths, int(tokens.lengths.max())
    median, high = (int(value) for value in np.percentile(lengths, [50, 95]))
    heights, edges = np.histogram(lengths, bins=min(20, longest), range=(0, longest))
    bars = "".join(BARS[-(-int(height) * 8 // int(heights.max()))] for height in heights)
    message = f"0 |{bars}| {longest}; median {median}, 95% of the texts have {high} or fewer"
    figures = {
        "median": median,
        "p95": high,
        "longest": longest,
        "bins": edges.tolist(),
        "texts": heights.tolist(),
    }
    histogram = Finding("tokens a text", "ok", message, "", figures)
    if windows:
        message = f"texts of more than {max_length} tokens are read in windows, so nothing is lost"
        return [histogram, Finding("cut off", "ok", message)]
    cut = float((lengths > max_length).mean())
    lost = int(np.maximum(lengths - max_length, 0).sum()) / max(1, int(lengths.sum()))
    message = f"{cut:.1%} of {len(lengths):,} texts are longer than {max_length} tokens"
    message += f"; {lost:.1%} of all tokens are lost"
    advice = (
        f"raise data.max_length (95% of the texts have {high} tokens or fewer), "
        "or put the important part first"
    )
    bad = cut > CUT and lost > LOST_TOKENS
    return [histogram, problem_if(bad, "cut off", message, advice, {"texts": cut, "tokens": lost})]
