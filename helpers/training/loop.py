"""One training loop for every task, on one process or several: ``fit()``.

The loss of a step is the sum over the global batch divided by its items (``count_items``): so
eight accumulated micro-batches of one example, or two processes with half the examples each,
give what one batch of eight gives. Order, masking and dropout are functions of (seed, step), so
that a run can be taken up again at any step.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from math import ceil, isfinite

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from tqdm.auto import tqdm

from helpers import runtime
from helpers.batches import Batches, length_grouped_batches, take_rows
from helpers.errors import CourseError, InvalidValue, NonFiniteLoss
from helpers.losses import consistency_loss
from helpers.training.acceleration import own_accelerator
from helpers.training.checkpoints import model_tensors, restore_model
from helpers.training.config import History, TrainingConfig, learning_rate_at
from helpers.training.dropout import ExampleDropout
from helpers.training.resuming import Progress, RunCheckpoints
from helpers.training.steps import (
    DROPOUT,
    MASKING,
    EmbeddingGradient,
    build_optimizer,
    clip_gradients,
    derived_seed,
    generator_for,
    is_out_of_memory,
    micro_batches,
    move,
)
from helpers.training.validation import Metrics, Validator

__all__ = ["Callback", "History", "Metrics", "TrainingConfig", "fit", "learning_rate_at"]

Callback = Callable[[int, nn.Module, History], bool | None]


def fit(
    model: nn.Module,
    train: Batches,
    validation: Batches | None = None,
    config: TrainingConfig | None = None,
    *,
    callbacks: Sequence[Callback] = (),
    compute_metrics: Metrics | None = None,
) -> History:
    """Train ``model`` in place; it ends on its device, in eval mode, with the best weights
    (``keep_best`` and ``validation`` given) or the last.

    model: any transformers model whose ``model(**batch)`` has ``loss`` (a mean over items).
    callbacks: each called as ``callback(step, model, history)`` after every step, on every
        process; one that returns True ends the training.
    compute_metrics: ``(logits, labels) -> {name: value}`` over the whole validation set. Without
        it, a classifier's accuracy is measured.
    Raises InvalidValue (settings, data or a checkpoint that do not fit), NonFiniteLoss, and
    CourseError (memory runs out with single examples; a checkpoint cannot be written).
    """
    config = config or TrainingConfig()
    _check_data(model, train, validation, config)
    with own_accelerator(config) as accelerator:
        run = _Run(accelerator, model, train, validation, config, callbacks, compute_metrics)
        try:
            return run.fit()
        finally:
            run.embedding.release()
            run.dropout.release()
            accelerator.unwrap_model(run.wrapped, keep_fp32_wrapper=False)
            model.zero_grad(set_to_none=True)
            model.eval()


class _Run:
    """One call of ``fit``: its parts, and how far it is."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        train: Batches,
        validation: Batches | None,
        config: TrainingConfig,
        callbacks: Sequence[Callback],
        compute_metrics: Metrics | None,
    ) -> None:
        self.accelerator, self.model, self.config = accelerator, model, config
        self.train, self.callbacks = train, callbacks
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.progress = Progress(History(processes=self.world), config.accumulation)
        self.steps_per_epoch = ceil(len(train) / config.batch_size)
        planned = ceil(config.epochs * self.steps_per_epoch)
        self.total_steps = min(planned, config.max_steps or planned)
        runtime.set_seed(config.seed)
        model.to(accelerator.device)
        optimizer = build_optimizer(model, config, accelerator.device.type)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        named = model.named_parameters(remove_duplicate=False)
        self.frozen = {name for name, p in named if not p.requires_grad}
        data = {"training data": train, "validation data": validation}
        self.checkpoints = RunCheckpoints(accelerator, model, optimizer, data, config)
        self.validator = validation and Validator(
            model, validation, accelerator, config, compute_metrics
        )
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        self.embedding = EmbeddingGradient(model, enabled=self.world == 1)
        self.dropout = ExampleDropout(model, processes=self.world)

    def fit(self) -> History:
        self.progress, damaged = self.checkpoints.restore(self.progress)
        progress, history = self.progress, self.progress.history
        for line in damaged:
            self._say(line)
        if self.validator:
            self.validator.require_metric(self.config.metric)
        before, started = progress.seconds, time.perf_counter()
        first = self.total_steps if progress.stopped else progress.steps
        with tqdm(
            total=self._examples_before(self.total_steps),
            initial=self._examples_before(first),
            unit=" examples",
            disable=not (self.config.progress and self.accelerator.is_main_process),
        ) as bar:
            for step, indices in self._batches(range(first, self.total_steps)):
                begun = time.perf_counter()
                loss = self._step(step, indices)
                progress.training_seconds += time.perf_counter() - begun
                progress.examples += len(indices)
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update(len(indices))
                progress.steps = step + 1
                progress.stopped = self._judge_and_call_back(step + 1)
                progress.seconds = before + time.perf_counter() - started
                self.checkpoints.save_if_due(progress)
                if progress.stopped:
                    break
        if progress.best:
            restore_model(self.model, progress.best)
        history.seconds = before + time.perf_counter() - started
        history.examples_per_second = progress.examples / max(progress.training_seconds, 1e-9)
        return history

    def _batches(self, steps: range) -> Iterator[tuple[int, np.ndarray]]:
        """The numbers of the steps, each with its global batch."""
        epoch, batches = -1, []
        for step in steps:
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                batches = length_grouped_batches(
                    self.train.lengths, self.config.batch_size, seed=self.config.seed, epoch=epoch
                )
            yield step, batches[step % self.steps_per_epoch]

    def _examples_before(self, step: int) -> int:
        epochs, rest = divmod(step, self.steps_per_epoch)
        begun = self._batches(range(step - rest, step))
        return epochs * len(self.train) + sum(len(indices) for _, indices in begun)

    def _step(self, step: int, indices: np.ndarray) -> float:
        """One update of the weights from one global batch; returns its loss."""
        rate = learning_rate_at(step, self.total_steps, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self.wrapped.train()
        loss = None
        while loss is None:
            loss = self._gradients_or_halve(step, indices)
        self.accelerator.unscale_gradients()
        norm = clip_gradients(self.parameters, self.config.max_grad_norm)
        # With fp16 an infinite gradient is expected now and then: the scaler skips that step.
        if not isfinite(loss) or not (isfinite(norm) or self.accelerator.scaler):
            raise self._not_finite(step, indices, loss)
        self.optimizer.step()
        self.embedding.clear(self.parameters)
        self.progress.history.steps.append(
            {
                "step": step + 1,
                "epoch": (step + 1) / self.steps_per_epoch,
                "loss": loss,
                "learning_rate": rate,
            }
        )
        return loss

    def _gradients_or_halve(self, step: int, indices: np.ndarray) -> float | None:
        """The loss, its gradients computed; None if memory ran out and smaller micro-batches
        are worth another attempt."""
        try:
            return self._gradients(step, indices)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            message = (str(error) or type(error).__name__).splitlines()[0]
        # Outside of the handler: the traceback, and the tensors it holds, are gone by now.
        self.embedding.clear(self.parameters)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        accumulation = self.progress.accumulation
        size = ceil(self.config.batch_size / self.world / accumulation)
        if size == 1 or self.world > 1:
            raise CourseError(
                f"memory ran out at step {step + 1} with {size} example(s) at once on a process "
                f"({message}). Use shorter texts (max_length), a smaller model, or"
                + (" more accumulation." if size > 1 else " another machine.")
            )
        self.progress.accumulation = min(2 * accumulation, self.config.batch_size)
        line = (
            f"memory ran out at step {step + 1} with {size} examples at once; going on with "
            f"accumulation {self.progress.accumulation}. The batch of a step stays "
            f"{self.config.batch_size} examples, so the result is the same."
        )
        self.progress.history.events.append(line)
        self._say(line)
        return None

    def _gradients(self, step: int, indices: np.ndarray) -> float:
        """Gradients of the mean loss over the global batch ``indices``; returns that loss.

        Every process builds the whole batch (token ids, a few kB), so that masking and the
        number of items are the same however it is then shared out.
        """
        torch.manual_seed(derived_seed(self.config.seed, step, DROPOUT, self.rank))
        passes = 2 if self.config.consistency else 1
        self.dropout.begin(derived_seed(self.config.seed, step, DROPOUT), passes * len(indices))
        batch = self.train.batch(indices, generator_for(self.config.seed, step, MASKING))
        items = max(1, self.train.count_items(batch))
        pieces = micro_batches(len(indices), self.rank, self.world, self.progress.accumulation)
        total = torch.zeros((), device=self.accelerator.device)
        for number, rows in enumerate(pieces, 1):
            taken = rows if len(rows) else [0]
            part = take_rows(batch, taken)
            self.dropout.take([p * len(indices) + row for p in range(passes) for row in taken])
            count = self.train.count_items(part) if len(rows) else 0
            last = number == len(pieces)
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                both = {name: torch.cat([tensor] * passes) for name, tensor in part.items()}
                output = self.wrapped(**move(both, self.accelerator.device))
                if output.loss is None:
                    raise InvalidValue("the model returned no loss: the data have no labels.")
                # Without an item the model's mean is 0/0; the zero keeps the graph whole,
                # because every process must take part in summing the gradients.
                mean = output.loss if count else output[1].sum() * 0.0
                if count and self.config.consistency:
                    apart = consistency_loss(*output.logits.chunk(2))
                    mean = mean + self.config.consistency * apart
                # DDP averages gradients over processes: times their number gives the sum.
                self.accelerator.backward(mean * (count / items * self.world))
                total += mean.detach() * (count / items)
        self.dropout.take([])
        return float(self.accelerator.reduce(total, "sum"))

    def _judge_and_call_back(self, done: int) -> bool:
        """Evaluation, best weights and callbacks after ``done`` steps; True to stop."""
        every, history, stop = self.config.evaluate_every, self.progress.history, False
        last = done == self.total_steps
        if self.validator and (last or done % (every or self.steps_per_epoch) == 0):
            scores = self.validator(self.progress.accumulation * self.world)
            improved = history.add_evaluation({"step": done, **scores}, self.config)
            if improved and self.config.keep_best:
                weights = model_tensors(self.model)
                self.progress.best = {
                    k: v.to("cpu", copy=True) for k, v in weights.items() if k not in self.frozen
                }
            stop = history.patience_is_over(self.config)
        for callback in self.callbacks:
            stop = callback(done, self.model, history) is True or stop
        return stop

    def _not_finite(self, step: int, indices: np.ndarray, loss: float) -> NonFiniteLoss:
        last = self.checkpoints.last
        saved = f"checkpoint {last}" if last else "no checkpoint"
        what = (
            f"loss is {loss}"
            if not isfinite(loss)
            else f"gradient is not finite (the loss is {loss:.4g})"
        )
        return NonFiniteLoss(
            f"training stopped at step {step + 1}, before the weights were touched: the {what}. "
            f"The batch: examples {indices.tolist()}. Last good state: {saved}. Lower "
            f"learning_rate (now {self.config.learning_rate:g}) or max_grad_norm (now "
            f"{self.config.max_grad_norm:g}), or look for what is odd in those examples."
        )

    def _say(self, line: str) -> None:
        if self.accelerator.is_main_process:
            tqdm.write(line, file=sys.stderr)


def _check_data(
    model: nn.Module, train: Batches, validation: Batches | None, config: TrainingConfig
) -> None:
    """Raises InvalidValue for what would fail, or lead astray, in the middle of the training."""
    if validation is None and (config.patience is not None or config.metric != "loss"):
        raise InvalidValue("patience and metric need validation examples, and there are none.")
    settings = getattr(model, "config", None)
    labels = getattr(train, "labels", None)
    if config.consistency and (labels is None or labels.dtype.kind != "i" or labels.ndim != 1):
        raise InvalidValue(
            f"consistency is {config.consistency:g}; it compares predicted classes, and the "
            "training data have none. Set it to 0."
        )
    positions = getattr(settings, "max_position_embeddings", None)
    classes = getattr(settings, "num_labels", None)
    for name, data in (("training", train), ("validation", validation)):
        if data is None:
            continue
        if len(data) == 0:
            raise InvalidValue(f"there are no {name} examples; give at least one.")
        longest = int(data.lengths.max())
        if positions is not None and longest > positions:
            raise InvalidValue(
                f"the longest of the {name} examples has {longest} tokens, the model has "
                f"{positions} positions. Encode with max_length={positions} or less."
            )
        labels = getattr(data, "labels", None)
        if labels is not None and labels.dtype.kind == "i" and labels.max() >= (classes or 0) > 1:
            raise InvalidValue(
                f"label {labels.max()} of {name} example {labels.argmax()} is outside the "
                f"model's classes, 0 to {classes - 1}."
            )
