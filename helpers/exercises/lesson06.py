"""Exercises of lesson 06: means of means, one softmax too many, noise, AdamW, focal loss."""

import math
from typing import Any

import torch
from torch.nn import functional

from helpers.exercises.question import Question

WANTED_GAP = 1.0
BATCH, SPREAD, WANTED_SPREAD = 32, 0.08, 0.02
RATE = 1e-4
GRADIENTS = (20.0, -0.002, 0.0)


def _check_mean_of_means(answer: Any) -> str | None:
    batches = isinstance(answer, tuple | list) and len(answer) == 2
    if not batches or not all(isinstance(batch, tuple | list) for batch in answer):
        return "Two lists of losses are wanted, such as ([0.5, 0.5, 0.5], [2.0])."
    a, b = ([float(loss) for loss in batch] for batch in answer)
    if not a or not b:
        return "A batch without examples has no mean; put at least one loss in each."
    if not all(math.isfinite(loss) and loss >= 0 for loss in a + b):
        return "A cross-entropy is at least 0 (no probability exceeds 1) and here finite."
    if len(a) == len(b):
        return (
            f"Both batches have {len(a)} examples. Between batches of one size the mean of the "
            "means IS the mean of all; let the sizes differ."
        )
    of_means = (sum(a) / len(a) + sum(b) / len(b)) / 2
    of_all = sum(a + b) / len(a + b)
    gap = of_means - of_all
    if gap > WANTED_GAP:
        return None
    found = f"The mean of the means is {of_means:.2f}, the mean of all examples {of_all:.2f}."
    if gap < 0:
        return f"{found} You made it too low: let the expensive examples be in the small batch."
    return f"{found} The gap has to be above {WANTED_GAP:g}: make the batches differ more."


q1 = Question(
    id="06.1",
    title="a mean of means",
    check=_check_mean_of_means,
    first_step="replace the three dots by two lists of losses of your own.",
    hints=(
        "Equal batches cannot do it. Which batch's examples count too much when sizes differ?",
        "In a batch of one, a single example gets half the say in the mean of the two means.",
        "Put several losses of 0 into one batch and one large loss into the other.",
    ),
    solution="answer = ([0.0, 0.0, 0.0, 0.0], [5.0])",
    passed="One example got the say of a whole batch. Add sums and counts, and divide once.",
)


def _floor(classes: int) -> float:
    return math.log(math.e + classes - 1) - 1


def _check_floor(answer: Any) -> str | None:
    found = {classes: float(answer(classes)) for classes in (2, 3, 5, 50)}
    if all(abs(value - _floor(classes)) < 1e-4 for classes, value in found.items()):
        return None

    def everywhere(formula: Any) -> bool:
        return all(abs(value - formula(c)) < 1e-4 for c, value in found.items())

    if everywhere(lambda c: 0.0):
        return "0 is the floor of a single softmax. Here a second one follows the first."
    if everywhere(math.log):
        return "ln C is the loss of a blind guess. What is it for a perfect first softmax?"
    if everywhere(lambda c: math.exp(-_floor(c))):
        return "That is the probability of the right class. The loss is minus its logarithm."
    if everywhere(lambda c: _floor(c) / math.log(2)):
        return "That is in bits; `F.cross_entropy` uses the natural logarithm."
    if everywhere(lambda c: _floor(2)):
        return "It is the same for every C, but each further class adds to the softmax's sum."
    if everywhere(lambda c: math.log(1 + (c - 1) * math.e)):
        return "That is the HIGHEST loss: the first softmax gave its 1 to a wrong class."
    return (
        f"For 2 classes it gave {found[2]:.4f}, for 5 classes {found[5]:.4f}. Write down what a "
        "perfect first softmax gives, and apply the softmax to that."
    )


q2 = Question(
    id="06.2",
    title="the floor of a double softmax",
    check=_check_floor,
    first_step="write down the C numbers that a perfect first softmax gives: a 1 and zeros.",
    hints=(
        "The second softmax sees 1 for the right class and 0 for each of the C - 1 others.",
        "Its sum is e + (C - 1), because e to the power 0 is 1.",
        "The loss is minus the logarithm of e / (e + C - 1).",
    ),
    solution="""
import math


def answer(C):
    return math.log(math.e + C - 1) - 1
""",
    passed="With five classes that is 0.905 nats: a loss stuck there is a softmax too many.",
)


def _check_batch_size(answer: Any) -> str | None:
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        return "Two numbers are wanted: (batch size, how many times the computation)."
    size, cost = (float(part) for part in answer)
    factor = SPREAD / WANTED_SPREAD
    if size == BATCH * factor:
        return (
            f"{size:g} is {factor:g} times the batch, which divides the spread by the root of "
            f"{factor:g}, that is by {math.sqrt(factor):g}. It must be divided by {factor:g}."
        )
    if size < BATCH:
        return "A smaller batch is noisier, not less noisy."
    if size != BATCH * factor**2:
        return (
            f"A batch of {size:g} has a spread of {SPREAD * math.sqrt(BATCH / size):.3f}; wanted "
            f"is {WANTED_SPREAD:g}. Use: spread is proportional to 1 / sqrt(B)."
        )
    if cost != factor**2:
        return (
            f"{size:g} is right. A step's cost grows with its examples: how many times "
            f"{BATCH} are {size:g}? You said {cost:g}."
        )
    return None


