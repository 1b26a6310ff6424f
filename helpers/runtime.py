"""What this machine is and how the course uses it: device, precision, profile and seed."""

import os
import platform
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from helpers.errors import InvalidValue

DEVICES = ("cpu", "cuda", "mps")
PRECISIONS = ("fp32", "bf16", "fp16")
PROFILES = ("quick", "full")
_PROBE_SECONDS = 2.0


@dataclass(frozen=True)
class Runtime:
    """What was decided, and why.

    device: "cpu", "cuda" or "mps". precision: of the arithmetic, "fp32", "bf16" or "fp16".
    profile: "quick" (small models and sets from the package registry) or "full" (from the Hub).
    threads: CPU threads that torch computes with.
    """

    device: str
    precision: str
    precision_reason: str
    seed: int
    profile: str
    profile_reason: str
    threads: int


def detect(
    *,
    device: str | None = None,
    precision: str | None = None,
    seed: int = 42,
    profile: str | None = None,
) -> Runtime:
    """Decide device, precision and profile for this machine; an argument overrides its decision.

    ``COURSE_PROFILE`` and ``COURSE_PRECISION`` override the profile and the precision for a whole
    session. Raises InvalidValue for a value
    outside the lists, or a device that this machine does not have.
    """
    import torch

    check_seed(seed)
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    found = "cuda" if has_cuda else "mps" if has_mps else "cpu"
    device = _one_of("device", device, DEVICES) or found
    if (device == "cuda" and not has_cuda) or (device == "mps" and not has_mps):
        raise InvalidValue(f"device {device!r} is not on this machine; it has {found!r}.")
    capability = torch.cuda.get_device_capability() if device == "cuda" else None
    chosen, reason = choose_precision(device, compute_capability=capability, cpu_flags=cpu_flags())
    session = _one_of("COURSE_PRECISION", os.environ.get("COURSE_PRECISION") or None, PRECISIONS)
    if asked := _one_of("precision", precision, PRECISIONS) or session:
        chosen, reason = asked, "as asked for"
    environment = os.environ | ({"COURSE_PROFILE": profile} if profile else {})
    profile, why = choose_profile(
        environment=environment, cuda=has_cuda, hub_reachable=hub_is_reachable
    )
    return Runtime(device, chosen, reason, seed, profile, why, torch.get_num_threads())


def choose_precision(
    device: str,
    *,
    compute_capability: tuple[int, int] | None = None,
    cpu_flags: frozenset[str] = frozenset(),
) -> tuple[str, str]:
    """The precision for training, and the reason in words.

    bf16 needs units for it: CUDA compute capability 8.0 (Ampere), or a CPU with AMX or AVX-512
    bf16 instructions; without them it is emulated and several times slower. fp16 needs the tensor
    cores of capability 7.0 and loss scaling.
    """
    if device == "cuda":
        if compute_capability is None:
            raise InvalidValue("compute_capability is None; a CUDA device has one, such as (8, 0).")
        number = ".".join(map(str, compute_capability))
        if compute_capability >= (8, 0):
            return "bf16", f"compute capability {number} has bf16 units"
        if compute_capability >= (7, 0):
            return "fp16", f"compute capability {number} has fp16 tensor cores but no bf16 units"
        return "fp32", f"compute capability {number} has no tensor cores"
    if device == "cpu" and cpu_flags & {"amx_bf16", "avx512_bf16"}:
        return "bf16", "the CPU has bf16 instructions"
    if device == "cpu":
        return "fp32", "the CPU has no bf16 instructions"
    return "fp32", f"float32 is the safe choice on {device}"


def choose_profile(
    *, environment: Mapping[str, str], cuda: bool, hub_reachable: Callable[[], bool]
) -> tuple[str, str]:
    """The profile, and the reason in words. ``hub_reachable`` is called only where it matters."""
    asked = _one_of("COURSE_PROFILE", environment.get("COURSE_PROFILE") or None, PROFILES)
    if asked:
        return asked, "as asked for"
    if not cuda:
        return "quick", "there is no CUDA device"
    if environment.get("COURSE_OFFLINE") == "1":
        return "quick", "COURSE_OFFLINE=1"
    if hub_reachable():
        return "full", "there is a CUDA device and the Hugging Face Hub answers"
    return "quick", "the Hugging Face Hub does not answer"


def hub_is_reachable() -> bool:
    """Does the Hub (or the mirror in HF_ENDPOINT) answer within two seconds?"""
    import urllib.error
    import urllib.request

    if os.environ.get("COURSE_OFFLINE") == "1":
        return False
    address = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        request = urllib.request.Request(address, method="HEAD")
        with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500 and error.code not in (403, 407)
    except (OSError, ValueError):
        return False


def cpu_flags() -> frozenset[str]:
    """The processor's feature names as Linux gives them; empty on systems that do not list them."""
    if platform.system() != "Linux":
        return frozenset()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        if line.startswith(("flags", "Features")):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def set_seed(seed: int) -> int:
    """Seed python's, numpy's and torch's global generators; returns the seed.

    Raises InvalidValue unless 0 <= seed < 2**32.
    """
    import numpy as np
    import torch

    check_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return seed


def check_seed(seed: int) -> None:
    """Raises InvalidValue unless ``seed`` is a whole number with 0 <= seed < 2**32."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InvalidValue(f"seed is {seed!r}; it must be a whole number from 0 to 2**32 - 1.")


def _one_of(what: str, value: str | None, allowed: tuple[str, ...]) -> str | None:
    if value is not None and value not in allowed:
        raise InvalidValue(f"{what} is {value!r}; it must be one of {', '.join(allowed)}.")
    return value
