"""The course's own annotations of news openings: entities, relations and questions, separate from
the text ("stand-off"). A record names its document, the SHA-256 of the text, and character
offsets; the text is in the news asset, and every offset is checked against it when it is read.

``data/annotations/guideline.md`` says what is marked and how.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from helpers import assets
from helpers.assets import catalog
from helpers.corpora.readers import read_text
from helpers.corpora.tables import Table
from helpers.errors import CourseError, unknown_name

SPLITS = ("train", "validation", "test")
ENTITY_LABELS = ("PERSON", "ORGANISATION", "PLACE", "DATE", "MONEY")
_NAMED = ("PERSON", "ORGANISATION", "PLACE")
# Each relation with the entity labels that its head and its tail may have.
RELATIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "works_for": (("PERSON",), ("ORGANISATION", "PLACE")),
    "plays_for": (("PERSON",), ("ORGANISATION", "PLACE")),
    "located_in": (("ORGANISATION", "PLACE"), ("PLACE",)),
    "acquired": (("ORGANISATION", "PERSON"), ("ORGANISATION",)),
    "beat": (_NAMED, _NAMED),
}
QUESTIONS_EACH = 5


@dataclass(frozen=True)
class Entity:
    """One mention. start, end: character offsets in the opening; label: one of ENTITY_LABELS."""

    start: int
    end: int
    label: str
    text: str


@dataclass(frozen=True)
class Relation:
    """head, tail: numbers of two entities of the opening. label: one of RELATIONS."""

    head: int
    tail: int
    label: str


@dataclass(frozen=True)
class Question:
    """answers: ({"text": ..., "start": offset}, ...), the preferred one first; empty if the
    opening does not answer the question."""

    id: str
    question: str
    answers: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Opening:
    """The first sentences of a news article and their annotations.

    document: "topic/number.txt" in the news asset. text: title, blank line, sentences.
    """

    document: str
    split: str
    text: str
    entities: tuple[Entity, ...]
    relations: tuple[Relation, ...]
    questions: tuple[Question, ...]


def load(split: str | None = None, *, path: Path | None = None) -> list[Opening]:
    """The annotated openings of one split ("train", "validation", "test"), or all of them, in
    the order of the file (default: data/annotations/openings.jsonl).

    Raises InvalidValue: an unknown split; CourseError: the file cannot be read, or records have
    ``problems`` (the first few are named).
    """
    if split is not None and split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    openings = _load(path or folder() / "openings.jsonl", assets.fetch("news"))
    return [opening for opening in openings if split in (None, opening.split)]


def load_second() -> list[Opening]:
    """Openings of the test split, annotated again by a second person who worked independently
    from the same guideline: entities and relations, no questions."""
    return list(_load(folder() / "second.jsonl", assets.fetch("news")))


def folder() -> Path:
    """The folder of the annotation files and their guideline."""
    return catalog.data_folder() / "annotations"


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON lines file. Raises CourseError that names the unreadable line."""
    return [row.values for row in Table(path)]


def problems(record: dict[str, Any], whole_text: str, *, questions: bool = True) -> Iterator[str]:
    """What is wrong with one record, a sentence per fault; nothing if it is sound.

    whole_text: the whole article, as ``readers.read_text`` returns it.
    questions: whether the record must have exactly five questions.
    """
    try:
        yield from _problems(record, whole_text, questions)
    except (KeyError, TypeError, IndexError) as error:
        yield f"a field is missing or has the wrong type: {type(error).__name__} {error}"


