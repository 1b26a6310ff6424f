"""Exercises of lesson 17: rates per layer, Google's names, loss scaling, a step of LAMB."""

import itertools
from typing import Any

import numpy as np
import torch

from helpers.exercises.question import Question


def _check_rates(answer: Any) -> str | None:
    for low, high, groups in ((1e-4, 1e-2, 3), (2e-5, 6.4e-4, 6), (1e-3, 1e-3, 4)):
        right = np.geomspace(low, high, groups)
        found = np.asarray(list(answer(low, high, groups)), dtype=float)
        case = f"From {low:g} to {high:g} in {groups} groups"
        if found.shape != right.shape:
            return f"{case} it gives {len(found)} rates; give one for each group."
        if np.allclose(found, right, rtol=1e-6):
            continue
        if np.allclose(found, right[::-1], rtol=1e-6):
            return f"{case}: the right rates, upside down. The lowest layers come first."
        if np.allclose(found, np.linspace(low, high, groups), rtol=1e-6):
            return (
                f"{case} your steps are equally wide; they should be equally many times as large: "
                "each rate is the one before it times the same factor."
            )
        if np.allclose(found, low * (high / low) ** (np.arange(groups) / groups), rtol=1e-6):
            return (
                f"{case} the last rate is {found[-1]:g} and not {high:g}. Between so many groups "
                f"there are {groups - 1} steps: which root of the quotient is the factor?"
            )
        return f"{case} it should give {', '.join(f'{rate:.3g}' for rate in right)}."
    return None


q1 = Question(
    id="17.1",
    title="a rate for every group",
    check=_check_rates,
    first_step="replace the three dots by a list of learning rates, the lowest layers' first.",
    hints=(
        "From each group to the next, the rate is multiplied by the same factor.",
        "From the first of n groups to the last there are n - 1 such steps.",
        "The factor is `(high / low) ** (1 / (groups - 1))`.",
    ),
    solution="""def answer(low, high, groups):
    factor = (high / low) ** (1 / (groups - 1))
    return [low * factor**number for number in range(groups)]""",
    passed="That is what fast.ai makes of `slice(low, high)`.",
)

_NAMES = {
    "bert/embeddings/LayerNorm/gamma": ("embeddings.LayerNorm.weight", False),
    "bert/embeddings/LayerNorm/beta": ("embeddings.LayerNorm.bias", False),
    "bert/pooler/dense/kernel": ("pooler.dense.weight", True),
    "bert/pooler/dense/bias": ("pooler.dense.bias", False),
    "bert/encoder/layer_0/intermediate/dense/kernel": (
        "encoder.layer.0.intermediate.dense.weight",
        True,
    ),
    "bert/encoder/layer_11/attention/self/query/kernel": (
        "encoder.layer.11.attention.self.query.weight",
        True,
    ),
    "bert/embeddings/word_embeddings": ("embeddings.word_embeddings.weight", False),
}


def _check_name(answer: Any) -> str | None:
    for name, (right, transposed) in _NAMES.items():
        found = answer(name)
        if not isinstance(found, tuple) or len(found) != 2:
            return (
                f"For {name} it gives {found!r}. Return two things: PyTorch's name, and True or "
                "False for whether the tensor must be transposed."
            )
        ours, turned = found
        if ours != right:
            why = ""
            if "_embeddings" in name:
                why = " Google's tables are named without an ending; PyTorch's table is a weight."
            elif "layer_1" in name and "layer.1." in str(ours):
                why = " The layer's number has two digits here."
            elif str(ours).startswith("bert."):
                why = " A BertModel has no `bert.` in front: it is the body itself."
            elif "gamma" in name or "beta" in name:
                why = " LayerNorm's gain, gamma, is its weight here; beta is its bias."
            return f"For {name} it gives {ours!r}; PyTorch's name is {right!r}.{why}"
        if bool(turned) != transposed:
            reason = (
                "a kernel is (in, out), PyTorch's weight (out, in)"
                if transposed
                else "only kernels are laid out the other way round"
            )
            return f"For {name} the name is right, but transposed is {turned!r}: {reason}."
    return None


q2 = Question(
    id="17.2",
    title="translate a name",
    check=_check_name,
    first_step=(
        'begin with `name = name.removeprefix("bert/")` and return the name and `True` or `False`.'
    ),
    hints=(
        "Dots in place of slashes, `layer.` in place of `layer_`.",
        "Only the last part changes otherwise: kernel and gamma become weight, beta becomes bias.",
        "The three tables end in `_embeddings`: add `.weight`. Kernels alone are transposed.",
    ),
    solution="""def answer(name):
    ours = name.removeprefix("bert/").replace("layer_", "layer/").replace("/", ".")
    for theirs, mine in ((".kernel", ".weight"), (".gamma", ".weight"), (".beta", ".bias")):
        ours = ours.replace(theirs, mine)
    if ours.endswith("_embeddings"):
        ours += ".weight"
    return ours, name.endswith("/kernel")""",
    passed="A dozen rules like these carry over a hundred million numbers.",
)

