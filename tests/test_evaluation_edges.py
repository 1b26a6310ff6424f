"""helpers.evaluation where small slips hide: defaults, ends of ranges, and what is refused."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from torch import nn

from helpers import evaluation
from helpers.batches import EncodedTexts
from helpers.errors import InvalidValue
from helpers.evaluation import calibration, metrics, prediction

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(3, size=60)
CALLED = np.where(RANDOM.random(60) < 0.7, LABELS, RANDOM.integers(3, size=60))
OTHER = np.where(RANDOM.random(60) < 0.6, LABELS, RANDOM.integers(3, size=60))

# -- intervals and tests -------------------------------------------------------------------------


def test_the_documented_defaults_are_used():
    stated = {"resamples": 2000, "confidence": 0.95, "seed": 42}
    interval = metrics.bootstrap_interval(LABELS, CALLED)
    assert interval == metrics.bootstrap_interval(LABELS, CALLED, "accuracy", **stated)
    found = metrics.paired_bootstrap(LABELS, CALLED, OTHER)
    assert found == metrics.paired_bootstrap(LABELS, CALLED, OTHER, "accuracy", **stated)
    assert metrics.score(LABELS, CALLED) == np.mean(LABELS == CALLED)


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.99])
def test_an_interval_leaves_out_half_of_the_rest_at_each_end(confidence):
    """With a function as the metric the resamples can be counted."""
    seen = []

    def accuracy(labels, predicted):
        seen.append(np.mean(labels == predicted))
        return seen[-1]

    found = metrics.bootstrap_interval(
        LABELS, CALLED, accuracy, resamples=999, confidence=confidence
    )
    assert len(seen) == 999
    tail = 50 * (1 - confidence)
    assert found == pytest.approx(tuple(np.percentile(seen, [tail, 100 - tail])))
    by_name = metrics.bootstrap_interval(LABELS, CALLED, resamples=9999, confidence=confidence)
    assert by_name == pytest.approx(found, abs=1.5 / 60)


def test_the_paired_intervals_width_follows_the_confidence():
    def width(confidence):
        found = metrics.paired_bootstrap(LABELS, CALLED, OTHER, confidence=confidence)
        return np.diff(found["interval"])[0]

    differences = (LABELS == CALLED).astype(float) - (LABELS == OTHER)
    error = differences.std() / np.sqrt(60)  # of the mean, which is nearly normal
    assert width(0.95) == pytest.approx(2 * 1.96 * error, rel=0.12)
    assert width(0.5) == pytest.approx(2 * 0.674 * error, rel=0.2)


def test_the_p_value_on_paper():
    """b errs on one of three: no resample shows a difference unless it holds that one."""
    found = metrics.paired_bootstrap([0, 0, 0], [0, 0, 0], [0, 0, 1], resamples=40_000)
    assert found["p_value"] == pytest.approx(2 * (2 / 3) ** 3, abs=0.01)
    back = metrics.paired_bootstrap([0, 0, 0], [0, 0, 1], [0, 0, 0], resamples=40_000)
    assert back["p_value"] == pytest.approx(found["p_value"], abs=0.01)
    assert back["difference"] == pytest.approx(-1 / 3)
    certain = metrics.paired_bootstrap([0, 0], [0, 0], [1, 1], resamples=9)
    assert certain["p_value"] == pytest.approx(2 * (0 + 1) / (9 + 1))  # never 0


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int32, np.int64])
def test_whole_numbers_of_any_type_are_class_numbers(kind):
    found = metrics.check_pair(np.array([0, 1, 1], kind), [1, 1, 0])
    assert [part.dtype for part in found] == [np.int64, np.int64]
    assert [part.tolist() for part in found] == [[0, 1, 1], [1, 1, 0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.check_pair([[0, 1]], [[0, 1]]), r"labels have shape \(1, 2\)"),
        (lambda: metrics.check_pair([0.0, 1.0], [0, 1]), "labels are float64, predictions int64"),
        (lambda: metrics.check_pair([0, 1], [0.0, 1.0]), "labels are int64, predictions float64"),
        (lambda: metrics.check_pair(["a"], ["a"]), "whole numbers"),
        (lambda: metrics.score([0, 1], [0, 2], "f1"), r"there are \[0, 1, 2\].*'macro_f1'"),
        (lambda: metrics.score([0, 1], [0, 2], "recall"), "'macro_recall'"),
        (lambda: metrics.paired_bootstrap([0], [0], [0], "auc"), "unknown metric 'auc'"),
        (lambda: metrics.bootstrap_interval([0], [0], confidence=0), "confidence is 0;"),
        (lambda: metrics.bootstrap_interval([0], [0], confidence=1), "confidence is 1;"),
        (lambda: metrics.paired_bootstrap([0], [0], [0], resamples=0), "resamples is 0"),
        (lambda: metrics.mcnemar([0, 1], [0, 1], [0]), "shape"),
    ],
)
def test_what_cannot_be_scored_is_refused(call, message):
    with pytest.raises(InvalidValue, match=message):
        call()


def test_one_resample_and_nearly_full_confidence_are_allowed():
    low, high = metrics.bootstrap_interval(LABELS, CALLED, resamples=1)
    assert 0 < low == high < 1
    low, high = metrics.bootstrap_interval(LABELS, CALLED, confidence=0.9999)
    assert low < high


# -- calibration ---------------------------------------------------------------------------------

PROBABILITIES = softmax(RANDOM.normal(size=(500, 4)) * 2, axis=1)
TRUE = np.array([RANDOM.choice(4, p=row) for row in PROBABILITIES])


@pytest.mark.parametrize("bins", [1, 7, 10, 15])
def test_bins_and_their_error_equal_a_loop(bins):
    sure, right = PROBABILITIES.max(1), PROBABILITIES.argmax(1) == TRUE
    found = calibration.calibration_bins(PROBABILITIES, TRUE, bins)
    error = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for m in range(bins):
            inside = (sure > m / bins) & (sure <= (m + 1) / bins)
            assert found["count"][m] == inside.sum()
            if inside.any():
                assert found["confidence"][m] == pytest.approx(sure[inside].mean())
                assert found["accuracy"][m] == pytest.approx(right[inside].mean())
                error += inside.mean() * abs(sure[inside].mean() - right[inside].mean())
            else:
                assert np.isnan([found["confidence"][m], found["accuracy"][m]]).all()
        again = calibration.expected_calibration_error(PROBABILITIES, TRUE, bins)
    assert again == pytest.approx(error)
    if bins == 10:
        assert calibration.expected_calibration_error(PROBABILITIES, TRUE) == again
        stated = calibration.calibration_bins(PROBABILITIES, TRUE)["count"]
        assert stated.tolist() == found["count"].tolist()


def test_the_end_of_a_step_belongs_to_it():
    found = calibration.calibration_bins([[0.5, 0.5], [0.75, 0.25], [0.76, 0.24]], [0, 0, 0], 4)
    assert found["count"].tolist() == [0, 1, 1, 1]


def test_rounding_above_one_falls_into_the_last_step():
    found = calibration.calibration_bins([[1.0005, 0.0]], [0], 10)
    assert found["count"].tolist() == [0] * 9 + [1]
    assert found["confidence"][9] == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibration.calibration_bins([[0.6, 0.6]], [0]), "sum to 1"),
        (lambda: calibration.calibration_bins([[0.5, 0.498]], [0]), "sum to 1"),
        (lambda: calibration.calibration_bins(np.zeros((2, 2, 2)), [0, 0]), "give .N, C. and .N,."),
    ],
)
def test_what_cannot_be_calibrated_is_refused(call, message):
    with pytest.raises(InvalidValue, match=message):
        call()


@pytest.mark.parametrize("kind", [np.float64, np.float16])
def test_the_temperature_on_paper(kind):
    """Of three texts with logits (1, 0), two are right: sigmoid(1 / T) = 2 / 3."""
    logits = np.array([[1, 0], [1, 0], [1, 0]], kind)
    found = calibration.fit_temperature(logits, [0, 0, 1])
    assert found == pytest.approx(1 / np.log(2), rel=1e-6)


def test_a_model_that_is_always_wrong_gets_the_highest_temperature():
    found = calibration.fit_temperature(np.array([[3.0, 0.0], [0.0, 2.0]]), [1, 0])
    assert 49.9 < found <= 50
    assert 0.02 <= calibration.fit_temperature(np.array([[0.1, 0.0]]), [0]) < 0.0201


# -- predictions and baselines ------------------------------------------------------------------


class Recorder(nn.Module):
    """Two logits per text, from its first token; remembers the shapes it was given."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.shapes = []

    def forward(self, input_ids, attention_mask):
        assert torch.is_inference_mode_enabled() and not self.training
        self.shapes.append(tuple(input_ids.shape))
        first = input_ids[:, 0].float()
        return SimpleNamespace(logits=torch.stack([first, 10 - first], dim=1))


