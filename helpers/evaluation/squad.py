"""Exact match and F1 by the formula of the official SQuAD 2.0 script (Rajpurkar et al. 2016,
section 6.1; 2018, section 5), and the lexical sliding-window baseline (Richardson et al. 2013).
"""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise

from helpers.errors import InvalidValue

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WORD = re.compile(r"[^\w\s]?\d[\w.,]*\w|\w+(?:-\w+)*|[^\w\s]")
STOP_WORDS = frozenset(
    """a an the and or but of in on at to for from by with as is are was were be been being has
    have had do does did will would can could should may might must shall that this these those
    it its he she his her him they them their s t mr mrs said says what which who whom whose when
    where why how many much long old not no than then there so if into about after before over
    under""".split()  # noqa: SIM905
)
LONGEST = 5  # words in a candidate answer
Span = tuple[int, int]  # the first, and the one behind the last


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, without a, an and the, single spaces."""
    text = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(prediction: str, gold: str) -> float:
    """1.0 if both are equal after normalisation, else 0.0."""
    return float(normalize_answer(prediction) == normalize_answer(gold))


def f1_score(prediction: str, gold: str) -> float:
    """The harmonic mean of precision and recall over the normalised words, each counted as often
    as it occurs in both. If either is empty after normalisation: 1.0 if both are, else 0.0."""
    found, wanted = normalize_answer(prediction).split(), normalize_answer(gold).split()
    if not found or not wanted:
        return float(found == wanted)
    common = sum((Counter(found) & Counter(wanted)).values())
    if not common:
        return 0.0
    precision, recall = common / len(found), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def best_score(metric: Callable[[str, str], float], prediction: str, golds: Sequence[str]) -> float:
    """The best of ``metric`` over the gold answers. Gold answers that are empty after normalisation
    do not count; if all are, only an empty answer is right."""
    golds = [gold for gold in golds if normalize_answer(gold)] or [""]
    return max(metric(prediction, gold) for gold in golds)


def sliding_window_answer(question: str, text: str) -> str:
    """The answer of a baseline that only compares words, and never says that there is none.

    After Richardson et al. 2013 (MCTest), algorithm 1 with the distance idea, and Rajpurkar et
    al. 2016, section 5.1: the question's content words in ``text`` have the weight
    log(1 + 1 / count in the text), so rare ones count more. The answer is from the sentence that
    shares the most with the question: of its runs of at most five content words that aren't in
    the question, the first with the highest sum of weight / distance to the question's words.
    Raises InvalidValue: an empty text.
    """
    places = [match.span() for match in _WORD.finditer(text)]
    words = [text[start:end].lower() for start, end in places]
    if not words:
        raise InvalidValue(f"the text {text!r} has no word to answer with.")
    asked = {word.lower() for word in _WORD.findall(question)} - STOP_WORDS
    counts = Counter(words)
    weights = [math.log1p(1 / counts[word]) if word in asked else 0.0 for word in words]
    best, answer = (-1.0, -1.0), text[slice(*places[0])]
    for first, last in _sentences(words, text, places):
        shared = sum({words[place]: weights[place] for place in range(first, last)}.values())
        for start, end in _candidates(words, first, last, asked):
            score = sum(
                weights[place] / (start - place if place < start else place - end + 1)
                for place in range(first, last)
                if weights[place] and not start <= place < end
            )
            if (shared, score) > best:
                best, answer = (shared, score), text[places[start][0] : places[end - 1][1]]
    return answer


def _sentences(words: list[str], text: str, places: list[Span]) -> list[Span]:
    """The words of each sentence; . ! ? or an empty line end it."""
    bounds = [
        after
        for after, ((_, end), (start, _)) in enumerate(pairwise(places), 1)
        if words[after - 1] in ".!?" or "\n\n" in text[end:start]
    ]
    return list(pairwise([0, *bounds, len(words)]))


def _candidates(words: list[str], first: int, last: int, asked: set[str]) -> Iterator[Span]:
    """Each run of content words among words first to last - 1, in pieces of LONGEST."""

    def is_content(place: int) -> bool:
        return words[place][0].isalnum() and words[place] not in STOP_WORDS | asked

    for content, run in groupby(range(first, last), is_content):
        if content:
            start, *rest = run
            end = start + len(rest) + 1
            yield from ((at, min(at + LONGEST, end)) for at in range(start, end, LONGEST))
