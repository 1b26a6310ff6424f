"""Which device, precision and profile to use on this machine, and seeding."""

import os
import random
from dataclasses import dataclass
from pathlib import Path

from helpers.errors import InvalidValue

DEVICES = ("cpu", "cuda", "mps")
PRECISIONS = ("fp32", "bf16", "fp16")
PROFILES = ("quick", "full")


@dataclass(frozen=True)
class Runtime:
    """The settings for this machine, with the reasons for them.

    device: "cpu", "cuda" or "mps".
    precision: number format of the arithmetic, "fp32", "bf16" or "fp16".
    profile: "quick" (small models and data sets from the package registry) or "full" (the
        well-known larger ones from the Hugging Face Hub).
    threads: CPU threads that torch uses.
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
    """Choose device, precision and profile for this machine.

    An argument overrides the choice. So do the environment variables ``COURSE_PRECISION`` and
    ``COURSE_PROFILE``, for the whole session; an argument takes precedence over them.
    Raises InvalidValue for a name that isn't allowed, or a device that this machine lacks.
    """
    import torch

    check_seed(seed)
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    best = "cuda" if has_cuda else "mps" if has_mps else "cpu"
    device = _allowed("device", device, DEVICES) or best
    if (device == "cuda" and not has_cuda) or (device == "mps" and not has_mps):
        raise InvalidValue(f"device is {device!r}, which this machine lacks; use {best!r}.")

    precision, precision_reason = _asked_for("precision", precision, PRECISIONS), "as asked for"
    if precision is None:
        capability = torch.cuda.get_device_capability() if device == "cuda" else (0, 0)
        precision, precision_reason = choose_precision(
            device, compute_capability=capability, cpu_flags=cpu_flags()
        )
    profile, profile_reason = _asked_for("profile", profile, PROFILES), "as asked for"
    if profile is None:
        profile, profile_reason = choose_profile(cuda=has_cuda)
    threads = torch.get_num_threads()
    return Runtime(device, precision, precision_reason, seed, profile, profile_reason, threads)


def choose_precision(
    device: str,
    *,
    compute_capability: tuple[int, int] = (0, 0),
    cpu_flags: frozenset[str] = frozenset(),
) -> tuple[str, str]:
    """The precision to train with on ``device``, and the reason in words.

    compute_capability: of a CUDA device, such as (8, 0).
    cpu_flags: instruction sets of the CPU, as ``cpu_flags()`` returns them.
    """
    if device == "cuda":
        number = ".".join(map(str, compute_capability))
        # The capability decides, not torch.cuda.is_bf16_supported(): that also says yes to a T4
        # (7.5), which only emulates bf16 and is several times slower with it than with fp16.
        if compute_capability >= (8, 0):
            return "bf16", f"compute capability {number} has bf16 units"
        # fp16 overflows above 65,504 and loses small gradients, so training scales the loss.
        if compute_capability >= (7, 0):
            return "fp16", f"compute capability {number} has fp16 tensor cores but no bf16 units"
        return "fp32", f"compute capability {number} has no tensor cores"
    # A CPU without these instructions emulates bf16, too.
    if device == "cpu" and cpu_flags & {"amx_bf16", "avx512_bf16"}:
        return "bf16", "the CPU has bf16 instructions"
    if device == "cpu":
        return "fp32", "the CPU has no bf16 instructions"
    return "fp32", f"float32 is the safe choice on {device}"


def choose_profile(*, cuda: bool) -> tuple[str, str]:
    """The profile, and the reason in words. The Hub is asked only if it matters, because its answer
    can take two seconds."""
    if not cuda:
        return "quick", "there is no CUDA device"
    if os.environ.get("COURSE_OFFLINE") == "1":
        return "quick", "COURSE_OFFLINE=1"
    if hub_is_reachable():
        return "full", "there is a CUDA device and the Hugging Face Hub answers"
    return "quick", "the Hugging Face Hub does not answer"


def hub_is_reachable() -> bool:
    """Whether the Hub (or the mirror in HF_ENDPOINT) answers within two seconds."""
    import urllib.error
    import urllib.request

    if os.environ.get("COURSE_OFFLINE") == "1":
        return False
    address = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        request = urllib.request.Request(address, method="HEAD")
        with urllib.request.urlopen(request, timeout=2):
            return True
    except urllib.error.HTTPError as error:
        # A mirror may answer its bare address with 404 and still serve files; 403 and 407 come
        # from a firewall or proxy that blocks the way.
        return error.code < 500 and error.code not in (403, 407)
    except (OSError, ValueError):
        return False


def cpu_flags() -> frozenset[str]:
    """The CPU's instruction sets as Linux lists them; empty on other systems."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        if line.startswith(("flags", "Features")):  # x86, Arm
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def set_seed(seed: int) -> int:
    """Seed the global generators of Python, NumPy and torch; returns the seed.

    Raises InvalidValue unless 0 <= seed < 2**32, the range that all three accept.
    """
    import numpy as np
    import torch

    check_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return seed


def check_seed(seed: int) -> None:
    """Raise InvalidValue unless ``seed`` is a whole number with 0 <= seed < 2**32."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InvalidValue(f"seed is {seed!r}; it must be a whole number from 0 to 2**32 - 1.")


def _asked_for(name: str, value: str | None, allowed: tuple[str, ...]) -> str | None:
    """The argument, or else the environment variable COURSE_NAME, or else None."""
    variable = f"COURSE_{name.upper()}"
    session = os.environ.get(variable) or None  # empty means unset
    return _allowed(name, value, allowed) or _allowed(variable, session, allowed)


def _allowed(what: str, value: str | None, allowed: tuple[str, ...]) -> str | None:
    if value not in (None, *allowed):
        raise InvalidValue(f"{what} is {value!r}; it must be one of {', '.join(allowed)}.")
    return value