def short_texts(count, length=1, labels=None):
    ids = np.arange(count * length, dtype=np.int32) % 11
    return EncodedTexts(ids, np.arange(0, count * length + 1, length), labels)


def test_a_batch_holds_as_many_tokens_as_the_device_takes(monkeypatch):
    model = Recorder()
    found = evaluation.predict(model, short_texts(5000))
    assert sorted(model.shapes, reverse=True) == [(2048, 1), (2048, 1), (904, 1)]
    assert found.classes[:7].tolist() == [1] * 5 + [0] * 2
    model.shapes.clear()
    monkeypatch.setitem(prediction.TOKENS_AT_ONCE, "cpu", 1)
    found = evaluation.predict(model, short_texts(3))
    assert model.shapes == [(1, 1)] * 3 and found.classes.tolist() == [1, 1, 1]


def test_forward_yields_every_example_once_with_its_batch(monkeypatch):
    monkeypatch.setitem(prediction.TOKENS_AT_ONCE, "cpu", 8)
    data = short_texts(23, 2, labels=np.zeros(23, np.int64))
    seen = {}
    for indices, batch, output in evaluation.forward(Recorder(), data):
        assert len(indices) == 4 or len(seen) == 20
        for row, index in enumerate(indices):
            assert batch["input_ids"][row].tolist() == [index * 2 % 11, (index * 2 + 1) % 11]
            seen[int(index)] = output.logits[row].tolist()
    assert seen == {i: [float(i * 2 % 11), 10.0 - i * 2 % 11] for i in range(23)}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0.5, 1.5], np.float32), r"labels of shape \(2,\) \(torch.float32\)"),
        (np.array([[0, 1], [1, 0]]), r"labels of shape \(2, 2\)"),
    ],
)
def test_labels_that_are_not_one_class_per_example_are_refused(labels, message):
    with pytest.raises(InvalidValue, match=message):
        evaluation.predict(Recorder(), short_texts(2, labels=labels))


