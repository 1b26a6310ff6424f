"""Scores of a classifier and how sure they are: bootstrap intervals and paired tests.

Every named score is a function of how often each true class was called each class. So the
bootstrap needs no rows: drawing N test examples with replacement is drawing N times from the
cells of that table, which numpy does for all resamples at once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from helpers.errors import InvalidValue, unknown_name

Classes = Sequence[int] | np.ndarray
Metric = str | Callable[[np.ndarray, np.ndarray], float]
BINARY = ("precision", "recall", "f1")
METRICS = ("accuracy", "macro_f1", "macro_precision", "macro_recall", *BINARY)


def score(labels: Classes, predicted: Classes, metric: str = "accuracy") -> float:
    """One named score, equal to scikit-learn's (a quotient 0/0 counts as 0).

    labels, predicted: (N,) class numbers.
    metric: "accuracy", "macro_f1", "macro_precision", "macro_recall" (means over the classes
        that occur among labels or predictions); for two classes 0 and 1 also "precision",
        "recall", "f1", each of class 1.
    Raises InvalidValue: no examples, different lengths, an unknown metric, "f1" and the like for
    other classes than 0 and 1.
    """
    labels, predicted = check_pair(labels, predicted)
    _check_metric(metric, labels, predicted)
    cells, counts = np.unique(np.stack([labels, predicted]), axis=1, return_counts=True)
    return float(_scores(counts[None], cells[0], cells[1], metric)[0])


def bootstrap_interval(
    labels: Classes,
    predicted: Classes,
    metric: Metric = "accuracy",
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 42,
) -> tuple[float, float]:
    """The percentile bootstrap interval of a score (Efron & Tibshirani 1993, chapter 13).

    It says how far the score would move with other test examples drawn in the same way; not with
    other training examples or seeds. Where every prediction is right, every resample is too, and
    the interval has no width: then the error can still be up to about 3/N (the rule of three).

    metric: a name that ``score`` knows; or a function of (labels, predicted), which is called
        once a resample and so takes longer.
    resamples: at least 1. confidence: between 0 and 1.
    Raises InvalidValue: as ``score``, or a value out of its range.
    """
    labels, predicted = check_pair(labels, predicted)
    tail = _tail(resamples, confidence)
    random = np.random.default_rng(seed)
    if callable(metric):
        draws = (random.integers(len(labels), size=len(labels)) for _ in range(resamples))
        scores = np.array([metric(labels[rows], predicted[rows]) for rows in draws])
    else:
        (scores,) = _resampled_scores(labels, [predicted], metric, resamples, random)
    low, high = np.quantile(scores, [tail, 1 - tail])
    return float(low), float(high)


def paired_bootstrap(
    labels: Classes,
    predicted_a: Classes,
    predicted_b: Classes,
    metric: str = "accuracy",
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 42,
) -> dict[str, Any]:
    """How much better is model a than model b on the same test examples, and how surely?

    Both are scored on the same resamples, so what is hard for both cancels out.
    Returns ``difference`` (score of a minus score of b), ``interval`` (its percentile bootstrap)
    and ``p_value``, the level at which that interval just reaches 0: twice the smaller share of
    resamples whose difference is at most 0, or at least 0 (one is added to both counts, so that
    it is never 0), and at most 1.
    metric: a name that ``score`` knows. Errors as in ``bootstrap_interval``.
    """
    labels, predicted_a = check_pair(labels, predicted_a)
    labels, predicted_b = check_pair(labels, predicted_b)
    tail = _tail(resamples, confidence)
    difference = score(labels, predicted_a, metric) - score(labels, predicted_b, metric)
    random = np.random.default_rng(seed)
    a, b = _resampled_scores(labels, [predicted_a, predicted_b], metric, resamples, random)
    low, high = np.quantile(a - b, [tail, 1 - tail])
    rarer = min(np.sum(a <= b), np.sum(a >= b))
    return {
        "difference": difference,
        "interval": (float(low), float(high)),
        "p_value": float(min(1.0, 2 * (rarer + 1) / (resamples + 1))),
    }


def mcnemar(labels: Classes, predicted_a: Classes, predicted_b: Classes) -> dict[str, Any]:
    """The exact form of McNemar's test (1947): do two models err equally often?

    Only examples that exactly one of them got right can tell; if both are equally good, each
    such example is the toss of a fair coin. Returns ``only_a_right``, ``only_b_right`` (counts)
    and ``p_value`` (two-sided, binomial; 1.0 where no example tells them apart).
    """
    labels, predicted_a = check_pair(labels, predicted_a)
    labels, predicted_b = check_pair(labels, predicted_b)
    right_a, right_b = predicted_a == labels, predicted_b == labels
    only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))
    p_value = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return {"only_a_right": only_a, "only_b_right": only_b, "p_value": float(p_value)}


def check_pair(labels: Classes, predicted: Classes) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays of class numbers; InvalidValue unless there is one prediction a label."""
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if labels.ndim != 1 or labels.shape != predicted.shape:
        raise InvalidValue(
            f"labels have shape {labels.shape} and predictions {predicted.shape}; give one class "
            f"number a test example for each."
        )
    if len(labels) == 0:
        raise InvalidValue("there are no test examples to score; give at least one.")
    for what, values in (("labels", labels), ("predictions", predicted)):
        if values.dtype.kind not in "iub":
            raise InvalidValue(
                f"{what} are {values.dtype}; class numbers are whole numbers. From logits or "
                f"probabilities take argmax(axis=1)."
            )
    return labels.astype(np.int64), predicted.astype(np.int64)


