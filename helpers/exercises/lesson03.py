"""Exercises of lesson 03: a blind guess, the shift by one, bits per byte, padding in the loss."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.exercises.question import Question

VOCABULARY = 49_152
SAME = 1e-3


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_blind_guess(answer: Any) -> str | None:
    if isinstance(answer, Tensor) and answer.numel() == 1:
        answer = answer.item()
    if not _is_number(answer):
        kind = type(answer).__name__
        return f"The answer should be a number of nats; yours is a {kind}."
    right = math.log(VOCABULARY)
    if abs(answer - right) < 0.01:
        return None
    if abs(answer + right) < 0.01:
        return (
            "That is the log-likelihood of a token, which is negative. A loss is its negative: "
            "turn the sign."
        )
    if abs(answer - math.log2(VOCABULARY)) < 0.01:
        return "That is in bits, with the logarithm to base 2. In nats the logarithm is natural."
    if abs(answer - math.log10(VOCABULARY)) < 0.01:
        return "That is the logarithm to base 10. Nats use the natural one: `math.log`."
    if answer == VOCABULARY:
        return "That is the perplexity of a blind guess. The loss is the logarithm of it."
    if 0 < answer < 0.01:
        return "That is the probability of each token. The loss is minus the logarithm of it."
    return (
        f"The loss of a token is -log P; with P = 1 / {VOCABULARY:,} for every one of them it is "
        f"not {answer:g}."
    )


q1 = Question(
    id="03.1",
    title="the loss of a blind guess",
    check=_check_blind_guess,
    first_step="write down the probability of each token: 1 / 49_152.",
    hints=(
        "If every token has the same loss, then that is also the mean.",
        "The loss of one token is minus the natural logarithm of its probability.",
        "-log(1 / V) is log(V).",
    ),
    solution="""
import math

answer = math.log(49_152)
""",
    passed="An untrained network should start near this. If it does not, suspect a bug.",
)


def _near(found: float, value: Tensor | float) -> bool:
    return abs(found - float(value)) < SAME


def _as_float(found: Any, what: str) -> float | str:
    """The number that a learner's function returned, or a sentence on what is wrong with it."""
    if not isinstance(found, Tensor) and not _is_number(found):
        return f"One number is wanted, {what}; it gave a {type(found).__name__}."
    if isinstance(found, Tensor) and found.numel() != 1:
        return (
            f"One number is wanted, {what}; it gave {found.numel()} of them. Sum them, then divide."
        )
    return float(found)


def _check_shift(answer: Any) -> str | None:
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(7, 5, generator=generator)  # (T, V)
    input_ids = torch.randint(5, (7,), generator=generator)  # (T,)
    found = _as_float(answer(logits, input_ids), "the mean loss")
    if isinstance(found, str):
        return found
    right = F.cross_entropy(logits[:-1], input_ids[1:])
    if _near(found, right):
        return None
    if _near(found, -right):
        return "The size is right, but a loss is minus the mean of the log-probabilities."
    if _near(found, F.cross_entropy(logits, input_ids)):
        return (
            "Row i of the logits was compared with token i, which the model had already seen. "
            "Row i speaks about token i + 1."
        )
    if _near(found, F.cross_entropy(logits[1:], input_ids[:-1])):
        return (
            "The shift goes the wrong way: row i was asked about token i - 1. Drop the last row "
            "and the first token instead."
        )
    if _near(found, 6 * right):
        return "That is the sum. Divide it by the number of predictions."
    if _near(found, right * 6 / 7):
        return "It divides by the number of tokens, 7. Only 6 of them are predicted."
    return f"On a random example the mean loss is {float(right):.3f}; it gave {found:.3f}."


q2 = Question(
    id="03.2",
    title="the shift by one",
    check=_check_shift,
    first_step="pair them up: `logits[:-1]` speaks about `input_ids[1:]`.",
    hints=(
        "T tokens make T - 1 predictions: nothing predicts the first, and nothing checks the "
        "last row.",
        "`log_p = logits.log_softmax(dim=-1)` gives (T, V); pick one entry from each row.",
        "`log_p[torch.arange(n), targets]` picks entry `targets[k]` from row k.",
    ),
    solution="""
import torch


def answer(logits, input_ids):
    log_p = logits[:-1].log_softmax(dim=-1)  # (T - 1, V)
    targets = input_ids[1:]  # (T - 1,)
    return -log_p[torch.arange(len(targets)), targets].mean()
""",
    passed="Rows without the last, tokens without the first: that is what `labels=` does inside.",
)


