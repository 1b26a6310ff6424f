"""Exercises of lesson 09: the bytes of a model, micro-batches, an unshared run, a budget."""

from typing import Any

import numpy as np

from helpers.exercises.question import Question

GIGABYTES = 112.0  # 7e9 weights, 16 bytes each


def _check_bytes(answer: Any) -> str | None:
    if isinstance(answer, bool) or not isinstance(answer, int | float | np.number):
        return f"A number of gigabytes is wanted; yours is of type {type(answer).__name__}."
    if abs(answer / GIGABYTES - 1) <= 0.01:
        return None
    named = {
        28: "That is the weights alone. Training also keeps a gradient and AdamW's state.",
        56: "That is weights and gradients. AdamW keeps numbers of its own for every weight.",
        84: "That is three numbers a weight. There are four: AdamW keeps two, and there is the "
        "gradient beside the weight.",
        112 / 1.073741824: "That is right in GiB (2**30 bytes). Gigabytes are asked for: 10**9.",
        112e9: "That is right in bytes. Divide by 10**9 to have gigabytes.",
        14: "That is the weights alone in 16 bits. Here everything is float32, 4 bytes a number.",
        448: "You counted bits, or 4 bytes too often: a float32 number is 4 bytes.",
    }
    for value, what in named.items():
        if abs(answer / value - 1) <= 0.01:
            return what
    return (
        f"You gave {answer:,.1f} GB. Count the numbers kept for each weight (the weight, its "
        f"gradient, AdamW's two), times 4 bytes, times 7 * 10**9."
    )


q1 = Question(
    id="09.1",
    title="a model of seven billion weights",
    check=_check_bytes,
    first_step="list what is kept for every weight, and count the bytes of each.",
    hints=(
        "A float32 number takes 4 bytes.",
        "Weight, gradient, AdamW's mean of gradients, AdamW's mean of squares: four numbers.",
    ),
    solution="answer = 7e9 * 4 * (1 + 1 + 2) / 1e9",
    passed="More than any single card of this lesson has, and no activation is counted yet.",
)


