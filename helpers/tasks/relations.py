"""Relations between entities: each possible pair of mentions in a sentence is marked and goes
through a classifier, one of whose classes is "none".

The marks are typed and made of characters that the encoder knows, ``@ * person * Tony Blair @`` for
the head and ``# ^ organisation ^ Labour #`` for the tail, as in Zhou & Chen 2022 ("typed entity
marker (punct)"); Soares et al. 2019 add new tokens instead.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from statistics import mode
from typing import Any

import numpy as np

from helpers import batches, evaluation
from helpers.batches import EncodedTexts
from helpers.corpora.annotations import RELATIONS, Entity, Opening
from helpers.errors import InvalidValue
from helpers.evaluation.metrics import Classes, check_pair
from helpers.tasks.classification import f1_of_class
from helpers.tasks.classification import scores_of as scores_of  # for lesson 14 too

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

    document: number of the text. head, tail: numbers of its mentions. types: what can be known
    without reading: both labels, and "headfirst" or "tailfirst". text: the sentence with both
    marked. between: the words between the two. label: a class number of NAMES, 0 for none.
    """

    document: int
    head: int
    tail: int
    types: tuple[str, str, str]
    text: str
    between: str
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


def mark(text: str, head: Mention, tail: Mention) -> str:
    """``text`` with the two mentions (which don't overlap) between their marks, cut to
    WORDS_AROUND words before the first and after the second."""
    first, second = sorted((head, tail), key=lambda mention: mention.start)

    def marked(mention: Mention) -> str:
        outer, inner = "@*" if mention is head else "#^"
        name = text[mention.start : mention.end]
        return f"{outer} {inner} {mention.label.lower()} {inner} {name} {outer}"

    parts = [
        *text[: first.start].split()[-WORDS_AROUND:],
        marked(first),
        text[first.end : second.start],
        marked(second),
        *text[second.end :].split()[:WORDS_AROUND],
    ]
    return " ".join(" ".join(parts).split())


def allowed(head_label: str, tail_label: str) -> bool:
    """Whether any relation of the inventory can join mentions of these labels, in this order."""
    return any(head_label in heads and tail_label in tails for heads, tails in RELATIONS.values())


def pairs_of(
    text: str,
    mentions: Sequence[Mention | Entity],
    gold: Mapping[tuple[int, int], str] | None = None,
    *,
    document: int = 0,
) -> list[Pair]:
    """Every ordered pair of mentions in one sentence that some relation could join.

    gold: {(head, tail): relation}; all other pairs are "none"."""
    found = []
    for begin, finish in sentences(text):
        inside = [
            (number, Mention(m.start - begin, m.end - begin, m.label))
            for number, m in enumerate(mentions)
            if begin <= m.start and m.end <= finish
        ]
        sentence = text[begin:finish]
        for (one, head), (other, tail) in permutations(inside, 2):
            if not allowed(head.label, tail.label):
                continue
            first, second = sorted((head, tail), key=lambda mention: mention.start)
            found.append(
                Pair(
                    document=document,
                    head=one,
                    tail=other,
                    types=(head.label, tail.label, "headfirst" if first is head else "tailfirst"),
                    text=mark(sentence, head, tail),
                    between=" ".join(sentence[first.end : second.start].split()),
                    label=NAMES.index((gold or {}).get((one, other), NONE)),
                )
            )
    return found


def from_openings(openings: Sequence[Opening]) -> list[Pair]:
    """The pairs of annotated openings; ``document`` numbers the openings in order."""
    pairs = []
    for number, opening in enumerate(openings):
        gold = {(relation.head, relation.tail): relation.label for relation in opening.relations}
        pairs += pairs_of(opening.text, opening.entities, gold, document=number)
    return pairs


def thin_out(pairs: Sequence[Pair], *, per_relation: float = 2.0) -> list[Pair]:
    """The pairs with a relation and, drawn at random, ``per_relation`` times as many without, in
    their order. For training only: unthinned, "none" would drown the rest."""
    if per_relation < 0:
        raise InvalidValue(f"per_relation is {per_relation}; it must be at least 0.")
    related = [row for row, pair in enumerate(pairs) if pair.label]
    others = [row for row, pair in enumerate(pairs) if not pair.label]
    size = min(len(others), round(per_relation * len(related)))
    drawn = np.random.default_rng(42).choice(others, size=size, replace=False)
    return [pairs[row] for row in sorted([*related, *drawn])]


def encode(tokenizer: Any, pairs: Sequence[Pair], *, max_length: int = 96) -> EncodedTexts:
    """The pairs' marked sentences and class numbers, for ``training.fit``."""
    texts, labels = [pair.text for pair in pairs], [pair.label for pair in pairs]
    return batches.encode(tokenizer, texts, labels, max_length=max_length, label_count=len(NAMES))


def macro_f1(labels: Classes, predicted: Classes, *, strict: bool = True) -> float:
    """The mean F1 of the relations that occur among ``labels``. "none" isn't a relation and has no
    F1, but a relation predicted where there is none lowers that relation's precision.

    Raises InvalidValue if no label is a relation; with ``strict`` off, returns 0.0."""
    labels, predicted = check_pair(labels, predicted)
    numbers = np.setdiff1d(labels, [0])
    if len(numbers):
        return float(np.mean([f1_of_class(labels, predicted, number=n) for n in numbers]))
    if strict:
        raise InvalidValue("no pair has a relation, so there is nothing to score.")
    return 0.0


def tfidf_baseline(train: Sequence[Pair], test: Sequence[Pair]) -> np.ndarray:
    """Class numbers by TF-IDF and logistic regression on the words between the two mentions,
    their labels and their order: (N,)."""
    texts = [
        ["head{} tail{} {} {}".format(*pair.types, pair.between) for pair in part]
        for part in (train, test)
    ]
    return evaluation.tfidf_baseline(texts[0], [pair.label for pair in train], texts[1])[0]


class TypesBaseline:
    """The baseline that sees only the two entity labels and which comes first: it answers with
    the most frequent class of such pairs in training."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        votes: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        for pair in pairs:
            votes[pair.types].append(pair.label)
        self.commonest = {types: mode(labels) for types, labels in votes.items()}

    def predict(self, pairs: Sequence[Pair]) -> np.ndarray:
        """(N,) class numbers."""
        return np.array([self.commonest.get(pair.types, 0) for pair in pairs])
