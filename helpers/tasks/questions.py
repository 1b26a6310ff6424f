"""Extractive question answering: the span of a text that answers a question, or none.

A question and its text go through the encoder as one pair; two numbers per token say how likely
the answer starts there and ends there (Devlin et al. 2019, section 4.2). Long texts are cut into
overlapping windows. Position 0, ``[CLS]``, means "no answer here" (section 4.3).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from helpers import assets, evaluation
from helpers.batches import Indices, TokenRows, row_numbers
from helpers.corpora import annotations
from helpers.corpora.annotations import Opening
from helpers.corpora.readers import read_parquet
from helpers.errors import InvalidValue, unknown_name
from helpers.evaluation.metrics import bootstrap, percentile_interval
from helpers.evaluation.squad import best_score, exact_match, f1_score

LONGEST_ANSWER = 16  # word pieces


@dataclass(frozen=True)
class Example:
    """One question about one text. answers: ({"text", "start"}, ...), of which the first is
    trained on; empty: the text doesn't answer it. document: all questions about one document stay
    in one split."""

    id: str
    question: str
    context: str
    answers: tuple[dict[str, Any], ...]
    document: str = ""

    @property
    def texts(self) -> list[str]:
        """The gold answers' texts; [""] where there is none, as in the official script."""
        return [answer["text"] for answer in self.answers] or [""]


