"""Predictions, scores, intervals and calibration against libraries, loops and known answers."""

import gc
import time
import weakref
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
import torch
from torch import nn
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

from helpers import evaluation
from helpers.batches import EncodedTexts
from helpers.errors import InvalidValue
from helpers.evaluation import calibration, metrics, prediction

SKLEARN = {
    "accuracy": sklearn.metrics.accuracy_score,
    "macro_f1": partial(sklearn.metrics.f1_score, average="macro", zero_division=0),
    "macro_precision": partial(sklearn.metrics.precision_score, average="macro", zero_division=0),
    "macro_recall": partial(sklearn.metrics.recall_score, average="macro", zero_division=0),
    "precision": partial(sklearn.metrics.precision_score, zero_division=0),
    "recall": partial(sklearn.metrics.recall_score, zero_division=0),
    "f1": partial(sklearn.metrics.f1_score, zero_division=0),
}


def noisy(count, classes, right, seed=0):
    """Labels, and predictions of which about the share ``right`` agree with them."""
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=count)
    guesses = random.integers(classes, size=count)
    return labels, np.where(random.random(count) < right, labels, guesses)


def encoded(count, *, seed=0, classes=3, labelled=True, longest=40):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, longest, size=count)
    return EncodedTexts(
        random.integers(5, 90, size=lengths.sum()).astype(np.int32),
        np.concatenate([[0], np.cumsum(lengths)]),
        random.integers(classes, size=count) if labelled else None,
    )


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, num_labels=3,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    with torch.no_grad():  # freshly made, it would answer nearly the same to everything
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return model


# predict


def test_predict_gives_what_the_model_gives_one_text_at_a_time(bert):
    data = encoded(60)
    found = evaluation.predict(bert, data)
    bert.eval()
    with torch.no_grad():
        single = [bert(**data.batch([row])) for row in range(len(data))]
    expected = torch.cat([output.logits for output in single]).numpy()
    np.testing.assert_allclose(found.logits, expected, atol=1e-5)
    assert found.loss == pytest.approx(np.mean([float(o.loss) for o in single]), abs=1e-5)
    assert found.logits.dtype == np.float32 and found.logits.shape == (60, 3)
    np.testing.assert_array_equal(found.labels, data.labels)
    np.testing.assert_array_equal(found.classes, expected.argmax(1))
    np.testing.assert_allclose(
        found.probabilities, functional.softmax(torch.tensor(expected), -1), atol=1e-5
    )


