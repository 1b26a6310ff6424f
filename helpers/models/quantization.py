"""Linear layers with 8-bit integer weights, for faster answers on a CPU.

The kernels are those of ``torch.ao.quantization``, which PyTorch has deprecated in favour of
torchao. torchao is no replacement yet on a CPU without int8 dot-product instructions: one layer of
384 to 1,536 features on 64 tokens takes 1.8 ms in float32, 0.9 ms here, 2.4 ms with torchao 0.18's
int8 weights and 40 ms with its dynamic int8 (torch 2.13, AVX2, one thread), and torch.compile does
not help. Where torchao is installed, importing transformers also prints warnings. This is the only
module to change when that is over.

Use the quantised model only for prediction: publish the float32 weights (safetensors), and
quantise them where the model is loaded.
"""

import warnings
from typing import Any

import torch
from torch import nn

from helpers.errors import CourseError, InvalidValue

_PER_ROW = ("x86", "fbgemm", "onednn")  # engines with one scale per row of a weight


def quantize_linear(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in eval mode, on the CPU, in which every ``nn.Linear`` stores int8
    weights and rounds its inputs to 8 bits, by the range of each batch, when it is called
    (*dynamic* quantisation). Embeddings and normalisation layers stay float32.

    Raises InvalidValue: there is no ``nn.Linear``. CourseError: this build of torch has no int8
    kernels.
    """
    if not any(type(module) is nn.Linear for module in model.modules()):
        raise InvalidValue(
            f"{type(model).__name__} has no nn.Linear; there is nothing to quantise."
        )
    engine = torch.backends.quantized.engine
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"torch\.ao\.quantization is deprecated")
        warnings.filterwarnings("ignore", message=r"torch\.quantize_per_")
        try:
            from torch.ao import quantization

            per_row = quantization.per_channel_dynamic_qconfig
            chosen = per_row if engine in _PER_ROW else quantization.default_dynamic_qconfig
            return quantization.quantize_dynamic(model.cpu().eval(), {nn.Linear: chosen})
        except (ImportError, AttributeError, RuntimeError) as error:
            raise CourseError(
                f"this build of torch ({torch.__version__}, engine {engine!r}) cannot compute with "
                f"int8 weights ({error}). Keep float32, or export to a runtime that can."
            ) from None


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all weights: parameters, and the int8 weights, row scales and biases of quantised
    layers. Shared weights count once."""
    total = sum(p.numel() * p.element_size() for p in model.parameters())
    for module in model.modules():
        layer: Any = module
        if callable(getattr(layer, "weight", None)):  # a quantised one; others have a tensor here
            weight, bias = layer.weight(), layer.bias()
            rows = (torch.per_channel_affine, torch.per_channel_symmetric)
            scales = len(weight) if weight.qscheme() in rows else 1
            total += weight.numel() + 4 * (scales + (0 if bias is None else bias.numel()))
    return total
