"""Relations between entities: each possible pair of mentions in a sentence is marked and goes
through a classifier, one of whose classes is "none".

The marks are typed and made of characters that the encoder knows, ``@ * person * Tony Blair @`` for
the head and ``# ^ organisation ^ Labour #`` for the tail, as in Zhou & Chen 2022 ("typed entity
marker (punct)"); Soares et al. 2019 add new tokens instead.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from helpers import batches, evaluation
from helpers.batches import EncodedTexts
from helpers.corpora.annotations import RELATIONS, Opening
from helpers.errors import InvalidValue
from helpers.evaluation.metrics import check_pair

NONE = "none"
NAMES = (NONE, *RELATIONS)
WORDS_AROUND = 6
_END = re.compile(r"[.!?][\"']?\s+(?=[\"'A-Z£$0-9])|\n+")
_TITLES = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Sir|Prof|vs|No|[A-Z])\.$")


@dataclass(frozen=True)
class Mention:
    """start, end: character offsets in the text; label: of the entity."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Pair:
    """Two mentions in one sentence, and whether the text relates them.

    document: number of the text. head, tail: numbers of its mentions. text: the sentence with
    both marked. between: the words between the two. order: "head first" or "tail first".
    label: a class number of NAMES, 0 for none.
    """

    document: int
    head: int
    tail: int
    head_label: str
    tail_label: str
    text: str
    between: str
    order: str
    label: int


def sentences(text: str) -> list[tuple[int, int]]:
    """Start and end of each sentence. It ends at a line break, and at . ! ? before a capital, a
    digit or a quotation mark, but not after "Mr." and the like or an initial."""
    bounds, start = [], 0
    for match in _END.finditer(text):
        if match[0][0] in "\n" or not _TITLES.search(text[start : match.start() + 1]):
            bounds.append((start, match.start() + (match[0][0] != "\n")))
            start = match.end()
    return [(first, last) for first, last in [*bounds, (start, len(text))] if first < last]


def mark(text: str, head: Mention, tail: Mention, *, around: int = WORDS_AROUND) -> str:
    """``text`` with the two mentions between their marks, cut to ``around`` words before the
    first and after the second.

    Raises InvalidValue: spans outside the text, empty, or overlapping; ``around`` below 0.
    """
    first, second = sorted((head, tail), key=lambda mention: mention.start)
    if not 0 <= first.start < first.end <= second.start < second.end <= len(text):
        raise InvalidValue(
            f"the mentions at {first.start} to {first.end} and {second.start} to {second.end} "
            f"must lie inside the text of {len(text)} characters, without overlap."
        )
    if around < 0:
        raise InvalidValue(f"around is {around}; it must be at least 0 words.")
    parts = [" ".join(text[: first.start].split()[-around:] if around else [])]
    for mention, following in ((first, text[first.end : second.start]), (second, None)):
        outer, inner = "@*" if mention is head else "#^"
        name = text[mention.start : mention.end]
        parts.append(f"{outer} {inner} {mention.label.lower()} {inner} {name} {outer}")
        parts.append(following if following is not None else "")
    parts[-1] = " ".join(text[second.end :].split()[:around])
    return " ".join(" ".join(parts).split())


def allowed(head_label: str, tail_label: str) -> bool:
    """Whether any relation of the inventory can join mentions of these labels, in this order."""
    return any(head_label in heads and tail_label in tails for heads, tails in RELATIONS.values())


def pairs_of(
    text: str,
    mentions: Sequence[Mention],
    gold: dict[tuple[int, int], str] | None = None,
    *,
    document: int = 0,
) -> list[Pair]:
    """Every ordered pair of mentions in one sentence that some relation could join.

    gold: {(head, tail): relation}; all other pairs are "none". Raises InvalidValue: an unknown
    relation.
    """
    gold = gold or {}
    for label in gold.values():
        if label not in RELATIONS:
            raise InvalidValue(f"relation {label!r} is not one of {', '.join(RELATIONS)}.")
    found = []
    for begin, finish in sentences(text):
        inside = [
            (number, Mention(m.start - begin, m.end - begin, m.label))
            for number, m in enumerate(mentions)
            if begin <= m.start and m.end <= finish
        ]
        sentence = text[begin:finish]
        for one, head in inside:
            for other, tail in inside:
                if one == other or not allowed(head.label, tail.label):
                    continue
                first, second = sorted((head, tail), key=lambda mention: mention.start)
                found.append(
                    Pair(
                        document=document,
                        head=one,
                        tail=other,
                        head_label=head.label,
                        tail_label=tail.label,
                        text=mark(sentence, head, tail),
                        between=" ".join(sentence[first.end : second.start].split()),
                        order="head first" if first is head else "tail first",
                        label=NAMES.index(gold.get((one, other), NONE)),
                    )
                )
    return found


