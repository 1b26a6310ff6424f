"""Does the graphics card compute what the CPU computes, how fast in which precision, and in as much
memory as planned? ``check_gpu()``, behind ``python -m helpers doctor --gpu``.

Every comparison is a plain function of numbers, and runs on any two devices.
"""

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn

from helpers import hardware, models, runtime
from helpers.batches import encode
from helpers.cli.doctor import Check
from helpers.errors import InvalidValue
from helpers.hardware import gpus
from helpers.training.steps import move

# Largest relative error of a loss, and of any weight's gradient, that rounding explains. fp32 is
# exact to 2**-24 a product, fp16 to 2**-11, bf16 to 2**-8; errors add up over the layers.
TOLERANCES = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1}
NEGLIGIBLE = 1e-2  # of the largest gradient's norm: what is smaller is compared with that
MEMORY_TOLERANCE = 0.15
FAST_ENOUGH = 0.8  # of the fastest precision
STEPS, BATCH, LENGTH = 10, 32, 128
_TEXTS = (
    ("The minister resigned after the vote, and the opposition asked for an election.", 0),
    ("Shares in the bank fell by a fifth when it warned of losses.", 1),
    ("She scored twice in the last five minutes to win the cup.", 2),
    ("The film opens slowly.", 1),
    ("A new phone will read its owner's pulse, the company says, and sell for less.", 0),
    ("No.", 2),
)
_LABELS = ("first", "second", "third")


@dataclass(frozen=True)
class Gradients:
    """loss: of one batch, in nats. weights: the gradient of each trained weight, float32, on the
    CPU."""

    loss: float
    weights: Mapping[str, Tensor]


@dataclass(frozen=True)
class Agreement:
    """How far two computations are apart. loss_error: relative. gradient_error: the norm of the
    difference relative to the gradient's norm, of the weight where it is largest, ``worst``."""

    loss_error: float
    gradient_error: float
    worst: str
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether both errors are within the tolerance; what is not a number is not."""
        return self.loss_error <= self.tolerance and self.gradient_error <= self.tolerance


def gradients(
    model: nn.Module, batch: Mapping[str, Tensor], *, device: str, precision: str = "fp32"
) -> Gradients:
    """Loss and gradients of ``model`` (in eval mode, so that nothing is random) on ``device``, the
    matrix products in ``precision``; fp16 with a scaled loss. The model ends on that device."""
    model.to(device).eval()
    model.zero_grad(set_to_none=True)
    scale = 2.0**10 if precision == "fp16" else 1.0
    with _autocast(device, precision):
        loss = model(**move(dict(batch), torch.device(device))).loss
    (loss * scale).backward()
    found = {
        name: weight.grad.detach().float().cpu() / scale
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }
    model.zero_grad(set_to_none=True)
    return Gradients(loss.item(), found)


def compare(reference: Gradients, found: Gradients, *, tolerance: float) -> Agreement:
    """``found`` against ``reference``, weight by weight. The norm of a difference is divided by
    that of the reference, or by NEGLIGIBLE times the largest norm of all where it is smaller
    still: the gradient of a key's bias is zero but for rounding.

    Raises InvalidValue if the two are of different weights.
    """
    if reference.weights.keys() != found.weights.keys():
        apart = sorted(reference.weights.keys() ^ found.weights.keys())
        raise InvalidValue(f"only one of the two has gradients of {', '.join(apart[:3])}.")
    norms = {name: float(gradient.norm()) for name, gradient in reference.weights.items()}
    least = NEGLIGIBLE * max(norms.values())
    errors = {}
    for name, gradient in reference.weights.items():
        error = float((found.weights[name] - gradient).norm()) / max(norms[name], least)
        errors[name] = error if isfinite(error) else inf
    worst = max(errors, key=errors.__getitem__)
    loss_error = abs(found.loss - reference.loss) / abs(reference.loss)
    return Agreement(loss_error, errors[worst], worst, tolerance)


def fixed_batch() -> tuple[nn.Module, dict[str, Tensor]]:
    """The course's encoder under a head of three classes, and six short texts for it."""
    texts, labels = zip(*_TEXTS, strict=True)
    tokens = encode(models.load_tokenizer("encoder"), texts, labels, label_count=len(_LABELS))
    return models.load_classifier("encoder", labels=_LABELS), tokens.batch(range(len(texts)))


def agreement_check(name: str, agreement: Agreement) -> Check:
    """The finding in words."""
    value = (
        f"loss within {agreement.loss_error:.1e}, every gradient within "
        f"{agreement.gradient_error:.1e} (allowed: {agreement.tolerance:.0e})"
    )
    if agreement.ok:
        return Check(name, True, value)
    return Check(
        name,
        False,
        f"{value}; worst: {agreement.worst}",
        "do not trust results of this device: set COURSE_PRECISION=fp32 and check again, update "
        "the driver and torch, and until it agrees train on the CPU",
    )


