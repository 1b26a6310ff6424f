"""What a training step takes, measured: memory by kind, and time beside other ways to do it.

Memory comes from torch's own tracker, which follows every tensor from its making to its end and
knows what it is for. Time is reported as a ratio within one run: the same machine is several times
faster in one minute than in the next, but ways that take turns share those minutes.
"""

import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from helpers.errors import InvalidValue, unknown_name
from helpers.models import count_parameters

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
    places: the part of the step that each operation belongs to, such as "forward layer 3",
        "backward head" and "update"; (operations,).
    """

    timeline: Mapping[str, np.ndarray]
    places: tuple[str, ...]

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
    The tensors may be fake ones (``torch._subclasses.FakeTensorMode``), which have sizes but no
    data; that is how ``planner`` measures a model that does not fit in memory.
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
    recorder = _Recorder(device)
    recorder.track_external(model, *([optimizer] if optimizer else []))
    handles = recorder.follow(model)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Module is None")
            with recorder:
                step()
    finally:
        for handle in handles:
            handle.remove()
    if not recorder.called:
        raise InvalidValue("step() never called the model; give the model that it trains.")
    return StepMemory(recorder.timeline(), tuple(recorder.places))


def blocks_of(model: nn.Module) -> Sequence[nn.Module]:
    """The layers of a transformer: the list of modules that holds most parameters; () without."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=count_parameters, default=())


class _Recorder(MemTracker):
    """torch's tracker, with a record of every operation instead of the peak alone.

    The methods that start with _track and _update are the tracker's own; they are replaced where it
    refuses a model of the course: frozen weights, and sparse gradients.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.place, self.called = device, "before the model", False
        self.snapshots: list[dict[str, int]] = []
        self.places: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(func, types, args, kwargs)
        found = self.get_tracker_snapshot()[self.device]
        self.snapshots.append({getattr(kind, "value", kind): found[kind] for kind in found})
        self.places.append(self.place)
        return result

    def timeline(self) -> dict[str, np.ndarray]:
        return {
            kind: np.sum([[s[name] for s in self.snapshots] for name in names], axis=0)
            for kind, names in _TRACKED.items()
        }

    def follow(self, model: nn.Module) -> list[RemovableHandle]:
        """Keep ``place`` up to date, by hooks on the model's blocks and on their outputs, whose
        gradients arrive just before a block's own backward pass."""
        blocks = blocks_of(model)
        before, after = ("embeddings", "head") if blocks else ("model", "model")

        def go(place: str, *_: Any) -> None:
            self.place = place

        def on_gradient(values: Any, place: str) -> None:
            for tensor in _direct_tensors(values):
                if tensor.requires_grad:
                    tensor.register_hook(partial(go, place))

        def before_any(module: nn.Module, inputs: Any) -> None:
            if module is model:
                self.reset_mod_stats()  # it takes one pass of the outermost module for all there is
                self.called, self.place = True, f"forward {before}"

        def before_block(number: int, block: nn.Module, inputs: Any) -> None:
            again = self.place.startswith("backward")  # checkpointing
            self.place = f"{'backward' if again else 'forward'} layer {number}"
            if number == 1 and not again:
                on_gradient(inputs, f"backward {before}")

        def after_block(number: int, block: nn.Module, inputs: Any, output: Any) -> None:
            if self.place.startswith("forward"):
                on_gradient(output, f"backward layer {number}")
                if number == len(blocks):
                    self.place = f"forward {after}"

        handles = [
            register_module_forward_pre_hook(before_any),
            model.register_forward_hook(lambda *a: on_gradient(a[-1], f"backward {after}")),
            register_optimizer_step_pre_hook(partial(go, "update")),
        ]
        for number, block in enumerate(blocks, 1):
            handles.append(block.register_forward_pre_hook(partial(before_block, number)))
            handles.append(block.register_forward_hook(partial(after_block, number)))
        return handles

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
        pass  # a peak for every module takes two thirds of the time; the timeline has the peak


def _parts(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A sparse tensor has no bytes of its own: its places and its values have."""
    is_sparse = tensor.layout is torch.sparse_coo
    return (tensor._indices(), tensor._values()) if is_sparse else (tensor,)


def _direct_tensors(values: Any) -> list[torch.Tensor]:
    """The tensors of a module's inputs or output: a tensor, a tuple or a ModelOutput of them."""
    values = values.values() if isinstance(values, Mapping) else values
    values = [values] if isinstance(values, torch.Tensor) else values
    return [value for value in values if isinstance(value, torch.Tensor)]


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
