"""What a training step takes, measured: memory by kind, and time beside other ways to do it.

Memory comes from torch's own tracker, which follows every tensor from its making to its end and
knows what it is for. Time is told as a ratio within one run: the same machine is several times
faster in one minute than in the next, but two ways that take turns share their minutes.
"""

import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from helpers.errors import InvalidValue, unknown_name

# The course's names, in the order of a figure, and the tracker's.
_TRACKED = {
    "parameters": ("Parameter", "Buffer"),
    "optimizer": ("Optstate",),
    "gradients": ("Gradient",),
    "activations": ("Activation",),
    "temporary": ("Temp", "Other"),
}
KINDS = tuple(_TRACKED)


@dataclass(frozen=True)
class StepMemory:
    """The memory of one training step.

    timeline: for each of KINDS the bytes in use after every operation of the step, (operations,)
        int64. parameters: with buffers. optimizer: its state. activations: what the forward pass
        made (checkpointing: also what is made again). temporary: what the backward pass made
        that is not the gradient of a weight.
    """

    timeline: Mapping[str, np.ndarray]

    @property
    def total(self) -> np.ndarray:
        """Bytes of all kinds after every operation, (operations,)."""
        return np.sum(list(self.timeline.values()), axis=0)

    @property
    def peak(self) -> int:
        """The most bytes in use at once."""
        return int(self.total.max())

    def at_peak(self) -> dict[str, int]:
        """Bytes of each kind at the moment of the peak."""
        moment = int(self.total.argmax())
        return {kind: int(values[moment]) for kind, values in self.timeline.items()}

    def most(self, kind: str) -> int:
        """The most bytes of one kind; different kinds reach it at different moments."""
        return int(self.timeline[kind].max())


def step_memory(
    step: Callable[[], Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    warm_up: int = 1,
) -> StepMemory:
    """The memory of ``step()``: forward, backward, update and the clearing of gradients.

    step: may call the model several times (accumulation). Tensors made before it, such as the
        batch, are not counted, nor is what a fused operation uses inside.
    warm_up: steps taken first, untracked. The first step of AdamW makes its state, so its peak
        is another one; 0 shows it.
    Source: ``torch.distributed._tools.mem_tracker``. Raises InvalidValue if ``step`` leaves the
    model untouched, or the model is spread over several devices.
    """
    if warm_up < 0:
        raise InvalidValue(f"warm_up is {warm_up}; it must be at least 0.")
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) != 1:
        where = ", ".join(sorted(map(str, devices))) or "no device"
        raise InvalidValue(f"the model is on {where}; put it on one device first.")
    for _ in range(warm_up):
        step()
    (device,) = devices
    tracker, calls = _Recorder(device), []
    tracker.track_external(model, *([optimizer] if optimizer else []))

    def before_forward(module: nn.Module, inputs: Any) -> None:
        # The tracker takes one pass of the outermost module for all there is.
        if module is model:
            tracker.reset_mod_stats()
            calls.append(None)

    handle = register_module_forward_pre_hook(before_forward)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Module is None")
            with tracker:
                step()
    finally:
        handle.remove()
    if not calls:
        raise InvalidValue("step() never called the model; give the model that it trains.")
    return StepMemory(tracker.timeline())


class _Recorder(MemTracker):
    """A tracker that keeps what it knows after every operation, not at the peak alone."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.snapshots = device, []

    def _track_module_params_and_buffers(self, module, install_grad_hooks=True):
        # The tracker would hook into every gradient, and a frozen weight has none.
        for parameter in module.parameters():
            if not (parameter.requires_grad or parameter in self._param_to_grad_hook_handles):
                nothing = RemovableHandle(OrderedDict())
                self._param_to_grad_hook_handles[parameter] = (nothing, nothing)
        return super()._track_module_params_and_buffers(module, install_grad_hooks)

    def _track(self, reftype, t):
        for part in _parts(t):
            super()._track(reftype, part)

    def _update_and_maybe_create_winfos(self, t, reftype, update_existing=False):
        update = super()._update_and_maybe_create_winfos
        return set().union(*(update(part, reftype, update_existing) for part in _parts(t)))

    def _update_peak_stats(self, peak_state):
        pass  # a peak for every module is most of the tracker's time, and the timeline has the peak

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(func, types, args, kwargs)
        found = self.get_tracker_snapshot()[self.device]
        self.snapshots.append({getattr(kind, "value", kind): found[kind] for kind in found})
        return result

    def timeline(self) -> dict[str, np.ndarray]:
        return {
            kind: np.sum([[s[name] for s in self.snapshots] for name in names], axis=0)
            for kind, names in _TRACKED.items()
        }


def _parts(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A sparse tensor has no bytes of its own: its places and its values have."""
    is_sparse = tensor.layout is torch.sparse_coo
    return (tensor._indices(), tensor._values()) if is_sparse else (tensor,)


@dataclass(frozen=True)
class Timings:
    """Seconds of several ways to do the same, measured in turns.

    seconds: each way's repeats, in the order of the rounds. first: of each way's first call,
        compilation and whatever else happens once included; not among the repeats.
    """

    seconds: Mapping[str, list[float]]
    first: Mapping[str, float]

    def median(self, way: str) -> float:
        """Seconds, the median of the repeats."""
        return median(self._of(way))

    def ratio(self, way: str, to: str) -> float:
        """How many times as long ``way`` takes as ``to``: the median over rounds, so that what
        slows the machine for a whole round cancels."""
        return median(self._ratios(way, to))

    def ratio_range(self, way: str, to: str) -> tuple[float, float]:
        """The smallest and the largest ratio of any round."""
        ratios = self._ratios(way, to)
        return min(ratios), max(ratios)

    def _ratios(self, way: str, to: str) -> list[float]:
        return [one / other for one, other in zip(self._of(way), self._of(to), strict=True)]

    def _of(self, way: str) -> list[float]:
        if way not in self.seconds:
            raise unknown_name("way", way, self.seconds)
        return self.seconds[way]


def time_in_turns(ways: Mapping[str, Callable[[], Any]], *, repeats: int = 5) -> Timings:
    """Call every way once to warm up, then ``repeats`` rounds of all ways, each round starting
    with another one. On a GPU the clock waits until its work is done.

    Raises InvalidValue without ways, or for repeats below 1.
    """
    if not ways:
        raise InvalidValue("there is nothing to time; give at least one way.")
    if repeats < 1:
        raise InvalidValue(f"repeats is {repeats}; it must be at least 1.")
    names = list(ways)
    first = {name: _seconds(ways[name]) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(repeats):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            seconds[name].append(_seconds(ways[name]))
    return Timings(seconds, first)


def _seconds(call: Callable[[], Any]) -> float:
    _wait_for_gpu()
    started = time.perf_counter()
    call()
    _wait_for_gpu()
    return time.perf_counter() - started


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
