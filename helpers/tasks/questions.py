"""Extractive question answering: the span of a text that answers a question, or none.

A question and its text go through the encoder as one pair; two numbers per token say how likely
the answer starts there and ends there (Devlin et al. 2019, section 4.2). Long texts are cut into
overlapping windows. Position 0, ``[CLS]``, means "no answer here" (section 4.3).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from helpers import assets, evaluation
from helpers.batches import EncodedTexts, row_numbers
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


SETS = ("openings", "squad")


def load(name: str = "openings") -> dict[str, list[Example]]:
    """The questions of a data set in the splits train, validation and test, by document.

    name: "openings" (the course's own) or "squad" (SQuAD 1.1, full profile; its published
    validation questions serve as our test, a tenth of its training articles as our validation).
    """
    if name not in SETS:
        raise unknown_name("set of questions", name, SETS)
    if name == "openings":
        return {split: from_openings(annotations.load(split)) for split in annotations.SPLITS}
    folder = assets.fetch("squad")
    rows = {split: _squad_rows(folder, split) for split in ("train", "validation")}
    titles = sorted({example.document for example in rows["train"]})
    random = np.random.default_rng(42)
    held = set(random.permutation(titles)[: max(1, len(titles) // 10)].tolist())
    return {
        "train": [example for example in rows["train"] if example.document not in held],
        "validation": [example for example in rows["train"] if example.document in held],
        "test": rows["validation"],
    }


def _squad_rows(folder: Path, split: str) -> list[Example]:
    columns = ["id", "title", "context", "question", "answers"]
    return [
        Example(
            row["id"],
            row["question"],
            row["context"],
            tuple(
                {"text": text, "start": start}
                for text, start in zip(
                    row["answers"]["text"], row["answers"]["answer_start"], strict=True
                )
            ),
            row["title"],
        )
        for row in read_parquet(folder, split, columns)
    ]


def from_openings(openings: Sequence[Opening]) -> list[Example]:
    """The questions of annotated openings."""
    return [
        Example(asked.id, asked.question, opening.text, asked.answers, opening.document)
        for opening in openings
        for asked in opening.questions
    ]


def check(examples: Iterable[Example]) -> list[Example]:
    """The examples as a list. InvalidValue names the first with an empty context or question, an
    answer that isn't where it says it is, or an id that occurs twice."""
    examples, seen = list(examples), set()
    if not examples:
        raise InvalidValue("there are no questions; give at least one.")
    for example in examples:
        name = f"question {example.id!r}"
        if example.id in seen:
            raise InvalidValue(f"{name} occurs twice; ids must differ.")
        seen.add(example.id)
        if not example.context.strip():
            raise InvalidValue(f"{name} has an empty context; give the text to search.")
        if not example.question.strip():
            raise InvalidValue(f"{name} has no text ({example.question!r}).")
        for answer in example.answers:
            start, text = answer["start"], answer["text"]
            found = example.context[start : start + len(text)] if start >= 0 else ""
            if not text.strip() or found != text:
                elsewhere = example.context.find(text) if text.strip() else -1
                step = f"it is at {elsewhere}" if elsewhere >= 0 else "it is not in the text"
                raise InvalidValue(
                    f"{name}: its answer {text!r} is not at {start} of the context "
                    f"({found!r} is); {step}."
                )
    return examples


