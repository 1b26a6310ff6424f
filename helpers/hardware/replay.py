"""Which bytes are in use while a ``Tape`` runs forwards and backwards.

Every tensor is freed when torch frees it: an output after its last use, what was kept for the
backward pass once its operation's backward is done, the gradient of an activation when it has been
used. What a kernel needs inside is not counted; torch's own tracker does not see it either.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from helpers.hardware.tape import Operation, Storage, Tape, Value

Segments = dict[str, tuple[list[Operation], set[Storage]]]


@dataclass
class _Buffer:
    """The gradient of an activation; ``users`` hold it."""

    size: int
    users: int = 0


@dataclass
class Replay:
    """One run of ``tape``: the bytes in use now, of activations, temporary (gradients of
    activations) and gradients (of weights).

    accumulated: the gradients of an earlier micro-batch are there already.
    peaks: the worst moment of each place, in order: (activations, temporary, gradients).
    kept: activations at the end of the forward pass. flops: done so far.
    """

    tape: Tape
    accumulated: bool = False
    peaks: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    kept: int = 0
    activations: int = 0
    temporary: int = 0
    gradients: int = 0
    flops: int = 0
    _holders: Counter = field(default_factory=Counter)
    _uses: Counter = field(default_factory=Counter)
    _waiting: set[str] = field(default_factory=set)

    def inference(self) -> "Replay":
        """The forward pass, with nothing kept."""
        self._forward(self.tape.operations, "forward ")
        return self

    def training(self) -> "Replay":
        """The forward pass and the backward pass."""
        trained = [weight for weight in self.tape.weights.values() if weight.trained]
        present = {weight.name for weight in trained} if self.accumulated else set()
        self.gradients = sum(weight.size for weight in trained) if self.accumulated else 0
        operations = self.tape.operations
        self._uses.update(w.name for operation in operations for w in operation.weights)
        segments = self._segments()
        self._forward(self.tape.operations, "forward ", keeping=True, segments=segments)
        self.kept = self.activations
        self._backward(segments, present)
        return self

    def _segments(self) -> Segments:
        """The operations of each checkpointed place, and the storages that it starts from."""
        segments: dict[str, list[Operation]] = {}
        for operation in self.tape.operations:
            if operation.checkpoint:
                segments.setdefault(operation.checkpoint, []).append(operation)
        found = {}
        for name, operations in segments.items():
            made = {storage for operation in operations for storage in operation.makes}
            used = {value.storage for operation in operations for value in operation.inputs}
            found[name] = (operations, used - made)
        return found

    def _forward(
        self,
        operations: Sequence[Operation],
        phase: str,
        *,
        keeping: bool = False,
        segments: Segments | None = None,
    ) -> None:
        """keeping: for a backward pass; of the places in ``segments`` only what they start from."""
        segments = segments or {}
        last = {s: number for number, o in enumerate(operations) for s in _storages(o)}
        mine, cached, begun = set(), [], set()
        for number, operation in enumerate(operations):
            place = operation.checkpoint
            if place in segments and place not in begun:
                begun.add(place)
                self._hold(*segments[place][1])
            self._hold(*operation.makes)
            mine.update(operation.makes)
            for storage in operation.makes:
                if storage in self.tape.cached:
                    self._hold(storage)
                    cached.append(storage)
                if storage in self.tape.outputs:
                    self._hold(storage)
            if keeping and place not in segments:
                self._hold(*operation.keeps)
            self.flops += operation.flops
            self._note(phase + operation.place)
            done = {s for s in _storages(operation) if last[s] == number and s in mine}
            self._release(*done)
            mine -= done
        self._release(*cached)

    def _backward(self, segments: Segments, present: set[str]) -> None:
        buffers: dict[Value, _Buffer] = {}
        open_place = None
        for operation in reversed(self.tape.operations):
            place = operation.checkpoint
            if open_place and place != open_place:
                self._release(*segments[open_place][1])
                open_place = None
            if not any(value.trained for value in operation.outputs):
                continue
            if place and place != open_place:
                open_place = place
                self._forward(_until_all_is_kept(segments[place][0]), "backward ", keeping=True)
            self._backward_of(operation, buffers, present)
        if open_place:
            self._release(*segments[open_place][1])
        self._release(*self.tape.outputs)

    def _backward_of(
        self, operation: Operation, buffers: dict[Value, _Buffer], present: set[str]
    ) -> None:
        incoming = [buffers.pop(value) for value in operation.outputs if value in buffers]
        made: list[tuple[Value, _Buffer]] = []
        for value in operation.inputs:
            if value.trained:
                same = operation.passes and incoming and incoming[0].size == value.size
                buffer = incoming[0] if same else self._buffer(value.size)
                buffer.users += 1
                made.append((value, buffer))
        added, tied = self._weight_gradients(operation, present)
        self.flops += operation.backward_flops
        self._note("backward " + operation.place, added + tied + operation.backward_scratch)
        self._release(*operation.keeps)
        for buffer in incoming:
            self._drop(buffer)
        self._note("backward " + operation.place, 2 * tied)  # the new one and the sum
        for value, buffer in made:
            earlier = buffers.get(value)
            if earlier is None:
                buffers[value] = buffer
                continue
            buffers[value] = total = self._buffer(value.size)
            total.users += 1
            self._note("backward " + operation.place)
            self._drop(earlier)
            self._drop(buffer)

    def _weight_gradients(self, operation: Operation, present: set[str]) -> tuple[int, int]:
        """Bytes of new gradients that are added to those of an earlier micro-batch, and to those
        of another use of the same weight in this one."""
        added = tied = 0
        for weight in operation.weights:
            name, size = weight.name, weight.size
            if name in self._waiting:
                tied += size
                self.temporary -= size if self.accumulated else 0
            elif name not in present:
                self.gradients += size
                present.add(name)
            elif self._uses[name] == 1:
                added += size
            else:  # held back until the weight's other gradient is there
                self.temporary += size
            if self._uses[name] > 1:
                self._waiting.add(name)
        return added, tied

    def _buffer(self, size: int) -> _Buffer:
        self.temporary += size
        return _Buffer(size)

    def _drop(self, buffer: _Buffer) -> None:
        buffer.users -= 1
        if buffer.users == 0:
            self.temporary -= buffer.size

    def _hold(self, *storages: Storage) -> None:
        for storage in storages:
            if not self._holders[storage]:
                self.activations += storage.size
            self._holders[storage] += 1

    def _release(self, *storages: Storage) -> None:
        for storage in storages:
            self._holders[storage] -= 1
            if not self._holders[storage]:
                self.activations -= storage.size

    def _note(self, place: str, scratch: int = 0) -> None:
        now = (self.activations, self.temporary + scratch, self.gradients)
        if place not in self.peaks or sum(now) > sum(self.peaks[place]):
            self.peaks[place] = now


def _storages(operation: Operation) -> set[Storage]:
    values = (*operation.inputs, *operation.outputs)
    return {value.storage for value in values} | set(operation.makes)


def _until_all_is_kept(operations: Sequence[Operation]) -> list[Operation]:
    """What checkpointing does again: it stops when the last tensor that is needed is there."""
    last = max(number for number, operation in enumerate(operations) if operation.keeps)
    made = set(operations[last].makes) & set(operations[last].keeps)
    return list(operations[: last + 1 if made else last])
