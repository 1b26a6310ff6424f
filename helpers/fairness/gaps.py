"""How differently a classifier treats groups of people: counterfactual pairs and group gaps, with
bootstrap intervals.

Conventions, everywhere in this module:

- two classes, 0 and 1; a probability is that of class 1, which is predicted from ``threshold`` on;
- a gap or a shift is **second minus first** group, so its sign shows who gains;
- an interval resamples *original sentences* (``origins``), each with all rows made from it: rows
  from the same sentence aren't independent evidence. It shows how far the number would move with
  other sentences drawn in the same way; not with other words, templates, training data or seeds.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from helpers.errors import InvalidValue, unknown_name
from helpers.evaluation.metrics import bootstrap, check_pair, percentile_interval

RATES = ("selection_rate", "true_positive_rate", "false_positive_rate", "accuracy")
_UNDEFINED_AT_MOST = 0.05  # share of resamples in which a rate may be 0/0


@dataclass(frozen=True)
class Estimate:
    """A number with its percentile bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"

    def __iter__(self) -> Iterator[float]:
        return iter((self.value, self.low, self.high))


def counterfactual_gap(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    origins: Sequence[int] | np.ndarray | None = None,
    *,
    threshold: float = 0.5,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 42,
) -> dict[str, Estimate]:
    """What changing only the group does to a classifier's answer.

    first, second: (N,) probabilities of class 1 for the two versions of each pair.
    origins: (N,) the sentence each pair was made from; None: each from a different one.
    Returns ``shift``, the mean of second - first (-1 to 1); ``absolute_shift``, the mean of
    \\|second - first\\| (0 to 1: what the signs hide); ``flip_rate``, the share of pairs whose
    predicted classes differ (0 to 1).
    Raises InvalidValue: no pairs, unequal lengths, a probability outside [0, 1], or a setting out
    of its range.
    Source: Garg et al. 2019, section 3: their counterfactual token fairness gap is
    ``absolute_shift``.
    """
    first, second = _probabilities(first, "first"), _probabilities(second, "second")
    _same_length(first=first, second=second)
    origins = _origins(origins, len(first))
    if not 0 < threshold < 1:
        raise InvalidValue(f"threshold is {threshold}; it must be between 0 and 1, like 0.5.")
    values = {
        "shift": second - first,
        "absolute_shift": np.abs(second - first),
        "flip_rate": (first >= threshold) != (second >= threshold),
    }
    return {
        name: mean_estimate(value, origins, resamples=resamples, confidence=confidence, seed=seed)
        for name, value in values.items()
    }


def group_rates(
    labels: Sequence[int] | np.ndarray,
    predicted: Sequence[int] | np.ndarray,
    groups: Sequence[str] | np.ndarray,
) -> dict[str, dict[str, float]]:
    """For each group its ``count``, ``base_rate`` (share of label 1), ``selection_rate`` (share
    predicted as 1), ``true_positive_rate``, ``false_positive_rate`` and ``accuracy``.

    labels, predicted: (N,) of 0 and 1. groups: (N,) names. A rate without examples (a group with
    no positives has no true positive rate) is nan, where fairlearn's own rates say 0.
    Raises InvalidValue: no examples, unequal lengths, classes other than 0 and 1.
    """
    from fairlearn.metrics import MetricFrame, count, mean_prediction

    labels, predicted, groups = _classified(labels, predicted, groups)
    frame = MetricFrame(
        metrics={
            "count": count,
            "base_rate": lambda y, called: y.mean(),
            "selection_rate": mean_prediction,
            "true_positive_rate": lambda y, called: _share(called[y == 1]),
            "false_positive_rate": lambda y, called: _share(called[y == 0]),
            "accuracy": lambda y, called: (y == called).mean(),
        },
        y_true=labels,
        y_pred=predicted,
        sensitive_features=groups.astype(str),
    )
    return {
        group: {"count": int(row.pop("count")), **row}
        for group, row in frame.by_group.astype(float).to_dict("index").items()
    }


