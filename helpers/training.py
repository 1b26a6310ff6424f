"""One training loop for every task, on one process or several: ``fit()``.

The loss of a step is the sum over the global batch divided by its items (``count_items``): so
eight accumulated micro-batches of one example, or two processes with half the examples each,
give what one batch of eight gives. Order, masking and dropout are functions of (seed, step), so
that a run can be taken up again at any step.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from math import ceil, isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn
from tqdm.auto import tqdm

from helpers import checkpoints, runtime
from helpers.batching import Batches, length_grouped_batches, sorted_batches, take_rows
from helpers.config import History, TrainingConfig, learning_rate_at
from helpers.errors import CourseError, InvalidValue, NonFiniteLoss
from helpers.optimization import (
    EmbeddingGradient,
    build_optimizer,
    clip_gradients,
    derived_seed,
    is_out_of_memory,
    micro_batches,
)

__all__ = ["Callback", "History", "Metrics", "TrainingConfig", "fit", "learning_rate_at"]

MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
DROPOUT, MASKING, EVALUATION = range(3)  # what a derived seed is for

Metrics = Callable[[np.ndarray, np.ndarray], dict[str, float]]
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
    with _accelerator(config) as accelerator:
        run = _Run(accelerator, model, train, validation, config, callbacks, compute_metrics)
        try:
            return run.fit()
        finally:
            run.embedding.release()
            accelerator.unwrap_model(run.wrapped, keep_fp32_wrapper=False)
            model.zero_grad(set_to_none=True)
            model.eval()


@contextmanager
def _accelerator(config: TrainingConfig) -> Iterator[Accelerator]:
    """An Accelerator of this run's own. Accelerate keeps its settings in dictionaries of the
    whole process: this run gets new ones, and the caller's are put back afterwards."""
    hardware = runtime.detect(device=config.device, precision=config.precision, seed=config.seed)
    states = [AcceleratorState, GradientState]
    if not _processes_are_connected():
        states.append(PartialState)
    before = [state._shared_state for state in states]
    for state in states:
        state._shared_state = {}
    try:
        yield Accelerator(
            cpu=hardware.device == "cpu",
            mixed_precision=MIXED_PRECISION[hardware.precision],
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
    finally:
        for state, values in zip(states, before, strict=True):
            # Connected processes stay so, and what Accelerate knows of them with it.
            if not (state is PartialState and _processes_are_connected()):
                state._shared_state = values


def _processes_are_connected() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


class _Run:
    """One call of ``fit``: what changes while it runs, and the parts of a step."""

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
        self.train, self.validation = train, validation
        self.callbacks, self.compute_metrics = callbacks, compute_metrics
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.history = History(processes=self.world)
        self.accumulation = config.accumulation
        self.best: dict[str, Tensor] = {}
        self.seconds, self.trained_seconds, self.seen = 0.0, 0.0, 0
        self.last_checkpoint = None
        self.steps_per_epoch = ceil(len(train) / config.batch_size)
        planned = ceil(config.epochs * self.steps_per_epoch)
        self.total_steps = min(planned, config.max_steps or planned)
        runtime.set_seed(config.seed)
        model.to(accelerator.device)
        optimizer = build_optimizer(model, config, accelerator.device.type)
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.embedding = EmbeddingGradient(model if self.world == 1 else nn.Module())

    def fit(self) -> History:
        first, stop = self._prepare_checkpoints()
        self._check_metric()
        before, started = self.seconds, time.perf_counter()
        planned = self._examples_of(range(self.total_steps))
        with tqdm(
            total=planned,
            initial=self._examples_of(range(first)),
            unit=" examples",
            disable=not (self.config.progress and self.accelerator.is_main_process),
        ) as bar:
            for step, indices in self._batches(range(first, 0 if stop else self.total_steps)):
                begun = time.perf_counter()
                loss = self._step(step, indices)
                self.trained_seconds += time.perf_counter() - begun
                self.seen += len(indices)
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update(len(indices))
                stop = self._after_step(step + 1)
                self.seconds = before + time.perf_counter() - started
                if self._checkpoint_is_due(step + 1):
                    self._save(step + 1, stop)
                if stop:
                    break
        if self.best:
            checkpoints.restore_model(self.model, self.best)
        self.history.seconds = before + time.perf_counter() - started
        self.history.examples_per_second = self.seen / max(self.trained_seconds, 1e-9)
        return self.history

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

    def _examples_of(self, steps: range) -> int:
        return sum(len(indices) for _, indices in self._batches(steps))

    def _step(self, step: int, indices: np.ndarray) -> float:
        """One update of the weights from one global batch; returns its loss."""
        rate = learning_rate_at(step, self.total_steps, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
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
        self.history.steps.append(
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
        size = ceil(self.config.batch_size / self.world / self.accumulation)
        if size == 1 or self.world > 1:
            raise CourseError(
                f"memory ran out at step {step + 1} with {size} example(s) at once on a process "
                f"({message}). Use shorter texts (max_length), a smaller model, or"
                + (" more accumulation." if size > 1 else " another machine.")
            )
        self.accumulation = min(self.accumulation * 2, self.config.batch_size)
        self._event(
            f"memory ran out at step {step + 1} with {size} examples at once; going on with "
            f"accumulation {self.accumulation}. The batch of a step stays "
            f"{self.config.batch_size} examples, so the result is the same.",
            warn=True,
        )
        return None

    def _gradients(self, step: int, indices: np.ndarray) -> float:
        """Gradients of the mean loss over the global batch ``indices``; returns that loss.

        Every process builds the whole batch (token ids, a few kB), so that masking and the
        number of items are the same however it is then shared out.
        """
        torch.manual_seed(derived_seed(self.config.seed, step, DROPOUT, self.rank))
        batch = self.train.batch(indices, self._generator(step, MASKING))
        items = max(1, self.train.count_items(batch))
        pieces = micro_batches(len(indices), self.rank, self.world, self.accumulation)
        total = torch.zeros((), device=self.accelerator.device)
        for number, rows in enumerate(pieces, 1):
            part = take_rows(batch, rows if len(rows) else [0])
            count = self.train.count_items(part) if len(rows) else 0
            last = number == len(pieces)
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                output = self.wrapped(**_to(part, self.accelerator.device))
                if output.loss is None:
                    raise InvalidValue("the model returned no loss: the data have no labels.")
                # Without an item the model's mean is 0/0; the zero keeps the graph whole,
                # because every process must take part in summing the gradients.
                mean = output.loss if count else output.logits.sum() * 0.0
                # DDP averages gradients over processes: times their number gives the sum.
                self.accelerator.backward(mean * (count / items * self.world))
                total += mean.detach() * (count / items)
        return float(self.accelerator.reduce(total, "sum"))

    def _after_step(self, done: int) -> bool:
        """Evaluation, best weights and callbacks after ``done`` steps; True to stop."""
        every = self.config.evaluate_every or self.steps_per_epoch
        stop = False
        if self.validation is not None and (done % every == 0 or done == self.total_steps):
            scores = self._evaluate()
            improved = self.history.add_evaluation({"step": done, **scores}, self.config)
            if improved and self.config.keep_best:
                weights = checkpoints.model_tensors(self.model)
                self.best = {k: v.to("cpu", copy=True) for k, v in weights.items()}
            stop = self.history.patience_is_over(self.config)
        for callback in self.callbacks:
            stop = callback(done, self.model, self.history) is True or stop
        return stop

    @torch.inference_mode()
    def _evaluate(self, batches_at_most: int | None = None) -> dict[str, float]:
        """Mean loss and metrics over the validation set, the same on every process: each takes
        every so-manyth batch, and all are put together in one order."""
        self.model.eval()
        tokens = self.config.batch_size * int(self.validation.lengths.max())
        batches = list(sorted_batches(self.validation.lengths, tokens_per_batch=tokens))
        results = []
        for number in range(self.rank, len(batches[:batches_at_most]), self.world):
            generator = self._generator(number, EVALUATION)
            batch = self.validation.batch(batches[number], generator)
            pieces = micro_batches(len(batches[number]), 0, 1, self.accumulation * self.world)
            for piece, rows in enumerate(pieces):
                part = take_rows(batch, rows)
                count = self.validation.count_items(part)
                with self.accelerator.autocast():
                    output = self.model(**_to(part, self.accelerator.device))
                loss = float(output.loss) if count else 0.0
                kept = self._kept_for_metrics(output.logits, part["labels"])
                results.append(((number, piece), loss, count, *kept))
        if self.world > 1:
            results = gather_object(results)
        results.sort(key=lambda result: result[0])
        _, losses, counts, logits, labels = zip(*results, strict=True)
        total = sum(loss * count for loss, count in zip(losses, counts, strict=True))
        scores = {"loss": total / max(1, sum(counts))}
        if logits[0] is not None:
            compute = self.compute_metrics or _accuracy
            metrics = compute(np.concatenate(logits), np.concatenate(labels))
            scores |= {name: float(value) for name, value in metrics.items()}
        return scores

    def _kept_for_metrics(self, logits: Tensor, labels: Tensor) -> tuple[Any, Any]:
        """Logits are kept for ``compute_metrics`` or a classifier's accuracy: a language model's
        would fill the memory."""
        classifies = logits.dim() == 2 and logits.shape[1] > 1 and labels.dim() == 1
        if self.compute_metrics or (classifies and not labels.is_floating_point()):
            return logits.float().cpu().numpy(), labels.numpy()
        return None, None

    def _check_metric(self) -> None:
        """An unknown metric is an error before the training, not after an epoch of it."""
        if self.config.metric != "loss":
            names = self._evaluate(batches_at_most=1)
            if self.config.metric not in names:
                raise InvalidValue(
                    f"metric is {self.config.metric!r}; there are: {', '.join(sorted(names))}."
                )

    def _prepare_checkpoints(self) -> tuple[int, bool]:
        """Resume if asked to. Returns the number of steps done and whether that was the end."""
        folder = self.config.checkpoint_folder
        if folder is None:
            return 0, False
        self.fingerprint = self._fingerprint()
        if not self.config.resume:
            checkpoints.require_empty(folder)
            return 0, False
        found = [checkpoints.find_newest(folder) if self.accelerator.is_main_process else None]
        path, events = broadcast_object_list(found)[0]
        done, stopped = (0, False) if path is None else self._load(path)
        for event in events:
            self._event(event, warn=True)
        self._event(f"resumed after step {done}." if path else f"no checkpoint in {folder} yet.")
        return done, stopped

    def _fingerprint(self) -> dict[str, Any]:
        """What a run must share with the one it takes up."""
        shapes = {name: list(p.shape) for name, p in self.model.named_parameters()}
        trainable = [name for name, p in self.model.named_parameters() if p.requires_grad]
        return {
            **self.config.decisive_settings(),
            "precision": self.accelerator.mixed_precision,
            "model": checkpoints.fingerprint(shapes, trainable),
            "training data": checkpoints.data_fingerprint(self.train),
            "validation data": checkpoints.data_fingerprint(self.validation),
        }

    def _checkpoint_is_due(self, done: int) -> bool:
        every = self.config.checkpoint_every
        return every is not None and done % every == 0 and self.accelerator.is_main_process

    def _save(self, done: int, stopped: bool) -> None:
        tensors, generators = checkpoints.random_state()
        scaler = self.accelerator.scaler
        self.last_checkpoint = checkpoints.save(
            self.config.checkpoint_folder,
            done,
            {
                "model.safetensors": checkpoints.model_tensors(self.model),
                "optimizer.safetensors": checkpoints.optimizer_tensors(self.optimizer.optimizer),
                "random.safetensors": tensors,
                "best.safetensors": self.best,
            },
            {
                "step": done,
                "stopped": stopped,
                "accumulation": self.accumulation,
                "seconds": [self.seconds, self.trained_seconds],
                "examples": self.seen,
                "generators": generators,
                "scaler": scaler.state_dict() if scaler else None,
                "history": self.history.to_dict(),
                "fingerprint": self.fingerprint,
            },
        )

    def _load(self, path: Path) -> tuple[int, bool]:
        state = checkpoints.load_state(path)
        checkpoints.require_same(state["fingerprint"], self.fingerprint, path)
        checkpoints.restore_model(self.model, checkpoints.load_tensors(path, "model.safetensors"))
        moments = checkpoints.load_tensors(path, "optimizer.safetensors")
        checkpoints.restore_optimizer(self.optimizer.optimizer, moments)
        generators = checkpoints.load_tensors(path, "random.safetensors")
        checkpoints.restore_random_state(generators, state["generators"])
        self.best = checkpoints.load_tensors(path, "best.safetensors")
        self.history = History.from_dict(state["history"] | {"processes": self.world})
        self.accumulation, self.seen = state["accumulation"], state["examples"]
        self.seconds, self.trained_seconds = state["seconds"]
        self.last_checkpoint = path
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        return state["step"], state["stopped"]

    def _not_finite(self, step: int, indices: np.ndarray, loss: float) -> NonFiniteLoss:
        saved = f"checkpoint {self.last_checkpoint}" if self.last_checkpoint else "no checkpoint"
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

    def _event(self, line: str, *, warn: bool = False) -> None:
        self.history.events.append(line)
        if warn and self.accelerator.is_main_process:
            tqdm.write(line, file=sys.stderr)

    def _generator(self, number: int, purpose: int) -> torch.Generator:
        return torch.Generator().manual_seed(derived_seed(self.config.seed, number, purpose))


def _check_data(
    model: nn.Module, train: Batches, validation: Batches | None, config: TrainingConfig
) -> None:
    """Raises InvalidValue for what would fail, or lead astray, in the middle of the training."""
    if validation is None and (config.patience is not None or config.metric != "loss"):
        raise InvalidValue("patience and metric need validation examples, and there are none.")
    settings = getattr(model, "config", None)
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


def _to(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    if device.type == "cpu":
        return batch
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return {"accuracy": float(np.mean(logits.argmax(-1) == labels))}
