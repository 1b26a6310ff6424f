"""How differently a classifier treats groups of people: counterfactual pairs and group gaps, with
bootstrap intervals.

Conventions, everywhere in this module:

- two classes, 0 and 1; a probability is that of class 1, which is predicted from 0.5 on;
- a gap or a shift is **second minus first** group, so its sign shows who gains;
- an interval resamples *original sentences* (``origins``), each with all rows made from it: rows
  from the same sentence aren't independent evidence. It shows how far the number would move with
  other sentences drawn in the same way; not with other words, templates, training data or seeds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from helpers.errors import InvalidValue, unknown_name
from helpers.evaluation.metrics import Classes, bootstrap, check_pair, percentile_interval

Numbers = Sequence[float] | np.ndarray
Groups = Sequence[str] | np.ndarray
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
    first: Numbers,
    second: Numbers,
    origins: Numbers | None = None,
    *,
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
    if len(first) != len(second):
        raise InvalidValue(f"first has length {len(first)}, second {len(second)}; give pairs.")
    values = {
        "shift": second - first,
        "absolute_shift": np.abs(second - first),
        "flip_rate": (first >= 0.5) != (second >= 0.5),
    }
    return {
        name: mean_estimate(value, origins, resamples=resamples, confidence=confidence, seed=seed)
        for name, value in values.items()
    }


def group_rates(labels: Classes, predicted: Classes, groups: Groups) -> dict[str, dict[str, float]]:
    """For each group its ``count``, ``base_rate`` (share of label 1), ``selection_rate`` (share
    predicted as 1), ``true_positive_rate``, ``false_positive_rate`` and ``accuracy``.

    labels, predicted: (N,) of 0 and 1. groups: (N,) names. A rate without examples (a group with
    no positives has no true positive rate) is nan, where fairlearn's own rates say 0.
    Raises InvalidValue: no examples, unequal lengths, classes other than 0 and 1.
    """
    from fairlearn.metrics import MetricFrame, count, mean_prediction

    labels, predicted, groups = _classified(labels, predicted, groups)

    def share(called: np.ndarray) -> float:
        return called.mean() if len(called) else np.nan

    frame = MetricFrame(
        metrics={
            "count": count,
            "base_rate": lambda y, called: y.mean(),
            "selection_rate": mean_prediction,
            "true_positive_rate": lambda y, called: share(called[y == 1]),
            "false_positive_rate": lambda y, called: share(called[y == 0]),
            "accuracy": lambda y, called: (y == called).mean(),
        },
        y_true=labels,
        y_pred=predicted,
        sensitive_features=groups.astype(str),
    )
    rates = frame.by_group.to_dict("index")
    return {group: row | {"count": int(row["count"])} for group, row in rates.items()}


def group_gaps(
    labels: Classes,
    predicted: Classes,
    groups: Groups,
    *,
    first: str,
    second: str,
    origins: Numbers | None = None,
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
    Raises InvalidValue: as ``group_rates``; a group that is unknown, or has so few examples of a
    label that more than one in twenty resamples contains none.
    """
    labels, predicted, groups = _classified(labels, predicted, groups)
    for group in (first, second):
        if group not in groups:
            raise unknown_name("group (it has no members here)", str(group), {*map(str, groups)})
    if first == second:
        raise InvalidValue(f"both groups are {first!r}; a gap needs two different ones.")
    everyone = np.ones(len(labels), dtype=bool)
    counted = {  # the rows in a rate's denominator, and which of them its numerator counts
        "selection_rate": (everyone, predicted == 1),
        "true_positive_rate": (labels == 1, predicted == 1),
        "false_positive_rate": (labels == 0, predicted == 1),
        "accuracy": (everyone, predicted == labels),
    }
    members = [groups == first, groups == second]
    settings: Any = {"resamples": resamples, "confidence": confidence, "seed": seed}
    return {
        name: _estimate([(own & among & hit, own & among) for own in members], origins, **settings)
        for name, (among, hit) in counted.items()
    }


def mean_estimate(
    values: Numbers,
    origins: Numbers | None = None,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 42,
) -> Estimate:
    """The mean of ``values`` (N,), such as "was it right?" (0 or 1), with the same kind of
    interval. Raises InvalidValue: no values, unequal lengths, a setting out of its range."""
    values = np.asarray(values, dtype=float)
    fraction = (values, np.ones(len(values)))
    return _estimate([fraction], origins, resamples=resamples, confidence=confidence, seed=seed)


def _estimate(
    fractions: list[tuple[np.ndarray, np.ndarray]],
    origins: Numbers | None,
    *,
    confidence: float,
    **settings: int,
) -> Estimate:
    """A fraction, or the second minus the first; each is the sum of one column (N,) divided by the
    sum of another."""
    origins = _origins(origins, len(fractions[0][0]))
    # (S,) sums over the rows of each sentence
    sums = [[np.bincount(origins, weights=part) for part in fraction] for fraction in fractions]

    def statistic(drawn: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            *first, last = ((drawn @ above) / (drawn @ below) for above, below in sums)
        return last - sum(first)

    each_once = np.ones(len(sums[0][0]), dtype=int)
    values = bootstrap(statistic, each_once, **settings)
    undefined = np.isnan(values)
    if undefined.mean() > _UNDEFINED_AT_MOST:
        raise InvalidValue(
            f"in {undefined.mean():.0%} of the resamples a group has no example of a label: there "
            f"are too few for an interval. Add examples of the smaller group."
        )
    value = float(statistic(each_once[None])[0])
    return Estimate(value, *percentile_interval(values[~undefined], confidence))


def _origins(origins: Numbers | None, count: int) -> np.ndarray:
    """(N,) the sentences, renumbered 0 to S - 1."""
    if count == 0:
        raise InvalidValue("there are no examples to measure; give at least one.")
    if origins is None:
        return np.arange(count)
    if len(origins) != count:
        raise InvalidValue(f"there are {len(origins)} origins; give one for each of {count} rows.")
    return np.unique(origins, return_inverse=True)[1]


def _probabilities(values: Numbers, what: str) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1:
        raise InvalidValue(f"{what} has shape {values.shape}; give one probability per text.")
    wrong = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if wrong.size:
        raise InvalidValue(
            f"{what}[{wrong[0]}] is {values[wrong[0]]:g}; a probability is in [0, 1], such as "
            f"evaluation.predict(...).probabilities[:, 1]."
        )
    return values


def _classified(
    labels: Classes, predicted: Classes, groups: Groups
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels, predicted = check_pair(labels, predicted)
    groups = np.asarray(groups)
    if groups.shape != labels.shape:
        raise InvalidValue(f"{len(labels)} examples have {len(groups)} groups; give one for each.")
    others = np.setdiff1d([labels, predicted], (0, 1))
    if others.size:
        raise InvalidValue(
            f"class {others[0]} is neither 0 nor 1. These rates are for two classes: compare one "
            f"class with all others, labels == c."
        )
    return labels, predicted, groups
