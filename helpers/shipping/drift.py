"""Watching a classifier without labels: do today's texts still look like those it was tested on?

Each text gives three numbers: its length in word pieces, the share of them that were not in the
training texts, and the model's confidence. A reference keeps their distribution over held-out
texts; later texts are compared with it by the population stability index.
"""

import json
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import chi2

from helpers.errors import CourseError, InvalidValue
from helpers.files import write_text

SIGNALS = ("length", "unseen", "confidence")
LARGE = 0.1  # "some change" in the rule of thumb of credit scoring (Siddiqi 2006)
LEAST = 50  # texts in a reference or a comparison
BINS = 10
FALSE_ALARMS = 0.01  # the probability of any alarm where nothing has changed


def population_stability_index(
    expected: Sequence[int] | np.ndarray, actual: Sequence[int] | np.ndarray
) -> float:
    """The sum over the bins of (a - e) ln(a / e): 0 for equal shares, else above 0.

    expected, actual: (B,) counts of the reference and of today. Half a text is added to every bin,
    which keeps empty ones finite; then both become shares e and a. Natural logarithm. It is the
    sum of the Kullback-Leibler divergences in both directions (Jeffreys 1946).
    Raises InvalidValue: different bins, a negative count.
    """
    e, a = (np.asarray(counts, dtype=np.float64) for counts in (expected, actual))
    if e.shape != a.shape or min(e.min(), a.min()) < 0:
        raise InvalidValue(
            f"the counts are {expected} and {actual}; give the number of texts in each of the same "
            f"bins twice, none below 0."
        )
    e, a = ((counts + 0.5) / (counts + 0.5).sum() for counts in (e, a))
    return float(np.sum((a - e) * np.log(a / e)))


def chance_limit(
    expected: int, actual: int, *, bins: int, false_alarms: float = FALSE_ALARMS, tests: int = 1
) -> float:
    """The index that two samples of the same population exceed with probability
    ``false_alarms``, over ``tests`` comparisons together (Bonferroni).

    Without any drift the index is about (1/N + 1/M) times a chi-squared number of ``bins - 1``
    degrees of freedom (Yurdakul 2018), N and M the sizes of the two samples. Small samples
    therefore look unstable by chance.
    """
    if min(expected, actual) < 1 or bins < 2 or not 0 < false_alarms < 1:
        raise InvalidValue(
            f"the samples have {expected} and {actual} texts, bins is {bins} and false_alarms "
            f"{false_alarms}; give at least 1 text, 2 bins, and a probability between 0 and 1."
        )
    return float((1 / expected + 1 / actual) * chi2.ppf(1 - false_alarms / tests, bins - 1))


def text_signals(
    tokenizer: Any, texts: Sequence[str], probabilities: np.ndarray, seen: Set[int]
) -> dict[str, np.ndarray]:
    """For each of N texts: ``length`` (word pieces without special tokens), ``unseen`` (share of
    them outside ``seen``, 0 to 1) and ``confidence`` (the highest probability).

    probabilities: (N, C). Raises InvalidValue unless there is one row per text.
    """
    if len(probabilities) != len(texts):
        shape = probabilities.shape
        raise InvalidValue(f"{len(texts)} texts and probabilities of shape {shape}; one row each.")
    rows = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    new = [sum(token not in seen for token in row) / max(1, len(row)) for row in rows]
    return {
        "length": np.array([len(row) for row in rows], dtype=np.float64),
        "unseen": np.array(new, dtype=np.float64),
        "confidence": probabilities.max(axis=1).astype(np.float64),
    }


@dataclass(frozen=True)
class Reference:
    """The distribution of the signals over held-out texts when the model was tested.

    seen: numbers of the word pieces in the training texts. edges: {signal: inner bin edges}.
    counts: {signal: texts in each bin}. means: {signal: mean}. texts: how many there were.
    """

    seen: frozenset[int]
    edges: dict[str, list[float]]
    counts: dict[str, list[int]]
    means: dict[str, float]
    texts: int

    @classmethod
    def build(
        cls,
        tokenizer: Any,
        training_texts: Sequence[str],
        held_out_texts: Sequence[str],
        probabilities: np.ndarray,
    ) -> "Reference":
        """From the training texts (which word pieces are known) and the model's probabilities
        (N, C) on held-out ones. The BINS bins hold about equally many of those; equal edges are
        joined. Raises InvalidValue: fewer than LEAST held-out texts."""
        if len(held_out_texts) < LEAST:
            raise InvalidValue(f"{len(held_out_texts)} held-out texts; give at least {LEAST}.")
        rows = tokenizer(list(training_texts), add_special_tokens=False, verbose=False)
        seen = frozenset(token for row in rows["input_ids"] for token in row)
        signals = text_signals(tokenizer, held_out_texts, probabilities, seen)
        edges = {name: _edges(values) for name, values in signals.items()}
        counts = {name: _count(values, edges[name]) for name, values in signals.items()}
        means = {name: float(values.mean()) for name, values in signals.items()}
        return cls(seen, edges, counts, means, texts=len(held_out_texts))

    def compare(
        self, tokenizer: Any, texts: Sequence[str], probabilities: np.ndarray
    ) -> dict[str, dict[str, Any]]:
        """For each signal ``index``, ``limit`` (which chance alone rarely exceeds), ``mean``,
        ``reference_mean`` and ``alarm``: the index is above both the limit and LARGE, since with
        many texts even a shift too small to matter is no chance.

        Raises InvalidValue: fewer than LEAST texts.
        """
        if len(texts) < LEAST:
            raise InvalidValue(
                f"{len(texts)} texts; wait for at least {LEAST}: fewer differ from any reference "
                f"by chance."
            )
        found = {}
        for name, values in text_signals(tokenizer, texts, probabilities, self.seen).items():
            counts = _count(values, self.edges[name])
            index = population_stability_index(self.counts[name], counts)
            limit = chance_limit(self.texts, len(texts), bins=len(counts), tests=len(SIGNALS))
            found[name] = {
                "index": index,
                "limit": limit,
                "mean": float(values.mean()),
                "reference_mean": self.means[name],
                "alarm": index > max(limit, LARGE),
            }
        return found

    def save(self, path: str | Path) -> None:
        """Write as JSON, atomically."""
        content = asdict(self) | {"seen": sorted(self.seen)}
        write_text(Path(path), json.dumps(content) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Reference":
        """Read what ``save`` wrote. Raises CourseError if the file isn't a reference."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            content["seen"] = frozenset(content["seen"])
            reference = cls(**content)
            if any(len(reference.counts[n]) != len(reference.edges[n]) + 1 for n in SIGNALS):
                raise ValueError("bins and edges disagree")
            return reference
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CourseError(
                f"{path} is not a drift reference ({type(error).__name__}: {error}). Build one "
                f"from held-out texts with Reference.build(...).save(...)."
            ) from None


def _edges(values: np.ndarray) -> list[float]:
    """Inner edges between bins of about equally many values; none may leave a bin empty."""
    shares = np.linspace(0, 1, BINS + 1)[1:-1]
    edges = np.unique(np.quantile(values, shares, method="inverted_cdf"))  # values that occur
    edges = edges[edges < values.max()]
    return edges.tolist() if len(edges) else [float(values.max())]


def _count(values: np.ndarray, edges: list[float]) -> list[int]:
    """Values in each bin; an edge belongs to the bin below it."""
    places = np.searchsorted(edges, values, side="left")
    return np.bincount(places, minlength=len(edges) + 1).tolist()
