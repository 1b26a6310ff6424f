"""Dropout whose masks depend on the seed, the step and the example alone."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["ExampleDropout"]

_VALUES = 1 << 16  # a mask compares 16 random bits an element with a threshold


class ExampleDropout:
    """While it is in force, every ``nn.Dropout`` of ``model`` draws an example's mask from a
    stream of its own, given by (seed, step, layer, the example's row in the global batch).

    So a step drops the same elements however its batch is shared out between processes and
    micro-batches, which torch's one stream for a whole tensor does not; and it costs a quarter,
    because 64 random bits serve four elements. The probability is rounded to 1/65,536, and what
    is kept is divided by the probability of keeping it (Srivastava et al. 2014, section 10), so
    that the mean is kept exactly.

    A model on a GPU that no other process shares keeps torch's dropout, which is fast there. So
    do attention that drops weights inside one fused operation (``scaled_dot_product_attention``)
    and models that compute activations a second time (gradient checkpointing).

    processes: how many share a batch.
    """

    def __init__(self, model: nn.Module, *, processes: int = 1) -> None:
        again = any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
        on_cpu = all(p.device.type == "cpu" for p in model.parameters())
        kinds = [m for m in model.modules() if type(m) is nn.Dropout and 0 < m.p < 1]
        self.modules = kinds if (on_cpu or processes > 1) and not again else []
        self.generator, self.rows = torch.Generator(), 0
        for number, module in enumerate(self.modules):
            module.forward = partial(self._forward, number, module, module.forward)

    def begin(self, seed: int, examples: int) -> None:
        """A step starts, with ``examples`` in its global batch."""
        words = np.random.SeedSequence(seed).generate_state(len(self.modules) * examples)
        self.seeds = words.reshape(len(self.modules), examples).tolist()

    def take(self, rows: Sequence[int]) -> None:
        """The next forward pass is over these rows of the global batch."""
        self.rows = [int(row) for row in rows]
        self.calls = [0] * len(self.modules)

    def _forward(self, number: int, module: nn.Dropout, usual: Callable, x: Tensor) -> Tensor:
        if not module.training or not self.rows or len(x) != len(self.rows):
            return usual(x)
        noise = self._noise(number, x, min(round(module.p * _VALUES), _VALUES - 1))
        self.calls[number] += 1
        return x.mul_(noise) if module.inplace else x * noise

    def _noise(self, number: int, x: Tensor, dropped: int) -> Tensor:
        """Zeros, and 1 / (1 - p) where an element is kept; x: (examples, ...)."""
        size, call = x[0].numel(), self.calls[number] * 0x9E3779B1
        bits = torch.empty(len(x), -(-size // 4), dtype=torch.int64)
        for draws, row in zip(bits, self.rows, strict=True):
            seed = (self.seeds[number][row] + call) % (1 << 32)  # torch's generator reads 32 bits
            draws.random_(-(1 << 63), None, generator=self.generator.manual_seed(seed))
        values = bits.view(torch.int16)[:, :size].reshape(x.shape).to(x.device)
        noise = torch.empty_like(x, memory_format=torch.contiguous_format)
        torch.ge(values, dropped - _VALUES // 2, out=noise)
        return noise.mul_(_VALUES / (_VALUES - dropped))

    def __deepcopy__(self, memo: dict) -> "ExampleDropout":
        """A copy of the model, a callback's say, keeps this one: a generator has no copy."""
        return self

    def release(self) -> None:
        """Give the modules their own forward pass back."""
        for module in self.modules:
            del module.forward
        self.modules = []
