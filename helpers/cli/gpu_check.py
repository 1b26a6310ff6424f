"""Does the GPU compute what the CPU computes, and train in as much memory as planned?
``check_gpu()``, behind ``python -m helpers doctor --gpu``.
"""

from collections.abc import Mapping
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn

from helpers import hardware, models, runtime
from helpers.batches import encode
from helpers.cli.doctor import Check
from helpers.hardware.measure import time_in_turns
from helpers.training.machine import Machine
from helpers.training.steps import move

# The largest relative error of the loss, and of any weight's gradient, that rounding explains. A
# product is exact to 2**-24 in fp32, 2**-11 in fp16, 2**-8 in bf16; errors add up over the layers.
TOLERANCES = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1}
MEMORY_TOLERANCE = 0.15
STEPS, BATCH, LENGTH = 10, 32, 128
_LABELS = ("first", "second", "third")
_TEXTS = (
    "The minister resigned after the vote, and the opposition asked for an election.",
    "Shares in the bank fell by a fifth when it warned of losses.",
    "No.",
)
Gradients = Mapping[str, Tensor]  # of each trained weight, float32 on the CPU


def check_gpu() -> list[Check]:
    """All checks on the first CUDA device; without one, a single finding that says so."""
    if not torch.cuda.is_available():
        why = "finds no CUDA device" if torch.version.cuda else "was built without CUDA"
        value = f"none of this was checked: torch {torch.__version__} {why}"
        return [Check("GPU", True, value, "nothing to do on a computer without an NVIDIA GPU")]
    chosen = runtime.detect(device="cuda").precision
    model, batch = fixed_batch()
    reference = loss_and_gradients(model, batch, device="cpu")
    checks = [Check("GPU", True, torch.cuda.get_device_name(0))]
    for precision in dict.fromkeys(("fp32", chosen)):
        found = loss_and_gradients(model, batch, device="cuda", precision=precision)
        name = f"{precision} against the CPU"
        checks.append(compare(name, reference, found, tolerance=TOLERANCES[precision]))
    return [*checks, *training_checks("cuda", chosen)]


def fixed_batch() -> tuple[nn.Module, dict[str, Tensor]]:
    """The course's encoder with a head of three classes, and a batch of three texts for it."""
    tokens = encode(models.load_tokenizer("encoder"), _TEXTS, (0, 1, 2), label_count=3)
    return models.load_classifier("encoder", labels=_LABELS), tokens.batch(range(len(_TEXTS)))


def loss_and_gradients(
    model: nn.Module, batch: Mapping[str, Tensor], *, device: str, precision: str = "fp32"
) -> tuple[float, Gradients]:
    """Loss in nats and gradients of ``model`` (in eval mode, so nothing is random) on ``device``,
    with the matrix products in ``precision``. The model stays on that device."""
    machine = Machine(torch.device(device), precision)
    model.to(device).eval()
    model.zero_grad(set_to_none=True)
    scale = 2.0**10 if precision == "fp16" else 1.0  # small gradients underflow in fp16
    with machine.autocast():
        loss = model(**move(dict(batch), machine.device)).loss
    (loss * scale).backward()
    weights = {name: w.grad for name, w in model.named_parameters() if w.grad is not None}
    return loss.item(), {name: g.detach().float().cpu() / scale for name, g in weights.items()}


def compare(
    name: str, reference: tuple[float, Gradients], found: tuple[float, Gradients], tolerance: float
) -> Check:
    """Passes if the loss and every weight's gradient are within ``tolerance``, relative to the
    reference; a gradient below a hundredth of the largest is measured against that hundredth, for
    some (a key's bias) are zero but for rounding."""
    (loss, gradients), (found_loss, found_gradients) = reference, found
    least = 0.01 * max(float(gradient.norm()) for gradient in gradients.values())
    errors = {"loss": abs(found_loss - loss) / abs(loss)} | {
        weight: float((found_gradients[weight] - g).norm()) / max(float(g.norm()), least)
        for weight, g in gradients.items()
    }
    worst = max(errors, key=lambda part: errors[part] if isfinite(errors[part]) else inf)
    value = f"largest error {errors[worst]:.1e} (allowed: {tolerance:.0e}), in {worst}"
    if errors[worst] <= tolerance:  # False for nan
        return Check(name, True, value)
    remedy = (
        "do not trust results of this device: set COURSE_PRECISION=fp32 and check again, update "
        "the driver and torch, and until they agree train on the CPU"
    )
    return Check(name, False, value, remedy)


def training_checks(device: str, precision: str) -> list[Check]:
    """The speed of training steps of BATCH texts of LENGTH tokens, and on CUDA their peak memory
    against the plan."""
    before = torch.cuda.memory_allocated() if device == "cuda" else 0  # by the compared model
    model: nn.Module = models.load_classifier("encoder", labels=_LABELS, dropout=0.0)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")
    ids = torch.randint(1000, 20000, (BATCH, LENGTH), device=device)
    labels = torch.arange(BATCH, device=device) % len(_LABELS)

    def step() -> None:
        with Machine(torch.device(device), precision).autocast():
            loss = model(input_ids=ids, labels=labels).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = time_in_turns({"step": step}, repeats=STEPS).median("step")
    shape: dict[str, Any] = {"batch_size": BATCH, "sequence_length": LENGTH, "labels": len(_LABELS)}
    plan = hardware.plan("encoder", **shape, dropout=0.0, precision=precision, device=device)
    rate = f"{BATCH / seconds:.0f} texts/s, {plan.flops / seconds / 1e12:.2f} TFLOP/s"
    speed = Check("speed", True, f"{rate} in {precision}")
    if device == "cpu":  # which does not count its memory
        return [speed]
    return [speed, memory_check(plan.peak, torch.cuda.max_memory_allocated() - before)]


def memory_check(planned: int, measured: int) -> Check:
    """planned, measured: bytes at the peak of a training step."""
    value = f"{measured / 1e6:.0f} MB at the peak, {planned / 1e6:.0f} MB planned"
    if abs(planned / measured - 1) <= MEMORY_TOLERANCE:
        return Check("memory", True, value)
    advice = f"the plan is off by more than {MEMORY_TOLERANCE:.0%} here: keep a larger reserve"
    return Check("memory", True, value, advice)
