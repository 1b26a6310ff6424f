"""What compares a graphics card with the CPU: each decision without one, and the whole on one."""

import re

import pytest
import torch

from helpers.cli import gpu_check
from helpers.cli.gpu_check import TOLERANCES, Gradients, compare
from helpers.cli.main import main
from helpers.errors import InvalidValue

needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no CUDA device on this machine"
)


@pytest.fixture(scope="module")
def reference():
    model, batch = gpu_check.fixed_batch()
    return model, batch, gpu_check.gradients(model, batch, device="cpu")


def changed(gradients, name, change):
    return Gradients(gradients.loss, {**gradients.weights, name: change(gradients.weights[name])})


def test_the_reference_is_plain_autograd(reference):
    model, batch, found = reference
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    assert found.loss == pytest.approx(loss.item())
    assert set(found.weights) == {name for name, _ in model.named_parameters()}
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found.weights[name], weight.grad)
    model.zero_grad()


def test_a_device_agrees_with_itself(reference):
    model, batch, first = reference
    second = gpu_check.gradients(model, batch, device="cpu")
    agreement = compare(first, second, tolerance=TOLERANCES["fp32"])
    assert agreement.ok and agreement.gradient_error < 1e-5
    assert gpu_check.agreement_check("again", agreement).ok


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_rounding_is_within_the_tolerance_and_shows(reference, precision):
    model, batch, full = reference
    rounded = gpu_check.gradients(model, batch, device="cpu", precision=precision)
    agreement = compare(full, rounded, tolerance=TOLERANCES[precision])
    assert agreement.ok
    assert agreement.gradient_error > TOLERANCES["fp32"], "nothing was rounded"


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
    agreement = compare(
        reference[2], changed(reference[2], name, change), tolerance=TOLERANCES[precision]
    )
    assert not agreement.ok and agreement.worst == name
    check = gpu_check.agreement_check("fp16 against the CPU", agreement)
    assert not check.ok and name in check.value and "COURSE_PRECISION=fp32" in check.remedy


@pytest.mark.parametrize("factor", [1.2, float("nan")])
def test_a_wrong_loss_is_found(reference, factor):
    wrong = Gradients(reference[2].loss * factor, reference[2].weights)
    assert not compare(reference[2], wrong, tolerance=TOLERANCES["bf16"]).ok


def test_missing_gradients_are_an_error(reference):
    weights = dict(reference[2].weights)
    weights.pop("classifier.bias")
    with pytest.raises(InvalidValue, match=re.escape("classifier.bias")):
        compare(reference[2], Gradients(1.0, weights), tolerance=0.1)


def test_the_choice_of_precision_is_held_against_its_speed():
    rates = {"fp32": 8e12, "fp16": 50e12, "bf16": 5e12}
    assert gpu_check.precision_check("fp16", rates).remedy is None
    advice = gpu_check.precision_check("bf16", rates).remedy
    assert "fp16 is 10.0 times as fast" in advice and "COURSE_PRECISION=fp16" in advice
    near = {"fp32": 10e12, "fp16": 100e12, "bf16": 90e12}
    assert gpu_check.precision_check("bf16", near).remedy is None


def test_memory_is_held_against_the_plan():
    assert gpu_check.memory_check(100, 110).remedy is None
    assert "larger reserve" in gpu_check.memory_check(100, 140).remedy


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Tesla T4", "t4"),
        ("Tesla V100-SXM2-16GB", "v100-16gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", None),
        ("NVIDIA A10G", None),
    ],
)
def test_cards_are_known_by_torch_s_names(title, name):
    card = gpu_check.known_card(title)
    assert (card and card.name) == name
    shown = gpu_check.speed_check(100, 1e12, title, "fp16").value
    assert ("of the card's peak" in shown) == (name is not None)


def test_the_measurements_run_on_any_device(monkeypatch):
    monkeypatch.setattr(gpu_check, "STEPS", 1)
    monkeypatch.setattr(gpu_check, "BATCH", 3)
    monkeypatch.setattr(gpu_check, "LENGTH", 8)
    plan, seconds, peak = gpu_check.training_steps("cpu", precision="fp32")
    assert (plan.batch_size, plan.sequence_length) == (3, 8)
    assert seconds > 0 and peak == 0
    rates = gpu_check.product_rates("cpu", size=64, repeats=1)
    assert set(rates) == {"fp32", "fp16", "bf16"} and min(rates.values()) > 0


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
    assert checks["memory"].remedy is None, checks["memory"]
    assert checks["precision"].remedy is None, checks["precision"]
