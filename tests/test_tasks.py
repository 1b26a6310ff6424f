"""Tasks: what each loads, encodes and builds, and one run from settings to saved scores."""

import csv
import json
from dataclasses import fields, replace

import numpy as np
import pytest
import tiny
import tiny_run
import torch
from sklearn.metrics import accuracy_score, classification_report
from tiny import one_thread  # noqa: F401
from transformers import (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)

from helpers import evaluation, models, tasks
from helpers.corpora import annotations
from helpers.errors import CourseError, InvalidValue
from helpers.hardware.task_plan import plan_task
from helpers.tasks import questions as qa
from helpers.tasks import relations as rel
from helpers.tasks.classification import OwnTable, score
from helpers.training import TrainingConfig

KINDS = {
    "classifier": BertForSequenceClassification,
    "tokens": BertForTokenClassification,
    "questions": BertForQuestionAnswering,
}


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = models.load_tokenizer()
    tokenizer.model_max_length = 96
    return tokenizer


@pytest.mark.parametrize("name", ["news", "messages", "reviews", "entities", "relations"])
def test_a_head_has_one_output_per_label_and_fits_what_it_built(name):
    head = tasks.get(name).head
    model = head.build("encoder", seed=1, dropout=0.25)
    assert type(model) is KINDS[head.kind]
    assert list(model.config.id2label.values()) == list(head.labels)
    assert model.classifier.out_features == head.outputs == len(head.labels)
    assert model.config.hidden_dropout_prob == 0.25
    assert model.config.attention_probs_dropout_prob == 0.0
    head.check(model, name)
    with pytest.raises(InvalidValue, match=r"'questions' needs a model ForQuestionAnswering"):
        tasks.get("questions").head.check(model, "questions")
    model.config.id2label = dict(enumerate(reversed(head.labels)))
    with pytest.raises(InvalidValue, match=f"'{name}' needs"):
        head.check(model, name)


def test_the_head_for_questions_keeps_the_models_own_dropout():
    head = tasks.get("questions").head
    model = head.build("encoder", seed=1)
    assert type(model) is BertForQuestionAnswering
    assert model.qa_outputs.out_features == head.outputs == 2
    assert model.config.hidden_dropout_prob == model.config.attention_probs_dropout_prob == 0.1
    head.check(model, "questions")


def test_splits_do_not_depend_on_how_many_examples_are_asked_for():
    for name in ("entities", "questions", "messages"):
        task = tasks.get(name)
        some, more = task.load(20), task.load(30)
        assert (len(some["train"]), len(more["train"])) == (20, 30)
        assert list(some["test"]) == list(more["test"])
    assert len(tasks.get("news").load()["train"]) == tasks.get("news").defaults.examples == 600


def test_pairs_without_a_relation_are_thinned_out_for_training_only(tokenizer):
    task = tasks.get("relations")
    rows = task.load(40)["train"]
    labels = np.array([pair.label for pair in rel.from_openings(rows)])
    related = np.count_nonzero(labels)
    assert 0 < 3 * related < len(labels)
    whole, thin = task.encode(tokenizer, rows), task.encode(tokenizer, rows, training=True)
    assert whole.labels.tolist() == labels.tolist()
    assert np.count_nonzero(thin.labels) == related and len(thin) == 3 * related
    assert task.training_batches(tokenizer, 40).labels.tolist() == thin.labels.tolist()


def test_questions_are_trained_with_cloze_questions_and_a_third_of_the_empty_windows(tokenizer):
    task = tasks.get("questions")
    rows = task.load(30)["train"]
    plain, made = task.encode(tokenizer, rows), task.encode(tokenizer, rows, training=True)
    alone = qa.encode(tokenizer, rows, max_length=96, stride=40)
    assert plain.starts.tolist() == alone.starts.tolist()
    assert len(set(made.owners)) > 1000, "of 1,500 cloze questions"
    # A cloze context is short: nearly every one is a single window, and 9 of 10 hold the answer.
    cloze = made.owners >= len(rows)
    assert np.mean(made.has_answer[cloze]) > 0.9
    of_rows = made.select(np.flatnonzero(~cloze))
    assert of_rows.has_answer.sum() == plain.has_answer.sum()
    kept, empty = (~of_rows.has_answer).sum(), (~plain.has_answer).sum()
    assert empty > 30 and 0.1 * empty < kept < 0.6 * empty


