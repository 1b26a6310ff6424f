"""The course's own annotations: every offset, label and split, and what the faults are called."""

import copy
import hashlib
import json
import re
from collections import Counter
from dataclasses import asdict
from functools import cache
from itertools import pairwise, product
from pathlib import Path

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from helpers import assets
from helpers.assets.catalog import data_folder
from helpers.corpora import annotations, fold
from helpers.corpora.annotations import ENTITY_LABELS, RELATIONS, SPLITS
from helpers.corpora.readers import read_text
from helpers.errors import InvalidValue


def read(name: str) -> list[dict]:
    text = (data_folder() / "annotations" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


RECORDS, SECOND = read("openings"), read("second")
IN_WORD = re.compile(r"\w\w")


@cache
def news_folder() -> Path:
    return assets.fetch("news")  # verifies every file, so once is enough


def whole_text(record: dict) -> str:
    return read_text(news_folder() / record["document"])[0]


def faults(record: dict, article: str) -> list[str]:
    """The names of the rules that a record breaks."""
    text, entities = article[: record["end"]], record["entities"]
    answers = [answer for asked in record.get("questions", []) for answer in asked["answers"]]
    spans = [(e["start"], e["end"], e["text"]) for e in entities]
    spans += [(a["start"], a["start"] + len(a["text"]), a["text"]) for a in answers]
    asked = [question["question"] for question in record.get("questions", [])]
    joined = [(r["label"], r["head"], r["tail"]) for r in record["relations"]]
    fitting = {
        (name, head, tail) for name, sides in RELATIONS.items() for head, tail in product(*sides)
    }
    numbers = range(len(entities))
    rules = {
        "hash": hashlib.sha256(article.encode()).hexdigest() == record["sha256"],
        "split": record["split"] in SPLITS,
        "end": 0 < record["end"] <= len(article),
        "span": all(text[start:end] == part == part.strip() != "" for start, end, part in spans),
        "word": not any(
            IN_WORD.fullmatch(article[place - 1 : place + 1])
            for start, end, _ in spans
            for place in (start, end)
            if place
        ),
        "label": all(entity["label"] in ENTITY_LABELS for entity in entities),
        "order": all(one["end"] <= other["start"] for one, other in pairwise(entities)),
        "relation": all(
            head in numbers
            and tail in numbers
            and head != tail
            and (name, entities[head]["label"], entities[tail]["label"]) in fitting
            for name, head, tail in joined
        ),
        "twice": len(set(joined)) == len(joined) and len(set(asked)) == len(asked),
        "mark": all(question.endswith("?") for question in asked),
    }
    return [name for name, kept in rules.items() if not kept]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["document"])
def test_a_record_is_sound(record):
    assert faults(record, whole_text(record)) == [] and len(record["questions"]) == 5
    text = whole_text(record)[: record["end"]]
    assert 95 <= len(text.split()) <= 150 and text[-1] in ".!?\"'"


def test_there_is_as_much_as_was_promised():
    questions = [question for record in RECORDS for question in record["questions"]]
    relations = [relation["label"] for record in RECORDS for relation in record["relations"]]
    labels = {entity["label"] for record in RECORDS for entity in record["entities"]}
    assert len(RECORDS) >= 200 and len(relations) >= 300 and len(questions) >= 800
    unanswered = sum(not question["answers"] for question in questions)
    assert unanswered / len(questions) == pytest.approx(0.15, abs=0.01)
    assert labels == set(ENTITY_LABELS) and set(relations) == set(RELATIONS)
    assert min(Counter(relations).values()) >= 15
    topics = Counter(record["document"].split("/")[0] for record in RECORDS)
    assert len(topics) == 5 and min(topics.values()) >= 35


def test_splits_are_by_document_and_hold_no_near_copies():
    assert len({record["document"] for record in RECORDS}) == len(RECORDS)
    assert {record["split"] for record in RECORDS} == set(SPLITS)
    texts = {split: [] for split in SPLITS}
    for record in RECORDS:
        texts[record["split"]].append(fold(whole_text(record)[: record["end"]]))
    everything = [text for split in SPLITS for text in texts[split]]
    assert len(set(everything)) == len(everything)
    vectors = TfidfVectorizer(sublinear_tf=True, stop_words="english").fit(everything)
    train = vectors.transform(texts["train"])
    for split in ("validation", "test"):
        likeness = (train @ vectors.transform(texts[split]).T).max()
        assert likeness < 0.6, f"an opening of {split} is nearly one of train: {likeness:.2f}"


