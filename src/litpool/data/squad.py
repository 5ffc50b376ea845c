"""SQuAD's own JSON: articles of paragraphs of questions, made rows as the Hub's copies have them."""

from typing import Any

from litpool import InputError

FORM = "must be as in SQuAD: data > paragraphs > context, qas > id, question, answers > text, answer_start"


def squad_rows(file: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """The questions of a file, {"data": [articles]}, with id, title, context, question and answers each.

    Answers are {"text": [...], "answer_start": [...]}, with empty lists for an impossible question (SQuAD 2.0). Files
    without titles or without answers give rows without them.

    Raises:
        InputError: The file is not built so, or empty; the message names the article and the paragraph.
    """
    rows = []
    for number, article in enumerate(_part(file, "data", list, where), 1):
        title = article.get("title") if isinstance(article, dict) else None
        place = f"{where}, article {number}" + (f" ({title!r})" if title else "")
        named = {"title": title} if title else {}
        for at, paragraph in enumerate(_part(article, "paragraphs", list, place), 1):
            inside = f"{place}, paragraph {at}"
            context = _part(paragraph, "context", str, inside)
            for nth, qa in enumerate(_part(paragraph, "qas", list, inside), 1):
                rows.append(
                    {**named, "context": context, **_question(qa, f"{inside}, question {nth}")}
                )
    if not rows:
        raise InputError(f"{where}: no question; {FORM}")
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
        known = {list: "list", str: "text", int: "whole number"}[kind]
        raise InputError(f"{place}: {name!r} is {str(part)[:40]!r}, no {known}; {FORM}")
    return part
