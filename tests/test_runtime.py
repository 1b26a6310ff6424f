"""Choosing device, precision and profile, and seeding."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from helpers import runtime
from helpers.errors import InvalidValue


@pytest.mark.parametrize(
    ("device", "capability", "flags", "expected"),
    [
        ("cuda", (9, 0), (), "bf16"),
        ("cuda", (8, 0), (), "bf16"),
        ("cuda", (8, 6), (), "bf16"),
        ("cuda", (7, 5), (), "fp16"),  # a T4: torch reports bf16 support, but only emulates it
        ("cuda", (7, 0), (), "fp16"),
        ("cuda", (6, 1), (), "fp32"),
        ("cpu", None, ("avx2",), "fp32"),
        ("cpu", None, ("avx2", "avx512_bf16"), "bf16"),
        ("cpu", None, ("amx_bf16",), "bf16"),
        ("mps", None, (), "fp32"),
    ],
)
def test_precision_follows_the_hardware(device, capability, flags, expected):
    precision, reason = runtime.choose_precision(
        device, compute_capability=capability, cpu_flags=frozenset(flags)
    )
    assert precision == expected and reason


@pytest.mark.parametrize(
    ("cuda", "offline", "reachable", "expected"),
    [
        (True, False, True, "full"),
        (True, False, False, "quick"),
        (False, False, True, "quick"),
        (True, True, True, "quick"),
    ],
)
def test_the_profile_follows_the_machine(cuda, offline, reachable, expected, monkeypatch):
    monkeypatch.setenv("COURSE_OFFLINE", str(int(offline)))
    monkeypatch.setattr(runtime, "hub_is_reachable", lambda: reachable)
    profile, reason = runtime.choose_profile(cuda=cuda)
    assert profile == expected and reason


@pytest.mark.parametrize(("cuda", "offline"), [(False, False), (True, True)])
def test_the_hub_is_contacted_only_if_it_matters(cuda, offline, monkeypatch):
    monkeypatch.setenv("COURSE_OFFLINE", str(int(offline)))
    monkeypatch.setattr(runtime, "hub_is_reachable", lambda: pytest.fail("contacted the Hub"))
    runtime.choose_profile(cuda=cuda)


def test_the_environment_sets_the_profile_and_an_argument_overrides_it(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "full")
    found = runtime.detect()
    assert (found.profile, found.profile_reason) == ("full", "as asked for")
    assert runtime.detect(profile="quick").profile == "quick"
    monkeypatch.setattr(runtime, "hub_is_reachable", lambda: False)
    monkeypatch.setenv("COURSE_PROFILE", "")
    found = runtime.detect()
    assert found.profile == "quick" and found.profile_reason != "as asked for"


def test_an_unknown_value_is_reported_with_the_allowed_ones(monkeypatch):
    with pytest.raises(InvalidValue, match=r"'quik'.*quick, full"):
        runtime.detect(profile="quik")
    with pytest.raises(InvalidValue, match=r"'fp8'.*fp32, bf16, fp16"):
        runtime.detect(precision="fp8")
    with pytest.raises(InvalidValue, match=r"'gpu'.*cpu, cuda, mps"):
        runtime.detect(device="gpu")
    monkeypatch.setenv("COURSE_PROFILE", "fast")
    with pytest.raises(InvalidValue, match=r"COURSE_PROFILE is 'fast'"):
        runtime.detect()


def test_the_environment_sets_the_precision_and_an_argument_overrides_it(monkeypatch):
    monkeypatch.setenv("COURSE_PRECISION", "bf16")
    assert runtime.detect().precision == "bf16"
    assert runtime.detect(precision="fp32").precision == "fp32"
    monkeypatch.setenv("COURSE_PRECISION", "fp8")
    with pytest.raises(InvalidValue, match=r"COURSE_PRECISION is 'fp8'.*fp32, bf16, fp16"):
        runtime.detect()
    monkeypatch.delenv("COURSE_PRECISION")
    assert "as asked for" not in runtime.detect().precision_reason


def test_a_missing_device_is_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(InvalidValue, match="'cuda', which this machine lacks; use"):
        runtime.detect(device="cuda")


def test_detect_agrees_with_torch_and_the_arguments():
    found = runtime.detect(seed=7, precision="bf16", profile="full")
    assert (found.seed, found.precision, found.profile) == (7, "bf16", "full")
    assert found.threads == torch.get_num_threads()
    has_mps = torch.backends.mps.is_available()
    assert found.device == ("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")


def test_set_seed_seeds_all_three_generators():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert runtime.set_seed(5) == 5
    first = draw()
    assert draw() != first
    runtime.set_seed(5)
    assert draw() == first


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "1", True])
def test_a_seed_outside_its_range_is_refused(seed):
    with pytest.raises(InvalidValue, match="seed is"):
        runtime.set_seed(seed)


def test_an_endpoint_that_never_answers_is_not_reachable(monkeypatch):
    monkeypatch.delenv("COURSE_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert not runtime.hub_is_reachable()
    monkeypatch.setenv("HF_ENDPOINT", "not an address")
    assert not runtime.hub_is_reachable()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_on_a_gpu_the_chosen_precision_computes(monkeypatch):
    monkeypatch.delenv("COURSE_PRECISION")
    found = runtime.detect()
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[found.precision]
    matrix = torch.randn(64, 64, device=found.device)
    with torch.autocast(found.device, dtype=kind, enabled=kind != torch.float32):
        product = matrix @ matrix
    torch.testing.assert_close(product.float().cpu(), matrix.cpu() @ matrix.cpu(), atol=1, rtol=0.1)


def test_threads_follow_the_environment():
    code = "from helpers import runtime; print(runtime.detect().threads)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "1"
