"""The course's own annotations of news openings: entities, relations and questions, separate from
the text ("stand-off"). A record names its document, the SHA-256 of the text, and character
offsets; the text is in the news asset. ``data/annotations/guideline.md`` says what is marked and
how, and the tests check every offset, label and question.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from helpers import assets
from helpers.assets import catalog
from helpers.corpora.loading import SPLITS
from helpers.corpora.readers import read_text
from helpers.corpora.tables import Table
from helpers.errors import unknown_name

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


def load(split: str) -> list[Opening]:
    """The annotated openings of "train", "validation" or "test", in the order of the file. Raises
    InvalidValue: an unknown split."""
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    return [
        opening for opening in _read("openings", assets.fetch("news")) if opening.split == split
    ]


def load_second() -> list[Opening]:
    """Openings of the test split, annotated a second time, independently, from the same guideline:
    entities and relations, no questions."""
    return list(_read("second", assets.fetch("news")))


@lru_cache(maxsize=4)
def _read(name: str, news: Path) -> tuple[Opening, ...]:
    rows = Table(catalog.data_folder() / "annotations" / f"{name}.jsonl")
    return tuple(_opening(row.values, news) for row in rows)


def _opening(record: dict[str, Any], news: Path) -> Opening:
    document = record["document"]
    return Opening(
        document=document,
        split=record["split"],
        text=read_text(news / document)[0][: record["end"]],
        entities=tuple(Entity(**entity) for entity in record["entities"]),
        relations=tuple(Relation(**relation) for relation in record["relations"]),
        questions=tuple(
            Question(f"{document}#{number}", asked["question"], tuple(asked["answers"]))
            for number, asked in enumerate(record.get("questions", []))
        ),
    )
