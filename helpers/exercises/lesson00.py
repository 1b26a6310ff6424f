"""Exercises of lesson 00: an even guess, the nearest vector, and meaning without shared words."""

import re
from functools import lru_cache
from typing import Any

import numpy as np

from helpers.exercises.question import Question

VOCABULARY = 49_152
LIKENESS = 0.5


def _check_even_guess(answer: Any) -> str | None:
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        kind = type(answer).__name__
        return f"The answer should be a number, the probability of one token; yours is a {kind}."
    right = 1 / VOCABULARY
    if abs(answer - right) < 1e-6:
        return None
    if answer == VOCABULARY:
        return "That is how many tokens there are. How large is the share of a single one?"
    if abs(answer - 100 * right) < 1e-4:
        return "That is in per cent. A probability runs from 0 to 1, not to 100."
    if not 0 <= answer <= 1:
        return f"A probability lies between 0 and 1; {answer:g} does not."
    return (
        f"All {VOCABULARY:,} probabilities must add up to 1; with {answer:g} each they add up "
        f"to {answer * VOCABULARY:,.2f}."
    )


q1 = Question(
    id="00.1",
    title="an even guess",
    check=_check_even_guess,
    first_step="replace the three dots by a number: the probability of each of 49,152 tokens.",
    hints=(
        "The probabilities of all tokens add up to 1.",
        "If a cake is cut into 49,152 equal pieces, how large is one of them?",
    ),
    solution="answer = 1 / 49_152",
    passed="That is what knowing nothing looks like. Keep it beside the model's own numbers.",
)


def _check_nearest(answer: Any) -> str | None:
    # Directions 90, 45, 8 and 180 degrees away; the second is long, the third is short.
    query = np.array([1.0, 0.0])
    candidates = np.array([[0.0, 1.0], [9.0, 9.0], [0.7, 0.1], [-3.0, 0.0]])
    copies = query.copy(), candidates.copy()
    found = answer(query, candidates)
    if not (np.array_equal(query, copies[0]) and np.array_equal(candidates, copies[1])):
        return "The function changed the vectors it was given; compute with copies instead."
    if np.ndim(found) != 0:
        return (
            f"One row number is wanted, not {np.size(found)} values: take the `argmax` over the "
            "candidates."
        )
    if not (np.isreal(found) and int(found) == found and 0 <= found < len(candidates)):
        return (
            f"It gave {found:.4g}, which is not the number of a row. `argmax` gives where the "
            "largest value is, `max` the value."
        )
    if found == 1:
        return (
            "It chose the longest vector, although another points more nearly the same way: the "
            "dot product also grows with length. Divide by the lengths."
        )
    if found == 3:
        return "It chose the vector that points the opposite way. Which end is the nearest?"
    if found != 2:
        return f"It chose row {found}; row 2 points most nearly the same way as the query."
    if answer(query, candidates[[2, 1, 0]]) != 0:
        return "It is right on one set of candidates, but not when their order changes."
    # By distance, the short vector at 45 degrees is nearer than the long one straight ahead.
    if answer(query, np.array([[5.0, 0.0], [0.6, 0.6]])) != 0:
        return (
            "It measures how far apart the ends of the vectors are. Row 0 points exactly the "
            "same way as the query and is only longer: compare directions."
        )
    return None


q2 = Question(
    id="00.2",
    title="the nearest direction",
    check=_check_nearest,
    first_step="compute the dot product of every candidate with the query: `candidates @ query`.",
    hints=(
        "The cosine of the angle is the dot product divided by both lengths.",
        "`np.linalg.norm(candidates, axis=1)` is the length of every row.",
        "The query's length divides every row alike, so it cannot change which one is largest.",
    ),
    solution="""
import numpy as np


def answer(query, candidates):
    lengths = np.linalg.norm(candidates, axis=1)  # (N,)
    return int(np.argmax(candidates @ query / lengths))
""",
    passed="You compare directions, whatever the lengths: that is cosine similarity.",
)


@lru_cache(maxsize=1)
def _encoder() -> tuple[Any, Any]:
    from helpers import models

    return models.load_tokenizer("encoder"), models.load_encoder("encoder")


def likeness(first: str, second: str) -> float:
    """The cosine similarity of two texts according to the encoder, from -1 to 1."""
    import torch

    tokenizer, encoder = _encoder()
    inputs = tokenizer([first, second], padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden = encoder(**inputs).last_hidden_state  # (2, T, 384)
    mask = inputs["attention_mask"].unsqueeze(-1)  # (2, T, 1)
    vectors = (hidden * mask).sum(1) / mask.sum(1)
    return float(torch.cosine_similarity(vectors[0], vectors[1], dim=0))


def _check_no_shared_word(answer: Any) -> str | None:
    pair = isinstance(answer, tuple | list) and len(answer) == 2
    if not pair or not all(isinstance(sentence, str) for sentence in answer):
        return 'Two sentences are wanted: answer = ("the first", "the second").'
    words = [re.findall(r"\w+", sentence.lower()) for sentence in answer]
    if min(map(len, words)) < 4:
        return "Each sentence should have at least four words, so that it says something."
    shared = sorted(set(words[0]) & set(words[1]))
    if shared:
        return f"Both sentences use {', '.join(shared)}; find another way to say it."
    found = likeness(*answer)
    if found < LIKENESS:
        return (
            f"No word is shared, but the encoder finds a likeness of only {found:.2f}; "
            f"{LIKENESS} is wanted. Let both sentences say the same thing."
        )
    return None


q3 = Question(
    id="00.3",
    title="the same without the words",
    check=_check_no_shared_word,
    first_step="write any sentence of four or more words in place of the first three dots.",
    hints=(
        "Small words count too: if one sentence says `the`, the other must not.",
        "Say what happened at a match, then let another reporter say it.",
        "Swap every word for a synonym: film and movie, purchase and buy, doctor and physician.",
    ),
    solution="""
answer = ("The film was wonderful.", "I really loved this movie!")
""",
    passed="A search for words would call these two unrelated; the encoder does not.",
)
