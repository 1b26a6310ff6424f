"""Exercises of lesson 10: counting an adapter, merging it, masking prompts, 4 bits, memory."""

from typing import Any

import torch

from helpers.exercises.question import Question

SHAPES = (((384, 384), (384, 384)), ((1536, 384), (384, 1536), (384, 384)))
GPT3 = ((12288, 12288),) * (2 * 96)
CARD_GB = 24.0
ANSWERS = (CARD_GB / 16, CARD_GB / 2, CARD_GB / 0.5)


def _numbers(shapes: Any, r: int) -> int:
    return sum(r * (rows + columns) for rows, columns in shapes)


def _check_count(answer: Any) -> str | None:
    cases = [(list(shapes), r) for shapes in (*SHAPES, GPT3) for r in (1, 4)]
    found = [float(answer(shapes, r)) for shapes, r in cases]

    def everywhere(formula: Any) -> bool:
        return all(value == formula(s, r) for value, (s, r) in zip(found, cases, strict=True))

    if everywhere(_numbers):
        return None
    named = {
        "That is full fine-tuning: every entry of every W. LoRA trains A and B only.": (
            lambda s, r: sum(m * n for m, n in s)
        ),
        "That is r times the size of W. A has only r rows, and B only r columns.": (
            lambda s, r: sum(r * m * n for m, n in s)
        ),
        "That counts A only. B has d_out rows and r columns of its own.": (
            lambda s, r: sum(r * n for m, n in s)
        ),
        "That counts B only. A has r rows and d_in columns of its own.": (
            lambda s, r: sum(r * m for m, n in s)
        ),
        "That counts the first matrix only; add up over all of them.": (
            lambda s, r: r * (s[0][0] + s[0][1])
        ),
        "The rank is missing: that is right for r = 1 only.": (
            lambda s, r: sum(m + n for m, n in s)
        ),
    }
    for message, formula in named.items():
        if everywhere(formula):
            return message
    shapes, r = cases[0]
    return (
        f"For {shapes} and r = {r} it gave {found[0]:g}; right is {_numbers(shapes, r)}. Write "
        "down the shapes of A and of B for one matrix, and count their entries."
    )


q1 = Question(
    id="10.1",
    title="what an adapter weighs",
    check=_check_count,
    first_step="for one W of shape (d_out, d_in), write down the shapes of A and B.",
    hints=(
        "A is (r, d_in) and B is (d_out, r).",
        "Together they have r * d_in + d_out * r entries, which is r * (d_out + d_in).",
        "Sum that over the list of shapes.",
    ),
    solution="""
def answer(shapes, r):
    return sum(r * (d_out + d_in) for d_out, d_in in shapes)
""",
    passed=(
        "For the 192 query and value matrices of GPT-3 at r = 4 it gives 18,874,368 of 175 "
        "billion: a file of 38 MB in 16-bit numbers."
    ),
)


def _merge_example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    generator = torch.Generator().manual_seed(10)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return draw(5, 4), draw(2, 4), draw(5, 2), 6.0


def _check_merge(answer: Any) -> str | None:
    W, A, B, alpha = _merge_example()
    before = W.clone()
    found = torch.as_tensor(answer(W, A, B, alpha), dtype=torch.float64)
    if not torch.equal(W, before):
        return "It changed W in place. Return a new matrix, so that the adapter can be taken off."
    if found.shape != W.shape:
        return f"W is {tuple(W.shape)}, but the answer is {tuple(found.shape)}."
    r = A.shape[0]
    if torch.allclose(found, W + alpha / r * B @ A):
        return None
    named = {
        "The scale alpha / r is missing.": W + B @ A,
        "It scales by alpha alone; divide by r, the number of rows of A.": W + alpha * B @ A,
        "It scales by r / alpha: turn the fraction round.": W + r / alpha * B @ A,
        "It divides by d_in, the columns of A. The rank is the number of its ROWS.": (
            W + alpha / A.shape[1] * B @ A
        ),
        "It takes the adapter OFF: add the product instead of subtracting it.": (
            W - alpha / r * B @ A
        ),
        "That is the change alone. The merged matrix still holds W.": alpha / r * B @ A,
        "It scales W as well; alpha / r belongs to the product B A only.": alpha / r * (W + B @ A),
    }
    for message, value in named.items():
        if torch.allclose(found, value):
            return message
    return "The shape is right, the numbers are not. Compare with h = W x + (alpha / r) B A x."


