"""Exercises of lesson 04: the mask, counting weights, the slope of a softmax, a KV cache."""

from typing import Any

import torch

from helpers.exercises.question import Question

QUERY_HEADS, KEY_VALUE_HEADS, HEAD_SIZE, LAYERS, ASKED_HEAD = 9, 3, 64, 30, 5


def _alike(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(found, expected.to(found.dtype), atol=1e-5, equal_nan=True)


def _check_mask(answer: Any) -> str | None:
    scores = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 5
    padding = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()[:, None, None, :]  # (B, 1, 1, T)
    for mask in (padding, torch.ones(4, 4, dtype=torch.bool).tril()):
        found = answer(scores.clone(), mask)
        if problem := _mask_problem(found, scores, mask):
            return problem
    return None


def _mask_problem(found: Any, scores: torch.Tensor, mask: torch.Tensor) -> str | None:
    if not isinstance(found, torch.Tensor) or found.shape != scores.shape:
        return f"It should return a tensor of the scores' shape, {tuple(scores.shape)}."
    expected = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    if _alike(found, expected):
        return None
    if _alike(found, scores.softmax(-1)):
        return "The mask changes nothing: masked tokens still get their share."
    if _alike(found, scores.softmax(-1) * mask):
        return (
            "Masking after the softmax leaves rows that add up to less than 1: the masked "
            "tokens' shares are lost. Mask the scores, then take the softmax."
        )
    if _alike(found, (scores * mask).softmax(-1)):
        return "A score of 0 is not 'never': e to the power 0 is 1. Which score gives a share of 0?"
    if _alike(found, scores.masked_fill(mask, -torch.inf).softmax(-1)):
        return "It looks only where it may not: `mask` is True where one MAY look."
    if found.isnan().any():
        return "Some weights are not a number. A row must keep at least one score that is finite."
    if not _alike(found.sum(-1), torch.ones(found.shape[:-1])):
        return "Rows do not add up to 1. The softmax goes over the last dimension, who is asked."
    leaked = found.masked_select(~mask.expand_as(found)).max().item()
    return f"A masked token still gets a weight of {leaked:.3f}; it should get exactly 0."


q1 = Question(
    id="04.1",
    title="attention weights under a mask",
    check=_check_mask,
    first_step="replace the scores that are masked, with `scores.masked_fill(~mask, ...)`.",
    hints=(
        "Softmax is e to the power of the score, divided by the row's sum. When is that 0?",
        "e to the power of minus infinity is 0: write -torch.inf into the masked places.",
        "Mask first, then `.softmax(-1)`: what is left then shares the whole weight.",
    ),
    solution="""
import torch


def answer(scores, mask):
    return scores.masked_fill(~mask, -torch.inf).softmax(-1)  # (..., T, T)
""",
    passed="Masked tokens get exactly 0, and each row still adds up to 1.",
)


def _weights(v: int, p: int, h: int, inner: int, layers: int) -> int:
    tables = (v + p + 2) * h + 2 * h
    block = 4 * (h * h + h) + (h * inner + inner) + (inner * h + h) + 4 * h
    return tables + layers * block


def _check_weights(answer: Any) -> str | None:
    sizes = (100, 7, 12, 40, 3)
    v, p, h, inner, layers = sizes
    expected, found = _weights(*sizes), answer(*sizes)
    if found == expected:
        return None
    missing = {
        layers * (5 * h + inner): "the biases of the six matrices of each block",
        2 * h: "either the segment table (2 rows) or the LayerNorm after the embeddings",
        4 * h: "the segment table and the LayerNorm after the embeddings",
        layers * 4 * h: "the two LayerNorms of each block (a scale and a shift each)",
        layers * (h * h + h): "one of the four matrices of attention: is `output` there?",
        p * h: "the position table",
        v * h: "the token table",
    }
    if (what := missing.get(expected - found)) is not None:
        return f"You are {expected - found:,} short with {sizes}: that is {what}."
    if found == _weights(v, p, h, inner, 1):
        return "That is one block only; there are `layers` of them."
    if found == _weights(v, p, h, 4 * h, layers):
        return "You took 4 H for the feed-forward width; use `inner`, which need not be that."
    much = "more" if found > expected else "fewer"
    return (
        f"For V, P, H, inner, layers = {sizes} it gave {found:,}, which is {much} than the "
        f"encoder has ({expected:,}). Add up part by part: tables, attention, feed-forward, norms."
    )


q2 = Question(
    id="04.2",
    title="counting weights",
    check=_check_weights,
    first_step="write down the weights of one `nn.Linear(H, H)`: H times H, and H biases.",
    hints=(
        "Tables: V + P + 2 rows of H numbers, then a LayerNorm with 2 H.",
        "A block: four matrices of H * H + H, then H * inner + inner, then inner * H + H.",
        "And its two LayerNorms: 4 H in all. Multiply the block by `layers`.",
    ),
    solution="""
def answer(V, P, H, inner, layers):
    tables = (V + P + 2) * H + 2 * H
    attention = 4 * (H * H + H)
    feed_forward = (H * inner + inner) + (inner * H + H)
    return tables + layers * (attention + feed_forward + 4 * H)
""",
    passed="For BERT-base that is 108,891,648: the 'BERT-base has 110 million' you read about.",
)


def _check_slope(answer: Any) -> str | None:
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(2, 5, generator=generator, dtype=torch.float64).requires_grad_()
    g = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    a = scores.softmax(-1)
    (expected,) = torch.autograd.grad((a * g).sum(), scores)
    a = a.detach()
    found = answer(a.clone(), g.clone())
    if not isinstance(found, torch.Tensor) or found.shape != a.shape:
        return f"It should return a tensor of the shape of `a`, here {tuple(a.shape)}."
    if _alike(found, expected):
        return None
    if _alike(found, a * g):
        return "a times g forgets that the weights compete: raising one score lowers the others."
    if _alike(found, a * (1 - a) * g):
        return (
            "That is each weight's slope in its OWN score. A score also moves all other weights "
            "of its row, by -a_i a_j each."
        )
    if _alike(found, a * (g - g.mean(-1, keepdim=True))):
        return "You subtract the plain mean of g. Attention's own average weighs each g_j by a_j."
    if _alike(found, a * (g - (a * g).sum())):
        return "The sum runs over all rows at once. Each row is a softmax of its own: sum over -1."
    if _alike(found, -expected):
        return "The sign is turned round: a token better than the average must be pushed up."
    if _alike(found, g - (a * g).sum(-1, keepdim=True)):
        return "The factor a_i in front is missing: a weight near 0 hardly moves."
    off = (found - expected).abs().max().item()
    return f"The largest difference to autograd is {off:.3g}. Compare term by term with the text."


q3 = Question(
    id="04.3",
    title="the slope of a softmax",
    check=_check_slope,
    first_step="compute the average that attention gets in each row, `(a * g).sum(-1, ...)`.",
    hints=(
        "Keep the last dimension (`keepdim=True`), so that the average can be subtracted from g.",
        "Subtract it from g, then multiply by a.",
    ),
    solution="""
def answer(a, g):
    average = (a * g).sum(-1, keepdim=True)  # (..., 1)
    return a * (g - average)  # (..., T)
""",
    passed=(
        "If one weight is 1, the average is its own g, so its slope is 0; the others are "
        "multiplied by a = 0. A saturated softmax does not learn."
    ),
)


def _check_cache(answer: Any) -> str | None:
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        return "Two numbers are wanted: (key-value head, numbers per token)."
    head, size = answer
    group = QUERY_HEADS // KEY_VALUE_HEADS
    if head == ASKED_HEAD % KEY_VALUE_HEADS:
        return (
            f"{head} is {ASKED_HEAD} modulo {KEY_VALUE_HEADS}: heads dealt out in turn. "
            "`repeat_interleave` repeats each one before it goes on to the next: 0 0 0 1 1 1 2 2 2."
        )
    if head != ASKED_HEAD // group:
        return f"Key-value head {head} is not the one. Write the list 0 0 0 1 1 1 2 2 2, from 0 on."
    expected = 2 * LAYERS * KEY_VALUE_HEADS * HEAD_SIZE
    if size == expected:
        return None
    reasons = {
        expected // 2: "That is the keys alone (or the values); both are kept.",
        expected * group: "That is the cache of 9 heads. Shared keys and values are stored once.",
        expected * group // 2: "That is for 9 heads, and for keys alone. Both need a second look.",
        expected // LAYERS: "That is one layer. Each of the 30 has keys and values of its own.",
        expected // KEY_VALUE_HEADS: "That is one key-value head of each layer; there are 3.",
        expected * 2: "Twice too many: the queries of earlier tokens are not needed again.",
    }
    fallback = f"{size} is not it. Multiply: keys and values, layers, key-value heads, head size."
    return reasons.get(size, fallback)


q4 = Question(
    id="04.4",
    title="shared keys and values",
    check=_check_cache,
    first_step="write down nine query heads, and under each the key-value head it shares.",
    hints=(
        "Three neighbours share a head: 0 0 0 1 1 1 2 2 2.",
        "For each token, each layer keeps a key and a value for each key-value head.",
    ),
    solution="answer = (5 // 3, 2 * 30 * 3 * 64)",
    passed="11,520 numbers a token, a third of what nine heads of their own would need.",
)
