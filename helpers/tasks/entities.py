"""Finding entities: BIO labels on words, word pieces aligned with them, strict scores.

A sentence is a list of words and a list of tags, one per word: ``B-PERSON`` begins a person,
``I-PERSON`` continues it, ``O`` is outside (IOB2; Ramshaw & Marcus 1995 call it chunking).
Only the first piece of a word carries its tag; the others are left out of the loss, as in
Devlin et al. 2019, section 5.3.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mode
from typing import Any

import numpy as np
from seqeval.metrics import accuracy_score, classification_report
from seqeval.scheme import IOB2
from seqeval.scheme import Entities as SeqevalEntities
from transformers import PreTrainedModel

from helpers import assets, evaluation
from helpers.batches import IGNORED, TokenRows
from helpers.corpora import annotations
from helpers.corpora.annotations import ENTITY_LABELS, Opening
from helpers.corpora.readers import read_parquet
from helpers.errors import InvalidValue, unknown_name
from helpers.evaluation.metrics import bootstrap, percentile_interval

OUTSIDE = "O"
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Sentence:
    """words: their texts. tags: one per word, in BIO form. starts: of each word in ``text``."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    text: str
    starts: tuple[int, ...]


Span = tuple[int, int, str]  # first word, word after the last, label


def tag_names(labels: Sequence[str]) -> list[str]:
    """``O`` and then the ``B-`` and ``I-`` tag of each label: 2 C + 1 names."""
    return [OUTSIDE, *(f"{part}-{label}" for label in labels for part in "BI")]


def split_words(text: str) -> list[tuple[int, int]]:
    """Start and end of each word of ``text``: runs of letters and digits, and any other
    character that isn't white space by itself ("Blair's" is three words)."""
    return [match.span() for match in _WORD.finditer(text)]


def tag_text(
    text: str, entities: Sequence[tuple[int, int, str]], labels: Sequence[str]
) -> Sentence:
    """``text`` as words with the tags that follow from ``entities``.

    entities: (start, end, label), character offsets. labels: those allowed.
    Raises InvalidValue: a text without words, an unknown label, a span that is empty, cuts
    through a word, reaches beyond the text or overlaps another.
    """
    places = split_words(text)
    if not places:
        raise InvalidValue(f"the text {text!r} has no words; give one that does.")
    starts = {start: number for number, (start, _) in enumerate(places)}
    ends = {end: number for number, (_, end) in enumerate(places, 1)}
    tags = [OUTSIDE] * len(places)
    for start, end, label in entities:
        shown = f"the entity {text[max(0, start) : end]!r} at {start} to {end}"
        if label not in labels:
            raise InvalidValue(
                f"{shown} has the label {label!r}; it must be one of {', '.join(labels)}."
            )
        if not 0 <= start < end <= len(text):
            raise InvalidValue(f"{shown} is outside the text of {len(text)} characters, or empty.")
        if start not in starts or end not in ends:
            raise InvalidValue(
                f"{shown} cuts through a word. A span begins where a word begins and ends where "
                f"one ends; see split_words."
            )
        first, last = starts[start], ends[end]
        if any(tag != OUTSIDE for tag in tags[first:last]):
            raise InvalidValue(f"{shown} overlaps another entity; keep one of the two.")
        tags[first:last] = _bio(label, last - first)
    words = tuple(text[start:end] for start, end in places)
    return Sentence(words, tuple(tags), text, tuple(start for start, _ in places))


def load(name: str = "openings") -> tuple[dict[str, list[Sentence]], tuple[str, ...]]:
    """The sentences of a data set in the splits train, validation and test, and its labels.

    name: "openings" (the course's own annotations, each opening one long sentence) or "conll"
    (CoNLL-2003, Tjong Kim Sang & De Meulder 2003; full profile).
    """
    if name == "openings":
        parts = ((split, annotations.load(split)) for split in annotations.SPLITS)
        return {split: from_openings(part, ENTITY_LABELS) for split, part in parts}, ENTITY_LABELS
    if name != "conll":
        raise unknown_name("set of entities", name, ("openings", "conll"))
    labels, folder = ("PER", "ORG", "LOC", "MISC"), assets.fetch("conll")
    names = np.array(tag_names(labels))
    return {
        split: [
            from_tagged_words(row["tokens"], names[row["ner_tags"]].tolist())
            for row in read_parquet(folder, split, ["tokens", "ner_tags"])
        ]
        for split in annotations.SPLITS
    }, labels


