"""Exercises of lesson 16: what equal precision implies, gaps of many groups, bad measures."""

from typing import Any

import numpy as np

from helpers.exercises.question import Question


def _check_forced(answer: Any) -> str | None:
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        return f"A rate is wanted, one number; yours is of type {type(answer).__name__}."
    if not 0 <= answer <= 1:
        return "A rate lies between 0 and 1."
    if abs(answer - 0.2) < 0.005:
        return None
    if abs(answer - 0.4) < 0.005:
        return "0.4 is the share of false ones among those *called*. Divide by the *negatives*, 75."
    if abs(answer - 0.1) < 0.005:
        return "0.1 is the share of the positives that are missed. The negatives are asked about."
    if abs(answer - 0.15) < 0.005:
        return "15 false alarms, but not among 100 people: only 75 of them are negatives."
    if abs(answer - 2 / 9) < 0.005:
        return "You called all 25 positives; with a true positive rate of 0.9 it is 22.5 of them."
    return "Take 100 people and count: positives, those found, all those called, the false ones."


q1 = Question(
    id="16.1",
    title="what equal precision forces",
    check=_check_forced,
    first_step="take 100 people of the group and write down how many of them are positives.",
    hints=(
        "25 positives, of whom 22.5 are found. If they are 6 in 10 of those called, how many are "
        "called?",
        "37.5 are called, so 15 wrongly. How many negatives are there?",
    ),
    solution="answer = (25 * 0.9 / 0.6 - 25 * 0.9) / 75",
    passed="Nobody chose it: base rate, precision and true positive rate leave no freedom.",
)


def _check_odds(answer: Any) -> str | None:
    y = np.array([1, 1, 1, 1, 0, 0] * 3)
    g = np.repeat(["a", "b", "c"], 6)
    cases = (
        ([1, 1, 1, 1, 0, 0] * 3, 0.0, "all right in each group"),
        (
            [1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0],
            0.5,
            "true positive rates 1, 0.5 and 0.75: largest minus smallest",
        ),
        (
            [1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 0],
            1.0,
            "false positive rates 0, 1 and 0.5 count too, and are further apart here",
        ),
        (
            [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0],
            1.0,
            "both rates are 1 apart; the larger is taken, not the sum",
        ),
    )
    for predicted, expected, why in cases:
        found = answer(y.copy(), np.array(predicted), g.copy())
        if np.ndim(found) != 0:
            return "One number is wanted, the larger of the two gaps."
        if abs(found - expected) > 1e-9:
            return f"It should be {expected}, and you gave {found:.4g}: {why}."
    return None


q2 = Question(
    id="16.2",
    title="one number for many groups",
    check=_check_odds,
    first_step="collect for each group the share of its positives that is called 1.",
    hints=(
        "`predicted[(groups == g) & (labels == 1)].mean()` is the true positive rate of group g.",
        "Do the same with label 0, take max - min of each of the two lists, and the larger one.",
    ),
    solution="""
import numpy as np


def answer(labels, predicted, groups):
    gaps = []
    for label in (0, 1):
        rates = [predicted[(groups == g) & (labels == label)].mean() for g in np.unique(groups)]
        gaps.append(max(rates) - min(rates))
    return max(gaps)
""",
    passed="That is fairlearn's equalized_odds_difference. Which group it is about, and in which "
    "direction, it no longer says.",
)


def _check_hidden(answer: Any) -> str | None:
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        return "Two lists are wanted, `first` and `second`, as `(first, second)`."
    first, second = (np.asarray(part, dtype=float) for part in answer)
    if first.ndim != 1 or first.shape != second.shape or len(first) < 4:
        return "Both lists need the same length, four numbers or more."
    if not np.all((first >= 0) & (first <= 1) & (second >= 0) & (second <= 1)):
        return "Probabilities lie between 0 and 1."
    shift, flipped = np.mean(second - first), np.mean((first >= 0.5) != (second >= 0.5))
    if abs(shift) > 1e-9:
        return f"The mean shift is {shift:+.3f}, so a report would show it. It must be 0."
    if flipped < 1:
        return f"Only {flipped:.0%} of the pairs change class. Let every one of them do so."
    return None


q3 = Question(
    id="16.3",
    title="a shift of zero",
    check=_check_hidden,
    first_step="write one pair that flips, such as 0.4 and 0.6.",
    hints=(
        "Its shift is +0.2. Which pair flips with a shift of -0.2?",
        "As many pairs up as down, by the same amount.",
    ),
    solution="answer = ([0.4, 0.6, 0.4, 0.6], [0.6, 0.4, 0.6, 0.4])",
    passed="A mean shift of 0, and no answer that stays: report the flip rate beside it.",
)


def _check_parity(answer: Any) -> str | None:
    random = np.random.default_rng(16)
    for size in (10, 40):
        labels = np.tile([1, 0], size)  # half of each group is qualified
        groups = np.repeat(["a", "b"], size)
        order = random.permutation(2 * size)
        labels, groups = labels[order], groups[order]
        found = np.asarray(answer(labels.copy(), groups.copy()))
        if found.shape != labels.shape or not np.isin(found, (0, 1)).all():
            return f"One prediction, 0 or 1, for each of the {len(labels)} people is wanted."
        a, b = groups == "a", groups == "b"
        if abs(found[a].mean() - found[b].mean()) > 1e-9:
            return (
                f"You selected {found[a].mean():.0%} of group a and {found[b].mean():.0%} of b: an "
                f"auditor of demographic parity would object. Both shares must be equal."
            )
        rates = found[a & (labels == 1)].mean(), found[b & (labels == 1)].mean()
        if rates != (1.0, 0.0):
            return (
                f"Of the qualified of group a you take {rates[0]:.0%}, of b {rates[1]:.0%}. To "
                f"break the measure, take all of a's and none of b's."
            )
    return None


q4 = Question(
    id="16.4",
    title="parity with bad will",
    check=_check_parity,
    first_step="give everybody a 0, then set a 1 for the qualified of group a.",
    hints=(
        "Half of group a is selected now, so half of group b must be too. Which half?",
        "In group a select those with label 1, in group b those with label 0.",
    ),
    solution="""
def answer(labels, groups):
    return ((groups == "a") & (labels == 1)) | ((groups == "b") & (labels == 0))
""",
    passed="Equal shares, and every qualified member of group b is turned away. Dwork et al. "
    "(2012) warn of it: who is picked badly on purpose seems to justify the next refusal.",
)
