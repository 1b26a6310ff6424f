"""What a training step takes, measured: memory by kind, and time beside other ways to do it.

Memory is followed tensor by tensor, from its making to its end. torch has a tracker of its own
(``torch.distributed._tools.mem_tracker``). It was left because it refuses frozen weights and sparse
gradients, takes two seconds to import, and counted up to 1.3 % more than torch's allocator had
handed out in a step of BERT; this one agrees with the allocator to the byte, see its tests. Time
is reported as a ratio within one run: the same machine is several times faster in one minute than
in the next, but ways that take turns share those minutes.
"""

import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from helpers.errors import InvalidValue, unknown_name
from helpers.models import count_parameters

KINDS = ("parameters", "optimizer", "gradients", "activations", "temporary")
_PLAIN = (Tensor, nn.Parameter, FakeTensor)


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
    Raises InvalidValue if ``step`` leaves the model untouched.
    """
    for _ in range(warm_up):
        step()
    recorder = _Recorder(model, optimizer)
    handles = recorder.follow(model)
    resize = mock.patch.object(torch.UntypedStorage, "resize_", recorder.resizing())
    try:
        with resize, recorder:
            step()
        recorder.write_down()  # how the step ends, which no operation may show
    finally:
        for handle in handles:
            handle.remove()
    if not recorder.called:
        raise InvalidValue("step() never called the model; give the model that it trains.")
    columns = np.array(recorder.snapshots, dtype=np.int64).T
    return StepMemory(dict(zip(KINDS, columns, strict=True)), tuple(recorder.places))


def blocks_of(model: nn.Module) -> Sequence[nn.Module]:
    """The layers of a transformer: the list of modules that holds most parameters; () without."""
    lists: list[Any] = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    return max(lists, key=count_parameters, default=())


@dataclass
class _Block:
    """A piece of memory: its bytes, what it is for, and a reference that notices its end."""

    size: int
    kind: str
    end: weakref.ref


class _Recorder(TorchDispatchMode):
    """Sees every operation, and keeps an account of the memory behind what it returns."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        super().__init__()
        self.place, self.called, self.in_layer = "before the model", False, False
        self.in_use = dict.fromkeys(KINDS, 0)
        self.blocks: dict[int, _Block] = {}  # by the id of the storage, while that lives
        self.snapshots: list[tuple[int, ...]] = []
        self.places: list[str] = []
        state = optimizer.state.values() if optimizer else ()
        self.count(tree_leaves([dict(values) for values in state]), "optimizer")
        self.count([p.grad for p in model.parameters()], "gradients")
        self.count([*model.parameters(), *model.buffers()], "parameters")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(kind not in _PLAIN for kind in types):
            return NotImplemented  # a sharded tensor: it comes again as its parts
        result = func(*args, **kwargs or {})
        if not _is_view(func):
            self.count(tree_leaves(result))
        self.write_down()
        return result

    def write_down(self) -> None:
        self.snapshots.append(tuple(self.in_use.values()))
        self.places.append(self.place)

    def count(self, values: Iterable[Any], kind: str | None = None) -> None:
        """Enter the memory of new tensors; kind: what it is for, of known ones too."""
        for storage in _storages(values):
            key = id(storage)
            if key not in self.blocks:
                end = weakref.ref(storage, partial(self.forget, key))
                self.blocks[key] = _Block(0, kind or self.kind(), end)
                self.resize(key, storage.nbytes())
            elif kind:
                block = self.blocks[key]
                self.in_use[block.kind] -= block.size
                self.in_use[kind] += block.size
                block.kind = kind

    def kind(self) -> str:
        """What a tensor made now is for."""
        if self.place == "update":
            return "optimizer"
        again = self.in_layer  # checkpointing runs a layer's forward pass once more
        return "temporary" if self.place.startswith("backward") and not again else "activations"

    def resize(self, key: int, size: int) -> None:
        if block := self.blocks.get(key):
            self.in_use[block.kind] += size - block.size
            block.size = size

    def forget(self, key: int, _: Any) -> None:
        self.resize(key, 0)
        del self.blocks[key]

    def resizing(self) -> Callable[[torch.UntypedStorage, int], Any]:
        """A storage's own ``resize_`` with an entry in the account: sharded training lets go of
        gathered weights by it."""
        original = torch.UntypedStorage.resize_

        def resize_(storage: torch.UntypedStorage, size: int) -> Any:
            self.resize(id(storage), size)
            return original(storage, size)

        return resize_

    def follow(self, model: nn.Module) -> list[Any]:
        """Keep ``place`` up to date, by hooks on the model's layers and on their outputs, whose
        gradients arrive just before a layer's own backward pass."""
        layers = blocks_of(model)
        before, after = ("embeddings", "head") if layers else ("model", "model")

        def go(place: str, *_: Any) -> None:
            self.place = place

        def on_gradient(values: Any, place: str) -> None:
            for tensor in _direct_tensors(values):
                if tensor.requires_grad:
                    tensor.register_hook(partial(go, place))

        def before_any(module: nn.Module, inputs: Any) -> None:
            if module is model:
                self.called, self.place = True, f"forward {before}"

        def before_layer(number: int, layer: nn.Module, inputs: Any) -> None:
            self.in_layer = True
            again = self.place.startswith("backward")  # checkpointing
            self.place = f"{'backward' if again else 'forward'} layer {number}"
            if number == 1 and not again:
                on_gradient(inputs, f"backward {before}")

        def after_layer(number: int, layer: nn.Module, inputs: Any, output: Any) -> None:
            self.in_layer = False
            if self.place.startswith("forward"):
                on_gradient(output, f"backward layer {number}")
                if number == len(layers):
                    self.place = f"forward {after}"

        handles: list[Any] = [
            register_module_forward_pre_hook(before_any),
            model.register_forward_hook(lambda *a: on_gradient(a[-1], f"backward {after}")),
            register_optimizer_step_pre_hook(partial(go, "update")),
        ]
        for parameter in model.parameters():
            if parameter.requires_grad:
                hook = parameter.register_post_accumulate_grad_hook
                handles.append(hook(lambda p: self.count([p.grad], "gradients")))
        for number, layer in enumerate(layers, 1):
            handles.append(layer.register_forward_pre_hook(partial(before_layer, number)))
            # Checkpointing may leave a layer as soon as it has what it needs.
            hook = partial(after_layer, number)
            handles.append(layer.register_forward_hook(hook, always_call=True))
        return handles


@lru_cache(maxsize=2048)
def _is_view(func: Any) -> bool:
    """Whether an operation returns memory that it was given."""
    return any(returned.alias_info for returned in func._schema.returns)


def _storages(values: Iterable[Any]) -> Iterable[torch.UntypedStorage]:
    for value in values:
        if isinstance(value, Tensor):
            local = value.to_local() if hasattr(value, "to_local") else value  # if it is sharded
            sparse = local.layout is torch.sparse_coo
            for part in (local._indices(), local._values()) if sparse else (local,):
                yield part.untyped_storage()


def _direct_tensors(values: Any) -> list[Tensor]:
    """The tensors of a module's inputs or output: a tensor, a tuple or a ModelOutput of them."""
    values = values.values() if isinstance(values, Mapping) else values
    values = [values] if isinstance(values, Tensor) else values
    return [value for value in values if isinstance(value, Tensor)]


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
        pairs = zip(self._of(way), self._of(to), strict=True)
        return median(one / other for one, other in pairs)

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