def test_no_cloze_question_comes_from_a_held_out_opening(tokenizer, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "helpers.tasks.cloze.cloze_questions", lambda texts, count: seen.append(texts) or []
    )
    tasks.get("questions").training_batches(tokenizer, 2)
    held_out = {o.document for split in ("validation", "test") for o in annotations.load(split)}
    assert seen[0] and not held_out & seen[0].keys()


def test_settings_become_a_training_configuration_once(tmp_path):
    task = tasks.get("reviews")
    plain = tasks.RunSettings(str(tmp_path)).training_config(task)
    own = task.defaults
    assert plain == TrainingConfig(
        epochs=own.epochs, learning_rate=own.learning_rate, batch_size=own.batch_size,
        consistency=own.consistency, metric=own.metric,
    )  # fmt: skip
    asked = {
        "epochs": 7, "learning_rate": 0.5, "batch_size": 3, "seed": 9, "max_steps": 11,
        "checkpoint_every": 2, "resume": True, "progress": False,
    }  # fmt: skip
    config = tasks.RunSettings(tmp_path, **asked).training_config(task)
    assert {name: getattr(config, name) for name in asked} == asked
    assert config.checkpoint_folder == tmp_path / "checkpoints"
    adapter = tasks.RunSettings(tmp_path, lora_rank=4).training_config(task)
    assert adapter.learning_rate == own.lora_learning_rate != own.learning_rate
    with pytest.raises(InvalidValue, match="give its rank"):
        tasks.RunSettings(tmp_path, lora_alpha=8)
    with pytest.raises(InvalidValue, match="'entities' trains all weights"):
        tasks.RunSettings(tmp_path, lora_rank=4).training_config(tasks.get("entities"))


def test_the_command_line_has_an_option_for_every_setting_but_progress():
    from helpers.cli.main import _parser

    options = vars(_parser().parse_args(["train", "news"]))
    assert {field.name for field in fields(tasks.RunSettings)} - options.keys() == {"progress"}


@pytest.fixture
def table(tmp_path):
    """Texts of which the first word tells the class."""
    path = tmp_path / "own.tsv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["body", "kind"])
        for number, text in enumerate(dict.fromkeys(tiny.texts(120, longest=12))):
            writer.writerow([f"{('w5', 'w6')[number % 2]} {text}", ("odd", "even")[number % 2]])
    return path


COLUMNS = {"text_column": "body", "label_column": "kind"}


def settings(tmp_path, **changes):
    start = tiny_run.write(tmp_path / "start", labels=("even", "odd")) / "model"
    return tasks.RunSettings(
        tmp_path / "run", model=str(start), learning_rate=3e-3, progress=False, **changes
    )