_OVERFLOWS = (
    ([False, False, False, False, False], 1024.0, 2),
    ([True, True, False, False, False], 65536.0, 3),
    ([False, True, False, False, True, False], 512.0, 2),
    ([True, False, False, True, False, False, False, False], 16.0, 3),
)


def _scales(overflows: list[bool], scale: float, interval: int, *, reset: bool = True) -> list:
    found, calm = [], 0
    for overflow in overflows:
        if overflow:
            scale, calm = scale / 2, 0 if reset else calm
        else:
            calm += 1
            if calm == interval:
                scale, calm = scale * 2, 0
        found.append(scale)
    return found


def _check_scale(answer: Any) -> str | None:
    for overflows, start, interval in _OVERFLOWS:
        right = _scales(overflows, start, interval)
        found = [float(value) for value in answer(list(overflows), start, interval)]
        if found == right:
            continue
        said = "".join("x" if overflow else "." for overflow in overflows)
        case = f"For steps {said} (x overflows), scale {start:g}, interval {interval}"
        if len(found) == len(right) + 1 and found[1:] == right:
            return f"{case}: leave out the scale at the start; give the one after each step."
        if len(found) != len(right):
            return f"{case} it gives {len(found)} numbers; give the scale after every step."
        if found == [start, *right[:-1]]:
            return f"{case} you give the scale before each step; give the one after it."
        if found == _scales(overflows, start, interval, reset=False):
            return (
                f"{case} it gives {found}. An overflow starts the count of calm steps anew: only "
                "steps in a row without one make the scale grow."
            )
        if all(a >= start for a in found) and any(overflows):
            return f"{case} your scale never falls; an overflow halves it."
        if all(a >= b for a, b in itertools.pairwise([start, *found])):
            return f"{case} your scale never grows; after {interval} calm steps it doubles."
        return f"{case} it should be {right}, and yours is {found}."
    return None


q3 = Question(
    id="17.3",
    title="the loss scale",
    check=_check_scale,
    first_step=(
        "start with `scales, calm = [], 0`, then loop: `for overflow in overflows:`; "
        "`calm` counts the steps in a row without overflow."
    ),
    hints=(
        "If the step overflowed: halve the scale and set `calm` to 0.",
        "Otherwise add 1 to `calm`; when it reaches `interval`, double the scale and set it to 0.",
    ),
    solution="""def answer(overflows, scale, interval):
    scales, calm = [], 0
    for overflow in overflows:
        if overflow:
            scale, calm = scale / 2, 0
        else:
            calm += 1
            if calm == interval:
                scale, calm = scale * 2, 0
        scales.append(scale)
    return scales""",
    passed="This is `GradScaler.update`: it looks for the largest scale that does not overflow.",
)


def _check_lamb(answer: Any) -> str | None:
    generator = torch.Generator().manual_seed(17)
    for shape in ((3,), (4, 6)):
        w = 3 * torch.randn(shape, generator=generator)
        g = torch.randn(shape, generator=generator)
        lr, weight_decay = 0.1, 0.5
        kept = w.clone()
        u = g.sign() + weight_decay * w
        right = w - lr * w.norm() / u.norm() * u
        found = answer(w.clone(), g, lr, weight_decay)
        if not isinstance(found, torch.Tensor) or found.shape != right.shape:
            return f"Return the new weights, a tensor of shape {tuple(shape)} here."
        if torch.allclose(found, right, atol=1e-5):
            continue
        plain = g.sign()
        for wrong, mistake in (
            (kept, "Those are the old weights. Subtract the step."),
            (w + lr * w.norm() / u.norm() * u, "You went up the slope: subtract the step."),
            (w - lr * u, "That is AdamW's step. LAMB gives it a length: times |w| / |u|."),
            (
                w - lr * u.norm() / w.norm() * u,
                "The ratio is upside down: the larger the weights, the larger the step.",
            ),
            (
                w - lr * (w.norm() / plain.norm() * plain + weight_decay * w),
                "Weight decay belongs to u before |u| is taken; you added it afterwards.",
            ),
            (
                w - lr * w.norm() / plain.norm() * plain,
                "Weight decay is missing: u = sign(g) + weight_decay * w.",
            ),
            (
                w - lr * w.norm() / (g + weight_decay * w).norm() * (g + weight_decay * w),
                "You took the gradient itself. In its first step Adam divides it by its own size: "
                "sign(g) is left.",
            ),
            (w - lr * w.abs() / u.abs() * u, "The ratio is one number for the whole tensor."),
        ):
            if torch.allclose(found, wrong, atol=1e-5):
                return mistake
        return "Other weights were expected. u = sign(g) + weight_decay * w, then w - lr |w|/|u| u."
    return None


q4 = Question(
    id="17.4",
    title="the first step of LAMB",
    check=_check_lamb,
    first_step="write `u = g.sign() + weight_decay * w`: Adam's first step, and weight decay.",
    hints=(
        "The ratio is `w.norm() / u.norm()`: one number, Euclidean norms over the whole tensor.",
        "The new weights are w minus learning rate times ratio times u.",
    ),
    solution="""def answer(w, g, lr, weight_decay):
    u = g.sign() + weight_decay * w
    return w - lr * w.norm() / u.norm() * u""",
    passed="However large or small the gradient: the tensor moves by lr times its own length.",
)