def group_gaps(
    labels: Sequence[int] | np.ndarray,
    predicted: Sequence[int] | np.ndarray,
    groups: Sequence[str] | np.ndarray,
    *,
    first: str,
    second: str,
    origins: Sequence[int] | np.ndarray | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 42,
) -> dict[str, Estimate]:
    """How much higher each rate of ``group_rates`` is in group ``second`` than in ``first``.

    The keys are those of RATES, each from -1 to 1. ``selection_rate`` is the gap of demographic
    parity (Calders et al. 2009); ``true_positive_rate`` and ``false_positive_rate`` are those of
    equalised odds, the former alone of equal opportunity (Hardt et al. 2016).
    Rows of other groups are left out. labels, predicted, groups: as in ``group_rates``. origins:
    (N,) the sentence each row was made from; None: each from a different one.
    Raises InvalidValue: as ``group_rates``; a group that is unknown, has no examples of one of the
    labels, or has so few that more than one in twenty resamples contains none.
    """
    labels, predicted, groups = _classified(labels, predicted, groups)
    origins = _origins(origins, len(labels))
    known = sorted(set(groups.tolist()))
    for group in (first, second):
        if group not in known:
            raise unknown_name("group (it has no members here)", str(group), map(str, known))
    if first == second:
        raise InvalidValue(f"both groups are {first!r}; a gap needs two different ones.")
    for group in (first, second):
        for label in (0, 1):
            if not np.any((groups == group) & (labels == label)):
                raise InvalidValue(
                    f"group {group!r} has no example with label {label}, so one of its rates is "
                    f"0/0. Add such examples, or compare only selection rates, with group_rates."
                )
    counted = {  # the rows in a rate's denominator, and which of them its numerator counts
        "selection_rate": (np.ones(len(labels), bool), predicted == 1),
        "true_positive_rate": (labels == 1, predicted == 1),
        "false_positive_rate": (labels == 0, predicted == 1),
        "accuracy": (np.ones(len(labels), bool), predicted == labels),
    }
    found = {}
    for name, (among, hit) in counted.items():
        sums = [
            (_sums((groups == g) & among & hit, origins), _sums((groups == g) & among, origins))
            for g in (first, second)
        ]

        def gap(drawn: np.ndarray, sums: list = sums) -> np.ndarray:
            with np.errstate(invalid="ignore"):
                one, other = ((drawn @ above) / (drawn @ below) for above, below in sums)
            return other - one

        found[name] = _estimate(gap, len(sums[0][0]), resamples, confidence, seed)
    return found


def mean_estimate(
    values: Sequence[float] | np.ndarray,
    origins: Sequence[int] | np.ndarray | None = None,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 42,
) -> Estimate:
    """The mean of ``values`` (N,), such as "was it right?" (0 or 1), with the same kind of
    interval. Raises InvalidValue: no values, unequal lengths, a setting out of its range."""
    values = np.asarray(values, dtype=float)
    origins = _origins(origins, len(values))
    sums, sizes = _sums(values, origins), _sums(np.ones(len(values)), origins)  # (S,) each
    return _estimate(
        lambda drawn: (drawn @ sums) / (drawn @ sizes), len(sums), resamples, confidence, seed
    )


def _share(called: np.ndarray) -> float:
    return called.mean() if len(called) else np.nan


def _estimate(
    statistic: Callable[[np.ndarray], np.ndarray],
    sentences: int,
    resamples: int,
    confidence: float,
    seed: int,
) -> Estimate:
    """``statistic`` as for ``bootstrap``: it takes (R, S) counts of S sentences, returns (R,)."""
    each_once = np.ones(sentences, dtype=int)
    values = bootstrap(statistic, each_once, resamples=resamples, seed=seed)
    undefined = np.isnan(values)
    if undefined.mean() > _UNDEFINED_AT_MOST:
        raise InvalidValue(
            f"in {undefined.mean():.0%} of the resamples a group has no example of a label: there "
            f"are too few for an interval. Add examples of the smaller group."
        )
    value = float(statistic(each_once[None])[0])
    return Estimate(value, *percentile_interval(values[~undefined], confidence))


def _sums(values: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """(S,) sums of ``values`` over the rows of each sentence."""
    return np.bincount(origins, weights=values.astype(float))


def _origins(origins: Sequence[int] | np.ndarray | None, count: int) -> np.ndarray:
    """(N,) the sentences, renumbered 0 to S - 1."""
    if count == 0:
        raise InvalidValue("there are no examples to measure; give at least one.")
    if origins is None:
        return np.arange(count)
    origins = np.asarray(origins)
    if origins.shape != (count,):
        raise InvalidValue(
            f"origins have shape {origins.shape}; give one for each of {count} rows."
        )
    return np.unique(origins, return_inverse=True)[1]


def _probabilities(values: Sequence[float] | np.ndarray, what: str) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1:
        raise InvalidValue(
            f"{what} has shape {values.shape}; give one probability per text, that of class 1."
        )
    wrong = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if wrong.size:
        raise InvalidValue(
            f"{what}[{wrong[0]}] is {values[wrong[0]]:g}; a probability is in [0, 1]. From "
            f"logits take evaluation.predict(...).probabilities[:, 1]."
        )
    return values


def _same_length(**arrays: np.ndarray) -> None:
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise InvalidValue(f"unequal lengths: {listed}. Give one of each for every example.")


def _classified(
    labels: Sequence[int] | np.ndarray,
    predicted: Sequence[int] | np.ndarray,
    groups: Sequence[str] | np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels, predicted = check_pair(labels, predicted)
    groups = np.asarray(groups)
    _same_length(labels=labels, groups=groups)
    others = np.setdiff1d(np.union1d(labels, predicted), (0, 1))
    if others.size:
        raise InvalidValue(
            f"class {others[0]} is neither 0 nor 1. These rates are for two classes: compare one "
            f"class with all others, labels == c."
        )
    return labels, predicted, groups