def _check_bits_per_byte(answer: Any) -> str | None:
    text, nats = "Sie zahlt 5 € für zwei Äpfel.", 40.0
    size, letters = len(text.encode("utf-8")), len(text)
    found = _as_float(answer(nats, text), "the bits per byte")
    if isinstance(found, str):
        return found
    right = nats / math.log(2) / size
    if _near(found, right):
        return None
    known = {
        nats / math.log(2) / letters: (
            f"It divides by {letters} characters. In UTF-8 this text has {size} bytes, because "
            "ä and € take more than one: use `text.encode()`."
        ),
        nats / size: "That is nats per byte. A bit is ln 2 nats: divide by `math.log(2)`.",
        nats / letters: (
            "That is nats per character. Divide by the bytes of `text.encode()`, and by "
            "`math.log(2)`."
        ),
        nats * math.log(2) / size: (
            "Nats were multiplied by ln 2. A bit is the smaller unit, so there are more of them: "
            "divide."
        ),
        nats / math.log(2): "That is all the bits of the text. Divide by its number of bytes.",
        nats / math.log(2) / len(text.split()): "That is bits per word; divide by bytes.",
        -right: "The size is right, but `total_nats` is a loss already: leave its sign.",
    }
    for value, message in known.items():
        if _near(found, value):
            return message
    return (
        f"{nats:g} nats on {size} bytes are {right:.3f} bits per byte; your function gave "
        f"{found:.3f}."
    )


q3 = Question(
    id="03.3",
    title="bits per byte",
    check=_check_bits_per_byte,
    first_step="turn nats into bits: divide by `math.log(2)`.",
    hints=(
        "A byte is not a character: `len(text)` counts characters.",
        "`len(text.encode())` counts the bytes of the UTF-8 form.",
    ),
    solution="""
import math


def answer(total_nats, text):
    return total_nats / math.log(2) / len(text.encode())
""",
    passed="No tokenizer appears in it, so any two language models can be compared by it.",
)


def _masked_example(chosen: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Logits (2, 4, 6) and labels (2, 4) that are -100 except at the ``chosen`` positions."""
    generator = torch.Generator().manual_seed(5)
    logits = 2 * torch.randn(2, 4, 6, generator=generator)
    labels = torch.full((2, 4), -100)
    for row, column in chosen:
        labels[row, column] = (row + 2 * column) % 6
    return logits, labels


def _check_masked_loss(answer: Any) -> str | None:
    logits, labels = _masked_example([(0, 1), (0, 2), (0, 3), (1, 1)])
    before = labels.clone()
    found = _as_float(answer(logits, labels), "the mean loss")
    if isinstance(found, str):
        return found
    if not torch.equal(labels, before):
        return "The function changed the labels it was given; work on a copy (`clone`)."
    each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(2, 4)
    counts = labels != -100
    filled = F.cross_entropy(logits.flatten(0, 1), labels.clamp_min(0).flatten())
    right = each.sum() / counts.sum()
    known = {
        float(each.sum()): "That is the sum. Divide by the number of labels that count.",
        float(each.mean()): (
            "The sum is right, but it is divided by all 8 positions, padding included. Only 4 "
            "labels count."
        ),
        float(filled): (
            "Positions without a label take part in the mean. This is the scalar trap: once "
            "averaged, no mask can take them out again."
        ),
        float((each.sum(dim=1) / counts.sum(dim=1)).mean()): (
            "That is the mean of the two texts' means. One text has 3 labels and the other 1: "
            "sum over both, then divide once."
        ),
        -float(right): "The size is right, but a loss is minus the mean log-probability.",
    }
    for value, message in known.items():
        if _near(found, value):
            return message
    if not _near(found, right):
        return f"On a random example the loss is {float(right):.3f}; it gave {found:.3f}."
    return None


q4 = Question(
    id="03.4",
    title="a loss that leaves padding out",
    check=_check_masked_loss,
    first_step="mark what counts: `counts = labels != -100`.",
    hints=(
        "`logits[counts]` keeps the rows that count, (M, V), and `labels[counts]` their labels.",
        "From here it is the loss of the lesson's first half, without a shift.",
        "One sum, divided once, by the number of labels that count.",
    ),
    solution="""
import torch


def answer(logits, labels):
    counts = labels != -100  # (B, T)
    log_p = logits[counts].log_softmax(dim=-1)  # (M, V)
    targets = labels[counts]  # (M,)
    return -log_p[torch.arange(len(targets)), targets].mean()
""",
    passed="Select first, then average: nothing that does not count can get in.",
)
