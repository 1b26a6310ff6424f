"""How differently a classifier treats groups of people: counterfactual pairs and group gaps, with
bootstrap intervals.

Conventions, everywhere in this module:

- two classes, 0 and 1; a probability is that of class 1, called from ``threshold`` on;
- a gap or a shift is **second minus first** group, so its sign tells who gains;
- an interval resamples *original sentences* (``origins``), all rows made from one together: rows of
  one sentence are no independent evidence. It says how far the number would move with other
  sentences drawn in the same way; not with other words, templates, training data or seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from helpers.errors import InvalidValue, unknown_name
from helpers.evaluation.metrics import check_pair

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

    def __iter__(self):
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
    """What changing the group alone does to a classifier's answer.

    first, second: (N,) probabilities of class 1 for the two versions of each pair.
    origins: (N,) the sentence each pair was made from; None: each from another one.
    Returns ``shift``, the mean of second - first (-1 to 1); ``absolute_shift``, the mean of
    \\|second - first\\| (0 to 1: what the signs hide); ``flip_rate``, the share of pairs with two
    different classes (0 to 1).
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
    found = {}
    for name, value in values.items():
        above = _sums(value.astype(float), origins)  # (S,) of each sentence
        below = _sums(np.ones(len(value)), origins)  # (S,)
        found[name] = _estimate(
            lambda weights, above=above, below=below: (weights @ above) / (weights @ below),
            len(above), resamples, confidence, seed,
        )  # fmt: skip
    return found


def group_rates(
    labels: Sequence[int] | np.ndarray,
    predicted: Sequence[int] | np.ndarray,
    groups: Sequence[str] | np.ndarray,
) -> dict[str, dict[str, float]]:
    """For each group its ``count``, ``base_rate`` (share of label 1), ``selection_rate`` (share
    called 1), ``true_positive_rate``, ``false_positive_rate`` and ``accuracy``.

    labels, predicted: (N,) of 0 and 1. groups: (N,) names. A rate without examples (a group with
    no positives has no true positive rate) is nan. Raises InvalidValue: no examples, unequal
    lengths, other classes than 0 and 1.
    """
    labels, predicted, groups = _classified(labels, predicted, groups)
    return {
        str(group): _rates(labels[groups == group], predicted[groups == group])
        for group in sorted(set(groups.tolist()))
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
    Rows of other groups are left out. labels, predicted, groups: as ``group_rates``. origins: (N,)
    the sentence each row was made from; None: each from another one.
    Raises InvalidValue: as ``group_rates``; an unknown group, one with no members, one without
    examples of either label, or with so few that over one in twenty resamples has none.
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
                    f"group {group!r} has no example with label {label}, so that one of its rates "
                    f"is 0/0. Add such examples, or compare selection rates alone by group_rates."
                )
    counted = {  # which rows are in the quotient, and which of them above its line
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

        def gap(weights: np.ndarray, sums: list = sums) -> np.ndarray:
            with np.errstate(invalid="ignore"):
                one, other = ((weights @ above) / (weights @ below) for above, below in sums)
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
    above, below = _sums(values, origins), _sums(np.ones(len(values)), origins)
    return _estimate(
        lambda weights: (weights @ above) / (weights @ below),
        len(above), resamples, confidence, seed,
    )  # fmt: skip


def _rates(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    def share(of: np.ndarray) -> float:
        return float(of.mean()) if len(of) else float("nan")

    return {
        "count": len(labels),
        "base_rate": share(labels == 1),
        "selection_rate": share(predicted == 1),
        "true_positive_rate": share(predicted[labels == 1] == 1),
        "false_positive_rate": share(predicted[labels == 0] == 1),
        "accuracy": share(predicted == labels),
    }


def _estimate(statistic, count: int, resamples: int, confidence: float, seed: int) -> Estimate:
    """``statistic`` takes (R, S) how often each of S sentences was drawn, and gives (R,)."""
    if resamples < 1:
        raise InvalidValue(f"resamples is {resamples}; it must be at least 1, usually 2,000.")
    if not 0 < confidence < 1:
        raise InvalidValue(f"confidence is {confidence}; it must be between 0 and 1, like 0.95.")
    random = np.random.default_rng(seed)
    drawn = random.multinomial(count, np.full(count, 1 / count), size=resamples)  # (R, S)
    values = statistic(drawn)
    undefined = float(np.mean(np.isnan(values)))
    if undefined > _UNDEFINED_AT_MOST:
        raise InvalidValue(
            f"in {undefined:.0%} of the resamples a group has no example of a label: there are "
            f"too few for an interval. Add examples of the smaller group."
        )
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return Estimate(float(statistic(np.ones((1, count)))[0]), float(low), float(high))


def _sums(values: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """(S,) sums of ``values`` over the rows of each sentence."""
    return np.bincount(origins, weights=values.astype(float))


def _origins(origins: Sequence[int] | np.ndarray | None, count: int) -> np.ndarray:
    """(N,) the sentences' numbers, made 0 .. S - 1."""
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
            f"{what} has shape {values.shape}; give one probability, that of class 1, a text."
        )
    wrong = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if wrong.size:
        raise InvalidValue(
            f"{what}[{wrong[0]}] is {values[wrong[0]]:g}; a probability lies in [0, 1]. From "
            f"logits take evaluation.predict(...).probabilities[:, 1]."
        )
    return values


def _same_length(**arrays: np.ndarray) -> None:
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise InvalidValue(f"unequal lengths: {told}. Give one of each for every example.")


def _classified(labels, predicted, groups) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels, predicted = check_pair(labels, predicted)
    groups = np.asarray(groups)
    _same_length(labels=labels, groups=groups)
    others = np.setdiff1d(np.union1d(labels, predicted), (0, 1))
    if others.size:
        raise InvalidValue(
            f"class {others[0]} is neither 0 nor 1. These rates are of two classes: take one class "
            f"against all others, labels == c."
        )
    return labels, predicted, groups