def _problems(record: dict[str, Any], whole_text: str, questions: bool) -> Iterator[str]:
    found = hashlib.sha256(whole_text.encode()).hexdigest()
    if found != record["sha256"]:
        yield f"its text has the hash {found[:12]}..., not {record['sha256'][:12]}..."
        return
    if record["split"] not in SPLITS:
        yield f"its split is {record['split']!r}; it must be one of {', '.join(SPLITS)}"
    if not 0 < record["end"] <= len(whole_text):
        yield f"its end is {record['end']}; the text has {len(whole_text)} characters"
        return
    text = whole_text[: record["end"]]
    entities = record["entities"]
    for entity in entities:
        yield from _check_span(text, entity["start"], entity["end"], entity["text"])
        if entity["label"] not in ENTITY_LABELS:
            yield (
                f"{entity['text']!r} has the label {entity['label']!r}; it must be one of "
                f"{', '.join(ENTITY_LABELS)}"
            )
    for left, right in pairwise(entities):
        if right["start"] < left["end"]:
            yield f"{left['text']!r} and {right['text']!r} overlap or are not in order"
    seen = set()
    for relation in record["relations"]:
        yield from _check_relation(relation, entities)
        pair = (relation["head"], relation["tail"], relation["label"])
        if pair in seen:
            yield f"the relation {pair} is there twice"
        seen.add(pair)
    asked = [question["question"] for question in record.get("questions", [])]
    if questions and len(asked) != QUESTIONS_EACH:
        yield f"it has {len(asked)} questions, not {QUESTIONS_EACH}"
    if len(set(asked)) < len(asked):
        yield "a question is there twice"
    for question in record.get("questions", []):
        if not question["question"].strip().endswith("?"):
            yield f"{question['question']!r} does not end with a question mark"
        for answer in question["answers"]:
            end = answer["start"] + len(answer["text"])
            yield from _check_span(text, answer["start"], end, answer["text"])


def _check_span(text: str, start: int, end: int, surface: str) -> Iterator[str]:
    if not (0 <= start < end <= len(text)):
        yield f"{surface!r} at {start} to {end} is outside the text of {len(text)} characters"
    elif text[start:end] != surface:
        yield f"the text at {start} to {end} is {text[start:end]!r}, not {surface!r}"
    elif surface != surface.strip():
        yield f"{surface!r} begins or ends with a space"
    elif re.match(r"\w\w", text[max(0, start - 1) : start + 1]):
        yield f"{surface!r} at {start} begins inside a word"
    elif re.match(r"\w\w", text[end - 1 : end + 1]):
        yield f"{surface!r} at {start} ends inside a word"


def _check_relation(relation: dict[str, Any], entities: Sequence[dict]) -> Iterator[str]:
    label, head, tail = relation["label"], relation["head"], relation["tail"]
    if label not in RELATIONS:
        yield f"the relation {label!r} is not one of {', '.join(RELATIONS)}"
    elif not (0 <= head < len(entities) and 0 <= tail < len(entities)) or head == tail:
        yield f"{label} joins the entities {head} and {tail}; there are {len(entities)}"
    else:
        for side, number, allowed in zip(
            ("head", "tail"), (head, tail), RELATIONS[label], strict=True
        ):
            if entities[number]["label"] not in allowed:
                yield (
                    f"the {side} of {label} is {entities[number]['text']!r}, "
                    f"{entities[number]['label']}; it must be {' or '.join(allowed)}"
                )


@lru_cache(maxsize=4)
def _load(path: Path, news: Path) -> tuple[Opening, ...]:
    openings, faults, names = [], [], set()
    for record in read_records(path):
        name = record.get("document", "a record without a document")
        if name in names:
            faults.append(f"{name}: it is there twice")
        names.add(name)
        source = news / name
        if not source.is_file():
            faults.append(f"{name}: the news asset has no such file")
            continue
        text = read_text(source)[0]
        found = list(problems(record, text, questions=bool(record.get("questions"))))
        faults += [f"{name}: {fault}" for fault in found]
        if not found:
            openings.append(_opening(record, text))
    if faults:
        shown = "\n".join(f"  {fault}" for fault in faults[:5])
        raise CourseError(
            f"{path.name} has {len(faults)} faults:\n{shown}\nCorrect the file, or restore the "
            f"course's own."
        )
    return tuple(openings)


def _opening(record: dict[str, Any], whole_text: str) -> Opening:
    document = record["document"]
    return Opening(
        document=document,
        split=record["split"],
        text=whole_text[: record["end"]],
        entities=tuple(Entity(**entity) for entity in record["entities"]),
        relations=tuple(Relation(**relation) for relation in record["relations"]),
        questions=tuple(
            Question(f"{document}#{number}", asked["question"], tuple(asked["answers"]))
            for number, asked in enumerate(record.get("questions", []))
        ),
    )
