"""Exercises of lesson 05: pooling, counting trained weights, labels needed, rates per layer."""

from typing import Any

import numpy as np
import torch

from helpers.exercises.question import Question

FEATURES, CLASSES = 384, 5


def _check_pool(answer: Any) -> str | None:
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(3, 4, 6, generator=generator)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    found = torch.as_tensor(answer(hidden, mask))
    rows = mask.unsqueeze(-1).float()  # (B, T, 1)
    right = (hidden * rows).sum(dim=1) / rows.sum(dim=1)
    if found.shape != right.shape:
        return f"It gave shape {tuple(found.shape)}; one vector a text is wanted: (3, 6)."
    named = {
        "It takes the mean over padding too. Multiply by the mask first.": hidden.mean(dim=1),
        "Padding is zero now, but it still counts in the number you divide by: divide by the sum "
        "of the mask.": (hidden * rows).mean(dim=1),
        "That is the sum. Divide by the number of real tokens of each text.": (
            (hidden * rows).sum(dim=1)
        ),
        "That is the first token's vector ([CLS]); the mean of the tokens is wanted.": hidden[:, 0],
        "It averages over the texts and gives each the same vector; average over tokens, dim=1.": (
            hidden.mean(dim=(0, 1)).expand(3, 6)
        ),
    }
    if torch.allclose(found.float(), right, atol=1e-5):
        return None
    for message, value in named.items():
        if torch.allclose(found.float(), value, atol=1e-5):
            return message
    return (
        f"The third text has one real token, so its vector must be that token's, beginning with "
        f"{right[2, 0]:.3f}; it began with {float(found[2, 0]):.3f}."
    )


q1 = Question(
    id="05.1",
    title="the mean without the padding",
    check=_check_pool,
    first_step="give the mask a third dimension, so that it can be multiplied with `hidden`.",
    hints=(
        "`attention_mask.unsqueeze(-1)` has shape (B, T, 1): a 1 for a token, a 0 for padding.",
        "Multiply, and sum over dim=1: what is left is the sum of the real tokens' vectors.",
        "Divide by `attention_mask.sum(dim=1, keepdim=True)`, the number of real tokens.",
    ),
    solution="""
def answer(hidden, attention_mask):
    mask = attention_mask.unsqueeze(-1)  # (B, T, 1)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1)  # (B, H)
""",
    passed="This is how the encoder's authors pooled when they trained it.",
)


def _check_trained(answer: Any) -> str | None:
    right = CLASSES * FEATURES + CLASSES
    count = float(answer)
    if count == right:
        return None
    if count == CLASSES * FEATURES:
        return f"That is {CLASSES} x {FEATURES} weights. Each class has a bias as well."
    if count == FEATURES + 1:
        return "That is one class. There are five, and each has weights of its own."
    if count > 1e6:
        return "Those are the encoder's weights. Frozen means that not one of them moves."
    return (
        f"{count:g} is not it. A logistic regression has, for each of {CLASSES} classes, one "
        f"weight for each of the {FEATURES} numbers of a vector, and one bias."
    )


q2 = Question(
    id="05.2",
    title="how much is trained",
    check=_check_trained,
    first_step="write a number (or a calculation) in place of the three dots.",
    hints=(
        "The encoder is frozen: only the logistic regression on its vectors is trained.",
        "It has a score for every class: a weighted sum of 384 numbers, plus a bias.",
    ),
    solution="answer = 5 * 384 + 5",
    passed="1,925 numbers, against 22.7 million: a frozen encoder cannot overfit by much.",
)


_CURVES = (
    {20: (0.70, 0.66, 0.74), 50: (0.76, 0.72, 0.80), 100: (0.82, 0.78, 0.86)},
    {500: (0.90, 0.87, 0.93), 20: (0.60, 0.55, 0.65), 100: (0.80, 0.76, 0.84)},
    {20: (0.50, 0.45, 0.55), 50: (0.61, 0.56, 0.66)},
)
_NEEDED = ((0.75, 100), (0.75, 100), (0.75, None))


def _check_needed(answer: Any) -> str | None:
    for curve, (goal, right) in zip(_CURVES, _NEEDED, strict=True):
        try:
            found = answer(curve, goal)
        except (ValueError, IndexError, StopIteration):
            found = "an error"
        if right is None and found in (None, False, -1, float("inf")):
            continue
        if found == right:
            continue
        if right is None:
            return (
                "Where no number of labels reaches the goal it gave "
                f"{found}; say so instead, for example with -1."
            )
        if found == 50:
            return (
                "At 50 labels the score is 0.76, but its interval begins at 0.72: the truth may "
                "well lie below 0.75. Ask the lower end to reach the goal."
            )
        if found == 500:
            return "It took the last or the first that fits in the order given: sort by labels."
        return f"It gave {found}, wanted was {right} labels for a goal of {goal}."
    return None


q3 = Question(
    id="05.3",
    title="how many labels do I need?",
    check=_check_needed,
    first_step="go through the numbers of labels from small to large.",
    hints=(
        "`curve[labels]` is (score, low, high). Which of the three must reach the goal?",
        "`sorted(curve)` gives the numbers of labels in rising order.",
        "If the loop ends without a hit, return -1: no number of labels was enough.",
    ),
    solution="""
def answer(curve, goal):
    for labels in sorted(curve):
        score, low, high = curve[labels]
        if low >= goal:
            return labels
    return -1
""",
    passed="Labels cost money and weeks. This is the question the curve is drawn for.",
)


def _rates(top: float, decay: float, layers: int) -> list[float]:
    return [top * decay ** (layers + 1 - place) for place in range(layers + 2)]


def _check_rates(answer: Any) -> str | None:
    top, decay, layers = 1e-3, 0.5, 3
    found = [float(rate) for rate in answer(top, decay, layers)]
    right = _rates(top, decay, layers)
    if len(found) != len(right):
        return (
            f"For 3 layers it gave {len(found)} rates. Wanted are 5: the embeddings, three layers "
            "and the head."
        )
    if np.allclose(found, right, rtol=1e-6):
        other = [float(rate) for rate in answer(2e-4, 0.8, 6)]
        if np.allclose(other, _rates(2e-4, 0.8, 6), rtol=1e-6):
            return None
        return "It is right for 3 layers and a decay of 0.5, but not for 6 layers and 0.8."
    if np.allclose(found, right[::-1], rtol=1e-6):
        return "They are upside down: the embeddings, first in the list, learn slowest."
    if np.allclose(found, [rate * decay for rate in right], rtol=1e-6):
        return "All are one step too low: the head itself learns at the full rate."
    if np.allclose(found, [right[1], *right[1:]], rtol=1e-6):
        return "The embeddings stand below the lowest layer: they get one more factor."
    if np.allclose(found, [top] * 5):
        return "Every part has the same rate. Multiply by the decay once for each step down."
    shown = ", ".join(f"{rate:.3g}" for rate in found)
    return f"It gave {shown}. The last has to be {top:g}, each one before it half of the next."


q4 = Question(
    id="05.4",
    title="a rate for every layer",
    check=_check_rates,
    first_step="begin with the head: its rate is `top_rate` itself. Then go down.",
    hints=(
        "There are layers + 2 parts. Number them from 0, the embeddings, to layers + 1, the head.",
        "Part number p is layers + 1 - p steps below the head.",
        "Its rate is top_rate * decay ** (layers + 1 - p).",
    ),
    solution="""
def answer(top_rate, decay, layers):
    return [top_rate * decay ** (layers + 1 - part) for part in range(layers + 2)]
""",
    passed="With a decay of 1 this is plain fine-tuning; near 0 it becomes frozen features.",
)
