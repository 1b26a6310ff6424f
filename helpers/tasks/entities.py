"""Finding entities: BIO labels on words, word pieces aligned with them, strict scores.

A sentence is a list of words and a list of tags, one per word: ``B-PERSON`` begins a person,
``I-PERSON`` continues it, ``O`` is outside (IOB2; Ramshaw & Marcus 1995 call it chunking).
Only the first piece of a word carries its tag; the others are left out of the loss, as in
Devlin et al. 2019, section 5.3.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2
from torch import Tensor
from transformers import PreTrainedModel

from helpers import assets, evaluation
from helpers.batches import IGNORED, EncodedTexts
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
        tags[first:last] = [f"B-{label}", *[f"I-{label}"] * (last - first - 1)]
    words = tuple(text[start:end] for start, end in places)
    return Sentence(words, tuple(tags), text, tuple(start for start, _ in places))


SETS = {"openings": ENTITY_LABELS, "conll": ("PER", "ORG", "LOC", "MISC")}


def load(name: str = "openings") -> tuple[dict[str, list[Sentence]], tuple[str, ...]]:
    """The sentences of a data set in the splits train, validation and test, and its labels.

    name: "openings" (the course's own annotations, each opening one long sentence) or "conll"
    (CoNLL-2003, Tjong Kim Sang & De Meulder 2003; full profile).
    """
    if name not in SETS:
        raise unknown_name("set of entities", name, SETS)
    labels, splits = SETS[name], annotations.SPLITS
    if name == "openings":
        parts = {split: from_openings(annotations.load(split), labels) for split in splits}
    else:
        folder = assets.fetch("conll")
        parts = {
            split: [
                from_tagged_words(row["tokens"], [tag_names(labels)[n] for n in row["ner_tags"]])
                for row in read_parquet(folder, split, ["tokens", "ner_tags"])
            ]
            for split in splits
        }
    return parts, labels


def from_tagged_words(words: Sequence[str], tags: Sequence[str]) -> Sentence:
    """A sentence of words and tags as published data sets have them, joined with spaces."""
    lengths = [len(word) + 1 for word in words]
    starts = tuple(int(n) for n in np.cumsum([0, *lengths[:-1]]))
    return Sentence(tuple(words), tuple(tags), " ".join(words), starts)


def from_openings(openings: Sequence[Opening], labels: Sequence[str]) -> list[Sentence]:
    """Each annotated opening as one sentence of words and tags."""
    return [
        tag_text(o.text, [(e.start, e.end, e.label) for e in o.entities], labels) for o in openings
    ]


def spans_of(tags: Sequence[str]) -> list[Span]:
    """The entities in a row of tags, read strictly: only ``B-X`` begins one, and only ``I-X``
    right after it continues it. A stray ``I-X`` belongs to none, as in seqeval's strict mode."""
    spans: list[Span] = []
    begun, label = 0, ""
    for number, tag in enumerate([*tags, OUTSIDE]):
        if label and tag != f"I-{label}":
            spans.append((begun, number, label))
            label = ""
        if tag.startswith("B-"):
            begun, label = number, tag[2:]
    return spans


class EncodedTokens:
    """N sentences' token ids with a tag number for the first piece of each word, for
    ``training.fit``; the label of every other token is -100.

    texts: the token ids. tags: (sum of lengths,) int64. capitals: (sum of lengths,) int64, 1 for
    the pieces of a word that begins with a capital, or None. firsts: for each sentence, (words, 2)
    int64: the number of a word and the position of its first piece (words that were cut off, or
    that the tokenizer drops, are missing). truncated: how many sentences lost words this way.
    """

    def __init__(
        self,
        texts: EncodedTexts,
        tags: np.ndarray,
        firsts: list[np.ndarray],
        capitals: np.ndarray | None = None,
    ) -> None:
        self.texts, self.tags, self.firsts, self.capitals = texts, tags, firsts, capitals
        self.lengths, self.truncated = texts.lengths, texts.truncated

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(
        self, indices: Sequence[int] | np.ndarray, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask``, ``labels`` and, with capitals, ``token_type_ids``,
        each (B, T) int64, padded on the right; nothing is random here."""
        batch = self.texts.batch(indices)
        batch["labels"] = self._padded(self.tags, indices, batch["input_ids"].shape, IGNORED)
        if self.capitals is not None:
            batch["token_type_ids"] = self._padded(
                self.capitals, indices, batch["input_ids"].shape, 0
            )
        return batch

    def _padded(
        self, values: np.ndarray, indices: Sequence[int] | np.ndarray, shape: tuple, filling: int
    ) -> Tensor:
        rows = np.full(shape, filling, dtype=np.int64)
        for row, index in enumerate(indices):
            start, end = self.texts.offsets[index : index + 2]
            rows[row, : end - start] = values[start:end]
        return torch.from_numpy(rows)

    def count_items(self, batch: dict[str, Tensor]) -> int:
        """Labelled tokens: the model's loss is the mean over them."""
        return int((batch["labels"] != IGNORED).sum())


def encode(
    tokenizer: Any,
    sentences: Sequence[Sentence],
    labels: Sequence[str],
    *,
    max_length: int = 256,
    capitals: bool | None = None,
) -> EncodedTokens:
    """Word pieces of ``sentences`` and the tag of each word on its first piece.

    labels: as in ``tag_names``. max_length: pieces per sentence at most, special tokens included;
    the words beyond are cut off, and such sentences are counted.
    capitals: give back what an uncased tokenizer throws away: the pieces of a word with a capital
    get the segment number 1 (``token_type_ids``), all others 0. None: where the tokenizer makes
    everything lower case and its model has segments.
    Raises InvalidValue: no sentences, one without words, an unknown tag (the sentence and the
    word are named).
    """
    if not sentences:
        raise InvalidValue("there are no sentences to encode; give at least one.")
    numbers = {name: number for number, name in enumerate(tag_names(labels))}
    for row, sentence in enumerate(sentences):
        if not sentence.words or len(sentence.words) != len(sentence.tags):
            raise InvalidValue(
                f"sentence {row} has {len(sentence.words)} words and {len(sentence.tags)} tags; "
                f"give at least one word, and a tag for each."
            )
        for word, tag in zip(sentence.words, sentence.tags, strict=True):
            if tag not in numbers:
                raise InvalidValue(
                    f"sentence {row}: {word!r} has the tag {tag!r}; it must be one of "
                    f"{', '.join(numbers)}."
                )
    limit = min(max_length, tokenizer.model_max_length)
    rows = tokenizer(
        [list(sentence.words) for sentence in sentences],
        is_split_into_words=True,
        truncation=True,
        max_length=limit,
    )
    if capitals is None:
        has_segments = "token_type_ids" in tokenizer.model_input_names
        capitals = has_segments and bool(getattr(tokenizer, "do_lower_case", False))
    ids, tags, firsts, types, truncated = [], [], [], [], 0
    for row, sentence in enumerate(sentences):
        owners = rows.word_ids(row)  # the word each piece belongs to; None: a special token
        own = np.full(len(owners), IGNORED, dtype=np.int64)
        begins = [
            (owner, place)
            for place, owner in enumerate(owners)
            if owner is not None and owner != owners[place - 1]
        ]
        for owner, place in begins:
            own[place] = numbers[sentence.tags[owner]]
        types += [owner is not None and sentence.words[owner][0].isupper() for owner in owners]
        truncated += len(begins) < len(sentence.words)
        ids.append(np.asarray(rows["input_ids"][row], dtype=np.int32))
        tags.append(own)
        firsts.append(np.array(begins, dtype=np.int64).reshape(-1, 2))
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in ids])]).astype(np.int64)
    texts = EncodedTexts(
        np.concatenate(ids), offsets, pad_token_id=tokenizer.pad_token_id or 0, truncated=truncated
    )
    segments = np.array(types, dtype=np.int64) if capitals else None
    return EncodedTokens(texts, np.concatenate(tags), firsts, segments)