q2 = Question(
    id="10.2",
    title="one matrix again",
    check=_check_merge,
    first_step="take x out of W x + (alpha / r) B A x, as one does with brackets.",
    hints=(
        "W x + (alpha / r) B (A x) = (W + (alpha / r) B A) x.",
        "r is the number of rows of A: `len(A)`.",
        "`B @ A` has the shape of W.",
    ),
    solution="""
def answer(W, A, B, alpha):
    return W + alpha / len(A) * (B @ A)
""",
    passed="One matrix, as fast as before, and nobody can see from outside that it was tuned.",
)


def _check_labels(answer: Any) -> str | None:
    prompt, reply, end, length = [7, 8, 9, 5], [21, 22, 2, 23], 2, 11
    found = [int(label) for label in answer(list(prompt), list(reply), end, length)]
    right = [-100] * 4 + reply + [end] + [-100] * 2
    if found == right:
        # A text of exactly the full length has no padding.
        full = [int(label) for label in answer(list(prompt), list(reply), end, 9)]
        return None if full == right[:9] else "Right with padding; for a full row it is not."
    named = {
        "The prompt is not masked: these labels teach the model to write questions.": (
            prompt + reply + [end] + [-100] * 2
        ),
        "The end token is not among the labels, so the model never learns to stop.": (
            [-100] * 4 + reply + [-100] * 3
        ),
        "The end token is missing: the row has to hold it after the answer.": (
            [-100] * 4 + reply + [-100] * 2
        ),
        "The padding is not masked: it would teach the model to write padding.": (
            [-100] * 4 + reply + [end] + [end] * 2
        ),
        "Padding with 0 is a label like any other; only -100 is left out.": (
            [-100] * 4 + reply + [end] + [0] * 2
        ),
        "0 is a token like any other; the label that is left out is -100.": (
            [0] * 4 + reply + [end] + [0] * 2
        ),
        "It shifts by one. transformers does that itself: labels stand where their tokens do.": (
            [-100] * 3 + reply + [end] + [-100] * 3
        ),
        "It masks the ANSWER and keeps the prompt: the other way round.": (prompt + [-100] * 7),
        "An end token inside the answer was masked too. Mask by position, not by value.": (
            [-100] * 4 + [21, 22, -100, 23, end] + [-100] * 2
        ),
    }
    for message, labels in named.items():
        if found == labels:
            return message
    if len(found) != length:
        return f"The row has {len(found)} labels; `length` is {length}."
    return f"For the example it gave {found}. Wanted: -100s, the answer, the end, -100s."


q3 = Question(
    id="10.3",
    title="which tokens are marked",
    check=_check_labels,
    first_step="say in words which label each of the four parts of a row gets.",
    hints=(
        "The parts are prompt, answer, end token, padding. Two of them are left out by -100.",
        "The end token belongs to what the model must write.",
        "`[-100] * n` is a list of n labels that do not count.",
    ),
    solution="""
def answer(prompt_ids, answer_ids, end_id, length):
    labels = [-100] * len(prompt_ids) + answer_ids + [end_id]
    return labels + [-100] * (length - len(labels))
""",
    passed="Prompt and padding are read but not marked; the end is marked, so it learns to stop.",
)