def from_tagged_words(words: Sequence[str], tags: Sequence[str]) -> Sentence:
    """A sentence of words and tags as published data sets have them, joined with spaces."""
    starts = np.cumsum([0, *(len(word) + 1 for word in words[:-1])]).tolist()
    return Sentence(tuple(words), tuple(tags), " ".join(words), tuple(starts))


def from_openings(openings: Sequence[Opening], labels: Sequence[str]) -> list[Sentence]:
    """Each annotated opening as one sentence of words and tags."""
    return [
        tag_text(o.text, [(e.start, e.end, e.label) for e in o.entities], labels) for o in openings
    ]


def spans_of(tags: Sequence[str]) -> list[Span]:
    """The entities in a row of tags, read strictly by seqeval: only ``B-X`` begins one, and only
    ``I-X`` right after it continues it. A stray ``I-X`` belongs to none."""
    (found,) = SeqevalEntities([list(tags)], IOB2).entities
    return [(entity.start, entity.end, entity.tag) for entity in found]


class EncodedTokens(TokenRows):
    """N sentences' token ids with a tag number for the first piece of each word; the label of every
    other token is -100.

    firsts: for each sentence, (words, 2): the number of a word and the position of its first piece
    (words that were cut off, or that the tokenizer drops, are missing). truncated: how many
    sentences lost words. capitals: the column ``token_type_ids``, None if there is none.
    """

    def __init__(
        self, columns: Mapping[str, Any], firsts: list[np.ndarray], *, truncated: int
    ) -> None:
        super().__init__(columns, truncated=truncated)
        self.firsts, self.capitals = firsts, columns.get("token_type_ids")


def encode(
    tokenizer: Any, sentences: Sequence[Sentence], labels: Sequence[str], *, max_length: int = 256
) -> EncodedTokens:
    """Word pieces of ``sentences`` and the tag of each word on its first piece.

    labels: as in ``tag_names``. max_length: pieces per sentence at most, special tokens included;
    the words beyond are cut off, and such sentences are counted.
    An uncased tokenizer throws capitals away. If its model has segments, they give them back: the
    pieces of a word with a capital get the segment number 1 (``token_type_ids``), all others 0.
    Raises InvalidValue: a tag of a label that isn't in ``labels``.
    """
    numbers = {name: number for number, name in enumerate(tag_names(labels))}
    unknown = {tag for sentence in sentences for tag in sentence.tags} - set(numbers)
    if unknown:
        raise InvalidValue(
            f"the sentences have the tags {', '.join(sorted(unknown))}; they must be among "
            f"{', '.join(numbers)}. Give every label."
        )
    rows = tokenizer(
        [list(sentence.words) for sentence in sentences],
        is_split_into_words=True,
        truncation=True,
        max_length=min(max_length, tokenizer.model_max_length),
    )
    tags, firsts, capitals = [], [], []
    for row, sentence in enumerate(sentences):
        # The word each piece belongs to; -1: a special token.
        owners = np.array([-1 if word is None else word for word in rows.word_ids(row)])
        first = np.stack(np.unique(owners, return_index=True), axis=1)
        first = first[first[:, 0] >= 0]
        own = np.full(len(owners), IGNORED)
        own[first[:, 1]] = [numbers[sentence.tags[word]] for word in first[:, 0]]
        tags.append(own)
        firsts.append(first)
        capital = np.array([*(word[0].isupper() for word in sentence.words), False])  # of word -1
        capitals.append(capital[owners])
    columns = {
        "input_ids": (rows["input_ids"], tokenizer.pad_token_id or 0),
        "attention_mask": (rows["attention_mask"], 0),
        "labels": (tags, IGNORED),
    }
    has_segments = "token_type_ids" in tokenizer.model_input_names
    if has_segments and getattr(tokenizer, "do_lower_case", False):
        columns["token_type_ids"] = (capitals, 0)
    cut = sum(
        len(one) < len(sentence.words) for one, sentence in zip(firsts, sentences, strict=True)
    )
    return EncodedTokens(columns, firsts, truncated=cut)


