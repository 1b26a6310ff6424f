"""LoRA (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models") by ``peft``.

A frozen matrix W of shape (out, in) is used as W + (alpha / rank) B A, of which only
A (rank, in) and B (out, rank) are trained. B starts at zero, so a fresh adapter changes nothing.
"""

import warnings
from collections.abc import Sequence
from math import isfinite
from typing import Any

import torch
from torch import nn

from helpers.errors import InvalidValue, unknown_name

_HEADS = ("classifier", "score")  # fresh in every fine-tuning, so trained in full
_MATRICES = ("Linear", "Conv1D")


def add_lora(
    model: nn.Module,
    *,
    rank: int,
    alpha: float | None = None,
    targets: str | Sequence[str] | None = None,
    dropout: float = 0.0,
    seed: int = 42,
) -> nn.Module:
    """A ``peft.PeftModel`` around ``model`` with an adapter on every target matrix; all other
    weights are frozen, but a classification head (``classifier`` or ``score``) is trained in full.

    rank: 1 to the smaller side of the smallest target matrix.
    alpha: above 0; the change is multiplied by alpha / rank. None: twice the rank.
    targets: names of linear layers, such as "query"; a dotted end such as "attention.output.dense"
        picks fewer. None: what peft uses for the architecture (BERT: query and value; Llama:
        q_proj and v_proj).
    dropout: on the adapter's input, 0 <= dropout < 1.
    seed: of A; the global random state is left as it was.
    ``model`` itself is changed; go on with what is returned, and ``merge`` it in the end.
    Raises InvalidValue for what is out of range, and names near a target that does not exist.
    """
    if settings(model):
        raise InvalidValue("the model has an adapter already; merge it first, or load a fresh one.")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise InvalidValue(f"rank is {rank!r}; it must be a whole number, at least 1.")
    alpha = 2 * rank if alpha is None else alpha
    if not (isfinite(alpha) and alpha > 0):
        raise InvalidValue(f"alpha is {alpha}; it must be above 0, for instance {2 * rank}.")
    if not 0 <= dropout < 1:
        raise InvalidValue(f"dropout is {dropout}; it must be at least 0 and below 1.")
    heads = [name for name, _ in model.named_children() if name in _HEADS]
    matrices = {
        name: layer
        for name, layer in model.named_modules()
        if type(layer).__name__ in _MATRICES and name.split(".")[0] not in heads
    }
    names = _default_targets(model) if targets is None else targets
    names = [names] if isinstance(names, str) else list(names)
    chosen = _choose(matrices, names)
    smallest = min(chosen, key=lambda name: min(matrices[name].weight.shape))
    shape = tuple(matrices[smallest].weight.shape)
    if rank > min(shape):
        raise InvalidValue(
            f"rank is {rank}, but {smallest} has the shape {shape}: no change of it has a rank "
            f"above {min(shape)}. Give 1 to {min(shape)}; 4 to 16 is usual."
        )
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=names,
        lora_dropout=dropout,
        modules_to_save=heads or None,
        fan_in_fan_out=any(type(matrices[name]).__name__ == "Conv1D" for name in chosen),
    )
    training = model.training
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # peft asks transformers for a name that the latter is about to change.
        warnings.simplefilter("ignore", FutureWarning)
        torch.default_generator.manual_seed(seed)
        adapted = get_peft_model(model, config)
    return adapted.train(training)


def merge(model: nn.Module) -> nn.Module:
    """The plain transformers model with W + (alpha / rank) B A in place of W, and the trained
    head; every weight is trainable again. What ``add_lora`` returned is used up.

    Raises InvalidValue if ``model`` has no adapter.
    """
    if not settings(model):
        raise InvalidValue("the model has no adapter to merge; add_lora returns one that has.")
    return model.merge_and_unload().requires_grad_(True)


def settings(model: nn.Module) -> dict[str, Any] | None:
    """rank, alpha, targets and dropout of the model's adapter; None if it has none."""
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


def _choose(matrices: dict[str, nn.Module], targets: Sequence[str]) -> list[str]:
    """The full names that the targets stand for."""
    if not targets:
        raise InvalidValue("targets is empty; name at least one linear layer.")
    chosen = []
    for target in targets:
        found = [name for name in matrices if f".{name}".endswith(f".{target}")]
        if not found:
            raise unknown_name("target", target, {name.rpartition(".")[2] for name in matrices})
        chosen += found
    return chosen