def precision_check(chosen: str, rates: Mapping[str, float]) -> Check:
    """Is the chosen precision a fast one? rates: FLOP/s of a matrix product in each precision."""
    shown = ", ".join(f"{name} {rate / 1e12:.1f} TFLOP/s" for name, rate in rates.items())
    fastest = max(rates, key=rates.__getitem__)
    if rates[chosen] >= FAST_ENOUGH * rates[fastest]:
        return Check("precision", True, f"{chosen}; {shown}")
    remedy = f"{fastest} is {rates[fastest] / rates[chosen]:.1f} times as fast here: "
    return Check("precision", True, f"{chosen}; {shown}", f"{remedy}COURSE_PRECISION={fastest}")


def memory_check(planned: int, measured: int) -> Check:
    """planned, measured: bytes at the peak of a training step."""
    value = f"{measured / 1e6:.0f} MB at the peak, {planned / 1e6:.0f} MB planned"
    if abs(planned / measured - 1) <= MEMORY_TOLERANCE:
        return Check("memory", True, value)
    advice = f"the plan is off by more than {MEMORY_TOLERANCE:.0%} here: keep a larger reserve"
    return Check("memory", True, value, advice)


def speed_check(examples: float, rate: float, title: str, precision: str) -> Check:
    """examples: texts a second. rate: FLOP/s reached. title: the card, as torch names it."""
    value = f"{examples:.0f} texts/s, {rate / 1e12:.2f} TFLOP/s in {precision}"
    card = known_card(title)
    if card and precision in card.flops:
        value += f", {rate / card.flops[precision]:.0%} of the card's peak"
    return Check("speed", True, value)


def known_card(title: str) -> gpus.Card | None:
    """The card that torch calls ``title``, such as "Tesla T4" or "NVIDIA A100-SXM4-40GB"."""
    words = title.lower().replace("-", " ").split()
    memory = [word for word in words if word.endswith("gb")]
    for card in gpus.CARDS.values():
        model, *size = card.name.rsplit("-", 1) if card.name.endswith("gb") else (card.name,)
        if set(model.split("-")) <= set(words) and (not size or not memory or size == memory):
            return card
    return None


def check_gpu() -> list[Check]:
    """All checks on the first CUDA device; without one a single finding that says so."""
    if not torch.cuda.is_available():
        why = "finds no CUDA device" if torch.version.cuda else "was built without CUDA"
        value = f"none of this was checked: torch {torch.__version__} {why}"
        return [Check("GPU", True, value, "nothing to do where there is no NVIDIA card")]
    title = torch.cuda.get_device_name(0)
    chosen = runtime.detect(device="cuda").precision
    model, batch = fixed_batch()
    reference = gradients(model, batch, device="cpu")
    checks = [Check("GPU", True, title)]
    for precision in dict.fromkeys(("fp32", chosen)):
        found = gradients(model, batch, device="cuda", precision=precision)
        agreement = compare(reference, found, tolerance=TOLERANCES[precision])
        checks.append(agreement_check(f"{precision} against the CPU", agreement))
    checks.append(precision_check(chosen, product_rates("cuda")))
    plan, seconds, peak = training_steps("cuda", precision=chosen)
    checks.append(speed_check(BATCH / seconds, plan.flops / seconds, title, chosen))
    checks.append(memory_check(plan.peak, peak))
    return checks


def product_rates(device: str, *, size: int = 4096, repeats: int = 10) -> dict[str, float]:
    """FLOP/s of a product of two square matrices in each precision."""
    rates = {}
    for name, dtype in (("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)):
        square = torch.randn(size, size, device=device, dtype=torch.float32).to(dtype)
        seconds = _seconds(lambda square=square: square @ square, device, repeats)
        rates[name] = 2 * size**3 / seconds
    return rates


def training_steps(device: str, *, precision: str) -> tuple[hardware.Plan, float, int]:
    """The plan of a step of BATCH texts of LENGTH tokens, the seconds that one takes, and the bytes
    at its peak (0 where the device does not count them)."""
    model = models.load_classifier("encoder", labels=_LABELS, dropout=0.0).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    scaler = torch.amp.GradScaler(device, enabled=precision == "fp16" and device == "cuda")
    ids = torch.randint(1000, 20000, (BATCH, LENGTH), device=device)
    labels = torch.arange(BATCH, device=device) % len(_LABELS)

    def step() -> None:
        with _autocast(device, precision):
            output = model(input_ids=ids, labels=labels)
        scaler.scale(output.loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    kind = "cuda" if device == "cuda" else "cpu"
    plan = hardware.plan(
        "encoder", batch_size=BATCH, sequence_length=LENGTH, labels=len(_LABELS), dropout=0.0,
        precision=precision, device=kind,
    )  # fmt: skip
    step()
    if device != "cuda":
        return plan, _seconds(step, device, STEPS), 0
    torch.cuda.reset_peak_memory_stats()
    return plan, _seconds(step, device, STEPS), torch.cuda.max_memory_allocated()


def _autocast(device: str, precision: str) -> Any:
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast(device, dtype=dtypes[precision]) if precision in dtypes else nullcontext()


def _seconds(call: Any, device: str, repeats: int) -> float:
    """Of one call, after one that warms up; the clock waits for the GPU."""
    call()
    _wait(device)
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    _wait(device)
    return (time.perf_counter() - started) / repeats


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
