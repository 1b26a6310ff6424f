"""Reliability of a classifier's confidence, expected calibration error, temperature scaling."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from helpers.errors import InvalidValue
from helpers.evaluation.metrics import Classes


def calibration_bins(
    probabilities: np.ndarray, labels: Classes, bins: int = 10
) -> dict[str, np.ndarray]:
    """Examples grouped by the model's confidence, as in Guo et al. (2017), section 2.

    probabilities: (N, C), each row summing to 1. labels: (N,) true classes.
    bins: M equal bins of confidence; bin m is ((m - 1)/M, m/M].
    Returns arrays of length M: ``confidence`` (mean highest probability), ``accuracy`` (share
    of correct predictions), ``count``. A bin without examples has count 0 and NaN for the others.
    Raises InvalidValue: shapes that do not match, rows that aren't probabilities.
    """
    probabilities, labels = _check(probabilities, labels)
    if (probabilities < 0).any() or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3):
        raise InvalidValue("rows of probabilities must be 0 or more and sum to 1: apply softmax.")
    sure = np.minimum(probabilities.max(axis=1), 1.0)  # (N,)
    right = probabilities.argmax(axis=1) == labels
    step = np.searchsorted(np.linspace(0, 1, bins + 1), sure, side="left") - 1
    count = np.bincount(step, minlength=bins)
    with np.errstate(invalid="ignore"):
        return {
            "confidence": np.bincount(step, sure, minlength=bins) / count,
            "accuracy": np.bincount(step, right, minlength=bins) / count,
            "count": count,
        }


def expected_calibration_error(probabilities: np.ndarray, labels: Classes, bins: int = 10) -> float:
    """Mean distance between confidence and accuracy over the bins of ``calibration_bins``, each
    weighted by its number of examples: 0 is perfect, 1 the worst (Naeini et al. 2015; Guo et al.
    2017, equation 3). It depends on ``bins``, and with few examples it is above 0 by chance alone.
    """
    found = calibration_bins(probabilities, labels, bins)
    gap = np.abs(found["confidence"] - found["accuracy"])
    return float(np.nansum(found["count"] * gap) / found["count"].sum())


def fit_temperature(logits: np.ndarray, labels: Classes) -> float:
    """The temperature T for which softmax(logits / T) gives these labels the highest likelihood
    (Guo et al. 2017, section 4.2). T above 1 makes a model less confident, below 1 more so; the
    predicted class never changes. Fit it on validation examples, never on test examples.

    logits: (N, C). labels: (N,) true classes.
    Returns T between 0.02 and 50. It approaches the lower end if every prediction is correct: then
    more confidence is always better, so such labels cannot show how confident to be.
    Raises InvalidValue: shapes that do not match.
    """
    logits, labels = _check(logits, labels)
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return -log_softmax(logits / np.exp(log_temperature), axis=1)[rows, labels].mean()

    found = minimize_scalar(
        loss, bounds=np.log([0.02, 50]), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(found.x))


def _check(scores: np.ndarray, labels: Classes) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise InvalidValue(
            f"scores have shape {scores.shape} and labels {labels.shape}; give (N, C) and (N,)."
        )
    return scores, labels
