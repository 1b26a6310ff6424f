"""How much a set of texts repeats itself: distinct-n and self-BLEU, counted on words.

Neither looks at whether a text is true, sensible or even grammatical: shuffled words score best.
"""

import math
from collections import Counter
from collections.abc import Sequence

from helpers.errors import InvalidValue

# A precision without a match counts as this part of one match, because a single 0 would make the
# geometric mean 0 (Chen & Cherry 2014, method 1).
_EPSILON = 0.1


def words(text: str) -> list[str]:
    """The words of a text in lower case, split at white space."""
    return text.lower().split()


def distinct_n(texts: Sequence[str], n: int = 2) -> float:
    """The number of different n-grams in all texts together, divided by the number of n-grams.

    It runs from just above 0 (always the same words) to 1 (no n-gram occurs twice). It falls when
    there are more texts or longer ones, so compare only sets of the same size.
    Raises InvalidValue if no text has n words.
    Source: Li et al. 2016, who divide by the number of words instead.
    """
    grams = [gram for text in texts for gram in _grams(words(text), n)]
    if not grams:
        raise InvalidValue(f"none of the {len(texts)} texts has {n} words; give longer texts.")
    return len(set(grams)) / len(grams)


def bleu(text: str, references: Sequence[str], max_n: int = 4) -> float:
    """The share of a text's n-grams (n from 1 to ``max_n`` words) that occur in the references,
    from 0 to 1.

    It is the geometric mean of the clipped precisions. A text of c words that is shorter than the
    reference of the nearest length, r words, is penalised by the factor exp(1 - r/c).
    Raises InvalidValue for an empty text or no references.
    Source: Papineni et al. 2002; smoothing: Chen & Cherry 2014, method 1.
    """
    own, others = words(text), [words(reference) for reference in references]
    if not own or not others:
        raise InvalidValue(
            f"the text is {text!r} and there are {len(others)} references; give at least one word "
            f"and one reference."
        )
    logs = 0.0
    for n in range(1, max_n + 1):
        counts = Counter(_grams(own, n))
        allowed: Counter[tuple[str, ...]] = Counter()
        for other in others:
            # Clipping: an n-gram counts as often as the one reference that has it most often.
            allowed |= Counter(_grams(other, n))
        matches = sum((counts & allowed).values())
        logs += math.log(max(matches, _EPSILON) / max(sum(counts.values()), 1))
    c = len(own)
    r = min((len(other) for other in others), key=lambda length: (abs(length - c), length))
    return min(1.0, math.exp(1 - r / c)) * math.exp(logs / max_n)


def self_bleu(texts: Sequence[str], max_n: int = 4) -> list[float]:
    """The BLEU of each text against all the others; the mean is the self-BLEU of the set.

    Near 1, the texts say the same thing in the same words. Source: Zhu et al. 2018 (Texygen).
    """
    texts = list(texts)
    return [bleu(text, texts[:i] + texts[i + 1 :], max_n) for i, text in enumerate(texts)]


def _grams(items: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]