def _check_quantise(answer: Any) -> str | None:
    w = torch.tensor([0.70, -0.26, 0.04, -0.68, 0.33, 0.0, 0.15, -0.49])
    result = answer(w.clone())
    if not isinstance(result, tuple | list) or len(result) != 2:
        return "Two things are wanted: (q, scale), the whole numbers and the scale."
    q, scale = torch.as_tensor(result[0]).double(), float(result[1])
    if q.shape != w.shape:
        return f"The block has shape {tuple(w.shape)}, but q has {tuple(q.shape)}."
    if not torch.equal(q, q.round()):
        return "q holds numbers that are not whole. Round them: 4 bits hold 16 values, no more."
    if q.max() > 7 or q.min() < -8:
        return (
            f"q runs from {q.min():g} to {q.max():g}; with a sign, 4 bits hold -8 to 7. Divide "
            "the largest absolute value by 7 for the scale."
        )
    if abs(scale - 0.1) > 1e-6:
        hint = " 15 steps would span 0 to the largest; half of them are needed below 0."
        return (
            f"The scale is {scale:.4g}; wanted is the largest absolute value divided by 7, here "
            f"0.1.{hint if abs(scale - 0.7 / 15) < 1e-3 else ''}"
        )
    worst = (q * scale - w.double()).abs().max()
    if worst > scale / 2 + 1e-6:
        return (
            f"q times the scale misses some weight by {worst:.3f}, more than half a step "
            f"({scale / 2:.2f}). Round to the NEAREST whole number instead of cutting off."
        )
    q, scale = answer(torch.zeros(8))
    if not torch.isfinite(torch.as_tensor(q).double() * float(scale)).all():
        return "A block of zeros gave nan: 0 / 0. Such blocks exist; keep the scale above 0."
    return None


q4 = Question(
    id="10.4",
    title="a block in 4 bits",
    check=_check_quantise,
    first_step="compute the scale, so that the largest absolute value of the block becomes 7.",
    hints=(
        "`scale = w.abs().max() / 7`, then `q = (w / scale).round()`.",
        "What does it give for a block of zeros? `.clamp(min=1e-12)` keeps a number above 0.",
    ),
    solution="""
def answer(w):
    scale = (w.abs().max() / 7).clamp(min=1e-12)
    return (w / scale).round(), scale
""",
    passed="No weight is off by more than half a step, and a block of zeros stays zero.",
)


def _check_memory(answer: Any) -> str | None:
    if not isinstance(answer, tuple | list) or len(answer) != len(ANSWERS):
        return "Three numbers are wanted, in billions of parameters: (full, 16-bit LoRA, QLoRA)."
    full, half, four = (float(number) for number in answer)
    if any(number >= 1e6 for number in (full, half, four)):
        return "In billions, please: 1e9 parameters of 1 byte are 1 GB, so bytes cancel nicely."
    if full == CARD_GB / 4:
        return "24 / 4 leaves room for the weights only. Gradient and two moments cost 12 more."
    if full == CARD_GB / 12:
        return "12 bytes are gradient and moments; the weight itself makes it 16."
    if abs(full - ANSWERS[0]) > 1e-2:
        return f"Full fine-tuning costs 16 bytes for each parameter; you said {full:g} billion."
    if half == CARD_GB / 4:
        return "16 bits are 2 bytes; 4 bytes are 32 bits."
    if half == full:
        return "A frozen weight has no gradient and no moments: it costs its own 2 bytes only."
    if abs(half - ANSWERS[1]) > 1e-2:
        return f"The first is right. Frozen 16-bit weights cost 2 bytes each; you said {half:g}."
    if four == CARD_GB / 4:
        return "Four BITS, not bytes: two weights fit into one byte."
    if abs(four - ANSWERS[2]) > 1e-2:
        return f"The first two are right. Four bits are half a byte; you said {four:g} billion."
    return None


q5 = Question(
    id="10.5",
    title="what fits on a card",
    check=_check_memory,
    first_step="write down the bytes that one parameter costs in each of the three cases.",
    hints=(
        "Full: weight 4, gradient 4, two moments 8, together 16 bytes.",
        "Frozen weights need neither gradient nor moments. 16 bits are 2 bytes, 4 bits are half.",
        "Billions of parameters times bytes each are GB: divide 24 by the bytes.",
    ),
    solution="answer = (24 / 16, 24 / 2, 24 / 0.5)",
    passed="1.5, 12 and 48 billion, before adapters, scales and activations take their share.",
)
