"""LAMB, the optimiser with which BERT is pretrained on batches of tens of thousands.

It takes Adam's step and gives it, in each layer, a length in proportion to that layer's weights
(You et al. 2020, "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
algorithm 2). PyTorch has none of its own.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from helpers.errors import InvalidValue


class Lamb(torch.optim.Optimizer):
    """For each tensor w with gradient g, in step t, with Adam's running means m and v:

        m_hat = m / (1 - beta1**t),  v_hat = v / (1 - beta2**t)
        u = m_hat / (sqrt(v_hat) + eps) + weight_decay * w
        w <- w - lr * trust_ratio * u,  trust_ratio = |w| / |u|  (1 if either is 0)

    lr, eps: above 0. betas: each from 0 to below 1. weight_decay: part of u, so of what the ratio
        measures.
    bias_correction: False leaves m and v as they are (the paper's third version had it so).
    max_weight_norm: |w| counts as this much at most; None: no limit. Some libraries have 10.
    max_grad_norm: before all else, the gradients of all tensors together are scaled down to this
        norm, as in NVIDIA's implementation (1.0 there); None: they are taken as they are.
    A group of parameters may have a value of its own for all but max_grad_norm; with
    ``"adapt": False`` its trust ratio is 1 (NVIDIA does so where weight_decay is 0).
    Raises InvalidValue.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        bias_correction: bool = True,
        max_weight_norm: float | None = None,
        max_grad_norm: float | None = None,
    ) -> None:
        positive = {"lr": lr, "eps": eps}
        limits = {"max_weight_norm": max_weight_norm, "max_grad_norm": max_grad_norm}
        for name, value in (positive | limits).items():
            if value is not None and not value > 0:
                raise InvalidValue(f"{name} is {value!r}; it must be above 0.")
        self.max_grad_norm = max_grad_norm
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
            "max_weight_norm": max_weight_norm,
            "adapt": True,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # torch's take a closure, which no lesson needs
        """One update of every tensor that has a gradient."""
        used = [
            (w, group) for group in self.param_groups for w in group["params"] if w.grad is not None
        ]
        shrink: Tensor | float = 1.0
        if self.max_grad_norm is not None:
            norm = torch.nn.utils.get_total_norm([w.grad for w, _ in used])
            shrink = (self.max_grad_norm / norm).clamp(max=1.0)
        for w, group in used:
            self._update(w, w.grad * shrink, group)

    def _update(self, w: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[w], group["betas"]
        if not state:
            state["step"] = 0
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(w), torch.zeros_like(w)
        state["step"] += 1
        m = state["exp_avg"].lerp_(g, 1 - beta1)
        v = state["exp_avg_sq"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        if group["bias_correction"]:
            m = m / (1 - beta1 ** state["step"])
            v = v / (1 - beta2 ** state["step"])
        u = m / (v.sqrt() + group["eps"])
        u.add_(w, alpha=group["weight_decay"])
        ratio = trust_ratio(w, u, group["max_weight_norm"]) if group["adapt"] else 1.0
        w.sub_(u.mul_(group["lr"] * ratio))


def trust_ratio(w: Tensor, u: Tensor, max_weight_norm: float | None = None) -> Tensor:
    """|w| / |u| with Euclidean norms over the whole tensor, |w| at most ``max_weight_norm``; 1
    where either norm is 0. A tensor of no dimensions."""
    weight, update = torch.linalg.vector_norm(w), torch.linalg.vector_norm(u)
    capped = weight if max_weight_norm is None else weight.clamp(max=max_weight_norm)
    ratio = capped / update
    return torch.where((weight > 0) & (update > 0), ratio, torch.ones_like(ratio))
