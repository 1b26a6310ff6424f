"""Exercises of lesson 15: cache size, a trap for greedy search, top-p, a wrong penalty."""

import math
from typing import Any

from helpers.exercises.question import Question

# (layers, query heads, key-value heads, head size, tokens, bytes per number)
MODELS = ((30, 9, 3, 64, 100, 4), (32, 32, 8, 128, 4096, 2), (12, 12, 12, 64, 1024, 4))
NUCLEI = (
    ([0.5, 0.3, 0.15, 0.05], 0.6),
    ([0.1, 0.2, 0.6, 0.1], 0.7),
    ([0.25, 0.5, 0.25], 0.5),
    ([0.05, 0.95], 0.3),
    ([0.3, 0.1, 0.35, 0.25], 1.0),
)
ORDER = (2, 3)  # tokens kept when the temperature comes first, and when top-p does
PENALTY = 1.5


def _check_bytes(answer: Any) -> str | None:
    found = [float(answer(*model)) for model in MODELS]

    def everywhere(formula: Any) -> bool:
        return all(value == formula(*m) for value, m in zip(found, MODELS, strict=True))

    if everywhere(lambda n, h, g, d, T, b: 2 * n * g * d * T * b):
        return None
    named = {
        "It counts every query head. Queries are not kept: keys and values have fewer heads.": (
            lambda n, h, g, d, T, b: 2 * n * h * d * T * b
        ),
        "It counts keys or values. Both are kept: twice as much.": (
            lambda n, h, g, d, T, b: n * g * d * T * b
        ),
        "It keeps queries too. Only keys and values are read again: 2, not 3.": (
            lambda n, h, g, d, T, b: 3 * n * g * d * T * b
        ),
        "That is how many numbers there are; each has some bytes.": (
            lambda n, h, g, d, T, b: 2 * n * g * d * T
        ),
        "That is for one token; the cache holds T of them.": (
            lambda n, h, g, d, T, b: 2 * n * g * d * b
        ),
        "That grows with T squared. The cache holds tokens, not pairs of tokens.": (
            lambda n, h, g, d, T, b: 2 * n * g * d * T * T * b
        ),
        "That is one layer; every layer has keys and values of its own.": (
            lambda n, h, g, d, T, b: 2 * g * d * T * b
        ),
    }
    for message, formula in named.items():
        if everywhere(formula):
            return message
    return (
        f"For {MODELS[0]} it gave {found[0]:,.0f} bytes; right is 4,608,000. Count the numbers in "
        "the keys of one layer first."
    )


q1 = Question(
    id="15.1",
    title="what remembering costs",
    check=_check_bytes,
    first_step="write down the shape of one layer's keys: (heads that are kept, T, head size).",
    hints=(
        "One layer's keys hold kv_heads * T * head_dim numbers, and its values as many.",
        "All layers, keys and values: 2 * layers * kv_heads * head_dim * T numbers.",
        "Times the bytes of a number. `heads` does not occur in it.",
    ),
    solution="""
def answer(layers, heads, kv_heads, head_dim, T, bytes_each):
    return 2 * layers * kv_heads * head_dim * T * bytes_each
""",
    passed="A text twice as long needs twice the memory, and so do two texts at once.",
)


def _check_trap(answer: Any) -> str | None:
    if not isinstance(answer, tuple | list) or len(answer) != 4:
        return "Four numbers are wanted: (P(A), best after A, P(B), best after B)."
    a, after_a, b, after_b = (float(part) for part in answer)
    if not all(0 <= part <= 1 for part in (a, after_a, b, after_b)):
        return "Probabilities lie between 0 and 1."
    if a + b > 1 + 1e-9:
        return f"A and B are two tokens of one distribution, but P(A) + P(B) = {a + b:g}."
    if a <= b:
        return f"Greedy search takes the more probable token, so P(A) must be above P(B) = {b:g}."
    if a * after_a >= b * after_b:
        return (
            f"Through A the text has {a * after_a:.3g}, through B {b * after_b:.3g}: greedy search "
            "has found the better one. Let what follows A be less certain."
        )
    return None


q2 = Question(
    id="15.2",
    title="a trap for greedy search",
    check=_check_trap,
    first_step="choose P(A) above P(B), then ask what must follow for B to win in the end.",
    hints=(
        "The probability of a text is the product: P(A) times the best after A.",
        "With P(A) = 0.5 and P(B) = 0.4: what if after B only one token makes sense?",
    ),
    solution="answer = (0.5, 0.4, 0.4, 0.9)",
    passed="Two beams keep A and B both, see 0.36 against 0.20 or the like, and choose B.",
)


