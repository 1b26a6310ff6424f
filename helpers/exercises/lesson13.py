"""Exercises of lesson 13: F1 with several golds, counting windows, joining them, fooling EM."""

import re
from typing import Any

from helpers.evaluation.squad import best_score, exact_match, f1_score
from helpers.exercises.question import Question

_F1_CASES = (
    ("in New York", ["New York"], "two of three words are right, and both gold words are found"),
    ("The York.", ["york"], "case, articles and full stops do not count"),
    ("York", ["Rome", "New York"], "of several gold answers the best one counts"),
    ("York York", ["York"], "a word counts only as often as it occurs in both"),
    ("", [""], "silence is right where there is no answer"),
    ("", ["Rome"], "silence is wrong where there is one"),
    ("Rome", [""], "an answer is wrong where there is none"),
    ("Rome", ["Paris"], "without a common word it is 0, and nothing may be divided by it"),
)


def _check_f1(answer: Any) -> str | None:
    for prediction, golds, why in _F1_CASES:
        expected = best_score(f1_score, prediction, golds)
        try:
            found = answer(prediction, list(golds))
        except ZeroDivisionError:
            return f"answer({prediction!r}, {golds}) divides by zero. Remember: {why}."
        if not isinstance(found, int | float):
            return f"answer({prediction!r}, {golds}) gave {found!r}; a number is wanted."
        if abs(found - expected) > 1e-6:
            return f"answer({prediction!r}, {golds}) gave {found:.3f}, not {expected:.3f}: {why}."
    return None


q1 = Question(
    id="13.1",
    title="F1 for several gold answers",
    check=_check_f1,
    first_step="take section 2's `normalise`, and write F1 for one gold answer first.",
    hints=(
        "`f1` of section 2 does one gold answer. What should happen with a list of them?",
        "The empty cases: if either side has no words, F1 is 1 when both have none, else 0.",
        "`max(f1(prediction, gold) for gold in golds)`.",
    ),
    solution="""
import string
from collections import Counter


def normalise(text):
    text = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return [word for word in text.split() if word not in ("a", "an", "the")]


def f1(prediction, gold):
    found, wanted = normalise(prediction), normalise(gold)
    if not found or not wanted:
        return float(found == wanted)
    common = sum((Counter(found) & Counter(wanted)).values())
    return 2 * common / (len(found) + len(wanted))


def answer(prediction, golds):
    return max(f1(prediction, gold) for gold in golds)
""",
    passed="2 n / (|prediction| + |gold|) is the same number with one division less.",
)


def _check_windows(answer: Any) -> str | None:
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        return f"A number of windows is wanted; yours is of type {type(answer).__name__}."
    if answer == 6:
        return None
    if answer == 4:
        return "That is 200 / 50: windows side by side. These overlap, so each brings less."
    if answer == 10:
        return "That is 200 / 20. The stride is what neighbours share, not how far they move."
    if answer in (5, 20 / 3, 7):
        return (
            "Close. The first window covers 50 tokens, each further one 50 - 20 = 30 new ones. "
            "How many are needed for the other 150?"
        )
    return "The first window covers 50 tokens. How many new ones does the next one bring?"


q2 = Question(
    id="13.2",
    title="how many windows",
    check=_check_windows,
    first_step="draw the first two windows: tokens 0 to 49, and then?",
    hints=(
        "The second window begins at token 30, so that tokens 30 to 49 are in both.",
        "Each window after the first brings 30 tokens that are new.",
    ),
    solution="answer = 1 + (200 - 50) // (50 - 20)",
    passed="1 + ceil((T - R) / (R - S)). A stride near R makes it explode.",
)


def _check_joining(answer: Any) -> str | None:
    three = [("Rome", 3.0, 1.0), ("Paris", 5.0, 4.5), ("Oslo", -1.0, 6.0)]
    if (found := answer(list(three), 0.0)) != "Paris":
        if found == "Rome":
            return (
                "You took the window with the greatest difference. The best span is the one with "
                "the highest score of all windows; the null score is taken over all of them too."
            )
        return f"The best span of the three windows is 'Paris' (score 5); you gave {found!r}."
    if (found := answer(list(three), 3.9)) != "Paris":
        return (
            f"With threshold 3.9 it should still be 'Paris', you gave {found!r}: the null score is "
            f"the lowest of the windows', 1.0, for one window that is sure of an answer is "
            f"enough. So the margin is 5.0 - 1.0."
        )
    if (found := answer(list(three), 4.1)) != "":
        return f"The margin is 4.0, below 4.1, so nothing should be answered; you gave {found!r}."
    if answer([("Rome", 1.0, 1.0)], 0.0) != "Rome":
        return "A margin equal to the threshold is enough: silent only if it is below."
    if answer([("Rome", -3.0, -2.0)], 0.0) != "":
        return "Logits may be negative: -3 is less than -2, so here nothing should be answered."
    return None


q3 = Question(
    id="13.3",
    title="join the windows",
    check=_check_joining,
    first_step="find the window whose span has the highest score.",
    hints=(
        "`max(windows, key=lambda window: window[1])` is the window with the best span.",
        "The null score of the whole text is the lowest of all windows' null scores.",
        "Then compare the best score minus that null score with the threshold.",
    ),
    solution="""
def answer(windows, threshold):
    text, score, _ = max(windows, key=lambda window: window[1])
    null = min(window[2] for window in windows)
    return text if score - null >= threshold else ""
""",
    passed="That is what `qa.predict` and `qa.answer_texts` do.",
)


def _amount(text: str) -> str:
    return "".join(re.findall(r"[\d.]", text.replace(",", ""))).rstrip(".")


def _check_cheating(answer: Any) -> str | None:
    if not isinstance(answer, str):
        return f"A text is wanted, in quotation marks; yours is {answer!r}."
    if not exact_match(answer, "$1.3bn"):
        return (
            f"{answer!r} is not an exact match: normalised it is another text. What does "
            f"normalisation take away, and what does it leave?"
        )
    if _amount(answer) == "1.3":
        return f"{answer!r} is a match, and right. Find one that names another amount."
    return None


q4 = Question(
    id="13.4",
    title="cheat with the formula",
    check=_check_cheating,
    first_step="normalise the gold answer by hand: what is left of $1.3bn?",
    hints=("Only the signs `13bn` are left.", "A full stop may stand elsewhere, or nowhere."),
    solution='answer = "$13bn"',
    passed="Ten times as much, and a full score. (With a comma, .13bn or £13bn it works as well.)",
)
