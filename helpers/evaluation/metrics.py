"""Scores of a classifier and how certain they are: bootstrap intervals and paired tests.

A named score depends only on how often each true class was predicted as each class. So its
resamples need no rows: drawing N test examples with replacement is drawing N times from the cells
of that table, which numpy does for all resamples at once. For 2,000 resamples of 2,000 examples in
five classes that takes 0.03 s, 700 times less than calling scikit-learn's macro-F1 on each.
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
_DRAWS_AT_ONCE = 2**24  # 128 MB of counts


def score(labels: Classes, predicted: Classes, metric: str = "accuracy") -> float:
    """One named score, equal to scikit-learn's (a quotient 0/0 counts as 0).

    labels, predicted: (N,) class numbers.
    metric: "accuracy", "macro_f1", "macro_precision", "macro_recall" (means over the classes
        that occur among labels or predictions); for two classes 0 and 1 also "precision",
        "recall" and "f1" of class 1.
    Raises InvalidValue: no examples, different lengths, an unknown metric, "f1" and the like for
    classes other than 0 and 1.
    """
    scores, counts = _scorer(metric, labels, predicted)
    return float(scores(counts[None])[0, 0])


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray],
    units: int | np.ndarray,
    *,
    resamples: int = 2000,
    seed: int = 42,
) -> np.ndarray:
    """(R, ...) values of a statistic in R resamples, each of as many units as there are, drawn with
    replacement (Efron & Tibshirani 1993, chapter 6).

    A unit is what was sampled independently: an example, a document with all its questions, a
    sentence with all its rewritten versions.
    statistic: takes (R, U) counts, how often each unit was drawn in each resample, and returns
        (R, ...). The mean over all rows is ``(drawn @ sums) / (drawn @ sizes)``, with the sum and
        the number of each unit's rows.
    units: their number U, drawn one by one; or (U,) the number of units of each kind, drawn as one
        multinomial per resample: much faster where many units are alike. The distribution is the
        same, the random numbers are not.
    Raises InvalidValue: ``resamples`` below 1.
    """
    if resamples < 1:
        raise InvalidValue(f"resamples is {resamples}; it must be at least 1, usually 2,000.")
    random = np.random.default_rng(seed)
    if not isinstance(units, int):
        return statistic(random.multinomial(units.sum(), units / units.sum(), size=resamples))
    found, at_once = [], max(1, _DRAWS_AT_ONCE // units)
    for done in range(0, resamples, at_once):
        rows = random.integers(units, size=(min(at_once, resamples - done), units))
        found.append(statistic(np.stack([np.bincount(row, minlength=units) for row in rows])))
    return np.concatenate(found)


def percentile_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """The interval that holds the middle ``confidence`` of the resampled ``values`` (R,).

    Raises InvalidValue: a ``confidence`` that is not between 0 and 1.
    Source: Efron & Tibshirani 1993, chapter 13.
    """
    if not 0 < confidence < 1:
        raise InvalidValue(f"confidence is {confidence}; it must be between 0 and 1, like 0.95.")
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_interval(
    labels: Classes,
    predicted: Classes,
    metric: Metric = "accuracy",
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 42,
) -> tuple[float, float]:
    """The percentile bootstrap interval of a score over N test examples.

    It shows how far the score would move with other test examples drawn in the same way; not with
    other training examples or seeds. Where every prediction is right, every resample is too, and
    the interval has no width: then the error can still be up to about 3/N (the rule of three).

    metric: a name that ``score`` knows; or a function of (labels, predicted), which is called
        once per resample and so takes longer. For the F1 of class c, pass ``labels == c`` and
        ``predicted == c`` with the metric "f1".
    Raises InvalidValue: as ``score``, or resamples or confidence out of range.
    """
    if callable(metric):
        labels, predicted = check_pair(labels, predicted)
        values = bootstrap(
            lambda drawn: np.array(
                [metric(labels.repeat(row), predicted.repeat(row)) for row in drawn]
            ),
            len(labels),
            resamples=resamples,
            seed=seed,
        )
    else:
        scores, counts = _scorer(metric, labels, predicted)
        values = bootstrap(scores, counts, resamples=resamples, seed=seed)
    return percentile_interval(values, confidence)


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
    scores, counts = _scorer(metric, labels, predicted_a, predicted_b)
    a, b = scores(counts[None])[0]
    resampled = bootstrap(scores, counts, resamples=resamples, seed=seed)  # (R, 2)
    differences = resampled[:, 0] - resampled[:, 1]
    rarer = min(np.sum(differences <= 0), np.sum(differences >= 0))
    return {
        "difference": float(a - b),
        "interval": percentile_interval(differences, confidence),
        "p_value": float(min(1.0, 2 * (rarer + 1) / (resamples + 1))),
    }


def mcnemar(labels: Classes, predicted_a: Classes, predicted_b: Classes) -> dict[str, Any]:
    """The exact form of McNemar's test (1947): do two models err equally often?

    Only examples that exactly one of them got right can tell; if both are equally good, each
    such example is a fair coin toss. Returns ``only_a_right``, ``only_b_right`` (counts)
    and ``p_value`` (two-sided, binomial; 1.0 where no example tells them apart).
    """
    labels, predicted_a = check_pair(labels, predicted_a)
    labels, predicted_b = check_pair(labels, predicted_b)
    right_a, right_b = predicted_a == labels, predicted_b == labels
    only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))
    p_value = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return {"only_a_right": only_a, "only_b_right": only_b, "p_value": float(p_value)}


def check_pair(labels: Classes, predicted: Classes) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays of class numbers; InvalidValue unless there is one prediction per label."""
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if labels.ndim != 1 or labels.shape != predicted.shape:
        raise InvalidValue(
            f"labels have shape {labels.shape} and predictions {predicted.shape}; give one class "
            f"number per test example for each."
        )
    if len(labels) == 0:
        raise InvalidValue("there are no test examples to score; give at least one.")
    if labels.dtype.kind not in "iub" or predicted.dtype.kind not in "iub":
        raise InvalidValue(
            f"labels are {labels.dtype}, predictions {predicted.dtype}; class numbers are whole "
            f"numbers. From logits or probabilities take argmax(axis=1)."
        )
    return labels.astype(np.int64), predicted.astype(np.int64)


def _scorer(
    metric: str, labels: Classes, *models: Classes
) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
    """A function from (R, K) counts to every model's (R, M) scores; and the (K,) counts of the
    test examples. A count is how often one true class met one prediction of each model."""
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    pairs = [check_pair(labels, predicted) for predicted in models]
    rows = np.stack([pairs[0][0], *(predicted for _, predicted in pairs)])  # (1 + M, N)
    (actual, *called), counts = np.unique(rows, axis=1, return_counts=True)
    if metric in BINARY and not np.isin(rows, (0, 1)).all():
        raise InvalidValue(
            f"metric {metric!r} needs two classes, 0 and 1; there are {np.unique(rows).tolist()}. "
            f"Ask for 'macro_{metric}'."
        )
    return lambda drawn: np.stack([_scores(drawn, actual, c, metric) for c in called], 1), counts


def _scores(counts: np.ndarray, actual: np.ndarray, called: np.ndarray, metric: str) -> np.ndarray:
    """Scores (R,) of R tables: ``counts`` (R, K) of examples of class ``actual`` (K,) that were
    predicted as class ``called`` (K,). scikit-learn's scores, but of all tables at once."""
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