def _check_micro_batches(answer: Any) -> str | None:
    cases = (  # batch_size, fixed, per_example, memory, accumulation
        (32, 400, 50, 1000, 3),  # 12 at once fit, so 3 runs of at most 11
        (32, 400, 50, 2000, 1),
        (32, 400, 50, 450, 32),
        (10, 400, 100, 800, 3),
        (7, 0, 10, 40, 2),
    )
    for batch_size, fixed, per_example, memory, right in cases:
        found = answer(batch_size, fixed, per_example, memory)
        given = f"batch {batch_size}, fixed {fixed}, {per_example} an example, memory {memory}"
        if np.ndim(found) != 0:
            return "One number is wanted: how many micro-batches."
        if found == 0:
            return f"For {given} you said that it cannot be done; {right} micro-batches do it."
        if found != int(found):
            return f"For {given} you gave {found:g}; micro-batches are whole. Round up."
        size = -(-batch_size // int(found)) if found >= 1 else 0
        if found < 1:
            return f"For {given} you gave {found:g}; there is at least one micro-batch."
        if fixed + size * per_example > memory:
            return (
                f"For {given} you gave {found:g} micro-batches; the largest has {size} examples "
                f"and needs {fixed + size * per_example}. What is fixed does not shrink with it."
            )
        if found > right:
            return (
                f"For {given} you gave {found:g} micro-batches; {right} fit as well, and fewer "
                f"are faster. They need not be of equal size: the largest counts."
            )
    if answer(8, 400, 50, 440) != 0:
        return "With memory 440, fixed 400 and 50 an example not even one example fits: return 0."
    return None


q2 = Question(
    id="09.2",
    title="as few micro-batches as fit",
    check=_check_micro_batches,
    first_step="find out how many examples fit at once: (memory - fixed) // per_example.",
    hints=(
        "If `at_once` examples fit, you need batch_size / at_once micro-batches, rounded up.",
        "Whole numbers are rounded up by `-(-a // b)`, or by `math.ceil(a / b)`.",
        "More than the batch cannot be in one micro-batch; fewer than one example is no batch.",
    ),
    solution="""
def answer(batch_size, fixed, per_example, memory):
    at_once = (memory - fixed) // per_example
    if at_once < 1:
        return 0
    return -(-batch_size // at_once)
""",
    passed="This is what `fit` does by halving when memory runs out, only without the crash.",
)


def _check_shared(answer: Any) -> str | None:
    cases = (
        ([[0, 2, 4, 6], [1, 3, 5, 7]], 8, True, "Two processes took every other row."),
        ([[0, 2, 4], [1, 3]], 5, True, "Five rows cannot be halved; 3 and 2 is shared all right."),
        ([[2, 0], [3], [1]], 4, True, "Three processes, each row once: the order is no matter."),
        ([[0, 1, 2, 3]], 4, False, "There was one process only."),
        (
            [[0, 1, 2, 3], [0, 1, 2, 3]],
            4,
            False,
            "Both processes did the whole batch: two runs side by side, each as slow as one.",
        ),
        ([[0, 1, 2, 3], []], 4, False, "The second process had no row at all: one did the work."),
        ([[0, 1, 2], [2, 3]], 4, False, "Row 2 was taken by both, and counts twice."),
        ([[0, 1], [3]], 4, False, "Nobody took row 2."),
        ([[0, 1], [2, 4]], 4, False, "The batch has rows 0 to 3; nobody took 3."),
    )
    for rows, size, right, why in cases:
        found = answer([list(part) for part in rows], size)
        if not isinstance(found, bool | np.bool_):
            return f"True or False is wanted; you gave {type(found).__name__}."
        if found != right:
            return f"For rows {rows} of a batch of {size} it should be {right}. {why}"
    return None


q3 = Question(
    id="09.3",
    title="was the batch shared?",
    check=_check_shared,
    first_step="put the rows of all processes into one list and sort it.",
    hints=(
        "Every row exactly once: the sorted list equals `list(range(batch_size))`.",
        "And more than one process must have had something to do.",
    ),
    solution="""
def answer(rows_by_process, batch_size):
    everything = sorted(row for rows in rows_by_process for row in rows)
    working = sum(len(rows) > 0 for rows in rows_by_process)
    return everything == list(range(batch_size)) and working > 1
""",
    passed="Two lines in a log that would have shown the trap on the first day.",
)


def _check_budget(answer: Any) -> str | None:
    for C in (1.2e18, 5.76e23):
        found = answer(C)
        if np.shape(found) != (2,):
            return "Two numbers are wanted, N and D: `return N, D`."
        N, D = map(float, found)
        if not (N > 0 and D > 0):
            return f"For C = {C:g} you gave N = {N:g} and D = {D:g}; both are above 0."
        if abs(N / D / 20 - 1) < 1e-6:
            return "You have N and D the wrong way round: 20 tokens for a weight, N first."
        if abs(N * D / C - 1) < 1e-6:
            return "Your N times D is C. It should be C / 6: two FLOPs forward, four backward."
        if abs(D / N / 20 - 1) > 1e-6:
            return f"For C = {C:g} your D / N is {D / N:.4g}; the rule asks for 20."
        if abs(6 * N * D / C - 1) > 1e-6:
            return f"For C = {C:g} your run would take 6 N D = {6 * N * D:.4g} FLOPs, not C."
    return None


q4 = Question(
    id="09.4",
    title="spend a budget",
    check=_check_budget,
    first_step="put D = 20 N into C = 6 N D and solve for N.",
    hints=("C = 6 * N * 20 N = 120 N².", "N is the square root of C / 120, and D is 20 N."),
    solution="""
def answer(C):
    N = (C / 120) ** 0.5
    return N, 20 * N
""",
    passed="A hundred times the budget: ten times the weights and ten times the text.",
)