def test_a_run_learns_and_is_judged_again_from_what_it_saved(table, tmp_path):
    task, lines = tasks.get(table, **COLUMNS), []
    metrics = tasks.train(task, settings(tmp_path, epochs=12), report=lines.append)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == json.loads(
        json.dumps(metrics)
    )
    assert "own.tsv" in lines[0] and "judging" in lines[-1]
    data = task.load()
    assert metrics["examples"] == len(data["train"])
    assert metrics["max_length"] == tiny.POSITIONS
    model, tokenizer = models.load_trained(tmp_path / "run" / "model")
    found = []
    for text in data["test"]["text"]:
        batch = tokenizer(text, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            found.append(int(model(batch["input_ids"]).logits.argmax()))
    assert metrics["test"]["accuracy"] == accuracy_score(data["test"]["label"], found) > 0.8
    # The columns are remembered: the file's name is enough to judge it again.
    again = tasks.evaluate(tmp_path / "run", tasks.get(table))
    assert (again["test"], again["baseline"]) == (metrics["test"], metrics["baseline"])
    assert again["examples"] == metrics["examples"]


def test_judging_that_fails_costs_no_trained_model(table, tmp_path):
    class Broken(OwnTable):
        def judge(self, model, encoded, data):
            raise MemoryError("judging needs more")

    chosen = settings(tmp_path, max_steps=2)
    with pytest.raises(MemoryError):
        tasks.train(Broken(table, "body", "kind"), chosen)
    model, _ = models.load_trained(tmp_path / "run" / "model")
    start, _ = models.load_trained(tmp_path / "start" / "model")
    assert not torch.equal(model.classifier.weight, start.classifier.weight)
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert tasks.evaluate(tmp_path / "run", tasks.get(table, **COLUMNS))["test"]["accuracy"] >= 0
    with pytest.raises(CourseError, match="nothing of it is overwritten"):
        tasks.train(tasks.get(table, **COLUMNS), chosen)
    # Resumed, it is judged as it is: another training would have more steps.
    again = replace(chosen, resume=True, max_steps=3)
    metrics = tasks.train(tasks.get(table, **COLUMNS), again)
    assert len(metrics["losses"]) == 2 and 0 <= metrics["test"]["accuracy"] <= 1
    assert metrics == json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert not (tmp_path / "run" / "trained.json").exists()
    with pytest.raises(CourseError, match="holds a run of"):
        tasks.train(tasks.get("news"), again)


def test_a_text_that_cannot_be_encoded_fails_before_the_training(table, tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.training.fit", lambda *_: pytest.fail("the training began"))
    task = tasks.get(table, **COLUMNS)
    data = {split: rows.to_dict() for split, rows in task.load().items()}
    data["test"]["text"][0] = ""
    monkeypatch.setattr(task, "load", lambda examples: data)
    with pytest.raises(InvalidValue, match="must hold a word"):
        tasks.train(task, settings(tmp_path))


def test_a_changed_file_of_questions_is_not_judged(tmp_path):
    path = tmp_path / "own.json"
    path.write_text("{}", encoding="utf-8")
    task = tasks.get(path)
    origin = task.origin()
    assert origin["file"] == "own.json" and task.as_trained(origin) is task
    assert task.as_trained({}) is task, "a run without a record is not refused"
    path.write_text("{} ", encoding="utf-8")
    with pytest.raises(CourseError, match=r"own\.json is not the file"):
        task.as_trained(origin)


def test_a_table_of_ones_own_can_be_planned(table):
    planned = plan_task(tasks.get(table, **COLUMNS), card="t4")
    assert planned.task == "own.tsv" and planned.batch_size == 16
    assert planned.examples == len(tasks.get(table, **COLUMNS).load()["train"])


def test_scores_of_a_classifier_are_scikit_learns_each_with_its_interval():
    random, names = np.random.default_rng(0), ["a", "b", "never predicted", "never there"]
    labels = random.integers(3, size=300)
    predicted = np.where(random.random(300) < 0.7, labels, random.integers(2, size=300)) % 2
    found = score(labels, predicted, names)
    numbers = {"labels": range(4), "target_names": names, "zero_division": 0}
    expected = classification_report(labels, predicted, **numbers, output_dict=True)
    for name in names:
        row = dict(found["per_class"][name])
        low, high = row.pop("f1_interval")
        assert low <= row["f1"] <= high and (low < high or row["f1"] == 0)
        assert row == pytest.approx(
            {key.removesuffix("-score"): value for key, value in expected[name].items()}
        )
    assert found["accuracy"] == accuracy_score(labels, predicted)
    assert found["macro_f1"] == pytest.approx(
        sum(expected[name]["f1-score"] for name in names[:3]) / 3
    )
    for metric in ("accuracy", "macro_f1"):
        interval = evaluation.bootstrap_interval(labels, predicted, metric)
        assert found[f"{metric}_interval"] == list(interval)
