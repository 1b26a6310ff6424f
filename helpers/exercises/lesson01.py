"""Exercises of lesson 01: entropy, Witten-Bell smoothing, units of a score, time to train."""

import math
from typing import Any

from helpers.exercises.question import Question

DISTRIBUTIONS = ([0.5, 0.5], [0.5, 0.25, 0.25], [0.25] * 4, [0.9, 0.1], [0.7, 0.2, 0.1])
CERTAIN = [1.0, 0.0]


def _entropy(p: list[float]) -> float:
    return -sum(x * math.log2(x) for x in p if x > 0)


def _agrees(found: list[float], wanted: list[float]) -> bool:
    return all(abs(a - b) <= 1e-4 * max(1.0, abs(b)) for a, b in zip(found, wanted, strict=True))


def _check_entropy(answer: Any) -> str | None:
    found = [float(answer(p)) for p in DISTRIBUTIONS]
    wanted = [_entropy(p) for p in DISTRIBUTIONS]
    if _agrees(found, [-h for h in wanted]):
        return "Right size, wrong sign. The logarithm of a probability is negative; entropy is not."
    if _agrees(found, [h * math.log(2) for h in wanted]):
        return "That is the entropy in nats. For bits, take the logarithm to the base 2."
    if _agrees(found, [-sum(math.log2(x) for x in p) for p in DISTRIBUTIONS]):
        return "You added up the surprises. Weigh each one by how often it will happen: times p."
    if _agrees(found, [-sum(math.log2(x) for x in p) / len(p) for p in DISTRIBUTIONS]):
        return "A plain mean counts rare outcomes as much as common ones. Weigh each by its p."
    if not _agrees(found, wanted):
        return (
            f"A fair coin, [0.5, 0.5], should give 1 bit, and [0.5, 0.25, 0.25] should give 1.5. "
            f"Yours gives {found[0]:.3f} and {found[1]:.3f}."
        )
    try:
        certain = float(answer(CERTAIN))
    except (ValueError, ZeroDivisionError):
        return (
            "It stops at [1.0, 0.0]: a probability of 0 has no logarithm. What never happens adds "
            "nothing to the mean, so leave it out."
        )
    if not abs(certain) < 1e-6:
        return f"[1.0, 0.0] is no surprise at all: its entropy is 0. Yours gives {certain:.3f}."
    return None


q1 = Question(
    id="01.1",
    title="entropy",
    check=_check_entropy,
    first_step="for a list p of probabilities, return the mean surprise, each weighted by its p.",
    hints=(
        "The surprise of an outcome with probability x is -math.log2(x).",
        "Multiply each surprise by its x and add up. What about x = 0?",
    ),
    solution="""
import math

def answer(p):
    return -sum(x * math.log2(x) for x in p if x > 0)
""",
    passed="What cannot happen surprises nobody, and what is certain surprises nobody either.",
)

# (times the byte followed, times the context occurred, kinds that followed, shorter context's p)
CASES = ((3, 10, 4, 0.2), (0, 10, 4, 0.2), (1, 1, 1, 0.001), (7, 7, 1, 0.5), (2, 50, 25, 0.01))
NEVER_SEEN = (0, 0, 0, 0.25)


def _witten_bell(count: float, total: float, kinds: float, shorter: float) -> float:
    return (count + kinds * shorter) / (total + kinds) if total else shorter


def _check_witten_bell(answer: Any) -> str | None:
    found = [float(answer(*case)) for case in CASES]
    if _agrees(found, [count / total for count, total, _, _ in CASES]):
        return "That is plain counting: what was never seen still gets 0. Mix in `shorter`."
    if _agrees(found, [(c + k * s) / t for c, t, k, s in CASES]):
        return "The top is right, but you divide by too little: these add up to more than 1."
    if _agrees(found, [(c + s) / (t + 1) for c, t, _, s in CASES]):
        return "You give the shorter context one vote. Witten-Bell gives it `kinds` votes."
    if _agrees(found, [(c + 1) / (t + k) for c, t, k, _ in CASES]):
        return "Adding one to every count is Laplace's smoothing. Add `kinds * shorter` instead."
    if not _agrees(found, [_witten_bell(*case) for case in CASES]):
        return (
            f"For count 3, total 10, kinds 4, shorter 0.2 it should be (3 + 4 * 0.2) / 14 = 0.271. "
            f"Yours gives {found[0]:.3f}."
        )
    try:
        unseen = float(answer(*NEVER_SEEN))
    except ZeroDivisionError:
        return (
            "A context that was never seen has total 0 and kinds 0, and you divide by their sum. "
            "There is only the shorter context to go by: return `shorter`."
        )
    if abs(unseen - NEVER_SEEN[-1]) > 1e-6:
        return f"A context never seen should leave `shorter`, 0.25, as it is. Yours: {unseen:.3f}."
    return None