def load(name: str = "openings") -> dict[str, list[Example]]:
    """The questions of a data set in the splits train, validation and test, by document.

    name: "openings" (the course's own) or "squad" (SQuAD 1.1, full profile; its published
    validation questions serve as our test, a tenth of its training articles as our validation).
    """
    if name == "openings":
        return {split: from_openings(annotations.load(split)) for split in annotations.SPLITS}
    if name != "squad":
        raise unknown_name("set of questions", name, ("openings", "squad"))
    train, test = (_squad_rows(split) for split in ("train", "validation"))
    titles = sorted({example.document for example in train})
    held = set(np.random.default_rng(42).permutation(titles)[: max(1, len(titles) // 10)].tolist())
    return {
        "train": [example for example in train if example.document not in held],
        "validation": [example for example in train if example.document in held],
        "test": test,
    }


def _squad_rows(split: str) -> list[Example]:
    columns = ["id", "question", "context", "answers", "title"]
    rows = []
    for row in read_parquet(assets.fetch("squad"), split, columns):
        texts, starts = row["answers"]["text"], row["answers"]["answer_start"]
        row["answers"] = tuple(
            {"text": text, "start": start} for text, start in zip(texts, starts, strict=True)
        )
        rows.append(Example(*(row[column] for column in columns)))
    return rows


def from_openings(openings: Sequence[Opening]) -> list[Example]:
    """The questions of annotated openings, checked."""
    return check(
        Example(asked.id, asked.question, opening.text, asked.answers, opening.document)
        for opening in openings
        for asked in opening.questions
    )


def check(examples: Iterable[Example]) -> list[Example]:
    """The examples as a list. InvalidValue names the first with an empty context or question, an
    answer that isn't where it says it is, or an id that occurs twice."""
    examples, seen = list(examples), set()
    if not examples:
        raise InvalidValue("there are no questions; give at least one.")
    for example in examples:
        name, context = f"question {example.id!r}", example.context
        if example.id in seen:
            raise InvalidValue(f"{name} occurs twice; ids must differ.")
        seen.add(example.id)
        if not context.strip() or not example.question.strip():
            raise InvalidValue(f"{name} has an empty question or context; give both.")
        for answer in example.answers:
            start, text = answer["start"], answer["text"]
            found = context[start : start + len(text)] if start >= 0 else ""
            if found != text or not text.strip():
                place = context.find(text) if text.strip() else -1
                step = f"it is at {place}" if place >= 0 else "it is not in the text"
                raise InvalidValue(
                    f"{name}: its answer {text!r} is not at {start} of the context "
                    f"({found!r} is); {step}."
                )
    return examples


class Windows(TokenRows):
    """Questions with overlapping windows of their texts, for ``training.fit``.

    owners: (N,) number of the example. offsets: for each window (T, 2), the start and end of each
    context token in the whole text, in characters; (-1, -1) for all other tokens.
    starts, ends: (N,) positions of the answer's first and last token; both 0 where the window
    doesn't hold the whole answer.
    """

    # ``truncated`` stays 0: what one window leaves out is in the next.
    def __init__(
        self,
        columns: Mapping[str, Any],
        owners: np.ndarray,
        offsets: Sequence[np.ndarray],
        starts: np.ndarray,
        ends: np.ndarray,
    ) -> None:
        super().__init__(columns)
        self.owners, self.offsets, self.starts, self.ends = owners, offsets, starts, ends

    def batch(self, indices: Indices, generator: Generator | None = None) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask``, ``token_type_ids`` (B, T), ``start_positions`` and
        ``end_positions`` (B,), all int64; nothing is random here."""
        rows = np.asarray(indices)
        return super().batch(rows) | {
            "start_positions": torch.from_numpy(self.starts[rows]),
            "end_positions": torch.from_numpy(self.ends[rows]),
        }

    def count_items(self, batch: dict[str, Tensor]) -> int:
        """Windows: the model's loss is the mean over them."""
        return len(batch["input_ids"])

    def select(self, indices: Indices) -> "Windows":
        """Some of the windows, in the order of ``indices``."""
        rows = row_numbers(indices, len(self))
        columns = {
            name: ([values[row] for row in rows], filling)
            for name, (values, filling) in self.columns.items()
        }
        offsets = [self.offsets[row] for row in rows]
        return Windows(columns, self.owners[rows], offsets, self.starts[rows], self.ends[rows])

    def thin_out(self, *, kept: float = 0.33) -> "Windows":
        """All windows with an answer and, drawn at random, this share of the others. For training:
        unthinned, most windows would say "nothing here". Raises InvalidValue: ``kept`` outside 0
        to 1."""
        if not 0 <= kept <= 1:
            raise InvalidValue(f"kept is {kept}; it must be from 0 to 1.")
        drawn = np.random.default_rng(42).random(len(self)) < kept
        return self.select(np.flatnonzero(self.has_answer | drawn))

    @property
    def has_answer(self) -> np.ndarray:
        """(N,) whether the answer lies in the window."""
        return self.starts > 0


def encode(
    tokenizer: Any, examples: Sequence[Example], *, max_length: int = 256, stride: int = 64
) -> Windows:
    """Every question with the windows of its text, together at most ``max_length`` tokens.

    stride: tokens that two neighbouring windows share; an answer of at most that many tokens is
    whole in at least one of them. The longest question must leave more than ``stride`` tokens for
    the text.
    Raises InvalidValue: as ``check``, and where the windows would not advance.
    """
    examples = check(examples)
    limit = min(max_length, tokenizer.model_max_length)
    questions = [example.question for example in examples]
    sizes = [len(ids) for ids in tokenizer(questions, add_special_tokens=False)["input_ids"]]
    longest = int(np.argmax(sizes))
    room = limit - sizes[longest] - tokenizer.num_special_tokens_to_add(pair=True)
    if not 0 <= stride < room:
        raise InvalidValue(
            f"the stride is {stride}; it must be at least 0 and less than the {max(0, room)} "
            f"tokens of {limit} that the longest question ({examples[longest].id!r}, "
            f"{sizes[longest]} tokens) leaves for the text. Shorten the question, or give a larger "
            f"max_length or a smaller stride."
        )
    rows = tokenizer(
        questions,
        [example.context for example in examples],
        truncation="only_second",
        max_length=limit,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    owners = np.asarray(rows["overflow_to_sample_mapping"])
    offsets = []
    for row in range(len(owners)):
        context = np.array([part == 1 for part in rows.sequence_ids(row)])
        offsets.append(np.where(context[:, None], rows["offset_mapping"][row], -1))
    spans = [
        _tokens_of(examples[owner].answers, places)
        for owner, places in zip(owners, offsets, strict=True)
    ]
    columns = {
        "input_ids": (rows["input_ids"], tokenizer.pad_token_id or 0),
        "attention_mask": (rows["attention_mask"], 0),
        "token_type_ids": (rows["token_type_ids"], 0),
    }
    return Windows(columns, owners, offsets, *np.array(spans).T)


def _tokens_of(answers: Sequence[dict[str, Any]], places: np.ndarray) -> tuple[int, int]:
    """First and last token of the preferred answer, or (0, 0) if the window cuts it."""
    if not answers:
        return 0, 0
    first, last = answers[0]["start"], answers[0]["start"] + len(answers[0]["text"])
    tokens = np.flatnonzero((places[:, 0] >= 0) & (places[:, 1] > first) & (places[:, 0] < last))
    if not len(tokens) or places[tokens[0], 0] > first or places[tokens[-1], 1] < last:
        return 0, 0
    return int(tokens[0]), int(tokens[-1])


@dataclass(frozen=True)
class Prediction:
    """text, start: the best span of all windows and its position. score: its start logit plus its
    end logit. null_score: the lowest of the windows' scores for "no answer". The difference of
    the two decides, see ``answer_texts``."""

    id: str
    text: str
    start: int
    score: float
    null_score: float

    @property
    def margin(self) -> float:
        """score minus null_score: the higher, the surer the model that there is an answer."""
        return self.score - self.null_score


def best_span(
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    allowed: np.ndarray,
    *,
    longest: int = LONGEST_ANSWER,
) -> tuple[int, int, float]:
    """(start, end, score) of the best span: start <= end < start + longest, both allowed.

    start_logits, end_logits: (T,). allowed: (T,) bool. The score is the sum of the two logits,
    because P(start) P(end) grows with it. Raises InvalidValue: nothing is allowed.
    """
    # Above the diagonal the end comes after the start; no more than ``longest`` diagonals.
    possible = np.tril(np.triu(np.outer(allowed, allowed)), longest - 1)  # (T, T)
    if not possible.any():
        raise InvalidValue(
            f"no span of at most {longest} tokens is allowed to be an answer. longest must be at "
            f"least 1, and the window must hold text."
        )
    scores = np.where(possible, np.add.outer(start_logits, end_logits), -np.inf)
    start, end = np.unravel_index(scores.argmax(), scores.shape)
    return int(start), int(end), float(scores[start, end])


def predict(model: nn.Module, data: Windows, examples: Sequence[Example]) -> list[Prediction]:
    """The best span for each example over all its windows; ``data`` is what ``encode`` returned
    for these examples."""
    best = [(-np.inf, 0, 0)] * len(examples)  # score, and where the span starts and ends
    null = np.full(len(examples), np.inf)
    for indices, _, output in evaluation.forward(model, data):
        starts, ends = output.start_logits.float().cpu(), output.end_logits.float().cpu()
        for row, index in enumerate(indices):
            places, owner = data.offsets[index], data.owners[index]
            begin, end = starts[row, : len(places)].numpy(), ends[row, : len(places)].numpy()
            null[owner] = min(null[owner], begin[0] + end[0])
            first, last, score = best_span(begin, end, places[:, 0] >= 0)
            if score > best[owner][0]:
                best[owner] = (score, int(places[first, 0]), int(places[last, 1]))
    return [
        Prediction(example.id, example.context[start:end], start, score, float(lowest))
        for example, (score, start, end), lowest in zip(examples, best, null, strict=True)
    ]


def answer_texts(predictions: Sequence[Prediction], threshold: float = 0.0) -> list[str]:
    """The predicted texts; "" where the margin is below ``threshold``."""
    return [found.text if found.margin >= threshold else "" for found in predictions]


def choose_threshold(predictions: Sequence[Prediction], examples: Sequence[Example]) -> float:
    """The threshold with the best mean F1 on these (validation) examples, and the lowest of
    those that tie. It lies half-way between two neighbouring margins, or beyond the outermost."""
    margins = np.array([found.margin for found in predictions])
    order = np.argsort(margins)
    given = score(examples, [found.text for found in predictions])["each_f1"][order]
    silent = score(examples, [""] * len(examples))["each_f1"][order]
    # Total k: silent on the k questions with the smallest margins, answering all others.
    totals = np.append(0, np.cumsum(silent)) + np.append(np.cumsum(given[::-1])[::-1], 0)
    margins = margins[order]
    borders = [margins[0] - 1, *(margins[:-1] + margins[1:]) / 2, margins[-1] + 1]
    return float(borders[totals.argmax()])


def score(examples: Sequence[Example], texts: Sequence[str]) -> dict[str, Any]:
    """Mean exact match and F1 by the official SQuAD 2.0 formula, both scores of each question, and
    the mean F1 of the questions with an answer and of those without (None if there are none)."""
    if len(examples) != len(texts) or not examples:
        raise InvalidValue(
            f"{len(texts)} answers for {len(examples)} questions; give one for each."
        )
    pairs = list(zip(texts, examples, strict=True))
    em = np.array([best_score(exact_match, text, example.texts) for text, example in pairs])
    f1 = np.array([best_score(f1_score, text, example.texts) for text, example in pairs])
    answerable = np.array([bool(example.answers) for example in examples])
    return {
        "exact_match": float(em.mean()),
        "f1": float(f1.mean()),
        "f1_answerable": float(f1[answerable].mean()) if answerable.any() else None,
        "f1_unanswerable": float(f1[~answerable].mean()) if not answerable.all() else None,
        "each_exact_match": em,
        "each_f1": f1,
    }


def bootstrap_mean(values: np.ndarray, documents: Sequence[str]) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean, drawing whole documents: five questions
    about one text are not five independent ones.

    values: (N,) scores. documents: (N,) names."""
    names, owner = np.unique(np.asarray(documents), return_inverse=True)
    sums, sizes = np.bincount(owner, weights=values), np.bincount(owner)  # (documents,) each
    means = bootstrap(lambda drawn: (drawn @ sums) / (drawn @ sizes), len(names))
    return percentile_interval(means)
