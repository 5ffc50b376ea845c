"""SQuAD's own JSON, turned into rows like those of the Hub's copies."""

from typing import Any

from litpool import InputError

FORMAT = (
    "must be as in SQuAD: data > paragraphs > context, qas > id, question, "
    "answers > text, answer_start"
)


def squad_rows(content: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Return one row per question, with id, title, context, question and answers.

    Answers are {"text": [...], "answer_start": [...]}, with empty lists for an impossible question
    (SQuAD 2.0). Without titles or answers in the file, the rows have none.

    Raises:
        InputError: The file is empty or has another structure; the message names the article and
            the paragraph.
    """
    rows = []
    for article_number, article in enumerate(_part(content, "data", list, where), 1):
        title = article.get("title") if isinstance(article, dict) else None
        shared = {"title": title} if title else {}
        in_article = f"{where}, article {article_number}" + (f" ({title!r})" if title else "")
        paragraphs = _part(article, "paragraphs", list, in_article)
        for paragraph_number, paragraph in enumerate(paragraphs, 1):
            in_paragraph = f"{in_article}, paragraph {paragraph_number}"
            shared["context"] = _part(paragraph, "context", str, in_paragraph)
            questions = _part(paragraph, "qas", list, in_paragraph)
            for question_number, question in enumerate(questions, 1):
                place = f"{in_paragraph}, question {question_number}"
                rows.append({**shared, **_question(question, place)})
    if not rows:
        raise InputError(f"{where}: has no questions; {FORMAT}")
    return rows


def _question(qa: Any, place: str) -> dict[str, Any]:
    row = {name: _part(qa, name, str, place) for name in ("id", "question")}
    if "answers" not in qa:
        return row
    answers = _part(qa, "answers", list, place)
    texts = [_part(answer, "text", str, place) for answer in answers]
    starts = [_part(answer, "answer_start", int, place) for answer in answers]
    return {**row, "answers": {"text": texts, "answer_start": starts}}


def _part(parent: Any, name: str, kind: type, place: str) -> Any:
    part = parent.get(name) if isinstance(parent, dict) else None
    if not isinstance(part, kind):
        expected = {list: "a list", str: "text", int: "a whole number"}[kind]
        raise InputError(f"{place}: {name!r} is {str(part)[:40]!r}, not {expected}; {FORMAT}")
    return part