def from_openings(openings: Sequence[Opening]) -> list[Pair]:
    """The pairs of annotated openings; ``document`` numbers the openings in order."""
    pairs = []
    for number, opening in enumerate(openings):
        mentions = [Mention(e.start, e.end, e.label) for e in opening.entities]
        gold = {(r.head, r.tail): r.label for r in opening.relations}
        pairs += pairs_of(opening.text, mentions, gold, document=number)
    return pairs


def thin_out(pairs: Sequence[Pair], *, per_relation: float = 2.0, seed: int = 42) -> list[Pair]:
    """The pairs with a relation and, drawn at random, ``per_relation`` times as many without, in
    their order. For training only: unthinned, "none" would drown the rest."""
    if per_relation < 0:
        raise InvalidValue(f"per_relation is {per_relation}; it must be at least 0.")
    related = [row for row, pair in enumerate(pairs) if pair.label]
    others = [row for row, pair in enumerate(pairs) if not pair.label]
    size = min(len(others), round(per_relation * len(related)))
    drawn: Any = (
        np.random.default_rng(seed).choice(others, size=size, replace=False) if size else []
    )
    return [pairs[row] for row in sorted([*related, *drawn])]


def encode(tokenizer: Any, pairs: Sequence[Pair], *, max_length: int = 96) -> EncodedTexts:
    """The pairs' marked sentences and class numbers, for ``training.fit``."""
    texts, labels = [pair.text for pair in pairs], [pair.label for pair in pairs]
    return batches.encode(tokenizer, texts, labels, max_length=max_length, label_count=len(NAMES))


def scores_of(
    labels: Sequence[int] | np.ndarray, predicted: Sequence[int] | np.ndarray, number: int
) -> dict[str, float]:
    """Precision, recall, F1 and support of class ``number``; 0/0 counts as 0."""
    labels, predicted = check_pair(labels, predicted)
    hits = int(np.sum((labels == number) & (predicted == number)))
    found, wanted = int(np.sum(predicted == number)), int(np.sum(labels == number))
    return {
        "precision": hits / max(1, found),
        "recall": hits / max(1, wanted),
        "f1": 2 * hits / max(1, found + wanted),
        "support": wanted,
    }


def macro_f1(
    labels: Sequence[int] | np.ndarray,
    predicted: Sequence[int] | np.ndarray,
    *,
    strict: bool = True,
) -> float:
    """The mean F1 of the relations that occur among ``labels``. "none" isn't a relation and has no
    F1, but a relation predicted where there is none lowers that relation's precision.

    Raises InvalidValue if no label is a relation; with ``strict`` off, returns 0.0."""
    labels, predicted = check_pair(labels, predicted)
    numbers = sorted(set(labels.tolist()) - {0})
    if not numbers and strict:
        raise InvalidValue("no pair has a relation, so there is nothing to score.")
    scores = [scores_of(labels, predicted, number)["f1"] for number in numbers]
    return float(np.mean(scores)) if scores else 0.0


def tfidf_baseline(train: Sequence[Pair], test: Sequence[Pair]) -> np.ndarray:
    """Class numbers by TF-IDF and logistic regression on the words between the two mentions,
    their labels and their order: (N,)."""
    texts = [[_as_words(pair) for pair in part] for part in (train, test)]
    return evaluation.tfidf_baseline(texts[0], [pair.label for pair in train], texts[1])[0]


def _as_words(pair: Pair) -> str:
    order = pair.order.replace(" ", "")
    return f"head{pair.head_label} tail{pair.tail_label} {order} {pair.between}"


class TypesBaseline:
    """The baseline that sees only the two entity labels and which comes first: it answers with
    the most frequent class of such pairs in training."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        votes: dict[tuple[str, str, str], Counter] = defaultdict(Counter)
        for pair in pairs:
            votes[self._key(pair)][pair.label] += 1
        self.commonest = {key: votes[key].most_common(1)[0][0] for key in votes}

    def predict(self, pairs: Sequence[Pair]) -> np.ndarray:
        """(N,) class numbers."""
        return np.array([self.commonest.get(self._key(pair), 0) for pair in pairs])

    @staticmethod
    def _key(pair: Pair) -> tuple[str, str, str]:
        return pair.head_label, pair.tail_label, pair.order
