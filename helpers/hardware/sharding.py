"""Fully sharded training (FSDP): each process keeps one part of every weight, of its gradient
and of its optimiser state, and gathers the weights of a layer only while that layer computes."""

import time
from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from statistics import median

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from helpers.batches import Batches, length_grouped_batches, take_rows
from helpers.errors import InvalidValue
from helpers.hardware.measure import blocks_of, step_memory
from helpers.training.config import TrainingConfig, learning_rate_at
from helpers.training.steps import build_optimizer, micro_batches, move


def fit_sharded(
    model: nn.Module, train: Batches, config: TrainingConfig
) -> tuple[list[float], float]:
    """``fit`` in its barest form, on ``model`` as ``shard`` leaves it: order, learning rate and
    clipping are ``fit``'s, so without dropout its losses are too.

    config: of it epochs, max_steps, batch_size, the learning rate's settings, weight_decay,
        max_grad_norm and seed are used.
    Returns the loss of every step over the global batch, and the seconds of a step (median).
    """
    world = distributed.get_world_size()
    optimizer = build_optimizer(model, config, next(model.parameters()).device.type)
    parameters = [p for p in model.parameters() if p.requires_grad]
    planned = ceil(config.epochs * ceil(len(train) / config.batch_size))
    total = min(planned, config.max_steps or planned)
    losses, clock = [], []
    model.train()
    for step in range(total):
        part, weight = share_of_batch(train, config, step)
        # FSDP averages gradients over processes: times their number gives the sum.
        loss = model(**move(part, next(model.parameters()).device)).loss * (weight * world)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, total, config) * group["scale"]
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach() / world
        distributed.all_reduce(mean)
        losses.append(float(mean))
        clock.append(time.perf_counter())
    return losses, median_step(clock)


def shard(model: nn.Module) -> nn.Module:
    """Cut every weight of ``model`` over the connected processes, in place, where it lies.

    Each transformer block is gathered and let go by itself; what stands outside of the blocks
    (the word embeddings) is gathered together. Source: ``torch.distributed.fsdp.fully_shard``.
    Raises InvalidValue if no processes are connected.
    """
    if not distributed.is_initialized():
        raise InvalidValue(
            "no processes are connected, so there is nothing to share with; start several with "
            "`python -m torch.distributed.run --standalone --nproc_per_node 2 ...`."
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = next(model.parameters()).device.type
    mesh = init_device_mesh(device, (distributed.get_world_size(),))
    for block in blocks_of(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights on the CPU, sharded or not; every process must ask."""
    return {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().to("cpu", copy=True)
        for name, p in model.named_parameters()
    }


def held_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Bytes of parameters, gradients and optimizer state that this process holds; of a sharded
    tensor, its own part."""
    weights = list(model.parameters())
    state = [value for values in optimizer.state.values() for value in values.values()]
    return {
        "parameters": _bytes(weights),
        "gradients": _bytes([p.grad for p in weights if p.grad is not None]),
        "optimizer": _bytes([value for value in state if isinstance(value, Tensor)]),
    }


def memory_of_a_step(
    model: nn.Module, train: Batches, config: TrainingConfig
) -> tuple[dict[str, int], int]:
    """``held_bytes`` at the end of a plain step over this process's share of the first batch,
    before the gradients are cleared, and the peak of that step. Two steps are taken: the
    weights change."""
    device = next(model.parameters()).device
    optimizer = build_optimizer(model, config, device.type)
    batch = move(share_of_batch(train, config, 0)[0], device)
    held: dict[str, int] = {}

    def step() -> None:
        model(**batch).loss.backward()
        optimizer.step()
        held.update(held_bytes(model, optimizer))
        optimizer.zero_grad()

    model.train()
    return held, step_memory(step, model, optimizer).peak


def share_of_batch(
    data: Batches, config: TrainingConfig, step: int
) -> tuple[dict[str, Tensor], float]:
    """This process's rows of the global batch of ``step``, and its share of the batch's items
    (0 where no row is left for it: the row that it then gets counts for nothing)."""
    connected = distributed.is_initialized()
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if connected else (0, 1)
    epoch, place = divmod(step, ceil(len(data) / config.batch_size))
    batches = length_grouped_batches(data.lengths, config.batch_size, seed=config.seed, epoch=epoch)
    batch = data.batch(batches[place])
    (rows,) = micro_batches(len(batches[place]), rank, world, 1)
    part = take_rows(batch, rows if len(rows) else [0])
    return part, data.count_items(part) / data.count_items(batch) if len(rows) else 0.0


def median_step(clock: Sequence[float]) -> float:
    """Seconds between two ends of steps, the median; nan with fewer than two."""
    steps = [after - before for before, after in pairwise(clock)]
    return median(steps) if steps else float("nan")


def _bytes(tensors: Sequence[Tensor]) -> int:
    own = [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
    return sum(tensor.numel() * tensor.element_size() for tensor in own)
