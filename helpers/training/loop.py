"""One training loop for every task, on one process or several: ``fit``.

``training_loop`` and ``add_gradients`` are the loop itself, meant to be read; what they call is in
``run`` (the parts of one run) and ``steps`` (plain functions).
"""

import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext

import numpy as np
import torch
from torch import nn

from helpers.batches import Batches, take_rows
from helpers.errors import InvalidValue
from helpers.losses import consistency_loss
from helpers.training.config import History, TrainingConfig, learning_rate_at
from helpers.training.run import Run, check_data
from helpers.training.steps import (
    DROPOUT,
    MASKING,
    clip_gradients,
    derived_seed,
    generator_for,
    micro_batches,
    move,
)

Callback = Callable[[int, nn.Module, History], bool | None]


def fit(
    model: nn.Module,
    train: Batches,
    validation: Batches | None = None,
    config: TrainingConfig | None = None,
    *,
    callbacks: Sequence[Callback] = (),
) -> History:
    """Train ``model`` in place; it ends on its device, in eval mode, with the best weights
    (``keep_best`` and ``validation`` given) or the last. Of a classifier, the accuracy on
    ``validation`` is measured too.

    model: any transformers model whose ``model(**batch)`` has ``loss`` (a mean over items).
    callbacks: each called as ``callback(step, model, history)`` after every step, on every
        process; one that returns True ends the training.
    Raises InvalidValue (settings, data or a checkpoint that do not fit), NonFiniteLoss, and
    CourseError (memory runs out with single examples; a checkpoint cannot be written).
    """
    config = config or TrainingConfig()
    check_data(model, train, validation, config)
    with closing(Run(model, train, validation, config)) as run:
        training_loop(run, callbacks)
        return run.finish()


def training_loop(run: Run, callbacks: Sequence[Callback]) -> None:
    """Every step: batch, forward and backward, clip, update, judge, save."""
    config, state, optimizer, scaler = run.config, run.state, run.optimizer, run.scaler
    for step, indices in run.batches():
        started = time.perf_counter()
        rate = learning_rate_at(step, run.total_steps, config)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]  # with layer_decay, lower layers learn more slowly
        run.replica.train()  # dropout on: judging the model, or a callback, may have turned it off
        loss = run.in_smaller_pieces_if_memory_runs_out(add_gradients, step, indices)
        # In fp16 small gradients would be rounded to 0, so the loss was scaled up. Undo that before
        # measuring how long the gradient is. In other precisions the scaler does nothing.
        scaler.unscale_(optimizer)
        norm = clip_gradients(run.parameters, config.max_grad_norm)
        run.require_finite(step, indices, loss, norm)  # before a bad step ruins the weights
        scaler.step(optimizer)
        scaler.update()
        run.clear_gradients()  # gradients add up: without this, every old batch votes again
        run.record(step, indices, loss, rate, time.perf_counter() - started)
        stop = run.judge_if_due()
        for callback in callbacks:
            stop = callback(step + 1, run.model, state.history) is True or stop
        run.save_if_due(stop)  # last, so that a resumed run repeats none of the above
        if stop:
            break


def add_gradients(run: Run, step: int, indices: np.ndarray) -> float:
    """Forward and backward: add the gradients of the batch's mean loss; return that loss."""
    config, machine, size = run.config, run.machine, len(indices)
    # Dropout and masked words follow from (seed, step), not from where the generators happen to
    # be: so a resumed run, or a second attempt in smaller pieces, draws the same again.
    torch.manual_seed(derived_seed(config.seed, step, DROPOUT, machine.rank))
    passes = 2 if config.consistency else 1
    run.masks.begin(derived_seed(config.seed, step, DROPOUT), passes * size)
    # Every process builds the whole batch (a few kB) and takes its rows, so all agree about it.
    batch = run.train.batch(indices, generator_for(config.seed, step, MASKING))
    items = max(1, run.train.count_items(batch))
    total = torch.zeros((), device=machine.device)
    pieces = micro_batches(size, machine.rank, machine.world, run.state.accumulation)
    for number, rows in enumerate(pieces, 1):
        # A process that gets no row computes row 0 and counts it 0 times: the others wait for it.
        taken = rows if len(rows) else [0]
        part = take_rows(batch, taken)
        count = run.train.count_items(part) if len(rows) else 0
        run.masks.take([p * size + row for p in range(passes) for row in taken])
        inputs = {name: torch.cat([tensor] * passes) for name, tensor in part.items()}
        # Processes exchange gradients once per step, with the last piece.
        with nullcontext() if number == len(pieces) else run.no_sync():
            with machine.autocast():
                output = run.replica(**move(inputs, machine.device))
            if output.loss is None:
                raise InvalidValue("the model returned no loss: the data have no labels.")
            # A mean over no items is 0/0; this zero still depends on the weights, as DDP needs.
            mean = output.loss.float() if count else output[1].float().sum() * 0.0
            if count and config.consistency:
                mean = mean + config.consistency * consistency_loss(*output.logits.chunk(2))
            # Weighted by its share of the whole batch's items. A mean of the pieces' means would
            # give a masked word more weight just because its piece holds few of them. And DDP
            # averages over the processes; times their number, that is the sum.
            run.scaler.scale(mean * (count / items * machine.world)).backward()
            total += mean.detach() * (count / items)
    run.masks.take([])
    return float(machine.sum(total))
