"""A card says what metrics.json says, in the Hub's form, and no more."""

import json

import pytest
import tiny_run
from huggingface_hub import ModelCard

from helpers.errors import CourseError, InvalidValue
from helpers.shipping import model_card
from helpers.shipping.model_card import NOT_MEASURED, Description

WORDS = {
    "name": "tiny", "intended_use": "Sort sentences of film reviews.",
    "out_of_scope": "Judging the people who wrote them.",
}  # fmt: skip


def text(**changes):
    options = WORDS | {
        k: changes.pop(k) for k in list(changes) if k in (*WORDS, "data", "licence", "language")
    }
    return model_card.card_text(
        tiny_run.metrics(**changes), Description(**options), labels=tiny_run.LABELS
    )


def test_the_hubs_own_class_reads_the_scores_back():
    data = ModelCard(text()).data
    assert (data.license, data.language, data.pipeline_tag) == (
        "apache-2.0",
        "en",
        "text-classification",
    )
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert {r.metric_name: r.metric_value for r in data.eval_results} == {
        "accuracy (95 % interval 0.782 to 0.843)": 0.8125,
        "macro F1 (95 % interval 0.772 to 0.833)": 0.8025,
    }
    assert {r.metric_type for r in data.eval_results} == {"accuracy", "f1"}


def test_a_card_holds_every_section_and_finds_no_fault_in_itself():
    card = text()
    assert model_card.find_faults(card, tiny_run.metrics()) == []
    for title in model_card.SECTIONS:
        assert f"\n## {title}\n" in card
    for words in WORDS.values():
        assert words in card
    assert "| this model | 0.812 (0.782 to 0.843) |" in card
    assert "| TF-IDF + logistic regression | 0.700 (0.670 to 0.730) |" in card
    assert "MIT" in card and "Hutto and Gilbert 2014" in card and "seed: 42" in card
    assert "3 test texts were longer" in card


@pytest.mark.parametrize(
    ("baseline", "verdict"),
    [
        ({"majority": tiny_run.scores(0.5, 0.3)}, "majority class) is below this model's"),
        (
            {"tfidf_logreg": tiny_run.scores(0.8, 0.8)},
            "within this model's interval: no clear gain",
        ),
        ({"tfidf_logreg": tiny_run.scores(0.9, 0.9)}, "does better.** Use that."),
        (
            {"majority": tiny_run.scores(0.5, 0.3), "tfidf_logreg": tiny_run.scores(0.9, 0.9)},
            "The baseline (TF-IDF + logistic regression) does better.** Use that.",
        ),
        (
            {"sliding_window": tiny_run.scores(0.8, 0.8), "silent": tiny_run.scores(0.6, 0.9)},
            "The best baseline (sliding window of words) is within this model's interval",
        ),
        ({}, "No baseline was measured"),
    ],
)
def test_the_comparison_with_the_baseline_does_not_flatter(baseline, verdict):
    assert verdict in text(baseline=baseline)


def test_bias_is_shown_with_intervals_or_said_not_to_be_measured(tmp_path):
    assert NOT_MEASURED in text()
    run = tiny_run.write(tmp_path / "run")
    model_card.record_bias(run, "he and she", {"flip_rate": (0.02, 0.01, 0.04)})
    model_card.record_bias(run, "old and young", {"shift": (-0.1, -0.2, 0.05)})
    path = model_card.write_card(run, Description(**WORDS))
    card = path.read_text(encoding="utf-8")
    assert "| he and she | flip rate | 0.020 | 0.010 to 0.040 |" in card
    assert "| old and young | shift | -0.100 | -0.200 to 0.050 |" in card
    assert NOT_MEASURED not in card
    assert model_card.find_faults(card, model_card.read_metrics(run)) == []
    assert path == run / "model" / "README.md"
    assert not list(run.rglob(".*"))


def test_a_bias_outside_its_interval_is_refused(tmp_path):
    run = tiny_run.write(tmp_path / "run")
    before = (run / "metrics.json").read_bytes()
    for what, measures in (
        ("he and she", {"shift": (0.3, 0.1, 0.2)}), ("he and she", {}), (" ", {"shift": (0, 0, 0)}),
    ):  # fmt: skip
        with pytest.raises(InvalidValue):
            model_card.record_bias(run, what, measures)
    assert (run / "metrics.json").read_bytes() == before


def test_your_own_task_must_say_whose_the_texts_are():
    with pytest.raises(InvalidValue, match="say where its texts come from"):
        text(task="mine.csv")
    assert "Letters to our desk." in text(task="mine.csv", data="Letters to our desk.")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intended_use": " "}, "intended_use is ' '"),
        ({"out_of_scope": "TODO"}, "out_of_scope is 'TODO'"),
        ({"licence": "apache"}, r"Did you mean 'apache-2\.0'"),
        ({"language": "English"}, "language is 'English'"),
        ({"test": {"accuracy": 0.9}}, "no score with an interval"),
    ],
)
def test_what_is_missing_is_named(changes, message):
    with pytest.raises(CourseError, match=message):
        text(**changes)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("license: apache-2.0\n", "", "lack license"),
        ("license: apache-2.0", "license: mine", "'mine' isn't one of"),
        ("language: en\n", "", "lack language"),
        (
            "Sort sentences of film reviews.",
            "TODO: write what it is for",
            "'Intended use' is missing",
        ),
        ("## Bias\n", "## Other\n", "'Bias' is missing"),
        ("value: 0.8125", "value: 0.9125", "its accuracy is not the one"),
        ("---\nbase", "---\n: [base", "cannot be read"),
    ],
)
def test_every_fault_of_a_card_is_found(old, new, fault):
    card = text()
    assert old in card
    found = model_card.find_faults(card.replace(old, new), tiny_run.metrics())
    assert any(fault in sentence for sentence in found), found


def test_a_card_without_metadata_is_at_fault():
    assert "the metadata lack license" in model_card.find_faults("# A model\n")


def test_a_folder_without_a_run_is_explained(tmp_path):
    with pytest.raises(CourseError, match="helpers train"):
        model_card.write_card(tmp_path, Description(**WORDS))
    (tmp_path / "metrics.json").write_text(json.dumps({"test": 3}), encoding="utf-8")
    with pytest.raises(CourseError, match="no scores under 'test'"):
        model_card.write_card(tmp_path, Description(**WORDS))