def test_of_two_commonest_classes_the_lower_number_is_the_majority():
    found = evaluation.majority_baseline([3, 1, 3, 1, 2], np.zeros(4))
    assert found.tolist() == [1] * 4 and found.dtype == np.int64


def test_the_tfidf_pipeline_is_as_described():
    """Against the two parts built here from the docstring."""
    random = np.random.default_rng(1)
    texts = [" ".join(random.choice(["good", "bad", "film", "plot", "a"], 6)) for _ in range(40)]
    labels = np.array([text.count("good") > text.count("bad") for text in texts]).astype(int)
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    theirs = LogisticRegression(C=10).fit(words.fit_transform(texts[:30]), labels[:30])
    expected = theirs.predict_proba(words.transform(texts[30:]))
    classes, found = evaluation.tfidf_baseline(texts[:30], labels[:30], texts[30:])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(classes, expected.argmax(1))
    vectorizer, regression = (step for _, step in evaluation.tfidf_pipeline(seed=5).steps)
    assert vectorizer.max_features == 50_000
    assert (regression.max_iter, regression.random_state) == (1000, 5)


@pytest.mark.parametrize("given", [([], []), (["a b"], [0, 1]), (["a", "b"], [0, 1])])
def test_the_tfidf_baseline_needs_words_and_as_many_labels(given):
    with pytest.raises(InvalidValue, match=r"^TF-IDF cannot use the training texts: "):
        evaluation.tfidf_baseline(*given, ["a"])
