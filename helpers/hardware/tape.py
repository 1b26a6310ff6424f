"""A forward pass on paper: its operations in order, each with what it makes, what it keeps for the
backward pass and the multiplications it does. Nothing is computed.

The rules are those of torch's autograd: a linear layer keeps its input if its weight is trained, a
normalisation its input, an activation function what its derivative needs. ``replay`` runs a tape
forwards and backwards and counts the bytes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

WIDTHS = {"fp32": 4, "bf16": 2, "fp16": 2}  # bytes of one number


class Storage:
    """Memory that is freed as a whole; several values can be views of it."""

    def __init__(self, size: int) -> None:
        self.size = size


@dataclass(frozen=True, eq=False)
class Value:
    """``count`` numbers of ``width`` bytes each. trained: whether a gradient flows through."""

    count: int
    width: int
    trained: bool
    storage: Storage

    @property
    def size(self) -> int:
        return self.count * self.width


@dataclass(frozen=True)
class Weight:
    """``count`` numbers of a parameter, ``width`` bytes each."""

    name: str
    count: int
    width: int
    trained: bool

    @property
    def size(self) -> int:
        return self.count * self.width


@dataclass(frozen=True, eq=False)
class Operation:
    """One step of the forward pass.

    keeps: storages that its derivative needs. makes: storages that are new. passes: its gradient
    is handed on as it is, without new memory. flops, backward_flops: multiply-add = 2.
    """

    place: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    keeps: tuple[Storage, ...] = ()
    makes: tuple[Storage, ...] = ()
    weights: tuple[Weight, ...] = ()
    passes: bool = False
    backward_scratch: int = 0
    flops: int = 0
    backward_flops: int = 0
    checkpoint: str | None = None


@dataclass
class Tape:
    """The operations of one forward pass. autocast: bytes of a number inside matrix products, or
    None where they are done in the weights' own precision. weight_width: bytes of a stored weight.
    cuda: the kernels of a GPU (one byte a dropped number; attention under dropout in one piece)."""

    autocast: int | None = None
    weight_width: int = 4
    cuda: bool = False
    place: str = "embeddings"
    operations: list[Operation] = field(default_factory=list)
    weights: dict[str, Weight] = field(default_factory=dict)
    outputs: set[Storage] = field(default_factory=set)  # the caller holds them to the very end
    product_flops: int = 0  # of the linear layers, forwards
    cached: set[Storage] = field(default_factory=set)  # held until the forward pass is over
    _checkpoint: str | None = None
    _casts: dict[str, Value] = field(default_factory=dict)

    @contextmanager
    def at(self, place: str, *, checkpoint: bool = False) -> Iterator[None]:
        """Operations written inside belong to ``place`` and, with checkpoint, are done again in
        the backward pass from the inputs of the place alone."""
        self.place, self._checkpoint = place, place if checkpoint else None
        yield
        self._checkpoint = None

    def weight(self, name: str, count: int, trained: bool, width: int | None = None) -> Weight:
        """A weight of this place; the same full name is the same weight."""
        found = Weight(name, count, width or self.weight_width, trained)
        return self.weights.setdefault(name, found)

    def record(
        self,
        inputs: Sequence[Value],
        counts: Sequence[int],
        width: int,
        *,
        keeps: Sequence[Storage] = (),
        keeps_output: bool = False,
        extra: int = 0,
        view_of: Value | None = None,
        weights: Sequence[Weight] = (),
        **settings: int | bool,
    ) -> tuple[Value, ...]:
        """Write one operation with outputs of ``counts`` numbers. extra: bytes that it makes and
        keeps beside (statistics, masks). Nothing is kept where no gradient flows."""
        trained = any(v.trained for v in inputs) or any(w.trained for w in weights)
        made = [] if view_of else [Storage(count * width) for count in counts]
        homes = [view_of.storage] * len(counts) if view_of else made
        outputs = tuple(
            Value(c, width, trained, home) for c, home in zip(counts, homes, strict=True)
        )
        beside = [Storage(extra)] if extra and trained else []
        kept = [*keeps, *(homes if keeps_output else []), *beside] if trained else []
        self.operations.append(
            Operation(
                self.place,
                tuple(inputs),
                outputs,
                tuple(dict.fromkeys(kept)),
                (*made, *beside),
                tuple(w for w in weights if w.trained),
                checkpoint=self._checkpoint,
                **settings,
            )
        )
        return outputs

    def embedding(self, rows: int, name: str, entries: int, size: int, trained: bool) -> Value:
        """``rows`` looked-up vectors; the gradient is a table of all entries."""
        table = self.weight(name, entries * size, trained)
        return self.record((), [rows * size], table.width, weights=[table])[0]

    def linear(
        self,
        x: Value,
        name: str,
        into: int,
        out: int,
        *,
        bias: bool,
        trained: bool,
        tied: str | None = None,
        width: int | None = None,
    ) -> Value:
        """x W^T + b. tied: the full name of the weight that it shares. width: see ``weight``."""
        weight = self.weight(tied or f"{name}.weight", into * out, trained, width)
        biases = [self.weight(f"{name}.bias", out, trained, width)] if bias else []
        keeps, scratch, width = [], 0, weight.width
        if self.autocast and self.autocast < width:
            x, width = self.cast(x, self.autocast), self.autocast
            copy = self._cast_weight(weight, width)
            keeps += [copy.storage] if x.trained else []
            scratch = weight.count * width if weight.trained else 0
            inputs = (x, copy)
        else:
            x = self.cast(x, width)
            inputs = (x,)
        keeps += [x.storage] if weight.trained else []
        flops = 2 * x.count * out
        self.product_flops += flops
        return self.record(
            inputs, [x.count // into * out], width, keeps=keeps, weights=[weight, *biases],
            flops=flops, backward_flops=flops * (x.trained + weight.trained),
            backward_scratch=scratch,
        )[0]  # fmt: skip

    def _cast_weight(self, weight: Weight, width: int) -> Value:
        """Autocast's copy. That of a trained weight is kept for all its uses in one pass."""
        if weight.name in self._casts and self._checkpoint is None:
            return self._casts[weight.name]
        storage = Storage(weight.count * width)
        copy = Value(weight.count, width, False, storage)
        self.operations.append(
            Operation(self.place, (), (copy,), makes=(storage,), checkpoint=self._checkpoint)
        )
        if weight.trained:
            self._casts[weight.name] = copy
            self.cached.add(storage)
        return copy

    def cast(self, x: Value, width: int) -> Value:
        """A copy in another width; x itself where it has that width."""
        return x if x.width == width else self.record([x], [x.count], width)[0]

    def norm(self, x: Value, name: str, size: int, *, trained: bool) -> Value:
        """Layer normalisation, in float32 under autocast."""
        weights = [self.weight(f"{name}.{part}", size, trained) for part in ("weight", "bias")]
        statistics = 2 * 4 * (x.count // size)
        return self.record(
            [x], [x.count], x.width, keeps=[x.storage], extra=statistics, weights=weights
        )[0]

    def rms_norm(self, x: Value, name: str, size: int, *, trained: bool) -> Value:
        """transformers' LlamaRMSNorm: squares, their mean, the root, two products; in float32."""
        weight, given = self.weight(f"{name}.weight", size, trained), x.width
        x, rows = self.cast(x, 4), x.count // size
        (square,) = self.record([x], [x.count], 4, keeps=[x.storage])
        (mean,) = self.record([square], [rows], 4)
        (root,) = self.record([mean], [rows], 4, keeps_output=True)
        (normed,) = self.record([x, root], [x.count], 4, keeps=[x.storage, root.storage])
        normed = self.cast(normed, given)
        keeps = [normed.storage] if trained else []
        return self.record(
            [normed], [x.count], max(given, weight.width), keeps=keeps, weights=[weight]
        )[0]

    def add(self, x: Value, y: Value) -> Value:
        """x + y, y the smaller one where they are not of one size; the wider precision wins."""
        return self.record([x, y], [x.count], max(x.width, y.width), passes=True)[0]

    def multiply(self, x: Value, y: Value) -> Value:
        return self.record([x, y], [x.count], x.width, keeps=[x.storage, y.storage])[0]

    def scale(self, x: Value) -> Value:
        """x times, or plus, a constant."""
        return self.record([x], [x.count], x.width)[0]

    def activation(self, x: Value, kind: str) -> Value:
        """ "gelu", "silu" and "relu" keep one tensor; "gelu_new" is written out and keeps more."""
        if kind != "gelu_new":
            return self.record([x], [x.count], x.width, keeps=[x.storage])[0]
        half = self.scale(x)
        (cube,) = self.record([x], [x.count], x.width, keeps=[x.storage])
        inner = self.scale(self.add(x, self.scale(cube)))
        (tanh,) = self.record([inner], [x.count], x.width, keeps_output=True)
        return self.multiply(half, self.scale(tanh))

    def tanh(self, x: Value) -> Value:
        return self.record([x], [x.count], x.width, keeps_output=True)[0]

    def dropout(self, x: Value, probability: float) -> Value:
        """Keeps which numbers were dropped: one byte each on a GPU, a factor each on a CPU."""
        if probability == 0:
            return x
        return self.record([x], [x.count], x.width, extra=x.count * (1 if self.cuda else x.width))[
            0
        ]

    def softmax(self, x: Value) -> Value:
        return self.record([x], [x.count], x.width, keeps_output=True)[0]

    def matmul(self, x: Value, y: Value, count: int, inner: int) -> Value:
        """Products of activations: ``count`` numbers, each a sum over ``inner`` products."""
        flops = 2 * count * inner
        return self.record(
            [x, y], [count], x.width, keeps=[x.storage, y.storage], flops=flops,
            backward_flops=flops * (x.trained + y.trained),
        )[0]  # fmt: skip