def predict_tags(
    model: PreTrainedModel, data: EncodedTokens, sentences: Sequence[Sentence]
) -> list[list[str]]:
    """The model's tag for each word of each sentence, in order; words that were cut off are
    ``O``. The names come from the model's own configuration."""
    names: Any = model.config.id2label
    found = [[OUTSIDE] * len(sentence.words) for sentence in sentences]
    for indices, _, output in evaluation.forward(model, data):
        best = output.logits.argmax(-1).cpu().numpy()  # (B, T)
        for row, index in enumerate(indices):
            for word, place in data.firsts[index]:
                found[index][word] = names[int(best[row, place])]
    return found


def strict_scores(gold: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Precision, recall and F1 over entities by seqeval in its strict mode: an entity counts only
    if its start, end and label are all right. Also ``token_accuracy``, the share of words with the
    right tag, and ``per_label``: the first three and ``support`` (gold entities) for each label.

    gold, found: tags of each sentence. Raises InvalidValue if there are no gold entities, and
    seqeval's ValueError if the lengths differ.
    """
    gold, found = [list(tags) for tags in gold], [list(tags) for tags in found]
    if all(tag == OUTSIDE for tags in gold for tag in tags):
        raise InvalidValue("there is no entity in the gold tags, so there is nothing to score.")
    report = classification_report(
        gold, found, mode="strict", scheme=IOB2, output_dict=True, zero_division=0
    )
    rows = {
        label: {
            "precision": float(row["precision"]),
            "recall": float(row["recall"]),
            "f1": float(row["f1-score"]),
            "support": int(row["support"]),
        }
        for label, row in report.items()
    }
    return {
        "token_accuracy": accuracy_score(gold, found),
        **{name: rows["micro avg"][name] for name in ("precision", "recall", "f1")},
        "per_label": {name: row for name, row in rows.items() if not name.endswith(" avg")},
    }


def bootstrap_f1(
    gold: Sequence[Sequence[str]], found: Sequence[Sequence[str]]
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the strict F1, drawing whole documents: the
    entities of one document are not independent of each other."""
    counts = []
    for own, other in zip(gold, found, strict=True):
        right, marked = set(spans_of(own)), set(spans_of(other))
        counts.append((len(right & marked), len(right) + len(marked)))
    hits, total = np.array(counts).T  # (documents,) each
    values = bootstrap(
        lambda drawn: 2 * (drawn @ hits) / np.maximum(drawn @ total, 1), len(counts), resamples=1000
    )
    return percentile_interval(values)


class Gazetteer:
    """The baseline that only remembers: a list of the names seen in training, each with its most
    frequent label; from left to right, the longest one that matches is tagged."""

    def __init__(self, sentences: Sequence[Sentence]) -> None:
        votes: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for sentence in sentences:
            for start, end, label in spans_of(sentence.tags):
                votes[sentence.words[start:end]].append(label)
        self.names = {words: mode(labels) for words, labels in votes.items()}
        self.longest = max(map(len, self.names), default=0)

    def tag(self, words: Sequence[str]) -> list[str]:
        """The BIO tags of ``words``."""
        words, tags, place = tuple(words), [OUTSIDE] * len(words), 0
        while place < len(words):
            sizes = range(min(self.longest, len(words) - place), 0, -1)
            size = next((n for n in sizes if words[place : place + n] in self.names), 0)
            if size:
                tags[place : place + size] = _bio(self.names[words[place : place + size]], size)
            place += max(1, size)
        return tags


def _bio(label: str, size: int) -> list[str]:
    return [f"B-{label}", *[f"I-{label}"] * (size - 1)]
