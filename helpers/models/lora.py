"""LoRA, with the ``peft`` library.

A weight matrix W (out, in) is frozen and replaced by W + (alpha / rank) B A. Only A (rank, in) and
B (out, rank) are trained. B starts at zero, so a new adapter changes nothing.
Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
"""

import warnings
from collections.abc import Sequence
from math import inf
from typing import Any

import torch
from torch import nn

from helpers.errors import InvalidValue, unknown_name

_HEADS = ("classifier", "score")  # untrained before fine-tuning, so they are trained in full
_MATRICES = ("Linear", "Conv1D")  # GPT-2 uses Conv1D, which stores W transposed


def add_lora(
    model: nn.Module,
    *,
    rank: int,
    alpha: float | None = None,
    targets: str | Sequence[str] | None = None,
    seed: int = 42,
) -> nn.Module:
    """Add an adapter to every target matrix of ``model``; returns a ``peft.PeftModel``.

    All other weights are frozen, except a classification head (``classifier`` or ``score``), which
    is trained in full. ``model`` itself is changed: use only what is returned, and ``merge`` it
    after training.

    rank: from 1 to the smaller side of the smallest target matrix.
    alpha: above 0; the change is multiplied by alpha / rank. None: twice the rank.
    targets: names of linear layers, such as "query"; a dotted name such as "attention.output.dense"
        selects fewer. None: the default of peft for the architecture (BERT: query and value;
        Llama: q_proj and v_proj).
    seed: for the weights of A; torch's global generator is left alone.
    Raises InvalidValue for a value out of range or an unknown target, with the closest match.
    """
    if settings(model):
        raise InvalidValue("the model already has an adapter; merge it first, or load a new model.")
    if not isinstance(rank, int) or rank < 1:
        raise InvalidValue(f"rank is {rank!r}; it must be a whole number, at least 1.")
    alpha = 2 * rank if alpha is None else alpha
    if not 0 < alpha < inf:
        raise InvalidValue(f"alpha is {alpha}; it must be above 0, for instance {2 * rank}.")
    heads = [name for name, _ in model.named_children() if name in _HEADS]
    matrices = {
        name: layer
        for name, layer in model.named_modules()
        if type(layer).__name__ in _MATRICES and name.split(".")[0] not in heads
    }
    names = _default_targets(model) if targets is None else targets
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if not any(f".{each}".endswith(f".{name}") for each in matrices):
            raise unknown_name("target", name, {each.rpartition(".")[2] for each in matrices})
    chosen = [each for each in matrices if f".{each}".endswith(tuple(f".{n}" for n in names))]
    if not chosen:
        raise InvalidValue("targets is empty; name at least one linear layer.")
    smallest = min(chosen, key=lambda name: min(matrices[name].weight.shape))
    shape = tuple(matrices[smallest].weight.shape)
    if rank > min(shape):
        raise InvalidValue(
            f"rank is {rank}, but {smallest} has the shape {shape}, and no such matrix has a rank "
            f"above {min(shape)}. Give 1 to {min(shape)}; 4 to 16 is usual."
        )
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft computes alpha / rank with any number
        target_modules=names,
        modules_to_save=heads or None,
        fan_in_fan_out=any(type(matrices[name]).__name__ == "Conv1D" for name in chosen),
    )
    training = model.training
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # peft uses a deprecated name of transformers, and learners can't do anything about it.
        warnings.simplefilter("ignore", FutureWarning)
        torch.default_generator.manual_seed(seed)
        adapted = get_peft_model(model, config)
    return adapted.train(training)


def merge(model: nn.Module) -> nn.Module:
    """The transformers model with W + (alpha / rank) B A in place of W, and the trained head.

    All weights are trainable again. What ``add_lora`` returned can't be used any more.
    Raises InvalidValue if ``model`` has no adapter.
    """
    if not settings(model):
        raise InvalidValue("the model has no adapter to merge; call add_lora first.")
    plain: nn.Module = model.merge_and_unload()  # type: ignore[operator]
    return plain.requires_grad_(True)


def settings(model: nn.Module) -> dict[str, Any] | None:
    """The rank, alpha, targets and dropout of the model's adapter; None if it has none."""
    found = getattr(model, "peft_config", None)
    if not found:
        return None
    config = found["default"]
    return {
        "rank": config.r,
        "alpha": config.lora_alpha,
        "targets": sorted(config.target_modules),
        "dropout": config.lora_dropout,
    }


def _default_targets(model: nn.Module) -> list[str]:
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as known

    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind not in known:
        raise InvalidValue(
            f"no targets are known for the architecture {kind or type(model).__name__!r}; "
            f"give the names of its linear layers, targets=[...]."
        )
    return list(known[kind])
