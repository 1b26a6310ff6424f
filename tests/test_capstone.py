"""The rubric: all points for a sound project, none for what is missing, false or copied."""

import json
import shutil

import numpy as np
import pytest
import tiny
import tiny_run

from helpers import batches, evaluation, models
from helpers.errors import InvalidValue
from helpers.shipping import capstone, drift, model_card
from helpers.tasks.classification import score

WORDS = {
    "name": "tiny",
    "intended_use": "Try the rubric out.",
    "out_of_scope": "All else there is.",
}
TITLES = [title for title, _, _ in capstone._RUBRIC]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A project in which everything is there and agrees: its metrics are measured."""
    folder = tiny_run.write(tmp_path_factory.mktemp("capstone") / "project")
    model, tokenizer = models.load_trained(folder / "model")
    texts = list(dict.fromkeys(tiny.texts(400, longest=12)))
    train, test = texts[:150], texts[150:300]
    encoded = batches.encode(tokenizer, test, max_length=24)
    found = evaluation.predict(model, encoded)
    labels = np.where(np.random.default_rng(0).random(150) < 0.8, found.classes, 1 - found.classes)
    names = tiny_run.LABELS
    rows = {
        "train": {"text": train, "label": [0, 0, 1] * 50},
        "test": {"text": test, "label": labels},
    }
    capstone.save_splits(folder, rows, names)
    majority = np.zeros(150, dtype=int)
    metrics = tiny_run.metrics(
        examples=150,
        test=score(labels, found.classes, names),
        baseline={
            "majority": score(labels, majority, names), "tfidf_logreg": tiny_run.scores(0.5, 0.5),
        },
    )  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    model_card.record_bias(folder, "w5 and w6", {"flip_rate": (0.1, 0.0, 0.2)})
    model_card.write_card(folder, model_card.Description(**WORDS))
    reference = drift.Reference.build(tokenizer, train, test, found.probabilities)
    reference.save(folder / "reference.json")
    return folder


@pytest.fixture
def project(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "project")


def test_a_sound_project_gets_every_point(project):
    report = capstone.judge(project)
    assert report.complete, str(report)
    assert report.points == sum(points for _, points, _ in capstone._RUBRIC) == 100
    assert "100 of 100 points." in str(report)
    assert all(question in str(report) for question in capstone.BY_HAND)


def change_metrics(**changes):
    def spoil(project):
        path = project / "metrics.json"
        metrics = json.loads(path.read_text(encoding="utf-8"))
        for key, value in changes.items():
            metrics.pop(key) if value is None else metrics.update({key: value})
        path.write_text(json.dumps(metrics), encoding="utf-8")

    return spoil


def edit(name, change):
    def spoil(project):
        path = project / name
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")

    return spoil


def leak(project):
    lines = (project / "data" / "test.csv").read_text(encoding="utf-8").splitlines()
    train = (project / "data" / "train.csv").read_text(encoding="utf-8").splitlines()
    train[1] = f"{lines[1].split(',')[0].upper()} ,negative"
    (project / "data" / "train.csv").write_text("\n".join(train) + "\n", encoding="utf-8")


def twice(text):
    lines = text.splitlines()
    return "\n".join([*lines[:-1], lines[1]]) + "\n"


def other_model(project):
    names = dict(enumerate(tiny_run.LABELS))
    model = tiny.classifier(labels=2, seed=5, id2label=names)
    models.save_trained(model, tiny.tokenizer(), project / "other")
    shutil.copy(project / "other" / "model.safetensors", project / "model")


def nameless(project):
    config = json.loads((project / "model" / "config.json").read_text(encoding="utf-8"))
    config["id2label"] = {"0": "LABEL_0", "1": "LABEL_1"}
    config["label2id"] = {"LABEL_0": 0, "LABEL_1": 1}
    (project / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")


def few(text):
    return "\n".join(text.splitlines()[:60])


HALF = tiny_run.scores(0.5, 0.5)
OUTSIDE = tiny_run.scores(0.9, 0.9) | {"accuracy_interval": [0.1, 0.2]}
SPOILED = [
    ("model loads", lambda p: shutil.rmtree(p / "model"), "no trained model"),
    ("model loads", lambda p: (p / "model" / "x.pkl").write_bytes(b""), "can run code"),
    ("labels have names", nameless, "give them names"),
    ("test score", change_metrics(test=OUTSIDE),
     "between two others"),
    ("test score", lambda p: (p / "metrics.json").unlink(), "cannot be used"),
    ("test score", edit("metrics.json", lambda t: t[:50]), "cannot be used"),
    ("baselines", change_metrics(baseline=None), "found: none"),
    ("baselines", change_metrics(baseline={"majority": HALF}), "one that learns"),
    ("baselines", change_metrics(baseline={"majority": tiny_run.scores(0.11, 0.1),
                                           "tfidf_logreg": HALF}),
     "not of the same texts"),
    ("baselines", change_metrics(baseline={"majority": 3}), "another form"),
    ("do it again", change_metrics(seed=None), "does not record seed"),
    ("do it again", change_metrics(seed="42"), "does not record seed"),
    ("texts are kept", lambda p: (p / "data" / "train.csv").unlink(), "no data/train.csv"),
    ("texts are kept", change_metrics(examples=151), "151"),
    ("texts are kept", edit("data/test.csv", few), "59 test texts"),
    ("texts are kept", edit("data/test.csv", lambda t: t.replace("text,label", "body,label")),
     "columns text and label"),
    ("are apart", leak, "1 test texts are also training texts"),
    ("are apart", edit("data/test.csv", twice), "1 occur twice in the test"),
    ("those of this model", other_model, "Evaluate the model that you ship"),
    ("those of this model", edit("data/test.csv", lambda t: t.replace("negative", "neutral")),
     "the model does not know"),
    ("card is complete", lambda p: (p / "model" / "README.md").unlink(), "no model/README.md"),
    ("card is complete", edit("model/README.md", lambda t: t.replace("Try the", "TODO")),
     "'Intended use' is missing"),
    ("bias", change_metrics(bias=None), "no bias was measured"),
    ("bias", change_metrics(bias={"he and she": {}}), "no bias was measured"),
    ("bias", change_metrics(bias={"a": {"shift": {"value": 0.1}}}), "no bias was measured"),
    ("compare later texts", lambda p: (p / "reference.json").unlink(), "no reference.json"),
    ("compare later texts", edit("reference.json", lambda t: "{}"), "not a drift reference"),
]  # fmt: skip


@pytest.mark.parametrize(("title", "spoil", "found"), SPOILED)
def test_what_is_missing_or_false_brings_no_points(project, title, spoil, found):
    spoil(project)
    report = capstone.judge(project)
    (judged,) = [c for c in report.criteria if title in c.title]
    assert not judged.met and found in judged.found, judged
    assert f"  0 of {judged.points:2d}  {judged.title}" in str(report)


def test_every_criterion_can_be_missed():
    assert {next(t for t in TITLES if title in t) for title, _, _ in SPOILED} == set(TITLES)


def test_an_empty_folder_gets_no_points(tmp_path):
    report = capstone.judge(tmp_path)
    assert report.points == 0 and not any(c.met for c in report.criteria)
    with pytest.raises(InvalidValue, match="there is no folder"):
        capstone.judge(tmp_path / "missing")


def test_single_criteria_are_judged_as_in_the_whole_rubric(project):
    asked = [TITLES[6], TITLES[2]]
    found = capstone.judge(project, only=asked).criteria
    assert found == tuple(c for c in capstone.judge(project).criteria if c.title in asked)
    assert len(found) == 2
    with pytest.raises(InvalidValue, match="unknown criterion 'the model laods'"):
        capstone.judge(project, only=["the model laods"])


def test_judging_changes_nothing(project):
    def state():
        return {p: p.read_bytes() for p in project.rglob("*") if p.is_file()}

    before = state()
    capstone.judge(project)
    assert state() == before
