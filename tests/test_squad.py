"""helpers.evaluation.squad: the official formula on random answers, and the baseline by hand."""

import math
import re
import string

import numpy as np
import pytest
from torchmetrics.functional.text import squad as torchmetrics_squad

from helpers.errors import InvalidValue
from helpers.evaluation import squad

WORDS = ["Rome", "rome,", "the", "a", "An", "New", "York", "1999", "and", "U.S.", "-", "theatre"]


def answers(seed, most=6):
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(1, most))) for _ in range(200)]


def test_random_answers_score_as_torchmetrics_has_it():
    for found, wanted in zip(answers(0), answers(1), strict=True):
        if not squad.normalize_answer(found) or not squad.normalize_answer(wanted):
            continue  # there the version 2.0 of the official script, which is ours, decides
        theirs = torchmetrics_squad(
            [{"prediction_text": found, "id": "1"}],
            [{"answers": {"text": [wanted], "answer_start": [0]}, "id": "1"}],
        )
        assert 100 * squad.f1_score(found, wanted) == pytest.approx(float(theirs["f1"]), abs=1e-4)
        assert 100 * squad.exact_match(found, wanted) == float(theirs["exact_match"])


def test_what_is_normalised_away():
    assert squad.normalize_answer("  The U.S.,\n an-apple  A day ") == "us anapple day"
    for sign in string.punctuation:
        assert squad.normalize_answer(f"x{sign}y") == "xy"
    assert squad.normalize_answer("Athens Anna there") == "athens anna there"


def test_the_best_of_several_gold_answers_counts():
    golds = ["the", "York", "New York City", "Rome"]
    assert squad.best_score(squad.f1_score, "New York", golds) == pytest.approx(0.8)
    assert squad.best_score(squad.f1_score, "", ["the", ""]) == 1.0
    assert squad.best_score(squad.f1_score, "Rome", []) == 0.0


# -- the baseline ----------------------------------------------------------------------------------


def by_hand(question, text):
    """What ``sliding_window_answer`` promises, written down again for texts of plain words."""
    spans = [m.span() for m in re.finditer(r"\w+|[.?!,]", text)]
    words = [text[a:b].lower() for a, b in spans]
    asked = set(re.findall(r"\w+|[.?!,]", question.lower())) - squad.STOP_WORDS
    weight = [math.log(1 + 1 / words.count(w)) if w in asked else 0 for w in words]
    sentence, number = [], 0
    for i in range(len(words)):
        if i and (words[i - 1] in ".?!" or "\n\n" in text[spans[i - 1][1] : spans[i][0]]):
            number += 1
        sentence.append(number)
    content = [w.isalnum() and w not in squad.STOP_WORDS and w not in asked for w in words]
    pieces = []
    for i in range(len(words)):
        goes_on = pieces and pieces[-1][1] == i and i - pieces[-1][0] < 5
        if content[i] and goes_on and sentence[i] == sentence[i - 1]:
            pieces[-1] = (pieces[-1][0], i + 1)
        elif content[i]:
            pieces.append((i, i + 1))
    scores = []
    for start, end in pieces:
        mine = [i for i in range(len(words)) if sentence[i] == sentence[start]]
        near = [(min(abs(i - start), abs(i - end + 1)), i) for i in mine if not start <= i < end]
        shared = sum({words[i]: weight[i] for i in mine}.values())
        scores.append((shared, sum(weight[i] / distance for distance, i in near)))
    start, end = pieces[scores.index(max(scores))] if pieces else (0, 1)
    return text[spans[start][0] : spans[end - 1][1]]


POOL = [
    "ann",
    "bob",
    "lives",
    "moved",
    "rome",
    "1999",
    "the",
    "in",
    "of",
    "who",
    "red",
    "won",
    "prize",
]


def test_the_baseline_answers_as_a_second_version_does():
    random = np.random.default_rng(3)
    for _ in range(300):
        length = random.integers(3, 40)
        text = ""
        for word in random.choice(POOL, length):
            text += word + str(random.choice([" ", " ", " ", " ", ", ", ". ", "! ", "\n\n"]))
        question = " ".join(random.choice(POOL, random.integers(1, 6))) + "?"
        assert squad.sliding_window_answer(question, text) == by_hand(question, text), (
            question,
            text,
        )


def test_an_answer_is_a_piece_of_the_text_as_it_is_written():
    text = "The Well-Known Co-op paid £3.5 million. Others did not."
    assert squad.sliding_window_answer("Who paid?", text) == "Well-Known Co-op"
    assert squad.sliding_window_answer("The Well-Known Co-op did what?", text) == "paid"
    paid = squad.sliding_window_answer("The Well-Known Co-op paid £3.5 of what?", text)
    assert paid == "million"


def test_a_text_without_a_candidate_gives_its_first_word():
    assert squad.sliding_window_answer("Who is it?", "It is he, is it?") == "It"


@pytest.mark.parametrize("text", ["", " \n"])
def test_a_text_without_words_is_refused(text):
    with pytest.raises(InvalidValue, match="no word to answer with"):
        squad.sliding_window_answer("Who?", text)
