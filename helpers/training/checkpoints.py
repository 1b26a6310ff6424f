"""Checkpoints of a run: each one is whole and verified, or it is not used.

``folder/step-00000012.pt`` is what ``torch.save`` writes: a ZIP archive with checksums. It is
written under a hidden name, flushed to the disk and renamed in one step: a process killed at any
moment leaves the earlier checkpoints as they were.

Why not ``Accelerator.save_state``? Tried with accelerate 1.15: killed while it wrote, it left half
a folder that ``load_state()`` then took for the newest and failed on; a flipped bit in the weights,
and a truncated file of random states, were loaded without a word. By its code, ``total_limit=2``
deletes the older folder before it writes the new one, and several processes save weights under
names ("module. ...") that one process can't load.
"""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor

from helpers.batches import Batches
from helpers.errors import CourseError, InvalidValue
from helpers.models import lora
from helpers.training.config import History, TrainingConfig
from helpers.training.machine import Machine

KEPT = 2  # if the newest turns out to be damaged, the one before is used


@dataclass
class RunState:
    """What changes during a run, apart from weights and moments.

    history: its number of steps, with the seed, is the position in the data and in the schedule.
    accumulation: the configured one, or more after memory ran out. best: the best weights so far.
    training_seconds, examples: what the speed is computed from. stopped: before the last step.
    """

    history: History
    accumulation: int
    best: dict[str, Tensor] = field(default_factory=dict)
    training_seconds: float = 0.0
    examples: int = 0
    stopped: bool = False


class Checkpoints:
    """The checkpoints of one run. ``last``: the newest one that it wrote or started from.

    parts: by name, everything with a ``state_dict``; one is the "model".
    """

    def __init__(
        self,
        parts: dict[str, Any],
        data: dict[str, Batches | None],
        config: TrainingConfig,
        machine: Machine,
    ) -> None:
        self.parts, self.config, self.machine = parts, config, machine
        self.last: Path | None = None
        if config.checkpoint_folder is None:
            return
        self.folder = config.checkpoint_folder
        model = parts["model"]
        weights = [(name, list(p.shape), p.requires_grad) for name, p in model.named_parameters()]
        self.fingerprint = {
            **config.decisive_settings(),
            "precision": machine.precision,
            "model": hashlib.sha256(json.dumps(weights).encode()).hexdigest(),
            "lora": lora.settings(model),
            **{name: data_fingerprint(examples) for name, examples in data.items()},
        }

    def restore(self, state: RunState) -> tuple[RunState, list[str]]:
        """``state``, or that of the newest sound checkpoint if the run is to be resumed; and a
        line about each damaged one.

        Raises InvalidValue: another run's checkpoints; some are there, but resume is False.
        """
        if self.config.checkpoint_folder is None:
            return state, []
        found = _newest_first(self.folder)
        if found and not self.config.resume:  # a new run would remove them one by one
            raise InvalidValue(
                f"{self.folder} already holds checkpoints (the newest is {found[0].name}). Set "
                "resume=True to go on from there, or name another checkpoint_folder."
            )
        if not self.config.resume:
            return state, []
        # All start from the checkpoint that the main process finds.
        path, damaged = self.machine.gather([find_newest(self.folder)])[0]
        if path is not None:
            state = self._load(path)
        steps = len(state.history.steps)
        start = f"resumed after step {steps}." if path else "no checkpoint to resume."
        state.history.events += [*damaged, start]
        return state, damaged

    def save_if_due(self, state: RunState) -> None:
        """Write a checkpoint every ``checkpoint_every`` steps, and remove all but the newest two.

        Raises CourseError if it cannot be written (disk full, no permission); earlier checkpoints
        are then untouched.
        """
        every, steps = self.config.checkpoint_every, len(state.history.steps)
        if every is None or steps % every or not self.machine.is_main:
            return
        final = self.folder / f"step-{steps:08d}.pt"
        partial = self.folder / f".{final.name}-{os.getpid()}"
        content = {
            "fingerprint": self.fingerprint,
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "run": vars(state) | {"history": asdict(state.history)},
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left_over in self.folder.glob(".step-*"):
                left_over.unlink()
            with partial.open("wb") as file:
                torch.save(content, file)
                # On the disk before it gets its name: so what has the name is whole, even after a
                # power cut.
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, final)
            for old in _newest_first(self.folder)[KEPT:]:
                old.unlink()
        except (OSError, RuntimeError) as error:
            with suppress(OSError):
                partial.unlink()
            raise CourseError(
                f"the checkpoint of step {steps} could not be written to {self.folder}: "
                f"{error}. Earlier checkpoints are untouched. Make room or give access there, then "
                "use resume=True."
            ) from error
        self.last = final

    def _load(self, path: Path) -> RunState:
        content = load(path)
        before, now = content["fingerprint"], self.fingerprint
        changed = [
            f"{name} was {before.get(name)!r}, is {now.get(name)!r}"
            for name in sorted(before | now)
            if before.get(name) != now.get(name)
        ]
        if changed:
            raise InvalidValue(
                f"the checkpoint {path} is of another run: {'; '.join(changed)}. Resume with the "
                "same settings, model and data, or start anew in another checkpoint_folder."
            )
        for name, part in self.parts.items():
            part.load_state_dict(content["parts"][name])
        self.last = path
        history = content["run"].pop("history") | {"processes": self.machine.world}
        return RunState(History(**history), **content["run"])


def find_newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that can be loaded (None: there is none), and a line about each damaged
    one that was passed over."""
    events: list[str] = []
    for path in _newest_first(folder):
        try:
            load(path)
            return path, events
        except Exception as error:  # a damaged archive fails in many ways
            problem = str(error).partition("\n")[0] or type(error).__name__
            events.append(f"checkpoint {path.name} is damaged ({problem}) and was passed over.")
    return None, events


def load(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU. ``weights_only``: tensors and plain values are read;
    a file that would run code of somebody else's is refused."""
    with ZipFile(path) as archive:  # torch itself doesn't look at the checksums
        if damaged := archive.testzip():
            raise BadZipFile(f"the checksum of {damaged} is wrong")
    return torch.load(path, map_location="cpu", weights_only=True)


def data_fingerprint(data: Batches | None) -> str:
    """A hash of every example, in order; "none" without data."""
    if data is None:
        return "none"
    digest = hashlib.sha256()
    for start in range(0, len(data), 256):
        generator = torch.Generator().manual_seed(start)
        batch = data.batch(range(start, min(start + 256, len(data))), generator)
        for name in sorted(batch):
            digest.update(name.encode() + batch[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"), reverse=True)