def predict_tags(
    model: PreTrainedModel,
    data: EncodedTokens,
    sentences: Sequence[Sentence],
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

    gold, found: tags of each sentence; their lengths must agree. Raises InvalidValue otherwise,
    and if there are no gold entities.
    """
    if len(gold) == 0 or [len(tags) for tags in gold] != [len(tags) for tags in found]:
        raise InvalidValue(
            f"{len(gold)} gold and {len(found)} predicted rows of tags: give one predicted row "
            f"for each gold one, of equal length, and at least one."
        )
    gold, found = [list(tags) for tags in gold], [list(tags) for tags in found]
    both = list(zip(np.concatenate(gold), np.concatenate(found), strict=True))
    scores: dict[str, Any] = {"token_accuracy": sum(a == b for a, b in both) / len(both)}
    if not any(tag != OUTSIDE for tag, _ in both):
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
    overall = rows["micro avg"]
    scores |= {name: overall[name] for name in ("precision", "recall", "f1")}
    scores["per_label"] = {k: row for k, row in rows.items() if not k.endswith(" avg")}
    return scores


def bootstrap_f1(
    gold: Sequence[Sequence[str]],
    found: Sequence[Sequence[str]],
    *,
    resamples: int = 1000,
    seed: int = 42,
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the strict F1, drawing whole documents: the
    entities of one document are not independent of each other."""
    counts = []
    for own, other in zip(gold, found, strict=True):
        right, marked = set(spans_of(own)), set(spans_of(other))
        counts.append((len(right & marked), len(right) + len(marked)))
    hits, total = np.array(counts).T  # (documents,) each
    values = bootstrap(
        lambda drawn: 2 * (drawn @ hits) / np.maximum(drawn @ total, 1),
        len(counts), resamples=resamples, seed=seed,
    )  # fmt: skip
    return percentile_interval(values)


class Gazetteer:
    """The baseline that only remembers: a list of the names seen in training, each with its most
    frequent label; from left to right, the longest one that matches is tagged."""

    def __init__(self, sentences: Sequence[Sentence]) -> None:
        votes: dict[tuple[str, ...], Counter] = defaultdict(Counter)
        for sentence in sentences:
            for start, end, label in spans_of(sentence.tags):
                votes[sentence.words[start:end]][label] += 1
        self.names = {words: votes[words].most_common(1)[0][0] for words in votes}
        self.longest = max(map(len, self.names), default=0)

    def tag(self, words: Sequence[str]) -> list[str]:
        """The BIO tags of ``words``."""
        words, tags, place = tuple(words), [OUTSIDE] * len(words), 0
        while place < len(words):
            size, label = self._match(words, place)
            if size:
                tags[place : place + size] = [f"B-{label}", *[f"I-{label}"] * (size - 1)]
            place += max(1, size)
        return tags

    def _match(self, words: tuple[str, ...], place: int) -> tuple[int, str]:
        for size in range(min(self.longest, len(words) - place), 0, -1):
            label = self.names.get(words[place : place + size])
            if label:
                return size, label
        return 0, ""