class Windows:
    """Questions with overlapping windows of their texts, for ``training.fit``.

    texts: token ids of the N windows. types: (sum of lengths,) 0 for the question, 1 for the
    text. owners: (N,) number of the example. offsets: for each window (T, 2), the start and end
    of each context token in the whole text, in characters; (-1, -1) for all other tokens.
    starts, ends: (N,) positions of the answer's first and last token; both 0 where the window
    doesn't hold the whole answer.
    """

    def __init__(
        self,
        texts: EncodedTexts,
        types: np.ndarray,
        owners: np.ndarray,
        offsets: list[np.ndarray],
        starts: np.ndarray,
        ends: np.ndarray,
    ) -> None:
        self.texts, self.types, self.owners, self.offsets = texts, types, owners, offsets
        self.starts, self.ends, self.lengths = starts, ends, texts.lengths
        self.truncated = 0  # what one window leaves out is in the next

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(
        self, indices: Sequence[int] | np.ndarray, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask``, ``token_type_ids`` (B, T), ``start_positions`` and
        ``end_positions`` (B,), all int64; nothing is random here."""
        rows = row_numbers(indices, len(self))
        batch = self.texts.batch(rows)
        types = np.zeros(batch["input_ids"].shape, dtype=np.int64)
        for row, index in enumerate(rows):
            start, end = self.texts.offsets[index : index + 2]
            types[row, : end - start] = self.types[start:end]
        return batch | {
            "token_type_ids": torch.from_numpy(types),
            "start_positions": torch.from_numpy(self.starts[rows]),
            "end_positions": torch.from_numpy(self.ends[rows]),
        }

    def count_items(self, batch: dict[str, Tensor]) -> int:
        """Windows: the model's loss is the mean over them."""
        return len(batch["input_ids"])

    def select(self, indices: Sequence[int] | np.ndarray) -> "Windows":
        """Some of the windows, in the order of ``indices``."""
        rows = row_numbers(indices, len(self))
        places = [np.arange(*self.texts.offsets[row : row + 2]) for row in rows]
        flat = np.concatenate(places)
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows])]).astype(np.int64)
        texts = EncodedTexts(self.texts.ids[flat], offsets, pad_token_id=self.texts.pad_token_id)
        return Windows(
            texts,
            self.types[flat],
            self.owners[rows],
            [self.offsets[row] for row in rows],
            self.starts[rows],
            self.ends[rows],
        )

    def thin_out(self, *, kept: float = 0.33, seed: int = 42) -> "Windows":
        """All windows with an answer and, drawn at random, this share of the others. For training:
        unthinned, most windows would say "nothing here". Raises InvalidValue: ``kept`` outside 0
        to 1."""
        if not 0 <= kept <= 1:
            raise InvalidValue(f"kept is {kept}; it must be from 0 to 1.")
        drawn = np.random.default_rng(seed).random(len(self)) < kept
        return self.select(np.flatnonzero(self.has_answer | drawn))

    @cached_property
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
    if stride < 0:
        raise InvalidValue(f"stride is {stride}; it must be at least 0.")
    questions = [example.question for example in examples]
    alone = tokenizer(questions, add_special_tokens=False, verbose=False)
    sizes = [len(ids) for ids in alone["input_ids"]]
    longest = max(sizes)
    room = limit - longest - tokenizer.num_special_tokens_to_add(pair=True)
    if room <= stride:
        raise InvalidValue(
            f"max_length is {limit}: the longest question ("
            f"{examples[sizes.index(longest)].id!r}, {longest} tokens) leaves {max(0, room)} "
            f"tokens for the text, and that must be more than the stride of {stride}. Shorten the "
            f"question, or give a larger max_length or a smaller stride."
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
    starts, ends, offsets = [], [], []
    for row, owner in enumerate(owners):
        places = np.full((len(rows["input_ids"][row]), 2), -1, dtype=np.int64)
        context = np.array([part == 1 for part in rows.sequence_ids(row)])
        places[context] = np.asarray(rows["offset_mapping"][row])[context]
        start, end = _tokens_of(examples[owner].answers, places)
        starts.append(start)
        ends.append(end)
        offsets.append(places)
    lengths = [len(ids) for ids in rows["input_ids"]]
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    texts = EncodedTexts(
        np.concatenate([np.asarray(ids, dtype=np.int32) for ids in rows["input_ids"]]),
        bounds,
        pad_token_id=tokenizer.pad_token_id or 0,
    )
    types = np.concatenate([np.asarray(part) for part in rows["token_type_ids"]])
    return Windows(texts, types, owners, offsets, np.array(starts), np.array(ends))


def _tokens_of(answers: Sequence[dict[str, Any]], places: np.ndarray) -> tuple[int, int]:
    """First and last token of the preferred answer, or (0, 0) if the window cuts it."""
    if not answers:
        return 0, 0
    first, last = answers[0]["start"], answers[0]["start"] + len(answers[0]["text"])
    inside = (places[:, 0] >= 0) & (places[:, 1] > first) & (places[:, 0] < last)
    tokens = np.flatnonzero(inside)
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
    if longest < 1:
        raise InvalidValue(f"longest is {longest}; an answer has at least 1 token.")
    if not allowed.any():
        raise InvalidValue("no token is allowed to be an answer; the window holds no text.")
    scores = start_logits[:, None] + end_logits[None, :]  # (T, T)
    distance = np.arange(len(scores))[None, :] - np.arange(len(scores))[:, None]
    possible = (distance >= 0) & (distance < longest) & allowed[:, None] & allowed[None, :]
    scores = np.where(possible, scores, -np.inf)
    start, end = np.unravel_index(scores.argmax(), scores.shape)
    return int(start), int(end), float(scores[start, end])


def predict(
    model: nn.Module,
    data: Windows,
    examples: Sequence[Example],
    *,
    longest: int = LONGEST_ANSWER,
) -> list[Prediction]:
    """The best span for each example over all its windows; ``data`` is what ``encode`` returned
    for these examples. longest: tokens per answer at most."""
    best: dict[int, tuple[float, int, int]] = {}
    null = np.full(len(examples), np.inf)
    for indices, _, output in evaluation.forward(model, data):
        starts, ends = output.start_logits.float().cpu(), output.end_logits.float().cpu()
        for row, index in enumerate(indices):
            places, owner = data.offsets[index], int(data.owners[index])
            length = len(places)
            begin, end = starts[row, :length].numpy(), ends[row, :length].numpy()
            null[owner] = min(null[owner], float(begin[0] + end[0]))
            first, last, score = best_span(begin, end, places[:, 0] >= 0, longest=longest)
            if owner not in best or score > best[owner][0]:
                best[owner] = (score, int(places[first, 0]), int(places[last, 1]))
    predictions = []
    for number, example in enumerate(examples):
        score, start, end = best[number]
        text = example.context[start:end]
        predictions.append(Prediction(example.id, text, start, score, float(null[number])))
    return predictions


def answer_texts(predictions: Sequence[Prediction], threshold: float = 0.0) -> list[str]:
    """The predicted texts; "" where the margin is below ``threshold``."""
    return [found.text if found.margin >= threshold else "" for found in predictions]


def choose_threshold(predictions: Sequence[Prediction], examples: Sequence[Example]) -> float:
    """The threshold with the best mean F1 on these (validation) examples, and the lowest of
    those that tie. It lies half-way between two neighbouring margins, or beyond the outermost."""
    if len(predictions) != len(examples) or not predictions:
        raise InvalidValue(
            f"{len(predictions)} predictions for {len(examples)} examples; give one for each."
        )
    order = np.argsort([found.margin for found in predictions])
    margins = np.array([predictions[i].margin for i in order])
    given = [best_score(f1_score, predictions[i].text, examples[i].texts) for i in order]
    silent = [best_score(f1_score, "", examples[i].texts) for i in order]
    # Total k: silent on the k questions with the smallest margins, answering all others.
    totals = np.concatenate([[0], np.cumsum(silent)]) + np.concatenate(
        [np.cumsum(given[::-1])[::-1], [0]]
    )
    borders = np.concatenate(
        [[margins[0] - 1], (margins[:-1] + margins[1:]) / 2, [margins[-1] + 1]]
    )
    return float(borders[totals.argmax()])


def score(examples: Sequence[Example], texts: Sequence[str]) -> dict[str, Any]:
    """Mean exact match and F1 by the official SQuAD 2.0 formula, both scores of each question, and
    the mean F1 of the questions with an answer and of those without (None if there are none)."""
    if len(examples) != len(texts) or not examples:
        raise InvalidValue(
            f"{len(texts)} answers for {len(examples)} questions; give one for each."
        )
    pairs = list(zip(examples, texts, strict=True))
    em = np.array([best_score(exact_match, text, example.texts) for example, text in pairs])
    f1 = np.array([best_score(f1_score, text, example.texts) for example, text in pairs])
    answerable = np.array([bool(example.answers) for example in examples])
    means = {
        name: float(f1[rows].mean()) if rows.any() else None
        for name, rows in (("f1_answerable", answerable), ("f1_unanswerable", ~answerable))
    }
    return {
        "exact_match": float(em.mean()),
        "f1": float(f1.mean()),
        **means,
        "each_exact_match": em,
        "each_f1": f1,
    }


def bootstrap_mean(
    values: np.ndarray, documents: Sequence[str], *, resamples: int = 2000, seed: int = 42
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean, drawing whole documents: five questions
    about one text are not five independent ones.

    values: (N,) scores. documents: (N,) names."""
    names, owner = np.unique(np.asarray(documents), return_inverse=True)
    sums, sizes = np.bincount(owner, weights=values), np.bincount(owner)  # (documents,) each
    means = bootstrap(
        lambda drawn: (drawn @ sums) / (drawn @ sizes), len(names), resamples=resamples, seed=seed
    )
    return percentile_interval(means)