def test_the_second_annotation_is_of_thirty_test_openings():
    assert len(SECOND) == 30
    first = {record["document"]: record for record in RECORDS}
    for record in SECOND:
        assert faults(record, whole_text(record)) == []
        assert first[record["document"]]["split"] == record["split"] == "test"
        assert first[record["document"]]["end"] == record["end"]


def test_loading_gives_what_the_records_say():
    for split in SPLITS:
        records = [record for record in RECORDS if record["split"] == split]
        openings = annotations.load(split)
        assert [opening.document for opening in openings] == [r["document"] for r in records]
        for opening, record in zip(openings, records, strict=True):
            assert opening.split == split
            assert opening.text == whole_text(record)[: record["end"]]
            assert [asdict(entity) for entity in opening.entities] == record["entities"]
            assert [asdict(relation) for relation in opening.relations] == record["relations"]
            assert [(q.question, list(q.answers)) for q in opening.questions] == [
                (asked["question"], asked["answers"]) for asked in record["questions"]
            ]
            names = [f"{opening.document}#{number}" for number in range(5)]
            assert [question.id for question in opening.questions] == names
    with pytest.raises(InvalidValue, match=r"'dev'.*test, train, validation"):
        annotations.load("dev")


def test_the_second_annotation_has_no_questions():
    second = annotations.load_second()
    assert [opening.document for opening in second] == [record["document"] for record in SECOND]
    assert not any(opening.questions for opening in second)
    assert any(opening.relations for opening in second)


TEXT = "Ann Lee of Acme lives in Rome. She joined on Friday."
RECORD = {
    "document": "tech/001.txt",
    "split": "train",
    "sha256": hashlib.sha256(TEXT.encode()).hexdigest(),
    "end": 30,
    "entities": [
        {"start": 0, "end": 7, "label": "PERSON", "text": "Ann Lee"},
        {"start": 11, "end": 15, "label": "ORGANISATION", "text": "Acme"},
    ],
    "relations": [{"head": 0, "tail": 1, "label": "works_for"}],
    "questions": [
        {"question": f"Question {n}?", "answers": [{"start": 25, "text": "Rome"}]} for n in range(5)
    ],
}


def faulty(*path, value):
    record = copy.deepcopy(RECORD)
    place = record
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return record


def test_a_sound_record_has_no_faults():
    assert faults(RECORD, TEXT) == []


def entity(start, end, label="PLACE"):
    return {"start": start, "end": end, "label": label, "text": TEXT[start:end]}


@pytest.mark.parametrize(
    ("record", "rule"),
    [
        (faulty("sha256", value="0" * 64), "hash"),
        (faulty("split", value="dev"), "split"),
        (faulty("end", value=99), "end"),
        (faulty("entities", 0, "end", value=5), "span"),
        (faulty("entities", 0, "label", value="NAME"), "label"),
        (faulty("entities", 1, value=entity(4, 7)), "order"),
        (faulty("entities", 1, value=entity(11, 14)), "word"),
        (faulty("entities", 1, value=entity(12, 15)), "word"),
        (faulty("entities", 1, value=entity(10, 15)), "span"),
        (faulty("entities", 1, value=entity(45, 51, "DATE")), "span"),
        (faulty("relations", 0, "label", value="owns"), "relation"),
        (faulty("relations", 0, "tail", value=7), "relation"),
        (faulty("relations", 0, value={"head": 1, "tail": 0, "label": "works_for"}), "relation"),
        (faulty("relations", value=[RECORD["relations"][0]] * 2), "twice"),
        (faulty("questions", 0, "question", value="Who"), "mark"),
        (faulty("questions", 0, "question", value="Question 1?"), "twice"),
        (faulty("questions", 0, "answers", 0, "start", value=24), "span"),
    ],
)
def test_every_fault_is_found(record, rule):
    assert rule in faults(record, TEXT)
