"""Your own questions: a JSON file in SQuAD form, checked field by field, and its split."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from helpers.errors import CourseError, InvalidValue
from helpers.tasks.questions import Example, check

_KINDS = {str: "a text", int: "a whole number", list: "a list", str | int: "a text or a number"}


def read_squad(path: str | Path) -> list[Example]:
    """The questions of a JSON file in SQuAD form (1.1 or 2.0; Rajpurkar et al. 2018):
    ``{"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers":
    [{"text", "answer_start"}], "is_impossible"}]}]}]}``. title and is_impossible may be missing;
    an empty list of answers means that the context doesn't answer the question.

    Raises CourseError: the file cannot be read, is not JSON, or lacks a field (the place is
    named); InvalidValue: as ``check``, or is_impossible that contradicts the answers.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise CourseError(
            f"{path} cannot be read as JSON: {error}. Save it as JSON, in UTF-8."
        ) from None
    return check(_examples(content, path.name))


def _field(owner: Any, name: str, kind: Any, place: str) -> Any:
    if not isinstance(owner, dict) or name not in owner:
        fault = f"{place} has no {name!r}"
    elif not isinstance(owner[name], kind) or (kind is int and isinstance(owner[name], bool)):
        fault = f"{name!r} of {place} is {owner[name]!r:.40}, not {_KINDS[kind]}"
    else:
        return owner[name]
    raise CourseError(
        f"{fault}. A file in SQuAD form holds data > paragraphs > context and qas > id, question, "
        f"answers > text, answer_start."
    )


def _examples(content: Any, file: str) -> Iterator[Example]:
    for number, article in enumerate(_field(content, "data", list, file), 1):
        place = f"{file}, article {number}"
        for nth, paragraph in enumerate(_field(article, "paragraphs", list, place), 1):
            where = f"{place}, paragraph {nth}"
            context = _field(paragraph, "context", str, where)
            document = f"{number} {article.get('title') or f'article {number}'}"
            for row, asked in enumerate(_field(paragraph, "qas", list, where), 1):
                name = str(_field(asked, "id", str | int, f"{where}, question {row}"))
                answers = _answers(asked, f"{where}, question {name!r}")
                question = _field(asked, "question", str, f"{where}, question {name!r}")
                yield Example(name, question, context, answers, document)


def _answers(asked: dict[str, Any], place: str) -> tuple[dict[str, Any], ...]:
    impossible = asked.get("is_impossible")
    given = asked.get("answers", []) if impossible else _field(asked, "answers", list, place)
    if impossible is not None and bool(impossible) == bool(given):
        raise InvalidValue(
            f"{place} has {len(given)} answers and is_impossible is {impossible!r}; a question "
            f"has answers or is impossible."
        )
    return tuple(
        {
            "text": _field(answer, "text", str, f"an answer of {place}"),
            "start": _field(answer, "answer_start", int, f"an answer of {place}"),
        }
        for answer in given
    )


def split_by_document(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """70 % of the documents for training, 10 % for validation, 20 % for testing (at least one
    each), drawn with a fixed seed; the examples keep their order.
    Raises InvalidValue: fewer than three documents."""
    documents = sorted({example.document for example in examples})
    if len(documents) < 3:
        raise InvalidValue(
            f"the number of documents that the questions are about is {len(documents)}; at least "
            f"3 are needed, because questions about one document must stay in one split. In a "
            f"SQuAD file each article in data is a document: give each text its own."
        )
    order = np.random.default_rng(42).permutation(documents).tolist()
    test = max(1, len(order) // 5)
    end = test + max(1, len(order) // 10)
    parts = {"train": order[end:], "validation": order[test:end], "test": order[:test]}
    split_of = {document: split for split, part in parts.items() for document in part}
    return {
        split: [example for example in examples if split_of[example.document] == split]
        for split in parts
    }
