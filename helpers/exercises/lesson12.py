"""Exercises of lesson 12: a threshold from costs, several labels, classes within classes."""

from typing import Any

import numpy as np

from helpers.exercises.question import Question


def _check_threshold(answer: Any) -> str | None:
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        return f"A probability is wanted; yours is of type {type(answer).__name__}."
    if abs(answer - 0.99) < 1e-6:
        return None
    if abs(answer - 0.01) < 1e-6:
        return "That is 1 / 100, the share of the cheap mistake. The expensive one goes on top."
    if abs(answer - 1 / 99) < 1e-3 or abs(answer - 98 / 99) < 1e-3:
        return "The sum of both costs, 100, stands below the line, not one of them alone."
    if not 0 <= answer <= 1:
        return "A probability lies between 0 and 1."
    return "Throwing away costs 99 (1 - p), keeping costs p. At which p are the two equal?"


q1 = Question(
    id="12.1",
    title="a threshold from costs",
    check=_check_threshold,
    first_step="write down what throwing away costs on average, and what keeping costs.",
    hints=("99 (1 - p) = p.", "c_lost / (c_lost + c_missed)."),
    solution="answer = 99 / (99 + 1)",
    passed="And for it to work, a probability of 0.99 must really mean 99 in 100. Calibrate first.",
)


def _check_labels(answer: Any) -> str | None:
    names = ["business", "politics", "tech"]
    cases = (
        ([[2.0, 0.5, -3.0]], 0.5, [["business", "politics"]], "each class has its own sigmoid"),
        ([[0.5, 2.0, -3.0]], 0.5, [["politics", "business"]], "the surest comes first"),
        ([[-4.0, -2.0, -3.0]], 0.5, [["politics"]], "no text stays without a label"),
        ([[1.0, 1.2, 1.1]], 0.9, [["politics"]], "sigmoid(1.2) is 0.77, below 0.9"),
        (
            [[3.0, 3.0, 3.1], [-1.0, 4.0, 0.0]],
            0.6,
            [["tech", "business", "politics"], ["politics"]],
            "every row is judged for itself",
        ),
    )
    for logits, threshold, expected, why in cases:
        found = answer(np.array(logits), list(names), threshold)
        try:
            found = [list(row) for row in found]
        except TypeError:
            return f"A list of names for each text is wanted; you gave {found!r}."
        if found != expected:
            return (
                f"For logits {logits} and threshold {threshold} you gave {found}, not {expected}: "
                f"{why}."
            )
    return None


q2 = Question(
    id="12.2",
    title="several labels a text",
    check=_check_labels,
    first_step="turn the logits into probabilities, one class at a time: 1 / (1 + exp(-logit)).",
    hints=(
        "`np.argsort(-row, kind='stable')` lists the classes from the surest to the least sure.",
        "Keep those above the threshold; if none is left, keep the first.",
    ),
    solution="""
import numpy as np


def answer(logits, names, threshold):
    given = []
    for row in 1 / (1 + np.exp(-np.asarray(logits))):
        order = np.argsort(-row, kind="stable")
        chosen = [names[k] for k in order if row[k] > threshold]
        given.append(chosen or [names[order[0]]])
    return given
""",
    passed="To train it, the loss becomes one binary cross-entropy a class.",
)

_PARENT = {
    "sports": "leisure",
    "entertainment": "leisure",
    "business": "affairs",
    "politics": "affairs",
    "tech": "affairs",
}


def _check_hierarchy(answer: Any) -> str | None:
    true = ["sports", "business", "tech", "politics"]
    cases = (
        (true, 1.0, "all right"),
        (["entertainment", "business", "tech", "politics"], 0.875, "one neighbour within leisure"),
        (["tech", "business", "tech", "politics"], 0.75, "one class of the other parent"),
        (["entertainment", "tech", "business", "sports"], 0.375, "three neighbours, one stranger"),
    )
    for predicted, expected, what in cases:
        found = answer(list(true), list(predicted), dict(_PARENT))
        if np.ndim(found) != 0:
            return "One number is wanted, the mean over all texts."
        if abs(found - expected) > 1e-9:
            return (
                f"For {predicted} ({what}) it should be {expected}; you gave {found:.4g}. Right "
                f"class 1, right parent 0.5, else 0, and then the mean."
            )
    return None


q3 = Question(
    id="12.3",
    title="a kinder score",
    check=_check_hierarchy,
    first_step="write the score of one text as an if, then take the mean over all.",
    hints=(
        "`parent[a] == parent[b]` asks whether two classes are neighbours.",
        "Check the class first: a right class also has the right parent.",
    ),
    solution="""
def answer(true, predicted, parent):
    scores = [
        1.0 if a == b else 0.5 if parent[a] == parent[b] else 0.0
        for a, b in zip(true, predicted)
    ]
    return sum(scores) / len(scores)
""",
    passed="Now break it: which parents would you choose to make a bad model look good?",
)
