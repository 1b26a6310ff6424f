"""Your own questions: a JSON file in SQuAD form, checked field by field, and its split."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from helpers.errors import CourseError, InvalidValue
from helpers.tasks.questions import Example, check

_KINDS = {str: "a text", int: "a whole number", list: "a list", dict: "an object", bool: "a bool"}


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
    except OSError as error:
        raise CourseError(f"the questions in {path} cannot be read: {error}.") from error
    except UnicodeDecodeError as error:
        raise CourseError(f"{path.name} cannot be read: {error}. Save it as UTF-8.") from None
    except ValueError as error:
        raise CourseError(f"{path.name} cannot be read as JSON: {error}.") from None
    try:
        return check(_examples(content))
    except _FormError as error:
        raise CourseError(
            f"{path.name} is not in SQuAD form: {error}. It must hold data > paragraphs > context "
            f"and qas > id, question, answers > text, answer_start."
        ) from None


class _FormError(Exception):
    pass


def _field(owner: Any, name: str, kind: type, place: str) -> Any:
    if not isinstance(owner, dict) or name not in owner:
        raise _FormError(f"{place} has no {name!r}")
    value = owner[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _FormError(f"{name!r} of {place} is {value!r:.40}, not {_KINDS[kind]}")
    return value


def _examples(content: Any) -> Iterator[Example]:
    for number, article in enumerate(_field(content, "data", list, "the file"), 1):
        place = f"article {number}"
        for nth, paragraph in enumerate(_field(article, "paragraphs", list, place), 1):
            where = f"paragraph {nth} of {place}"
            context = _field(paragraph, "context", str, where)
            for row, asked in enumerate(_field(paragraph, "qas", list, where), 1):
                document = f"{number} {article.get('title') or place}"
                yield _example(asked, context, document, f"question {row} of {where}")


def _example(asked: Any, context: str, document: str, place: str) -> Example:
    if not isinstance(asked, dict) or not isinstance(asked.get("id"), str | int):
        raise _FormError(f"{place} has no 'id' that is a text or a number")
    place = f"question {str(asked['id'])!r}"
    impossible = asked.get("is_impossible")
    given = asked.get("answers", []) if impossible else _field(asked, "answers", list, place)
    if impossible is not None and bool(impossible) == bool(given):
        raise InvalidValue(
            f"{place} has {len(given)} answers and is_impossible is {impossible!r}; a question "
            f"has answers or is impossible."
        )
    answers = tuple(
        {
            "text": _field(answer, "text", str, f"an answer of {place}"),
            "start": _field(answer, "answer_start", int, f"an answer of {place}"),
        }
        for answer in given
    )
    question = _field(asked, "question", str, place)
    return Example(str(asked["id"]), question, context, answers, document)


def split_by_document(examples: Sequence[Example], *, seed: int = 42) -> dict[str, list[Example]]:
    """70 % of the documents for training, 10 % for validation, 20 % for testing (at least one
    each), drawn from ``seed``; the examples keep their order.
    Raises InvalidValue: fewer than three documents."""
    documents = sorted({example.document for example in examples})
    if len(documents) < 3:
        raise InvalidValue(
            f"the number of documents that the questions are about is {len(documents)}; at least "
            f"3 are needed, because questions about one document must stay in one split. In a "
            f"SQuAD file each article in data is a document: give each text its own."
        )
    order = np.random.default_rng(seed).permutation(len(documents))
    test = max(1, len(documents) // 5)
    validation = max(1, len(documents) // 10)
    split_of = {}
    for rank, number in enumerate(order):
        part = "test" if rank < test else "validation" if rank < test + validation else "train"
        split_of[documents[number]] = part
    return {
        split: [example for example in examples if split_of[example.document] == split]
        for split in ("train", "validation", "test")
    }