q3 = Question(
    id="06.3",
    title="a quarter of the noise",
    check=_check_batch_size,
    first_step="write spread = sigma / sqrt(B) and ask by which factor B must grow.",
    hints=(
        "0.08 / 0.02 = 4: the root of the batch size must become four times as large.",
        "If sqrt(B) grows fourfold, B grows sixteenfold.",
    ),
    solution="answer = (512, 16)",
    passed="A quarter of the noise for sixteen times the work. Small batches are a bargain.",
)


def _check_first_step(answer: Any) -> str | None:
    if not isinstance(answer, tuple | list) or len(answer) != len(GRADIENTS):
        return "Three numbers are wanted, the change of each of the three weights."
    found = [float(change) for change in answer]
    right = [-RATE, RATE, 0.0]

    def like(expected: list[float]) -> bool:
        return all(abs(a - b) <= 1e-3 * RATE for a, b in zip(found, expected, strict=True))

    if like(right):
        return None
    if like([-RATE * gradient for gradient in GRADIENTS]):
        return "That is gradient descent. Adam divides each gradient by its own size first."
    if like([-change for change in right]):
        return "The sizes are right, but a step goes AGAINST the gradient: turn the signs round."
    if like([RATE] * 3) or like([-RATE] * 3) or abs(found[2]) > 1e-3 * RATE:
        return "A gradient of exactly 0 gives m = 0, and 0 / (0 + epsilon) is 0: no step at all."
    if like([RATE, RATE, 0.0]) or like([-RATE, -RATE, 0.0]):
        return "The first two gradients have opposite signs, and so have their steps."
    return (
        f"You said {found[0]:g}, {found[1]:g} and {found[2]:g}. At the first step m_hat = g and "
        "sqrt(v_hat) = |g|: what is their quotient, times the learning rate?"
    )


q4 = Question(
    id="06.4",
    title="the first step of Adam",
    check=_check_first_step,
    first_step="put t = 1 and m = v = 0 into the formulas and compute m_hat and v_hat.",
    hints=(
        "m_hat is g and v_hat is g squared, so the quotient is g / |g|.",
        "g / |g| is +1 or -1, whatever the size of g. And the step has a minus in front.",
        "For g = 0 the quotient is 0 / (0 + epsilon).",
    ),
    solution="answer = (-1e-4, 1e-4, 0.0)",
    passed="Sizes that differ by ten thousand, steps of one size. Only the sign is left.",
)


def _focal_example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(6)
    z = 2 * torch.randn(12, 3, generator=generator, dtype=torch.float64)
    y = torch.tensor([0, 1, 2] * 4)
    return z, y, torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)


def _check_focal(answer: Any) -> str | None:
    z, y, alpha = _focal_example()
    gamma = 2.0
    found = torch.as_tensor(answer(z, y, gamma, alpha), dtype=torch.float64)
    if found.numel() != 1:
        return f"One number is wanted, the mean; it gave a tensor of shape {tuple(found.shape)}."
    log_p = -functional.cross_entropy(z, y, reduction="none")
    p = log_p.exp()
    focal = -((1 - p) ** gamma) * log_p
    named = {
        "It has no alpha: multiply each example by alpha[y].": focal.mean(),
        "It gave the sum; take the mean.": (alpha[y] * focal).sum(),
        "It divides by the sum of the alphas; the task asks for the mean over the examples.": (
            (alpha[y] * focal).sum() / alpha[y].sum()
        ),
        "It uses p ** gamma, which makes the EASY examples count more; use (1 - p) ** gamma.": (
            (-alpha[y] * p**gamma * log_p).mean()
        ),
        "The factor (1 - p) ** gamma is missing.": (-alpha[y] * log_p).mean(),
        "The sign is wrong: a loss is at least 0, so minus log p.": -(alpha[y] * focal).mean(),
    }
    right = (alpha[y] * focal).mean()
    if not torch.isclose(found, right, rtol=1e-5, atol=1e-8):
        for message, value in named.items():
            if torch.isclose(found, value, rtol=1e-5, atol=1e-8):
                return message
        return (
            f"On twelve examples it gave {found.item():.4f}; right is {right.item():.4f}. Begin "
            "with gamma = 0 and all alphas 1, which must be F.cross_entropy(z, y)."
        )
    plain = torch.as_tensor(answer(z, y, 0.0, torch.ones(3, dtype=torch.float64)))
    if not torch.isclose(plain.double(), -log_p.mean(), rtol=1e-5):
        return "It is right for gamma = 2, but for gamma = 0 it is not: use the gamma it is given."
    return None


q5 = Question(
    id="06.5",
    title="focal loss with class weights",
    check=_check_focal,
    first_step="compute p, the probability of the right class of every example: softmax, gather.",
    hints=(
        "`z.softmax(-1).gather(-1, y[:, None]).squeeze(-1)` is p, one number an example.",
        "`alpha[y]` is the weight of every example's class, also one number an example.",
        "Multiply alpha[y], (1 - p) ** gamma and -log p, then take the mean.",
    ),
    solution="""
def answer(z, y, gamma, alpha):
    p = z.softmax(-1).gather(-1, y[:, None]).squeeze(-1)  # (N,)
    return (-alpha[y] * (1 - p) ** gamma * p.log()).mean()
""",
    passed="That is equation 5 of Lin et al., with a softmax over any number of classes.",
)
