"""int8 layers against whole-number arithmetic by hand, and a model before and after."""

import warnings

import pytest
import tiny
import torch
from torch import nn

from helpers import evaluation
from helpers.errors import InvalidValue
from helpers.models import quantization

x86 = pytest.mark.skipif(
    torch.backends.quantized.engine not in quantization._PER_ROW,
    reason="this processor's kernels round otherwise",
)


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(64, 32)


def by_hand(weight):
    """Whole numbers from -128 to 127 and the scale of each row."""
    scale = weight.abs().amax(1, keepdim=True) / 127.5
    return (weight / scale).round().clamp(-128, 127), scale


@x86
def test_the_weights_are_those_by_hand(layer):
    weight = layer.weight.detach()
    quantized = quantization.quantize_linear(nn.Sequential(layer))[0]
    whole, scale = by_hand(weight)
    found = quantized.weight().int_repr().float()
    assert (found - whole).abs().max() <= 1  # at a half, one rounds up and the other down
    assert (found != whole).float().mean() < 0.02
    assert torch.allclose(quantized.weight().q_per_channel_scales().float(), scale[:, 0])


@x86
def test_the_output_is_that_of_whole_numbers_by_hand(layer):
    """Inputs become 7-bit numbers: these kernels add pairs of products in 16 bits."""
    quantized = quantization.quantize_linear(nn.Sequential(layer))
    x = torch.randn(20, 64)
    step = (x.max() - x.min()) / 127
    zero = (-x.min() / step).round()
    whole = ((x / step).round() + zero).clamp(0, 127)
    weight, scale = by_hand(layer.weight.detach())
    with torch.inference_mode():
        expected = (whole - zero) @ weight.T * step * scale.T + layer.bias
        assert (quantized(x) - expected).abs().max() < 0.15 * (layer(x) - expected).abs().max()


def test_a_classifier_answers_nearly_as_before_without_a_warning():
    model, data = tiny.classifier(), tiny.encoded()
    before = evaluation.predict(model, data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantized = quantization.quantize_linear(model)
    after = evaluation.predict(quantized, data)
    spread = before.logits.std()
    assert abs(after.logits - before.logits).max() < 0.5 * spread
    assert (after.classes == before.classes).mean() > 0.9
    again = evaluation.predict(model, data)
    assert (again.logits == before.logits).all(), "the model itself stays as it was"


def test_bytes_are_counted_by_hand():
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 4), nn.LayerNorm(4))
    assert quantization.weight_bytes(model) == 4 * (80 + 32 + 4 + 8)
    quantized = quantization.quantize_linear(model)
    scales = 4 if torch.backends.quantized.engine in quantization._PER_ROW else 1
    assert quantization.weight_bytes(quantized) == 4 * (80 + 8 + 4 + scales) + 32


def test_a_model_without_linear_layers_is_named():
    with pytest.raises(InvalidValue, match=r"Embedding has no nn\.Linear"):
        quantization.quantize_linear(nn.Embedding(3, 3))