@pytest.mark.parametrize("tokens", [1, 50, 333, 10**6])
def test_the_loss_does_not_depend_on_the_batches(bert, tokens, monkeypatch):
    data = encoded(41)
    whole = evaluation.predict(bert, data)
    monkeypatch.setitem(prediction.TOKENS_AT_ONCE, "cpu", tokens)
    found = evaluation.predict(bert, data)
    assert found.loss == pytest.approx(whole.loss, abs=1e-6)
    np.testing.assert_allclose(found.logits, whole.logits, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_predict_switches_dropout_off_and_puts_the_mode_back(bert, training):
    bert.train(training)
    first, second = evaluation.predict(bert, encoded(20)), evaluation.predict(bert, encoded(20))
    np.testing.assert_array_equal(first.logits, second.logits)
    assert bert.training is training


def test_predict_without_labels(bert):
    found = evaluation.predict(bert, encoded(7, labelled=False))
    assert found.labels is None and found.loss is None and found.logits.shape == (7, 3)


class Counting(nn.Module):
    """Gives logits that share memory with a large tensor, and counts how many of them live."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.large, self.most_alive, self.most_tokens = [], 0, 0

    def forward(self, input_ids, attention_mask):
        large = torch.zeros(len(input_ids), 10_000)
        self.large.append(weakref.ref(large.untyped_storage()))
        self.most_alive = max(self.most_alive, sum(part() is not None for part in self.large))
        self.most_tokens = max(self.most_tokens, input_ids.numel())
        return SimpleNamespace(logits=large[:, :2])


def test_predict_keeps_nothing_but_the_logits():
    model, data = Counting(), encoded(3000, classes=2)
    found = evaluation.predict(model, data)
    gc.collect()
    assert len(model.large) > 20
    assert model.most_alive <= 2  # the batch at hand, and the one before until it is replaced
    assert sum(part() is not None for part in model.large) == 0
    assert model.most_tokens <= 2048
    assert found.logits.base is None and found.logits.nbytes == 3000 * 2 * 4


def test_predict_refuses_what_it_cannot_judge(bert):
    ratings = EncodedTexts(np.ones(4, np.int32), np.array([0, 4]), np.array([0.5], np.float32))
    with pytest.raises(InvalidValue, match="one class number per example"):
        evaluation.predict(bert, ratings)


# Scores


@pytest.mark.parametrize("metric", metrics.METRICS)
@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_scikit_learn(metric, seed):
    labels, predicted = noisy(40, 2 if metric in metrics.BINARY else 5, 0.4, seed)
    expected = SKLEARN[metric](labels, predicted)
    assert metrics.score(labels, predicted, metric) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", metrics.METRICS)
@pytest.mark.parametrize(
    ("labels", "predicted"),
    [([0, 0], [0, 0]), ([1, 1], [1, 1]), ([0, 0], [1, 1]), ([1], [0]), ([0, 1, 1], [0, 0, 0])],
)
def test_scores_at_the_edges_are_those_of_scikit_learn(metric, labels, predicted):
    expected = SKLEARN[metric](labels, predicted)
    assert metrics.score(labels, predicted, metric) == pytest.approx(expected, abs=1e-12)


# Intervals


def direct_bootstrap(labels, predicted, metric, resamples, seed):
    """Row by row, as the textbook has it."""
    random = np.random.default_rng(seed)
    rows = random.integers(len(labels), size=(resamples, len(labels)))
    return np.quantile([metric(labels[r], predicted[r]) for r in rows], [0.025, 0.975])


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "macro_recall", "f1", "precision"])
def test_the_bootstrap_is_that_of_a_direct_loop(metric):
    labels, predicted = noisy(250, 2 if metric in metrics.BINARY else 4, 0.75)
    expected = direct_bootstrap(labels, predicted, SKLEARN[metric], 400, seed=1)
    found = metrics.bootstrap_interval(labels, predicted, metric, resamples=20_000)
    assert found == pytest.approx(expected, abs=0.012)  # a quarter of the half width
    by_function = metrics.bootstrap_interval(labels, predicted, SKLEARN[metric], resamples=400)
    assert by_function == pytest.approx(found, abs=0.012)


@pytest.mark.parametrize("units", [60, np.ones(60, dtype=int)], ids=["one by one", "multinomial"])
def test_the_bootstrap_of_a_ratio_of_sums_is_that_of_scipy(units):
    """Sixty documents of one to nine rows each, resampled as wholes."""
    random = np.random.default_rng(4)
    sizes = random.integers(1, 10, size=60)
    sums = sizes * random.random(60)
    values = metrics.bootstrap(lambda drawn: (drawn @ sums) / (drawn @ sizes), units)
    assert values.shape == (2000,)
    expected = scipy.stats.bootstrap(
        (sums, sizes), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True,
        n_resamples=20_000, confidence_level=0.9, method="percentile", rng=1,
    )  # fmt: skip
    found = metrics.percentile_interval(values, 0.9)
    assert found == pytest.approx(tuple(expected.confidence_interval), abs=0.006)
    assert np.std(values, ddof=1) == pytest.approx(expected.standard_error, rel=0.05)


@pytest.mark.parametrize("units", [7, np.array([3, 1, 2])])
def test_every_resample_draws_as_many_units_as_there_are(units):
    drawn = metrics.bootstrap(lambda drawn: drawn, units, resamples=2000)
    sizes = np.ones(7) if isinstance(units, int) else units
    assert drawn.shape == (2000, len(sizes))
    assert (drawn.sum(1) == sizes.sum()).all()
    assert drawn.mean(0) == pytest.approx(sizes, abs=0.12)
    assert (drawn == metrics.bootstrap(lambda drawn: drawn, units, resamples=2000)).all()
    assert (drawn != metrics.bootstrap(lambda drawn: drawn, units, resamples=2000, seed=1)).any()


def test_a_percentile_interval_cuts_the_same_share_off_both_ends():
    assert metrics.percentile_interval(np.arange(101.0)) == pytest.approx((2.5, 97.5))
    assert metrics.percentile_interval(np.arange(101.0), 0.5) == pytest.approx((25, 75))


def test_the_bootstrap_is_that_of_scipy():
    labels, predicted = noisy(400, 3, 0.8)
    right = (labels == predicted).astype(float)
    expected = scipy.stats.bootstrap(
        (right,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    found = metrics.bootstrap_interval(labels, predicted, resamples=20_000)
    assert found == pytest.approx(tuple(expected), abs=1 / 400)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    random, truth, covered = np.random.default_rng(3), 0.85, 0
    labels = np.ones(300, dtype=int)
    for seed in range(1000):
        predicted = (random.random(300) < truth).astype(int)
        low, high = metrics.bootstrap_interval(labels, predicted, resamples=400, seed=seed)
        covered += low <= truth <= high
    assert 0.92 <= covered / 1000 <= 0.97


def test_more_confidence_is_wider_and_more_examples_are_narrower():
    def width(count, **options):
        labels, predicted = noisy(count, 3, 0.7)
        low, high = metrics.bootstrap_interval(labels, predicted, **options)
        return high - low

    assert width(200, confidence=0.8) < width(200) < width(200, confidence=0.99)
    assert width(3200) == pytest.approx(width(200) / 4, rel=0.15)


def test_the_seed_decides():
    labels, predicted = noisy(200, 3, 0.7)
    interval = partial(metrics.bootstrap_interval, labels, predicted, "macro_f1")
    assert interval(seed=1) == interval(seed=1) != interval(seed=2)
    pair = partial(metrics.paired_bootstrap, labels, predicted, np.roll(predicted, 1), "macro_f1")
    assert pair(seed=1) == pair(seed=1)
    assert pair(seed=1)["interval"] != pair(seed=2)["interval"]


def test_two_thousand_resamples_take_well_under_a_second():
    labels, predicted = noisy(2000, 5, 0.9)
    metrics.bootstrap_interval(labels, predicted, "macro_f1", resamples=10)
    started = time.perf_counter()
    metrics.bootstrap_interval(labels, predicted, "macro_f1")
    assert time.perf_counter() - started < 0.5


def test_perfect_predictions_have_an_interval_without_width():
    assert metrics.bootstrap_interval([0, 1, 2], [0, 1, 2], "macro_f1") == (1.0, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.bootstrap_interval([], []), "no test examples"),
        (lambda: metrics.score([0, 1], [0]), r"shape \(2,\) and predictions \(1,\)"),
        (lambda: metrics.score([0, 1], [0.2, 0.8]), "take argmax"),
        (lambda: metrics.score([0], [0], "acuracy"), "Did you mean 'accuracy'"),
        (lambda: metrics.score([0, 2], [0, 1], "f1"), "Ask for 'macro_f1'"),
        (lambda: metrics.bootstrap_interval([0], [0], resamples=0), "resamples is 0"),
        (lambda: metrics.bootstrap_interval([0], [0], confidence=95), "confidence is 95"),
        (lambda: metrics.paired_bootstrap([0, 1], [0, 1], [0]), "shape"),
        (lambda: metrics.mcnemar([], [], []), "no test examples"),
        (lambda: evaluation.tfidf_baseline(["ab"], [0, 1], ["b"]), "numbers of samples: .1, 2."),
        (lambda: evaluation.tfidf_baseline(["!", "?"], [0, 1], ["b"]), "TF-IDF cannot use"),
    ],
)
def test_wrong_calls_say_what_is_wrong(call, message):
    with pytest.raises(InvalidValue, match=message):
        call()


# Two models on the same examples


def test_the_paired_bootstrap_is_that_of_a_direct_loop():
    labels, a = noisy(300, 3, 0.8, seed=1)
    b = np.where(np.random.default_rng(2).random(300) < 0.1, (labels + 1) % 3, a)
    found = metrics.paired_bootstrap(labels, a, b, "macro_f1", resamples=20_000)
    random, f1 = np.random.default_rng(9), SKLEARN["macro_f1"]
    rows = random.integers(300, size=(500, 300))
    loop = [f1(labels[r], a[r]) - f1(labels[r], b[r]) for r in rows]
    assert found["difference"] == pytest.approx(f1(labels, a) - f1(labels, b))
    assert found["interval"] == pytest.approx(tuple(np.quantile(loop, [0.025, 0.975])), abs=0.008)
    assert found["p_value"] < 0.01


def test_pairing_sees_what_two_separate_intervals_miss():
    labels = np.zeros(500, dtype=int)
    a, b = labels.copy(), labels.copy()
    a[:100] = 1
    b[:115] = 1  # wrong wherever a is, and on fifteen more
    low_a, _ = metrics.bootstrap_interval(labels, a)
    _, high_b = metrics.bootstrap_interval(labels, b)
    assert low_a < high_b
    found = metrics.paired_bootstrap(labels, a, b)
    assert found["difference"] == pytest.approx(0.03) and found["interval"][0] > 0
    assert found["p_value"] < 0.01


def test_a_model_is_not_better_than_itself():
    labels, a = noisy(100, 3, 0.8)
    found = metrics.paired_bootstrap(labels, a, a)
    assert found == {"difference": 0.0, "interval": (0.0, 0.0), "p_value": 1.0}
    assert metrics.mcnemar(labels, a, a)["p_value"] == 1.0


def test_under_the_null_small_p_values_are_as_rare_as_they_say():
    random, small = np.random.default_rng(0), 0
    labels = np.ones(200, dtype=int)
    for seed in range(400):
        a, b = (random.random((2, 200)) < 0.8).astype(int)
        small += metrics.paired_bootstrap(labels, a, b, resamples=400, seed=seed)["p_value"] < 0.05
    assert 0.02 <= small / 400 <= 0.09


def test_mcnemar_counts_the_examples_that_tell():
    labels = np.zeros(20, dtype=int)
    a, b = np.zeros(20, dtype=int), np.zeros(20, dtype=int)
    a[0], b[1:10], a[15], b[15] = 1, 1, 1, 1
    found = metrics.mcnemar(labels, a, b)
    assert (found["only_a_right"], found["only_b_right"]) == (9, 1)
    assert found["p_value"] == pytest.approx(2 * (1 + 10) / 2**10)


# Baselines


def test_the_majority_baseline():
    found = evaluation.majority_baseline([2, 0, 2, 1], [0, 0, 1])
    np.testing.assert_array_equal(found, [2, 2, 2])
    assert set(evaluation.majority_baseline([1, 0], [5])) == {0}


TEXTS = ["good film", "a good plot", "very good", "bad film", "a bad plot", "very bad"]


def test_the_tfidf_baseline_learns_words():
    found, probabilities = evaluation.tfidf_baseline(TEXTS, [1, 1, 1, 0, 0, 0], ["good", "bad"])
    np.testing.assert_array_equal(found, [1, 0])
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert probabilities[0, 1] > 0.7


def test_the_tfidf_baseline_keeps_class_numbers():
    found, probabilities = evaluation.tfidf_baseline(TEXTS, [3, 3, 3, 1, 1, 1], ["good", "bad"])
    np.testing.assert_array_equal(found, [3, 1])
    assert probabilities.shape == (2, 4) and (probabilities[:, [0, 2]] == 0).all()


def test_the_tfidf_baseline_with_one_class_only():
    found, probabilities = evaluation.tfidf_baseline(["a b", "c d"], [1, 1], ["x", "y", "z"])
    np.testing.assert_array_equal(found, [1, 1, 1])
    np.testing.assert_array_equal(probabilities, [[0, 1]] * 3)


# Calibration


def test_calibration_bins_by_hand():
    sure = np.array([0.55, 0.6, 0.95, 1.0])
    probabilities = np.stack([sure, 1 - sure], axis=1)
    found = calibration.calibration_bins(probabilities, [0, 1, 0, 0])
    np.testing.assert_array_equal(found["count"], [0, 0, 0, 0, 0, 2, 0, 0, 0, 2])
    assert found["confidence"][5] == pytest.approx(0.575) and found["accuracy"][5] == 0.5
    assert found["confidence"][9] == pytest.approx(0.975) and found["accuracy"][9] == 1
    assert np.isnan(found["accuracy"][0])
    error = calibration.expected_calibration_error(probabilities, [0, 1, 0, 0])
    assert error == pytest.approx((2 * 0.075 + 2 * 0.025) / 4)


def honest(count, seed=0):
    """Logits (N, 3) and labels drawn from just the probabilities that they state."""
    random = np.random.default_rng(seed)
    logits = random.normal(scale=2, size=(count, 3))
    return logits, np.array([random.choice(3, p=p) for p in scipy.special.softmax(logits, 1)])


def test_honest_probabilities_have_little_calibration_error():
    logits, labels = honest(20_000)
    honest_error = calibration.expected_calibration_error(scipy.special.softmax(logits, 1), labels)
    too_sure = scipy.special.softmax(3 * logits, 1)
    assert honest_error < 0.01
    assert calibration.expected_calibration_error(too_sure, labels) > 0.1


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_temperature_is_found(temperature):
    logits, labels = honest(20_000)
    found = calibration.fit_temperature(logits * temperature, labels)
    assert found == pytest.approx(temperature, rel=0.03)


def test_the_temperature_is_the_best():
    logits, labels = honest(500)
    logits, answers = torch.tensor(logits), torch.tensor(labels)
    found = calibration.fit_temperature(logits.numpy(), labels)
    at = [float(functional.cross_entropy(logits / t, answers)) for t in (found, found * 1.02)]
    below = float(functional.cross_entropy(logits / (found / 1.02), answers))
    assert at[0] < at[1] and at[0] < below


def test_without_a_mistake_the_temperature_goes_to_its_end():
    logits = np.array([[3.0, 0.0], [0.0, 2.0]])
    assert 0.02 <= calibration.fit_temperature(logits, [0, 1]) < 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibration.fit_temperature(np.zeros((2, 2)), [0]), r"\(2, 2\) and labels \(1,\)"),
        (lambda: calibration.calibration_bins([[3.0, -2.0]], [0]), "apply softmax"),
    ],
)
def test_wrong_calibration_calls_say_what_is_wrong(call, message):
    with pytest.raises(InvalidValue, match=message):
        call()
