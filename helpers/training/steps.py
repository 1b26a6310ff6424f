"""The parts of an optimizer step that ``fit`` puts together, each a plain function."""

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from helpers.errors import InvalidValue
from helpers.training.config import TrainingConfig

# A number in a weight's name that counts layers: encoder.layer.0, model.layers.0, transformer.h.0.
_LAYER = re.compile(r"\b(?:layers?|h|blocks?)\.(\d+)\.")
DROPOUT, MASKING, EVALUATION = range(3)  # what a derived seed is for


def build_optimizer(
    model: nn.Module, config: TrainingConfig, device_type: str
) -> torch.optim.AdamW:
    """AdamW over the trainable weights, fused where torch has such a kernel. Vectors (biases
    and normalisation weights) get no weight decay. Every group has its share of the learning
    rate under "scale". Raises InvalidValue if all weights are frozen, or if ``layer_decay`` finds
    no layers."""
    scales = layer_scales([name for name, _ in model.named_parameters()], config.layer_decay)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((scales[name], parameter.dim() > 1), []).append(parameter)
    if not groups:
        raise InvalidValue("no weight of the model is trainable; set requires_grad on some.")
    settings = [
        {"params": parameters, "scale": scale, "weight_decay": config.weight_decay * decays}
        for (scale, decays), parameters in groups.items()
    ]
    fused = device_type in ("cpu", "cuda")
    return torch.optim.AdamW(settings, lr=config.learning_rate, fused=fused)


def layer_scales(names: Sequence[str], decay: float) -> dict[str, float]:
    """Each weight's share of the learning rate: 1 for the head and whatever else is above the
    layers, ``decay`` for the top layer, ``decay**2`` for the one below it, and so on; the
    embeddings come last.

    names: of the weights, as ``named_parameters`` gives them. Raises InvalidValue if decay is
    not 1 and no name contains a layer's number. Source: Howard & Ruder 2018 (ULMFiT), section 3.2.
    """
    numbers = {name: int(found[1]) for name in names if (found := _LAYER.search(name))}
    if decay != 1 and not numbers:
        raise InvalidValue(
            f"layer_decay is {decay:g}, but the names of this model's weights contain no "
            "layer numbers (such as encoder.layer.0). Set it to 1."
        )
    top = max(numbers.values(), default=-1)
    is_embedding = re.compile(r"embed|\bwte\b|\bwpe\b").search
    below = {
        name: top + 1 - numbers[name] if name in numbers else (top + 2) * bool(is_embedding(name))
        for name in names
    }
    return {name: decay**steps for name, steps in below.items()}


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> float:
    """Scale all gradients so that their joint norm is at most ``max_norm``; returns the norm
    before. Short enough ones are only read; ``torch.nn.utils.clip_grad_norm_`` writes them too."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = float(nn.utils.get_total_norm(gradients))
    if not norm <= max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / (norm + 1e-6))
    return norm


def micro_batches(examples: int, rank: int, world: int, accumulation: int) -> list[np.ndarray]:
    """The rows of a global batch that process ``rank`` of ``world`` takes (every ``world``-th),
    in up to ``accumulation`` pieces of neighbours; one empty piece if there is no row for it."""
    rows = np.arange(rank, examples, world)
    return np.array_split(rows, max(1, min(accumulation, len(rows))))


def derived_seed(*numbers: int) -> int:
    """A seed of 63 bits from all ``numbers``, mixed so that near numbers give unrelated streams."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def generator_for(seed: int, number: int, purpose: int) -> torch.Generator:
    """The random numbers of one step (or evaluation batch) of a run, for one purpose."""
    return torch.Generator().manual_seed(derived_seed(seed, number, purpose))


def move(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """The batch on ``device``. Only CUDA copies while Python goes on: on MPS such a copy may read
    memory that has been given back by then."""
    if device.type == "cpu":
        return batch
    later = device.type == "cuda"
    return {name: tensor.to(device, non_blocking=later) for name, tensor in batch.items()}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is how torch reports that memory ran out, on a GPU or in main memory."""
    signs = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs)
    )
