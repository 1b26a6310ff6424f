"""Exercises of lesson 08: a leak check, macro-F1, the size of a test set, abstaining."""

from typing import Any

import numpy as np

from helpers.exercises.question import Question

NEEDED = 1.96**2 * 0.95 * 0.05 / 0.01**2  # test examples for 0.95 +- 0.01


def _check_leak(answer: Any) -> str | None:
    train = ["Free entry!", "See you at\nhome", "see YOU at home", "ok"]
    found = answer(list(train), ["Call now", "Free entry!", "Lunch?"])
    if np.ndim(found) != 0:
        return "One number is wanted, the count of leaked test texts. Take the `len` or a sum."
    if found != 1:
        return f"One of those three test texts stands in training as it is; you counted {found}."
    if (found := answer(list(train), ["FREE ENTRY!", "Call now"])) != 1:
        return (
            f'"FREE ENTRY!" and "Free entry!" differ only in capitals, so 1 is leaked; you '
            f"counted {found}. Fold the case of both piles."
        )
    if (found := answer(list(train), ["See  you at home ", "Call now"])) != 1:
        return (
            f"One test text differs from a training text only in its white space (two spaces, a "
            f"line break); you counted {found}."
        )
    if (found := answer(list(train), ["ok", "ok", "no"])) != 2:
        return (
            f'Two test rows say "ok", and both are leaked: 2. You counted {found}. Count rows of '
            f"the test pile, not different texts and not rows of the training pile."
        )
    if (found := answer(["a b"], ["ab", "a"])) != 0:
        return f'"a b", "ab" and "a" are three different texts; you counted {found} as leaked.'
    return None


q1 = Question(
    id="08.1",
    title="find the leak",
    check=_check_leak,
    first_step="write a helper that gives equal texts one form: lower case, single spaces.",
    hints=(
        '`" ".join(text.lower().split())` folds both case and white space.',
        "Put the folded training texts into a `set`: looking something up there is quick.",
        "Then go through the test texts one by one and count those that are in the set.",
    ),
    solution="""
def answer(train_texts, test_texts):
    def fold(text):
        return " ".join(text.lower().split())

    seen = {fold(text) for text in train_texts}
    return sum(fold(text) in seen for text in test_texts)
""",
    passed="Three lines that would have saved many a published score.",
)


def _check_macro_f1(answer: Any) -> str | None:
    confusion = np.array([[50, 10, 0], [5, 20, 5], [0, 2, 8]])
    with np.errstate(all="ignore"):
        found = answer(confusion.copy())
        empty = answer(np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]]))
    if np.ndim(found) != 0:
        return f"One number is wanted; you gave {np.size(found)}. Take their mean."
    hits, rows, columns = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    named = {
        float(
            np.mean(hits / columns)
        ): "That is macro-precision: hits over the column's sum alone.",
        float(np.mean(hits / rows)): "That is macro-recall: hits over the row's sum alone.",
        float(hits.sum() / rows.sum()): "That is micro-F1, the accuracy: you added the counts of "
        "all classes before dividing. Divide for each class first.",
        float(np.sum(rows * 2 * hits / (rows + columns)) / rows.sum()): "That weights each class "
        "by its size. In macro-F1 all classes weigh the same.",
        float(np.sum(2 * hits / (rows + columns))): "That is the sum of the F1 scores; take their "
        "mean.",
    }
    for value, what in named.items():
        if abs(found - value) < 1e-9:
            return what
    if abs(found - np.mean(2 * hits / (rows + columns))) > 1e-9:
        return (
            f"For [[50, 10, 0], [5, 20, 5], [0, 2, 8]] it should be "
            f"{np.mean(2 * hits / (rows + columns)):.4f} and you gave {found:.4f}. For class k, "
            f"2 TP + FP + FN is the sum of row k plus the sum of column k."
        )
    if np.isnan(empty):
        return "For a class that never occurs and is never predicted you divide 0 by 0: it is 0."
    expected = np.mean([12 / 15, 6 / 9, 0])
    if abs(empty - expected) > 1e-9:
        return (
            f"A class that never occurs and is never predicted counts as 0, and still counts: for "
            f"[[6, 2, 0], [1, 3, 0], [0, 0, 0]] that gives {expected:.4f}, not {empty:.4f}."
        )
    return None


q2 = Question(
    id="08.2",
    title="macro-F1 from the confusion matrix",
    check=_check_macro_f1,
    first_step="take the hits of each class: `confusion.diagonal()`.",
    hints=(
        "The sum of row k is TP + FN of class k; the sum of column k is TP + FP.",
        "So 2 TP + FP + FN of each class is its row sum plus its column sum.",
        "`np.maximum(below, 1)` makes 0/0 a 0/1, and changes no other quotient.",
    ),
    solution="""
import numpy as np


def answer(confusion):
    hits = confusion.diagonal()
    below = confusion.sum(axis=0) + confusion.sum(axis=1)
    return np.mean(2 * hits / np.maximum(below, 1))
""",
    passed="All classes weigh the same, however rare.",
)


