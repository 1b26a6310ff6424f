"""Checkpoints of a training run: a folder is either whole and verified, or it is not used.

``folder/step-00000012/`` holds safetensors and JSON files (nothing is pickled) and a manifest of
their SHA-256 hashes. It is written under a hidden name, flushed to the disk and renamed in one
step, so that a process killed at any moment leaves the earlier checkpoints untouched.
"""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from helpers.batches import Batches
from helpers.errors import CourseError, InvalidValue
from helpers.files import sha256_of

KEPT = 2  # checkpoints that stay; older ones are removed
MANIFEST = "manifest.json"
Tensors = dict[str, Tensor]


def save(folder: Path, step: int, tensors: dict[str, Tensors], state: dict[str, Any]) -> Path:
    """Write one checkpoint and remove all but the newest two.

    tensors: by file name without suffix. state: JSON types. Raises CourseError if it cannot be
    written (disk full, no permission); earlier checkpoints are then as they were.
    """
    final = folder / f"step-{step:08d}"
    partial = folder / f".writing-{final.name}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob(".*-step-*"):
            shutil.rmtree(left_over)
        partial.mkdir()
        for name, values in tensors.items():
            if values:
                save_file({k: v.contiguous() for k, v in values.items()}, partial / name)
        (partial / "state.json").write_text(json.dumps(state), encoding="utf-8")
        manifest = {path.name: sha256_of(path) for path in sorted(partial.iterdir())}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for path in partial.iterdir():
            _flush(path)
        _flush(partial)
        if final.exists():
            _remove(final)
        os.replace(partial, final)
        _flush(folder)
        for old in _steps(folder)[KEPT:]:
            _remove(old)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CourseError(
            f"the checkpoint of step {step} could not be written to {folder}: {error}. Earlier "
            f"checkpoints are untouched. Make room or give access there, then use resume=True."
        ) from error
    return final


def find_newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose files agree with its manifest (None: there is none), and a
    line about each damaged one that was passed over."""
    events = []
    for path in _steps(folder):
        problem = _damage(path)
        if problem is None:
            return path, events
        events.append(f"checkpoint {path.name} is damaged ({problem}) and was passed over.")
    return None, events


def load_tensors(path: Path, name: str) -> Tensors:
    """The tensors of one file of a checkpoint, in main memory; empty if there is no such file."""
    return load_file(path / name) if (path / name).exists() else {}


def load_state(path: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint."""
    return json.loads((path / "state.json").read_text(encoding="utf-8"))


def model_tensors(model: nn.Module) -> Tensors:
    """All weights and buffers that the model saves, tied ones once, by name."""
    found, seen = {}, set()
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() == 0 or place not in seen:
            seen.add(place)
            found[name] = tensor.detach()
    return found


def restore_model(model: nn.Module, tensors: Tensors) -> None:
    """The inverse of ``model_tensors``, in place."""
    own = model_tensors(model)
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """The optimiser's moments and step counts, named by the parameter's number."""
    return {
        f"{number}.{name}": value
        for number, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """The inverse of ``optimizer_tensors``; the settings stay those of ``optimizer``."""
    state: dict[int, Tensors] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def random_state() -> tuple[Tensors, dict[str, Any]]:
    """The states of torch's (CPU and each CUDA device), numpy's and Python's global generators."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"cuda.{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    name, keys, *rest = np.random.get_state()
    return tensors, {"python": random.getstate(), "numpy": [name, keys.tolist(), *rest]}


def restore_random_state(tensors: Tensors, state: dict[str, Any]) -> None:
    """The inverse of ``random_state``; devices that are not here are left out."""
    torch.set_rng_state(tensors["cpu"])
    for number in range(torch.cuda.device_count()):
        if f"cuda.{number}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda.{number}"], number)
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))


def fingerprint(*values: Any) -> str:
    """A hash of JSON values."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


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


def require_same(recorded: dict[str, Any], current: dict[str, Any], path: Path) -> None:
    """Raises InvalidValue that lists each setting whose recorded value is another one now."""
    names = sorted(recorded.keys() | current.keys())
    lines = [
        f"{name} was {recorded.get(name)!r}, is {current.get(name)!r}"
        for name in names
        if recorded.get(name) != current.get(name)
    ]
    if lines:
        raise InvalidValue(
            f"the checkpoint {path} is of another run: {'; '.join(lines)}. Resume with the same "
            f"settings, model and data, or start anew in another checkpoint_folder."
        )


def require_empty(folder: Path) -> None:
    """Raises InvalidValue if the folder holds checkpoints: a new run would remove them."""
    if found := _steps(folder):
        raise InvalidValue(
            f"{folder} already holds checkpoints (the newest is {found[0].name}). Set resume=True "
            f"to go on from there, or name another checkpoint_folder."
        )


def _steps(folder: Path) -> Sequence[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _damage(path: Path) -> str | None:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        for name, digest in manifest.items():
            if sha256_of(path / name) != digest:
                return f"{name} has changed"
        load_state(path)
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return None


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
