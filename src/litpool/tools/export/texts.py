"""The texts of golden.json. None of them is from the user's data, so an export leaks no row."""

from collections.abc import Callable
from itertools import cycle, islice

COUNT = 32

SENTENCES = (
    "a",
    "?",
    "Good.",
    "The film was not bad at all, but the ending was poor.",
    "A MAN IS PLAYING THE GUITAR, AND SOMEBODY IS SINGING.",
    "Every Monday, Anna and Dr. Brown take the 8:15 train from Geneva to Basel.",
    "It cost $3,499.99 in 2019 and 40% less in 2024.",
    "See https://example.org/docs?page=2#top, or write to help@example.org!",
    "def area(radius: float) -> float: return 3.14159 * radius ** 2",
    "one\ttwo  three\nfour",
    "naïve café, Ångström, façade, señor, Łódź",
    "Die Größe der Straße überrascht viele Gäste.",
    "이 영화는 정말 재미있었지만 결말이 아쉬웠다.",
    "この映画はとても面白かったです。",
    "这部电影很好看但是太长了。",
    "Фильм был скучным, но музыка понравилась.",
    "ფილმი კარგი იყო.",
    "هذا الفيلم جميل جدا.",
    "הסרט הזה היה ארוך מדי.",
    "यह फ़िल्म बहुत अच्छी थी।",
    "หนังเรื่องนี้สนุกมาก",
    "So good 😀👍🏽, would watch again!!!",
    "the the the the the the",
    "Is this the same question as the one that was asked yesterday?",
    "No, nobody said so.",
)

WORDS = " ".join(sentence for sentence in SENTENCES if sentence.isascii()).split()


def golden_texts(max_length: int, added: list[str], parts: int) -> list[list[str]]:
    """Return 32 rows of one text or of two: short, long and truncated ones, in several scripts.

    Args:
        max_length: The most tokens of a text. Two rows are a little longer, one is twice as long.
        added: Tokens that were added to the tokenizer, which some of the texts contain.
        parts: How many texts a row has.
    """
    lengths = (max_length // 4, max_length // 2, max_length - 2, max_length + 8, 2 * max_length)
    long = [_words(length, start) for start, length in enumerate(lengths)]
    marked = [f"{token} {SENTENCES[3 + n]}" for n, token in enumerate(added[:4])]
    if added:
        marked[-1] = f"{' good '.join(added[:16])} {marked[-1]}"
    texts = [*SENTENCES, *marked, *long]
    texts = [*texts[len(texts) - COUNT :], *texts][:COUNT] if len(texts) > COUNT else texts
    texts += [_words(3 + n, 7 * n) for n in range(COUNT - len(texts))]
    if parts == 1:
        return [[text] for text in texts]
    return [[text, texts[(n + 9) % COUNT]] for n, text in enumerate(texts)]


def golden_questions(max_length: int, is_short: Callable[[str], bool]) -> list[list[str]]:
    """Return 32 questions with contexts, of which three are longer than a window.

    Args:
        max_length: The most tokens of a window.
        is_short: Returns whether a question leaves room for a context.
    """
    lengths = [8 + 3 * n for n in range(COUNT - 4)] + [max_length, max_length + 9, 2 * max_length]
    lengths = [min(length, 2 * max_length) for length in [*lengths, 3]]
    questions = [sentence for sentence in SENTENCES if is_short(sentence)]
    return [
        [questions[n % len(questions)], _words(length, 5 * n)] for n, length in enumerate(lengths)
    ]


def _words(count: int, start: int) -> str:
    return " ".join(islice(cycle(WORDS), start, start + max(count, 1)))