def _check_size(answer: Any) -> str | None:
    if isinstance(answer, bool) or not isinstance(answer, int | float | np.number):
        return f"A number of test examples is wanted; yours is of type {type(answer).__name__}."
    if abs(answer / NEEDED - 1) <= 0.05:
        return None
    if abs(answer * 4 / NEEDED - 1) <= 0.02:
        return "That gives an interval 0.02 wide to either side: 0.01 is the half-width, not all."
    if abs(answer * 1.96**2 / NEEDED - 1) <= 0.02:
        return "You left out the 1.96: with half-width of one standard error it is 68 % confidence."
    if abs(answer / (1.96**2 * 0.25 / 0.01**2) - 1) <= 0.02:
        return "That is for a chance of 0.5, the worst case; the model is right 95 % of the time."
    if answer <= 0:
        return "The number of test examples must be above 0."
    half = 1.96 * (0.95 * 0.05 / answer) ** 0.5
    return (
        f"With {answer:,.0f} test examples the half-width would be {half:.4f}; it should be 0.01. "
        f"Solve 1.96 * sqrt(0.95 * 0.05 / N) = 0.01 for N."
    )


q3 = Question(
    id="08.3",
    title="how large a test pile",
    check=_check_size,
    first_step="write down the half-width: 1.96 * sqrt(0.95 * 0.05 / N), and set it to 0.01.",
    hints=(
        "Square both sides: 1.96² * 0.95 * 0.05 / N = 0.01².",
        "To halve the width takes four times the examples.",
    ),
    solution="answer = 1.96**2 * 0.95 * 0.05 / 0.01**2",
    passed="Nearly two thousand examples for two digits. Most published test piles are smaller.",
)


def _check_abstaining(answer: Any) -> str | None:
    # Surest first, rows 3, 0, 4, 1, 2: right, right, wrong, right, wrong. Row 3 is sure of class 0.
    probabilities = np.array([[0.1, 0.9], [0.3, 0.7], [0.45, 0.55], [0.98, 0.02], [0.2, 0.8]])
    labels = np.array([1, 1, 0, 0, 0])
    found = answer(probabilities.copy(), labels.copy(), 0.4)
    if np.ndim(found) != 0:
        return f"One number is wanted, an accuracy; you gave {np.size(found)}."
    if found == 0.5:
        return (
            "At coverage 0.4 you answered other rows than the two surest. Being sure of class 0 is "
            "being sure too (take each row's largest probability), and the surest come first."
        )
    if abs(found - 0.6) < 1e-9:
        return (
            "At coverage 0.4 you answered all five rows. Coverage is the share of rows to answer, "
            "not the least confidence."
        )
    if found != 1.0:
        return (
            f"Of five rows, coverage 0.4 answers the two surest, and both are right: 1.0. You gave "
            f"{found:.3f}. Divide by the number answered, not by all."
        )
    if abs((whole := answer(probabilities, labels, 1.0)) - 0.6) > 1e-9:
        return f"At coverage 1 it should be the plain accuracy, 0.6; you gave {whole:.3f}."
    if abs((most := answer(probabilities, labels, 0.6)) - 2 / 3) > 1e-9:
        return (
            f"Coverage 0.6 answers three of five rows, of which two are right; you gave "
            f"{most:.3f}. Rows count, not confidence: 0.6 is a share of the rows."
        )
    with np.errstate(all="ignore"):
        least = answer(probabilities, labels, 0.01)
    if not abs(least - 1.0) < 1e-9:
        return "However small the coverage, at least one row is answered: use `max(1, ...)`."
    return None


q4 = Question(
    id="08.4",
    title="answer only when sure",
    check=_check_abstaining,
    first_step="find each row's confidence: `probabilities.max(axis=1)`.",
    hints=(
        "`np.argsort(-confidence)` lists the rows from the surest to the least sure.",
        "Keep the first `max(1, round(coverage * N))` of them.",
        "Then compare the kept rows' `argmax(axis=1)` with their labels.",
    ),
    solution="""
import numpy as np


def answer(probabilities, labels, coverage):
    surest_first = np.argsort(-probabilities.max(axis=1), kind="stable")
    kept = surest_first[: max(1, round(coverage * len(labels)))]
    return np.mean(probabilities[kept].argmax(axis=1) == labels[kept])
""",
    passed="Coverage and accuracy can be traded, and this is the exchange rate.",
)
