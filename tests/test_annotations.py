"""The course's own annotations: every offset, label and split, and what the faults are called."""

import copy
import hashlib
import json
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from helpers import assets
from helpers.corpora import annotations, fold
from helpers.corpora.annotations import ENTITY_LABELS, RELATIONS, SPLITS
from helpers.corpora.readers import read_text
from helpers.errors import CourseError, InvalidValue

RECORDS = annotations.read_records(annotations.folder() / "openings.jsonl")
SECOND = annotations.read_records(annotations.folder() / "second.jsonl")


@cache
def news_folder() -> Path:
    return assets.fetch("news")  # verifies every file, so once is enough


def whole_text(record: dict) -> str:
    return read_text(news_folder() / record["document"])[0]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["document"])
def test_a_record_is_sound(record):
    assert list(annotations.problems(record, whole_text(record))) == []
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
        assert list(annotations.problems(record, whole_text(record), questions=False)) == []
        assert first[record["document"]]["split"] == record["split"] == "test"
        assert first[record["document"]]["end"] == record["end"]


def test_loading_gives_spans_of_the_text():
    openings = annotations.load()
    assert [len(annotations.load(split)) for split in SPLITS] == [
        sum(record["split"] == split for record in RECORDS) for split in SPLITS
    ]
    for opening in openings:
        for entity in opening.entities:
            assert opening.text[entity.start : entity.end] == entity.text
    assert len({question.id for o in openings for question in o.questions}) == sum(
        len(record["questions"]) for record in RECORDS
    )
    assert len(annotations.load_second()) == 30
    with pytest.raises(InvalidValue, match=r"'dev'.*test, train, validation"):
        annotations.load("dev")


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


def test_a_sound_record_has_no_problems():
    assert list(annotations.problems(RECORD, TEXT)) == []


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (faulty("sha256", value="0" * 64), "not 000000000000"),
        (faulty("split", value="dev"), "its split is 'dev'"),
        (faulty("end", value=99), "its end is 99"),
        (faulty("entities", 0, "end", value=5), "is 'Ann L', not 'Ann Lee'"),
        (faulty("entities", 0, "label", value="NAME"), "has the label 'NAME'"),
        (
            faulty("entities", 1, value={"start": 4, "end": 7, "label": "PLACE", "text": "Lee"}),
            "overlap",
        ),
        (
            faulty("entities", 1, value={"start": 11, "end": 14, "label": "PLACE", "text": "Acm"}),
            "ends inside a word",
        ),
        (
            faulty("entities", 1, value={"start": 12, "end": 15, "label": "PLACE", "text": "cme"}),
            "begins inside a word",
        ),
        (
            faulty(
                "entities", 1, value={"start": 10, "end": 15, "label": "PLACE", "text": " Acme"}
            ),
            "begins or ends with a space",
        ),
        (
            faulty(
                "entities", 1, value={"start": 45, "end": 51, "label": "DATE", "text": "Friday"}
            ),
            "outside the text of 30",
        ),
        (faulty("relations", 0, "label", value="owns"), "'owns' is not one of"),
        (faulty("relations", 0, "tail", value=7), "joins the entities 0 and 7"),
        (
            faulty("relations", 0, value={"head": 1, "tail": 0, "label": "works_for"}),
            "the head of works_for is 'Acme', ORGANISATION; it must be PERSON",
        ),
        (faulty("relations", value=[RECORD["relations"][0]] * 2), "is there twice"),
        (faulty("questions", 0, "question", value="Who"), "question mark"),
        (faulty("questions", 0, "question", value="Question 1?"), "a question is there twice"),
        (faulty("questions", 0, "answers", 0, "start", value=24), "is ' Rom', not 'Rome'"),
        (faulty("questions", value=[]), "0 questions, not 5"),
        (faulty("entities", value=None), "is missing or has the wrong type"),
    ],
)
def test_every_fault_is_found(record, message):
    assert any(message in problem for problem in annotations.problems(record, TEXT))


def test_a_faulty_file_is_refused_with_the_document(tmp_path):
    record = copy.deepcopy(RECORDS[0])
    record["entities"][0]["start"] += 1
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(record) + "\n" + json.dumps(record) + "\n", encoding="utf-8")
    with pytest.raises(CourseError, match=rf"own.jsonl has \d+ faults.*\n.*{record['document']}"):
        annotations.load(path=path)
    path.write_text("{\n", encoding="utf-8")
    with pytest.raises(CourseError, match=r"own\.jsonl, line 1 is not JSON"):
        annotations.load(path=path)
    with pytest.raises(CourseError, match="there is no file"):
        annotations.load(path=tmp_path / "missing.jsonl")
