"""Filters on a language model's scores: pure functions on tensors (B, V).

Each equals the processor of the same purpose in transformers. ``generate`` there and in
``helpers.tasks.decoding`` applies them in this order: repetition penalty, temperature, top-k,
top-p.
"""

import math
from typing import Any

import torch
from torch import Tensor

from helpers.errors import InvalidValue

_REQUIRED = ("max_new_tokens", "num_beams")
_SETTINGS = {  # name: (what it must be, the test, what to do otherwise)
    "max_new_tokens": ("a whole number of at least 1", lambda n: _whole(n) and n >= 1, ""),
    "num_beams": (
        "a whole number of at least 1",
        lambda n: _whole(n) and n >= 1,
        "1 is greedy search or sampling.",
    ),
    "temperature": ("above 0", lambda t: t > 0, "For the most probable token, leave sample=False."),
    "top_k": ("a whole number of at least 1", lambda k: _whole(k) and k >= 1, "None keeps all."),
    "top_p": ("above 0 and at most 1", lambda p: 0 < p <= 1, "1 or None keeps all."),
    "repetition_penalty": ("above 0", lambda r: r > 0, "1 or None changes nothing; try 1.2."),
}


def penalise_repetition(
    scores: Tensor, input_ids: Tensor, penalty: float, attention_mask: Tensor | None = None
) -> Tensor:
    """Tokens that have occurred become less probable, each once, however often it occurred.

    scores: (B, V) logits or log-probabilities. input_ids: (B, T) prompt and text so far.
    penalty: above 0; a score above 0 is divided by it, one below 0 multiplied. 1 changes nothing.
    attention_mask: (B, T) with 0 where padding stands, which does not count as having occurred.
    Source: Keskar et al. 2019 (CTRL), section 4.1, who only divide; the sign is transformers'.
    """
    check(repetition_penalty=penalty)
    once = torch.zeros_like(scores)
    real = torch.ones_like(scores[:, :1]) if attention_mask is None else attention_mask.to(scores)
    once.scatter_add_(1, input_ids, real.expand(input_ids.shape))  # (B, V) how often it occurred
    weaker = torch.where(scores < 0, scores * penalty, scores / penalty)
    return torch.where(once > 0, weaker, scores)


def apply_temperature(scores: Tensor, temperature: float) -> Tensor:
    """Scores (B, V) divided by the temperature, which is above 0: below 1 sharpens the
    distribution, above 1 flattens it. Source: Ackley et al. 1985."""
    check(temperature=temperature)
    return scores / temperature


def keep_top_k(scores: Tensor, top_k: int) -> Tensor:
    """The ``top_k`` highest scores of each row of (B, V); the others become -infinity.

    top_k: at least 1. Scores that tie with the last one kept are kept too.
    Source: Fan et al. 2018.
    """
    check(top_k=top_k)
    last = scores.topk(min(top_k, scores.shape[-1])).values[..., -1:]  # (B, 1)
    return scores.masked_fill(scores < last, -torch.inf)


def keep_top_p(scores: Tensor, top_p: float) -> Tensor:
    """The nucleus of each row of (B, V): the fewest most probable tokens that together have a
    probability of at least ``top_p``; the others become -infinity.

    top_p: above 0, at most 1. The most probable token always stays.
    Source: Holtzman et al. 2020, section 3.1.
    """
    check(top_p=top_p)
    rising, order = scores.sort(dim=-1)  # (B, V) each, the least probable first
    below = rising.softmax(dim=-1).cumsum(dim=-1)  # what it and all less probable ones have
    outside = below <= 1 - top_p
    outside[..., -1] = False
    return scores.masked_fill(outside.scatter(-1, order, outside), -torch.inf)


def filter_scores(
    scores: Tensor,
    *,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """Scores (B, V) after temperature, then top-k, then top-p: transformers' order. The nucleus
    is that of the distribution which the first two have left. None leaves a filter out."""
    if temperature is not None:
        scores = apply_temperature(scores, temperature)
    if top_k is not None:
        scores = keep_top_k(scores, top_k)
    return scores if top_p is None else keep_top_p(scores, top_p)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check(**settings: Any) -> None:
    """InvalidValue for the first of these settings that is out of its range; None means unset."""
    for name, value in settings.items():
        allowed, holds, advice = _SETTINGS[name]
        if value is None and name not in _REQUIRED:
            continue
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise InvalidValue(f"{name} is {value!r}; give a finite number, {allowed}.")
        if not holds(value):
            raise InvalidValue(f"{name} is {value}; it must be {allowed}. {advice}".rstrip())
