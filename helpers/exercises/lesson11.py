"""Exercises of lesson 11: ranks with ties, what a change of scale doesn't affect, minimal pairs."""

import re
from typing import Any

import numpy as np
from scipy.stats import pearsonr, spearmanr

from helpers.exercises.question import Question


def _check_spearman(answer: Any) -> str | None:
    plain_x, plain_y = [3.0, 1.0, 4.0, 2.0], [10.0, 1.0, 100.0, 5.0]
    found = answer(list(plain_x), list(plain_y))
    if np.ndim(found) != 0:
        return "One number is wanted, the correlation of the ranks."
    if abs(found - pearsonr(plain_x, plain_y).statistic) < 1e-6:
        return (
            "That is Pearson's correlation of the values. Replace the values by their ranks first."
        )
    if abs(found - 1.0) > 1e-6:
        return f"Both lists have the same order, so it should be 1; you gave {found:.3f}."
    for x, y in (
        ([1.0, 2.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]),
        ([1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 2.0, 1.0]),
        ([5.0, 5.0, 1.0, 3.0, 3.0], [2.0, 4.0, 1.0, 3.0, 3.0]),
    ):
        expected, found = spearmanr(x, y).statistic, answer(list(x), list(y))
        if abs(found - expected) > 1e-6:
            return (
                f"For x = {x} and y = {y} it should be {expected:.4f}; you gave {found:.4f}. Equal "
                f"values share the mean of the ranks that they take up."
            )
    return None


q1 = Question(
    id="11.1",
    title="Spearman with ties",
    check=_check_spearman,
    first_step="write `ranks(values)` so that equal values get the mean of their ranks.",
    hints=(
        "The rank of v: how many values are smaller, plus half of how many others are equal.",
        "`np.sum(values < v) + (np.sum(values == v) - 1) / 2` is it, counted from 0.",
        "Then Pearson's correlation of the ranks, as in section 3.",
    ),
    solution="""
import numpy as np


def answer(x, y):
    def ranks(values):
        values = np.asarray(values)
        return np.array([np.sum(values < v) + (np.sum(values == v) - 1) / 2 for v in values])

    return np.corrcoef(ranks(x), ranks(y))[0, 1]
""",
    passed="With some twenty raters, ties are the rule: means of so few whole numbers repeat.",
)

_KINDS = {"accuracy", "pearson", "spearman", "error"}


def _check_scale(answer: Any) -> str | None:
    if not isinstance(answer, set | list | tuple) or not all(isinstance(k, str) for k in answer):
        return 'A set of words is wanted, such as {"accuracy", "error"}.'
    chosen = {kind.lower() for kind in answer}
    if unknown := chosen - _KINDS:
        return f"{', '.join(sorted(unknown))}: choose from accuracy, pearson, spearman, error."
    if "error" in chosen:
        return "The error changes: a right grade of 2 becomes 7, and is 5 away."
    if "accuracy" in chosen:
        return (
            "Adding 1 moves the border between the classes: a grade of -0.2 becomes 0.4, and its "
            "sign changes. (Multiplying alone would leave it.)"
        )
    if chosen != {"pearson", "spearman"}:
        return "A straight line leaves order and straightness alone. Both correlations stay."
    return None


q2 = Question(
    id="11.2",
    title="what a new scale leaves alone",
    check=_check_scale,
    first_step="take three grades, -0.2, 0.5 and 2, and work out 3 times each plus 1.",
    hints=(
        "Does the order change? Do the points leave their line?",
        "And the sign of -0.2?",
    ),
    solution='answer = {"pearson", "spearman"}',
    passed="So a good correlation says nothing about whether the grades can be read as grades.",
)


def _words(text: str) -> list[str]:
    return sorted(re.findall(r"[\w']+", text.lower()))


def _check_pairs(answer: Any) -> str | None:
    if not isinstance(answer, list | tuple) or len(answer) < 4:
        return "Give a list of at least four pairs of sentences."
    for number, pair in enumerate(answer, 1):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            return f"Item {number} is not a pair: {pair!r}."
        if not all(isinstance(text, str) for text in pair):
            return f"Both sides of pair {number} should be texts."
        better, worse = (" ".join(text.lower().split()) for text in pair)
        if better == worse:
            return f"The two sentences of pair {number} are the same."
        if _words(better) != _words(worse):
            only = set(_words(better)) ^ set(_words(worse))
            return (
                f"Pair {number} does not use the very same words on both sides "
                f"({', '.join(sorted(only)) or 'one stands more often'}); a counter could tell."
            )
        if len(_words(better)) < 3:
            return f"Pair {number} is too short to mean anything; use at least three words."
    if len({tuple(_words(pair[0])) for pair in answer}) < len(answer):
        return "Two of your pairs use the same words. Write four different ones."
    return None


q3 = Question(
    id="11.3",
    title="pairs that a counter cannot order",
    check=_check_pairs,
    first_step="begin with a sentence with 'but', and swap what stands before and behind it.",
    hints=(
        '"Good but long." and "Long but good." hold the same words.',
        'So do "not bad, good" and "not good, bad".',
        "Move a negation to another clause: what did he like, and what did he not?",
    ),
    solution="""
answer = [
    ("Long, but good.", "Good, but long."),
    ("Not bad, really good.", "Not good, really bad."),
    ("I expected a bore and got a gem.", "I expected a gem and got a bore."),
    ("The book is worse than the film.", "The film is worse than the book."),
]
""",
    passed="A model that sees only counts gives both sides of each pair the same grade.",
)
