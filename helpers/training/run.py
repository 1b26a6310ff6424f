"""The parts of one call of ``fit`` that its loop calls: what is set up before the first step and
undone after the last, the order of the batches, and what is done when something goes wrong."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from math import ceil, inf, isfinite

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from helpers import runtime
from helpers.batches import Batches, length_grouped_batches
from helpers.errors import CourseError, InvalidValue, NonFiniteLoss
from helpers.training.checkpoints import Checkpoints, RunState
from helpers.training.config import History, TrainingConfig
from helpers.training.machine import Machine
from helpers.training.speed import EmbeddingGradient, ExampleMasks
from helpers.training.steps import build_optimizer, derived_seed, is_out_of_memory
from helpers.training.validation import Validator


class Run:
    """One call of ``fit``; ``close`` leaves an ordinary model behind, in eval mode.

    state: how far the run is. replica: what computes, ``model`` itself or, with several
    processes, DDP around it. total_steps: of the whole run.
    """

    def __init__(
        self, model: nn.Module, train: Batches, validation: Batches | None, config: TrainingConfig
    ) -> None:
        self.model, self.train, self.config = model, train, config
        self.machine = machine = Machine.of(config)
        self.steps_per_epoch = ceil(len(train) / config.batch_size)
        planned = ceil(config.epochs * self.steps_per_epoch)
        self.total_steps = min(planned, config.max_steps or planned)
        runtime.set_seed(config.seed)
        model.to(machine.device)
        self.optimizer = build_optimizer(model, config, machine.device.type)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        scaling = machine.precision == "fp16"
        self.scaler = torch.amp.GradScaler(machine.device.type, enabled=scaling)
        self.checkpoints = Checkpoints(
            {"model": model, "optimizer": self.optimizer, "scaler": self.scaler},
            {"training data": train, "validation data": validation},
            config,
            machine,
        )
        self.state, damaged = self.checkpoints.restore(
            RunState(History(processes=machine.world), config.accumulation)
        )
        for line in damaged:
            self.say(line)
        self.validator = validation and Validator(model, validation, machine, config)
        if self.validator:
            self.validator.require_metric(config.metric)
        # Buffers stay each process's own: a model in training mode does not read them.
        self.replica: nn.Module = model
        if machine.world > 1:
            self.replica = DistributedDataParallel(model, broadcast_buffers=False)
        self.embedding = EmbeddingGradient(model, enabled=machine.world == 1)
        self.masks = ExampleMasks(model, world=machine.world)
        # As if a resumed run had never been broken off.
        self.started = time.perf_counter() - self.state.history.seconds

    def close(self) -> None:
        self.embedding.release()
        self.masks.release()
        self.model.zero_grad(set_to_none=True)
        self.model.eval()

    def batches(self) -> Iterator[tuple[int, np.ndarray]]:
        """Each step that is left, with the examples of its global batch, under a progress bar."""
        first = self.total_steps if self.state.stopped else len(self.state.history.steps)
        epochs, rest = divmod(self.total_steps, self.steps_per_epoch)
        begun = self._batches(self.total_steps - rest, self.total_steps)
        with tqdm(
            total=epochs * len(self.train) + sum(len(indices) for _, indices in begun),
            initial=self.state.examples,
            unit=" examples",
            disable=not (self.config.progress and self.machine.is_main),
        ) as bar:
            for step, indices in self._batches(first, self.total_steps):
                # Metrics, callbacks and data that draw random numbers draw the same after a break.
                runtime.set_seed(derived_seed(self.config.seed, step) % 2**32)
                yield step, indices
                bar.set_postfix(loss=f"{self.state.history.steps[-1]['loss']:.3f}", refresh=False)
                bar.update(len(indices))

    def _batches(self, first: int, end: int) -> Iterator[tuple[int, np.ndarray]]:
        for epoch in range(first // self.steps_per_epoch, ceil(end / self.steps_per_epoch)):
            batches = length_grouped_batches(
                self.train.lengths, self.config.batch_size, seed=self.config.seed, epoch=epoch
            )
            for step, indices in enumerate(batches, epoch * self.steps_per_epoch):
                if first <= step < end:
                    yield step, indices

    def no_sync(self) -> AbstractContextManager:
        """Inside it, a backward pass keeps this process's gradients to itself."""
        if isinstance(self.replica, DistributedDataParallel):
            return self.replica.no_sync()
        return nullcontext()

    def clear_gradients(self) -> None:
        """What ``optimizer.zero_grad()`` does."""
        self.embedding.clear(self.parameters)

    def in_smaller_pieces_if_memory_runs_out(
        self, gradients: Callable[["Run", int, np.ndarray], float], step: int, indices: np.ndarray
    ) -> float:
        """``gradients(run, step, indices)``. Where memory runs out, again with the batch cut into
        twice as many pieces, from here to the end of the run. Raises CourseError if the pieces
        are single examples already, or other processes would have to follow."""
        while True:
            try:
                return gradients(self, step, indices)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                message = (str(error) or type(error).__name__).splitlines()[0]
            # Outside of the handler: the traceback, and the tensors it holds, are gone by now.
            self.clear_gradients()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            accumulation, world = self.state.accumulation, self.machine.world
            size = ceil(self.config.batch_size / world / accumulation)
            if size == 1 or world > 1:
                raise CourseError(
                    f"memory ran out at step {step + 1} with {size} example(s) at once per process "
                    f"({message}). Use shorter texts (max_length), a smaller model, or"
                    + (" more accumulation." if size > 1 else " another machine.")
                )
            self.state.accumulation = min(2 * accumulation, self.config.batch_size)
            line = (
                f"memory ran out at step {step + 1} with {size} examples at once; going on with "
                f"accumulation {self.state.accumulation}. The batch of a step stays "
                f"{self.config.batch_size} examples, so the result is the same."
            )
            self.state.history.events.append(line)
            self.say(line)

    def require_finite(self, step: int, indices: np.ndarray, loss: float, norm: float) -> None:
        """Raises NonFiniteLoss. With fp16 an infinite gradient is expected now and then: the
        scaler skips that step and lowers its scale."""
        if isfinite(loss) and (isfinite(norm) or self.scaler.is_enabled()):
            return
        last = self.checkpoints.last
        what = "gradient is not finite (the loss is {:.4g})" if isfinite(loss) else "loss is {}"
        raise NonFiniteLoss(
            f"training stopped at step {step + 1}, before the weights were touched: the "
            f"{what.format(loss)}. The batch: examples {indices.tolist()}. Last good state: "
            f"{f'checkpoint {last}' if last else 'no checkpoint'}. Lower learning_rate (now "
            f"{self.config.learning_rate:g}) or max_grad_norm (now {self.config.max_grad_norm:g}), "
            "or look for what is odd in those examples."
        )

    def record(
        self, step: int, indices: np.ndarray, loss: float, rate: float, seconds: float
    ) -> None:
        """Note a finished step."""
        self.state.examples += len(indices)
        self.state.training_seconds += seconds
        epoch = (step + 1) / self.steps_per_epoch
        self.state.history.steps.append(
            {"step": step + 1, "epoch": epoch, "loss": loss, "learning_rate": rate}
        )

    def judge_if_due(self) -> bool:
        """Evaluate after ``evaluate_every`` steps and after the last; keep the weights if they are
        the best so far. True to stop: nothing has got better for too long."""
        history = self.state.history
        done = len(history.steps)
        every = self.config.evaluate_every or self.steps_per_epoch
        if not self.validator or (done % every and done != self.total_steps):
            return False
        scores = self.validator(self.state.accumulation * self.machine.world)
        improved = history.add_evaluation({"step": done, **scores}, self.config)
        if improved and self.config.keep_best:
            named = self.model.named_parameters(remove_duplicate=False)
            frozen = {name for name, p in named if not p.requires_grad}  # the same at any step
            weights = {k: v for k, v in self.model.state_dict().items() if k not in frozen}
            self.state.best = {k: v.to("cpu", copy=True) for k, v in weights.items()}
        return history.patience_is_over(self.config)

    def save_if_due(self, stopped: bool) -> None:
        """Write a checkpoint every ``checkpoint_every`` steps."""
        self.state.stopped = stopped
        self.state.history.seconds = time.perf_counter() - self.started
        self.checkpoints.save_if_due(self.state)

    def finish(self) -> History:
        """Return to the best weights, and fill in what the history says of the whole run."""
        if self.state.best:
            self.model.load_state_dict(self.state.best, strict=False)  # frozen ones are not kept
        history = self.state.history
        history.seconds = time.perf_counter() - self.started
        history.examples_per_second = self.state.examples / max(self.state.training_seconds, 1e-9)
        return history

    def say(self, line: str) -> None:
        """A line above the progress bar."""
        if self.machine.is_main:
            tqdm.write(line, file=sys.stderr)


