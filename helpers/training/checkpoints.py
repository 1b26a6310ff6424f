"""Checkpoints of a run: each one is whole and verified, or it is not used.

``folder/step-00000012/`` holds ``state.pt`` (tensors and plain values) and a manifest with that
file's SHA-256. Both are written under a hidden name, flushed to the disk and renamed in one step:
a process killed at any moment leaves the earlier checkpoints as they were.

Why not ``Accelerator.save_state``? Tried with accelerate 1.15: killed while it wrote, it left half
a folder that ``load_state()`` then took for the newest and failed on; a flipped bit in the weights,
and a truncated file of random states, were loaded without a word. By its code, ``total_limit=2``
deletes the older folder before it writes the new one, and several processes save weights under
names ("module. ...") that one process can't load. Manifest, hidden name and renaming would stay
necessary, so it would save few of the lines here.
"""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from helpers.batches import Batches
from helpers.errors import CourseError, InvalidValue
from helpers.files import sha256_of
from helpers.models import lora
from helpers.training.config import History, TrainingConfig
from helpers.training.machine import Machine

KEPT = 2  # if the newest turns out to be damaged, the one before is used
STATE, MANIFEST = "state.pt", "manifest.json"


@dataclass
class RunState:
    """What changes during a run, apart from weights, moments and random states.

    steps: done so far; together with the seed, they are the position in the data and in the
    schedule. accumulation: the configured one, or more after memory ran out. best: the best
    weights so far. seconds, training_seconds, examples: what the speed is computed from.
    stopped: whether the run has ended before its last step.
    """

    history: History
    accumulation: int
    steps: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    training_seconds: float = 0.0
    examples: int = 0
    stopped: bool = False


class Checkpoints:
    """The checkpoints of one run. ``last``: the newest one that it wrote or started from.

    parts: by name, everything with a ``state_dict`` (model, optimizer, scaler).
    """

    def __init__(
        self,
        model: nn.Module,
        parts: dict[str, Any],
        data: dict[str, Batches | None],
        config: TrainingConfig,
        machine: Machine,
    ) -> None:
        self.parts, self.config, self.machine = {"model": model, **parts}, config, machine
        self.folder, self.last = config.checkpoint_folder, None
        if self.folder is None:
            return
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
        if self.folder is None:
            return state, []
        if not self.config.resume:
            if found := _newest_first(self.folder):  # a new run would remove them one by one
                raise InvalidValue(
                    f"{self.folder} already holds checkpoints (the newest is {found[0].name}). Set "
                    "resume=True to go on from there, or name another checkpoint_folder."
                )
            return state, []
        # One process looks, so that all start from the same checkpoint.
        found = find_newest(self.folder) if self.machine.is_main else None
        path, damaged = self.machine.from_main(found)
        if path is not None:
            state = self._load(path)
        start = f"resumed after step {state.steps}." if path else "no checkpoint to resume."
        state.history.events += [*damaged, start]
        return state, damaged

    def save_if_due(self, state: RunState) -> None:
        """Write a checkpoint every ``checkpoint_every`` steps, and remove all but the newest two.

        Raises CourseError if it cannot be written (disk full, no permission); earlier checkpoints
        are then untouched.
        """
        every = self.config.checkpoint_every
        if every is None or state.steps % every or not self.machine.is_main:
            return
        final = self.folder / f"step-{state.steps:08d}"
        partial = self.folder / f".writing-{final.name}-{os.getpid()}"
        content = {
            "fingerprint": self.fingerprint,
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "random": random_state(),
            "run": vars(state) | {"history": state.history.to_dict()},
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left_over in self.folder.glob(".*-step-*"):
                shutil.rmtree(left_over)
            partial.mkdir()
            torch.save(content, partial / STATE)
            manifest = json.dumps({STATE: sha256_of(partial / STATE)})
            (partial / MANIFEST).write_text(manifest, encoding="utf-8")
            # On the disk before it gets its name: so what has the name is whole, even after a
            # power cut.
            for path in (partial / STATE, partial / MANIFEST, partial):
                _flush(path)
            if final.exists():
                _remove(final)
            os.replace(partial, final)
            _flush(self.folder)
            for old in _newest_first(self.folder)[KEPT:]:
                _remove(old)
        except (OSError, RuntimeError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise CourseError(
                f"the checkpoint of step {state.steps} could not be written to {self.folder}: "
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
        restore_random_state(content["random"])
        self.last = path
        history = content["run"].pop("history") | {"processes": self.machine.world}
        return RunState(history=History.from_dict(history), **content["run"])


def find_newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose file agrees with its manifest (None: there is none), and a
    line about each damaged one that was passed over."""
    events = []
    for path in _newest_first(folder):
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            if manifest == {STATE: sha256_of(path / STATE)}:
                return path, events
            problem = f"{STATE} or {MANIFEST} has changed"
        except (OSError, ValueError) as error:
            problem = str(error)
        events.append(f"checkpoint {path.name} is damaged ({problem}) and was passed over.")
    return None, events


def load(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU. ``weights_only``: tensors and plain values are read;
    a file that would run code of somebody else's is refused."""
    return torch.load(path / STATE, map_location="cpu", weights_only=True)


def random_state() -> dict[str, Any]:
    """The states of Python's, numpy's and torch's (CPU and each CUDA device) global generators.
    ``fit`` seeds what it draws by step; these serve callbacks, metrics and data that draw too."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """The inverse of ``random_state``; devices that are not here are left out."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])


def data_fingerprint(data: Batches | None) -> str:
    """A hash of every example, in order; "none" without data."""
    if data is None:
        return "none"
    digest = hashlib.sha256(np.ascontiguousarray(data.lengths, dtype=np.int64).tobytes())
    for start in range(0, len(data), 256):
        generator = torch.Generator().manual_seed(start)
        batch = data.batch(range(start, min(start + 256, len(data))), generator)
        for name in sorted(batch):
            digest.update(name.encode() + batch[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _newest_first(folder: Path) -> Sequence[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _remove(path: Path) -> None:
    """Renamed first, so that a half-removed checkpoint never looks like one."""
    hidden = path.with_name(f".removing-{path.name}-{os.getpid()}")
    os.replace(path, hidden)
    shutil.rmtree(hidden)


def _flush(path: Path) -> None:
    """Ask the system to put a file, or a folder's list of names, on the disk."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDWR if path.is_file() and os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
