"""Exercises of lesson 18: chance drift, rows in chunks, an index fooled by a rare bin."""

from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import numpy as np

from helpers.exercises.question import Question
from helpers.shipping.drift import population_stability_index


def _check_chance(answer: Any) -> str | None:
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        return f"One number is wanted; yours is of type {type(answer).__name__}."
    if abs(answer - 0.1125) < 0.002:
        return None
    if answer == 0:
        return "It is 0 only for equal shares, and two samples never have exactly equal shares."
    if abs(answer - 0.125) < 0.001:
        return "With 10 bins only 9 shares are free: they sum to 1."
    if abs(answer - 9 / 500) < 0.001:
        return "The sizes are not added: each sample brings its own noise, 1/N + 1/M."
    return (
        "Without drift the index is about (1/N + 1/M) times a chi-squared number, and the mean of "
        "that number is its degrees of freedom, bins - 1."
    )


q1 = Question(
    id="18.1",
    title="an index without any drift",
    check=_check_chance,
    first_step="write down 1/N + 1/M for N = 400 and M = 100.",
    hints=(
        "A chi-squared number with k degrees of freedom has the mean k.",
        "(1/400 + 1/100) * (10 - 1).",
    ),
    solution="answer = (1 / 400 + 1 / 100) * (10 - 1)",
    passed="Above the rule-of-thumb 0.1, and nothing has happened. Small windows cry wolf.",
)


def _counted(rows: Iterator[int], taken: list[int]) -> Iterator[int]:
    for row in rows:
        taken.append(row)
        yield row


def _check_chunks(answer: Any) -> str | None:
    for total, size in ((7, 3), (6, 3), (2, 5), (0, 2)):
        found = answer(iter(range(total)), size)
        if found is None:
            return f"For {total} rows in chunks of {size} it gave back nothing."
        found = [list(chunk) for chunk in islice(found, 10)]
        expected = [list(range(total))[i : i + size] for i in range(0, total, size)]
        if found != expected:
            if [] in found:
                return f"For {total} rows and size {size} there is an empty chunk: {found}."
            if found == expected[:-1]:
                return f"For {total} rows and size {size} the last, shorter chunk is lost: {found}."
            return f"For {total} rows and size {size} you gave {found}, not {expected}."
    taken: list[int] = []
    chunks = iter(answer(_counted(islice(count(), 100_000), taken), 10))
    first = list(next(chunks))
    if first != list(range(10)):
        return f"The first chunk of ten is {first}."
    if len(taken) > 20:
        return (
            f"Before the first chunk came out, {len(taken):,} rows had been read. Then memory "
            f"grows with the file: hand out each chunk as soon as it is full."
        )
    return None


q2 = Question(
    id="18.2",
    title="rows in chunks",
    check=_check_chunks,
    first_step="write a loop that collects rows in a list, and `yield` the list when it is full.",
    hints=(
        "`yield` hands out a value and goes on from there at the next call.",
        "After the loop something may be left over; or take `itertools.islice(rows, size)` until "
        "it is empty.",
    ),
    solution="""
from itertools import islice


def answer(rows, size):
    while chunk := list(islice(rows, size)):
        yield chunk
""",
    passed="It holds `size` rows at a time, whether the file has a thousand rows or a billion.",
)

_REFERENCE = (400, 300, 290, 10, 0)


def _check_fooled(answer: Any) -> str | None:
    counts = np.asarray(answer, dtype=float)
    if counts.shape != (5,) or counts.min() < 0 or not np.array_equal(counts, counts.round()):
        return f"Five counts are wanted, whole numbers from 0; you gave {answer}."
    if counts.sum() != 1000:
        return f"The window has 1,000 texts; yours has {counts.sum():.0f}."
    moved = int(np.abs(counts - _REFERENCE).sum() / 2)
    index = population_stability_index(_REFERENCE, counts)
    if moved > 30:
        return f"{moved} texts have changed their bin; 30 at most. (The index is {index:.3f}.)"
    if index <= 0.1:
        return (
            f"The index is {index:.3f}, with {moved} texts moved. A bin counts by the quotient of "
            f"its shares: where does one more text change that most?"
        )
    return None


q3 = Question(
    id="18.3",
    title="a loud alarm about little",
    check=_check_fooled,
    first_step="move 30 texts from one large bin to another and look at the index.",
    hints=(
        "In (a - e) ln(a / e) the logarithm is largest where e is nearly nothing.",
        "Move them all into the empty bin.",
    ),
    solution="answer = [370, 300, 290, 10, 30]",
    passed="Three texts in a hundred set off the alarm. That is why our bins are cut to hold "
    "about equally many.",
)
