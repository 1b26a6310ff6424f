"""What compares a GPU with the CPU: each decision without one, and the whole on one."""

import pytest
import torch

from helpers.cli import gpu_check
from helpers.cli.gpu_check import TOLERANCES, compare
from helpers.cli.main import main

needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no CUDA device on this machine"
)


@pytest.fixture(scope="module")
def reference():
    model, batch = gpu_check.fixed_batch()
    return model, batch, gpu_check.loss_and_gradients(model, batch, device="cpu")


def test_the_reference_is_plain_autograd(reference):
    model, batch, (found_loss, gradients) = reference
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    assert found_loss == pytest.approx(loss.item())
    assert set(gradients) == {name for name, _ in model.named_parameters()}
    for name, weight in model.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad)


def test_a_device_agrees_with_itself(reference):
    model, batch, first = reference
    second = gpu_check.loss_and_gradients(model, batch, device="cpu")
    assert compare("again", first, second, tolerance=1e-5).ok


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_rounding_is_within_the_tolerance_and_shows(reference, precision):
    model, batch, full = reference
    rounded = gpu_check.loss_and_gradients(model, batch, device="cpu", precision=precision)
    assert compare("rounded", full, rounded, tolerance=TOLERANCES[precision]).ok
    assert not compare("rounded", full, rounded, tolerance=TOLERANCES["fp32"]).ok


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize(
    "change",
    [torch.zeros_like, torch.neg, lambda g: 1.5 * g, lambda g: g * float("nan"),
     lambda g: g * float("inf")],
    ids=["zero", "negative", "too long", "nan", "inf"],
)  # fmt: skip
@pytest.mark.parametrize(
    "name",
    ["bert.encoder.layer.2.intermediate.dense.weight", "bert.embeddings.LayerNorm.weight"],
)
def test_one_wrong_gradient_is_found_and_named(reference, name, change, precision):
    loss, gradients = reference[2]
    wrong = loss, {**gradients, name: change(gradients[name])}
    check = compare("fp16 against the CPU", reference[2], wrong, tolerance=TOLERANCES[precision])
    assert not check.ok and name in check.value and "COURSE_PRECISION=fp32" in check.remedy


@pytest.mark.parametrize("factor", [1.2, float("nan")])
def test_a_wrong_loss_is_found(reference, factor):
    loss, gradients = reference[2]
    check = compare("x", reference[2], (loss * factor, gradients), tolerance=TOLERANCES["bf16"])
    assert not check.ok and check.value.endswith("in loss")


def test_memory_is_held_against_the_plan():
    assert gpu_check.memory_check(100, 110).remedy is None
    assert "larger reserve" in gpu_check.memory_check(100, 140).remedy
    assert "larger reserve" in gpu_check.memory_check(140, 100).remedy


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_training_steps_run_on_any_device(monkeypatch, precision):
    monkeypatch.setattr(gpu_check, "STEPS", 1)
    monkeypatch.setattr(gpu_check, "BATCH", 3)
    monkeypatch.setattr(gpu_check, "LENGTH", 8)
    (speed,) = gpu_check.training_checks("cpu", precision)
    assert speed.ok and speed.value.endswith(f"TFLOP/s in {precision}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device on this machine")
def test_without_a_card_it_says_that_nothing_ran(capsys):
    assert main(["doctor", "--gpu"]) == 0
    said = capsys.readouterr().out
    assert "none of this was checked" in said and f"torch {torch.__version__}" in said


@pytest.mark.gpu
@needs_cuda
def test_the_card_agrees_with_the_cpu_and_with_the_plan():
    checks = {check.name: check for check in gpu_check.check_gpu()}
    assert all(check.ok for check in checks.values()), checks
    assert {"fp32 against the CPU", "speed", "memory"} <= set(checks)
    assert checks["memory"].remedy is None, checks["memory"]