def _check_metric(metric: str, labels: np.ndarray, predicted: np.ndarray) -> None:
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    found = np.union1d(labels, predicted)
    if metric in BINARY and not np.isin(found, (0, 1)).all():
        raise InvalidValue(
            f"metric {metric!r} is of class 1 among two, 0 and 1; there are {found.tolist()}. "
            f"Ask for 'macro_{metric}'."
        )


def _tail(resamples: int, confidence: float) -> float:
    if resamples < 1:
        raise InvalidValue(f"resamples is {resamples}; it must be at least 1, usually 2,000.")
    if not 0 < confidence < 1:
        raise InvalidValue(f"confidence is {confidence}; it must be between 0 and 1, like 0.95.")
    return (1 - confidence) / 2


def _resampled_scores(
    labels: np.ndarray,
    predictions: Sequence[np.ndarray],
    metric: str,
    resamples: int,
    random: np.random.Generator,
) -> list[np.ndarray]:
    """For each model's predictions its score (R,) in each of R shared resamples."""
    for predicted in predictions:
        _check_metric(metric, labels, predicted)
    rows = np.stack([labels, *predictions])
    cells, counts = np.unique(rows, axis=1, return_counts=True)  # (1 + models, K), (K,)
    drawn = random.multinomial(len(labels), counts / len(labels), size=resamples)  # (R, K)
    return [_scores(drawn, cells[0], called, metric) for called in cells[1:]]


def _scores(counts: np.ndarray, actual: np.ndarray, called: np.ndarray, metric: str) -> np.ndarray:
    """Scores (R,) of R tables: ``counts`` (R, K) of examples of class ``actual`` (K,) that were
    called ``called`` (K,)."""
    right = counts * (actual == called)  # (R, K)
    if metric == "accuracy":
        return right.sum(1) / counts.sum(1)
    classes = np.array([1]) if metric in BINARY else np.union1d(actual, called)
    of_class, as_class = actual[:, None] == classes, called[:, None] == classes  # (K, C)
    hits, support, marked = right @ of_class, counts @ of_class, counts @ as_class  # (R, C)
    above, below = {
        "precision": (hits, marked),
        "recall": (hits, support),
        "f1": (2 * hits, marked + support),
    }[metric.removeprefix("macro_")]
    of_each = above / np.maximum(below, 1)  # (R, C)
    occurs = (marked + support) > 0
    return of_each.sum(1) / np.maximum(occurs.sum(1), 1)
