"""Graphics cards: which of them a plan fits, how long it takes there, and what that costs.

A card's figures are its maker's, for dense matrices (data sheets also print twice as much for
"sparse" ones). No program reaches them, so every time here comes with the share that is assumed or
was measured: the utilisation. Prices are not known here; give yours.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import isfinite
from typing import Any

from helpers.errors import InvalidValue, unknown_name
from helpers.hardware import planner
from helpers.hardware.measure import time_in_turns
from helpers.runtime import choose_precision

GB = 10**9
RESERVE = GB  # CUDA's context, the libraries' working memory, gaps between tensors: assumed


@dataclass(frozen=True)
class Card:
    """memory: bytes, the data sheet's GB as 10**9; a card itself reports a few percent more or
    less. bandwidth: bytes/s. flops: dense FLOP/s for "fp32" (outside tensor cores),
    and "tf32", "fp16" and "bf16" (in tensor cores, float32 sums) where the card has them.
    capability: CUDA compute capability (major, minor)."""

    name: str
    title: str
    memory: int
    bandwidth: float
    flops: dict[str, float]
    capability: tuple[int, int]

    @property
    def precision(self) -> str:
        """The precision that ``runtime`` would choose on it."""
        return choose_precision("cuda", compute_capability=self.capability)[0]

    def peak_flops(self, precision: str) -> float:
        """FLOP/s at most. Raises InvalidValue for a precision that the card has no units for."""
        if precision not in self.flops:
            raise InvalidValue(
                f"{self.title} has no units for {precision}; it computes in "
                f"{', '.join(self.flops)}. Take {self.precision}."
            )
        return self.flops[precision]


# name, title, GB, GB/s, compute capability, TFLOP/s in fp32, tf32, fp16, bf16. From NVIDIA's data
# sheets of Tesla T4, V100, A10, L4, A100 and H100 (SXM), and its white papers on GA102 and Ada.
_SHEETS = (
    ("t4", "T4", 16, 320, (7, 5), 8.1, None, 65, None),
    ("v100-16gb", "V100 PCIe", 16, 900, (7, 0), 14, None, 112, None),
    ("v100-32gb", "V100 SXM2", 32, 900, (7, 0), 15.7, None, 125, None),
    ("rtx-3090", "GeForce RTX 3090", 24, 936, (8, 6), 35.6, 35.6, 71, 71),
    ("rtx-4090", "GeForce RTX 4090", 24, 1008, (8, 9), 82.6, 82.6, 165.2, 165.2),
    ("a10", "A10", 24, 600, (8, 6), 31.2, 62.5, 125, 125),
    ("l4", "L4", 24, 300, (8, 9), 30.3, 60, 121, 121),
    ("a100-40gb", "A100 40 GB", 40, 1555, (8, 0), 19.5, 156, 312, 312),
    ("a100-80gb", "A100 80 GB", 80, 2039, (8, 0), 19.5, 156, 312, 312),
    ("h100", "H100", 80, 3350, (9, 0), 67, 494.7, 989.4, 989.4),
)
CARDS: dict[str, Card] = {
    name: Card(
        name,
        title,
        size * GB,
        bandwidth * 1e9,
        {
            precision: value * 1e12
            for precision, value in zip(("fp32", "tf32", "fp16", "bf16"), rates, strict=True)
            if value
        },
        capability,
    )
    for name, title, size, bandwidth, capability, *rates in _SHEETS
}


@dataclass(frozen=True)
class Fit:
    """Whether a plan runs on a card. spare: bytes, below 0 where it does not fit. reason: in
    words."""

    card: Card
    fits: bool
    spare: int
    reason: str


@dataclass(frozen=True)
class PlannedRun:
    """seconds: of the whole run. cost: in the price's currency; None without a price."""

    seconds: float
    cost: float | None


def get_card(name: str) -> Card:
    """The card ``name``; raises InvalidValue with the nearest names if it is unknown."""
    if name not in CARDS:
        raise unknown_name("card", name, CARDS)
    return CARDS[name]


def which_fits(plan: planner.Plan, cards: Iterable[Card] | None = None) -> tuple[Fit, ...]:
    """For each card (None: all of CARDS): does a training step of ``plan`` fit beside RESERVE? A
    card without units for the plan's precision doesn't fit."""
    found = []
    for card in CARDS.values() if cards is None else cards:
        spare = card.memory - plan.peak - RESERVE
        has_units = plan.settings.precision in card.flops
        reason = f"{abs(spare) / GB:.1f} GB {'short' if spare < 0 else 'to spare'}"
        if not has_units:
            reason = f"no {plan.settings.precision} units"
        found.append(Fit(card, spare >= 0 and has_units, spare, reason))
    return tuple(found)


def largest_batch(
    model: Any, card: Card, settings: planner.StepSettings | None = None, **changes: Any
) -> int:
    """The most texts that a step on ``card`` can take at once; 0 if not even one fits.

    settings, changes: as for ``planner.plan``, of which batch_size is found; device is "cuda".
    """
    changes["device"] = "cuda"

    def fits(size: int) -> bool:
        plan = planner.plan(model, settings, **changes, batch_size=size)
        return which_fits(plan, [card])[0].fits

    fitting, too_many = 0, 4
    while fits(too_many):
        fitting, too_many = too_many, 4 * too_many
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        if fits(middle):
            fitting = middle
        else:
            too_many = middle
    return fitting


def flops_per_second(step: Callable[[], Any], flops: int, *, repeats: int = 3) -> float:
    """The FLOP/s that this machine reaches with ``step()``, which does ``flops``: by the median of
    ``repeats`` calls after a first one."""
    return flops / time_in_turns({"step": step}, repeats=repeats).median("step")


def planned_run(
    flops: int,
    steps: int,
    *,
    rate: float,
    price_per_hour: float | None = None,
    seconds_per_step: float = 0.0,
) -> PlannedRun:
    """A whole run of ``flops`` in ``steps`` steps.

    rate: FLOP/s that are really reached, measured by ``flops_per_second`` or a card's peak times
    a share of it: training of large models in large batches reaches 0.3 to 0.5 of a card; a small
    model, which the card finishes before the next call reaches it, much less. price_per_hour:
    yours, in any currency. seconds_per_step: what every step takes beside its products.
    Raises InvalidValue unless the rate is above 0 and the price at least 0.
    """
    if not (isfinite(rate) and rate > 0):
        raise InvalidValue(f"rate is {rate}; it must be above 0.")
    seconds = flops / rate + steps * seconds_per_step
    if price_per_hour is None:
        return PlannedRun(seconds, None)
    if not (isfinite(price_per_hour) and price_per_hour >= 0):
        raise InvalidValue(f"price_per_hour is {price_per_hour}; it must be at least 0.")
    return PlannedRun(seconds, seconds / 3600 * price_per_hour)