def _check_nucleus(answer: Any) -> str | None:
    found = [[int(i) for i in answer(list(p), top_p)] for p, top_p in NUCLEI]
    ranked = [sorted(range(len(p)), key=lambda i: -p[i]) for p, _ in NUCLEI]

    def sums(p: list[float], order: list[int]) -> list[float]:
        return [math.fsum(p[i] for i in order[: n + 1]) for n in range(len(order))]

    def until(p: list[float], order: list[int], top_p: float) -> list[int]:
        return order[: next(n for n, s in enumerate(sums(p, order), 1) if s >= top_p - 1e-9)]

    def everywhere(wanted: list[list[int]]) -> bool:
        return all(sorted(a) == sorted(b) for a, b in zip(found, wanted, strict=True))

    pairs = list(zip(NUCLEI, ranked, strict=True))
    right = [until(p, order, top_p) for (p, top_p), order in pairs]
    if everywhere(right):
        return None
    named = {
        "It leaves out the token that reaches top_p. Together they must have AT LEAST top_p.": [
            [i for i, s in zip(order, sums(p, order), strict=True) if s < top_p - 1e-9]
            for (p, top_p), order in pairs
        ],
        "It leaves out the token that carries the sum over top_p: 0.95 must be kept at 0.3.": [
            [i for i, s in zip(order, sums(p, order), strict=True) if s <= top_p + 1e-9]
            for (p, top_p), order in pairs
        ],
        "It adds them up in the order given. Begin with the most probable.": [
            until(p, list(range(len(p))), top_p) for p, top_p in NUCLEI
        ],
        "It begins with the least probable; the nucleus is of the MOST probable.": [
            until(p, order[::-1], top_p) for (p, top_p), order in pairs
        ],
        "It compares each probability with top_p; their running sum is meant.": [
            [i for i, value in enumerate(p) if value >= top_p] for p, top_p in NUCLEI
        ],
    }
    for message, wanted in named.items():
        if everywhere(wanted):
            return message
    number = next(n for n in range(len(found)) if sorted(found[n]) != sorted(right[n]))
    p, top_p = NUCLEI[number]
    return (
        f"For p = {p} and top_p = {top_p} it kept the places {found[number]}; right is "
        f"{right[number]}: the fewest that reach {top_p}."
    )


q3 = Question(
    id="15.3",
    title="the nucleus",
    check=_check_nucleus,
    first_step="sort the places of p by their probability, the largest first.",
    hints=(
        "`sorted(range(len(p)), key=lambda i: -p[i])` gives the places, the most probable first.",
        "Walk through them, add up, and stop AFTER the one with which the sum reaches top_p.",
        "Sums of decimals miss by tiny amounts: compare with top_p - 1e-9.",
    ),
    solution="""
def answer(p, top_p):
    kept, total = [], 0.0
    for i in sorted(range(len(p)), key=lambda i: -p[i]):
        kept.append(i)
        total += p[i]
        if total >= top_p - 1e-9:
            break
    return kept
""",
    passed="A sure model gets a choice of one, an unsure one a choice of many, with one number.",
)


def _check_order(answer: Any) -> str | None:
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        return "Two numbers are wanted: (temperature first, top-p first)."
    found = tuple(int(part) for part in answer)
    if found == ORDER:
        return None
    if found == ORDER[::-1]:
        return (
            "The right numbers, the wrong way round: the sharper distribution needs fewer tokens."
        )
    if found[0] == found[1]:
        return (
            "They differ: at temperature 0.5 the first token alone has about 0.72, not 0.5, before "
            "anything is cut."
        )
    if found[1] != ORDER[1]:
        return "Top-p first sees p itself: 0.5, then 0.75, then 0.9. Which of them reaches 0.8?"
    return (
        "Temperature 0.5 squares each probability (1 / 0.5 = 2): 0.25, 0.0625, 0.0225, 0.01. "
        "Divide by their sum, then add up until 0.8."
    )


q4 = Question(
    id="15.4",
    title="which comes first?",
    check=_check_order,
    first_step="square the four probabilities and divide by the sum of the squares.",
    hints=(
        "Dividing logits by tau raises each probability to the power 1/tau, up to a common factor.",
        "The squares are 0.25, 0.0625, 0.0225 and 0.01; their sum is 0.345.",
        "0.25 / 0.345 is about 0.72; with the next one it is about 0.91.",
    ),
    solution="answer = (2, 3)",
    passed="The same two settings in two libraries can draw from different sets of tokens.",
)


def _check_penalty(answer: Any) -> str | None:
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        return "Two things are wanted: (a list of logits, the place of the token that occurred)."
    z, place = [float(score) for score in answer[0]], int(answer[1])
    if len(z) < 2:
        return "At least two logits are needed: a single token has the probability 1 anyway."
    if not 0 <= place < len(z):
        return f"There are {len(z)} logits, so the place must be from 0 to {len(z) - 1}."
    if z[place] > 0:
        return (
            f"The logit {z[place]:g} is above 0: divided by {PENALTY:g} it falls, as it should. "
            "When does a division make a number larger?"
        )
    if z[place] == 0:
        return "Zero divided by anything is zero: nothing changes. Go below it."
    return None


q5 = Question(
    id="15.5",
    title="a penalty that rewards",
    check=_check_penalty,
    first_step="take logits of which one is negative, and divide that one by 1.5.",
    hints=(
        "-3 / 1.5 = -2. Is -2 more or less than -3?",
        "Any negative logit will do, at any place.",
    ),
    solution="answer = ([1.0, -3.0], 1)",
    passed="The token had a low score, was punished for occurring, and is now more probable.",
)