q2 = Question(
    id="01.2",
    title="Witten-Bell",
    check=_check_witten_bell,
    first_step="return a mixture of count / total and shorter, as in the formula above.",
    hints=(
        "Imagine total + kinds votes. The counts have total of them; who gets the others?",
        "(count + kinds * shorter) / (total + kinds). What if total is 0?",
    ),
    solution="""
def answer(count, total, kinds, shorter):
    if total == 0:
        return shorter
    return (count + kinds * shorter) / (total + kinds)
""",
    passed="Where there is evidence it counts; where there is none, the shorter context decides.",
)

SCORES = ((20.0, 250, 1000), (2.0, 1000, 1000), (50.0, 180, 1000), (8.0, 300, 1200))


def _check_units(answer: Any) -> str | None:
    found = [float(answer(*score)) for score in SCORES]
    if _agrees(found, [math.log2(p) for p, _, _ in SCORES]):
        return "Those are bits per TOKEN. Turn them into bits in all, then share them out by bytes."
    if _agrees(found, [math.log(p) * t / b for p, t, b in SCORES]):
        return "That is in nats per byte. For bits, take the logarithm to the base 2."
    if _agrees(found, [math.log2(p) * b / t for p, t, b in SCORES]):
        return "Upside down: multiply by the number of tokens, divide by the number of bytes."
    if _agrees(found, [p * t / b for p, t, b in SCORES]):
        return "A perplexity is no number of bits; its logarithm to the base 2 is."
    if _agrees(found, [math.log2(p) * t for p, t, _ in SCORES]):
        return "Those are the bits of the whole text. Divide by its number of bytes."
    if _agrees(found, [math.log2(p) * t / b for p, t, b in SCORES]):
        return None
    return (
        f"Perplexity 2 per token, with one token a byte, is exactly 1 bit per byte. "
        f"Yours gives {found[1]:.3f}."
    )


q3 = Question(
    id="01.3",
    title="from perplexity to bits per byte",
    check=_check_units,
    first_step="how many bits does one token cost at this perplexity? And the whole text?",
    hints=(
        "Perplexity is 2 to the power of the bits per token, so log2 gets you back.",
        "Bits per token, times tokens, is the cost of the text. Then divide by its bytes.",
    ),
    solution="""
import math

def answer(perplexity, tokens, number_of_bytes):
    return math.log2(perplexity) * tokens / number_of_bytes
""",
    passed="The text's whole cost, divided by something both models agree on: its bytes.",
)

DAY = 24 * 60 * 60
RUNS = ((135e6, 2e12, 1e14, 0.4), (70e9, 1.4e12, 1e17, 0.5), (1e9, 1e10, 1e12, 1.0))


def _check_days(answer: Any) -> str | None:
    found = [float(answer(*run)) for run in RUNS]
    wanted = [6 * n * d / (peak * share) / DAY for n, d, peak, share in RUNS]
    ratios = [f / w for f, w in zip(found, wanted, strict=True)]
    if _agrees(ratios, [1.0] * len(RUNS)):
        return None
    if _agrees(ratios, [DAY] * len(RUNS)):
        return "Those are seconds. A day has 86,400 of them."
    if _agrees(ratios, [24.0] * len(RUNS)):
        return "Those are hours. Divide by 24."
    if _agrees(ratios, [1 / 6] * len(RUNS)):
        return "You left out the 6: two operations a parameter forwards, four backwards."
    if _agrees(ratios, [1 / 3] * len(RUNS)):
        return "2 N D is the forward pass alone. Training also goes backwards: 6 N D."
    if _agrees(ratios, [share for *_, share in RUNS]):
        return "No machine reaches its peak: divide by the share of it that is used, too."
    if _agrees(ratios, [share**2 for *_, share in RUNS]):
        return "If only a share of the speed is used it takes LONGER: divide by it."
    return (
        f"For N = 1e9, D = 1e10 at 1e12 operations a second, all of it used, it should be "
        f"6e19 / 1e12 seconds, or 694.4 days. Yours gives {found[2]:.4g}."
    )


q4 = Question(
    id="01.4",
    title="days to train",
    check=_check_days,
    first_step="work out 6 N D, then how many of those operations a day brings.",
    hints=(
        "Operations in all: 6 * N * D. Operations a second: peak * share.",
        "Divide the one by the other for seconds, and by 86,400 for days.",
    ),
    solution="""
def answer(N, D, peak, share):
    seconds = 6 * N * D / (peak * share)
    return seconds / (24 * 60 * 60)
""",
    passed="With this one line you can check most claims about what a model cost.",
)