def check_data(
    model: nn.Module, train: Batches, validation: Batches | None, config: TrainingConfig
) -> None:
    """Raises InvalidValue for what would fail, or mislead, in the middle of the training."""
    if validation is None and (config.patience is not None or config.metric != "loss"):
        raise InvalidValue("patience and metric need validation examples, and there are none.")
    labels = getattr(train, "labels", None)
    if config.consistency and (labels is None or labels.dtype.kind != "i" or labels.ndim != 1):
        raise InvalidValue(
            f"consistency is {config.consistency:g}; it compares predicted classes, and the "
            "training data have none. Set it to 0."
        )
    settings = getattr(model, "config", None)
    positions = getattr(settings, "max_position_embeddings", None) or inf
    classes = getattr(settings, "num_labels", None) or 0
    for name, data in (("training", train), ("validation", validation)):
        if data is None:
            continue
        if len(data) == 0:
            raise InvalidValue(f"there are no {name} examples; give at least one.")
        if data.lengths.max() > positions:
            raise InvalidValue(
                f"the longest of the {name} examples has {data.lengths.max()} tokens, the model "
                f"has {positions} positions. Encode with max_length={positions} or less."
            )
        labels = getattr(data, "labels", None)
        if labels is not None and labels.dtype.kind == "i" and labels.max() >= classes > 1:
            raise InvalidValue(
                f"label {labels.max()} of {name} example {labels.argmax()} is outside the "
                f"model's classes, 0 to {classes - 1}."
            )
