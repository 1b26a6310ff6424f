"""One training loop for every task, on one process or several: ``fit()``.

The loss of a step is the sum over the global batch divided by its items (``count_items``): so
eight accumulated micro-batches of one example, or two processes with half the examples each,
give what one batch of eight gives. Everything that is drawn at random is a function of (seed,
step), so that a run can be taken up again anywhere.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from math import ceil, cos, isfinite, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import gather_object
from torch import nn
from tqdm.auto import tqdm

from helpers import runtime
from helpers.batching import Batches, length_grouped_batches, sorted_batches, take_rows
from helpers.errors import InvalidValue, NonFiniteLoss

EVALUATION_TOKENS = 8192  # tokens of an evaluation batch, padding included
SCHEDULES = ("linear", "cosine", "constant")
MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}

Metrics = Callable[[np.ndarray, np.ndarray], dict[str, float]]
Callback = Callable[[int, nn.Module, "History"], bool | None]


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of ``fit``; InvalidValue names any that is out of its range.

    epochs: passes over the training examples, above 0; fractions are allowed.
    batch_size: examples of one optimiser step, over all processes and micro-batches.
    learning_rate: the peak; above 0, at most 1.
    weight_decay: of AdamW, 0 to 1; never applied to biases and normalisation weights.
    warmup_fraction: of all steps, 0 to 1, in which the learning rate rises to its peak.
    schedule: after that "linear" or "cosine" to 0, or "constant".
    max_grad_norm: gradients are scaled down to this norm; above 0.
    accumulation: micro-batches into which each process cuts its share of a batch.
    seed: 0 to 2**32 - 1; decides order, masking and dropout.
    max_steps: steps at most, whatever ``epochs`` says.
    evaluate_every: steps between evaluations (None: each epoch); the last step is always judged.
    metric: "loss", "accuracy" (classifiers) or a name that ``compute_metrics`` returns; it decides
        on the best step. greater_is_better: None for what the name suggests.
    patience: stop after so many evaluations in a row without a better one (None: never).
    keep_best: end with the best evaluation's weights rather than the last.
    checkpoint_every: steps between checkpoints in checkpoint_folder (None: no checkpoints).
    resume: take up the newest sound checkpoint there, if there is one.
    device, precision: as in ``runtime.detect`` (None: what suits this machine).
    progress: show a progress bar.
    """

    epochs: float = 2
    batch_size: int = 32
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup_fraction: float = 0.1
    schedule: str = "linear"
    max_grad_norm: float = 1.0
    accumulation: int = 1
    seed: int = 42
    max_steps: int | None = None
    evaluate_every: int | None = None
    metric: str = "loss"
    greater_is_better: bool | None = None
    patience: int | None = None
    keep_best: bool = True
    checkpoint_every: int | None = None
    checkpoint_folder: Path | None = None
    resume: bool = False
    device: str | None = None
    precision: str | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        _require(self, "epochs", "a number above 0", lambda v: isfinite(v) and v > 0)
        _require(self, "learning_rate", "above 0, at most 1", lambda v: 0 < v <= 1)
        _require(self, "weight_decay", "0 to 1", lambda v: 0 <= v <= 1)
        _require(self, "warmup_fraction", "0 to 1", lambda v: 0 <= v <= 1)
        _require(self, "max_grad_norm", "above 0", lambda v: v > 0)
        _require(self, "schedule", f"one of {', '.join(SCHEDULES)}", SCHEDULES.__contains__)
        _require(self, "seed", "a whole number from 0 to 2**32 - 1", _whole(0, 2**32 - 1))
        for name in ("batch_size", "accumulation"):
            _require(self, name, "a whole number, at least 1", _whole(1))
        for name in ("max_steps", "evaluate_every", "patience", "checkpoint_every"):
            if getattr(self, name) is not None:
                _require(self, name, "a whole number, at least 1, or None", _whole(1))
        if self.accumulation > self.batch_size:
            raise InvalidValue(
                f"accumulation is {self.accumulation}, more than the {self.batch_size} examples "
                f"of a batch; give 1 to {self.batch_size}."
            )
        if self.checkpoint_folder is not None:
            object.__setattr__(self, "checkpoint_folder", Path(self.checkpoint_folder))
        elif self.checkpoint_every is not None or self.resume:
            raise InvalidValue(
                "checkpoint_folder is None, but checkpoint_every or resume is set; name a folder."
            )


def _require(config: TrainingConfig, name: str, allowed: str, check: Callable) -> None:
    value = getattr(config, name)
    try:
        fine = not isinstance(value, bool) and check(value)
    except TypeError:
        fine = False
    if not fine:
        raise InvalidValue(f"{name} is {value!r}; it must be {allowed}.")


def _whole(low: int, high: float = float("inf")) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int | np.integer) and low <= value <= high


@dataclass
class History:
    """What happened in a run.

    steps: one dictionary a step: step (from 1), epoch (fraction), loss (mean nats an item),
        learning_rate. evaluations: step, loss and metrics. events: what was out of the ordinary.
    seconds: in all. examples_per_second: of training alone. best_step: of the kept weights.
    """

    steps: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    seconds: float = 0.0
    examples_per_second: float = 0.0
    processes: int = 1
    best_step: int | None = None

    @property
    def losses(self) -> list[float]:
        """The training loss of every step, in nats an item."""
        return [step["loss"] for step in self.steps]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "History":
        """The inverse of ``to_dict``."""
        return cls(**values)


def learning_rate_at(step: int, total_steps: int, config: TrainingConfig) -> float:
    """The learning rate of update ``step`` (from 0) of ``total_steps``: it rises linearly from 0
    over the warm-up, then follows the schedule. "linear" equals transformers'
    ``get_linear_schedule_with_warmup``."""
    warmup = ceil(config.warmup_fraction * total_steps)
    if step < warmup:
        return config.learning_rate * step / warmup
    done = (step - warmup) / max(1, total_steps - warmup)
    factor = {"linear": 1 - done, "cosine": (1 + cos(pi * done)) / 2, "constant": 1.0}
    return config.learning_rate * factor[config.schedule]


def fit(
    model: nn.Module,
    train: Batches,
    validation: Batches | None = None,
    config: TrainingConfig = TrainingConfig(),
    *,
    callbacks: Sequence[Callback] = (),
    compute_metrics: Metrics | None = None,
) -> History:
    """Train ``model`` in place; it ends on its device, in eval mode, with the best weights
    (``keep_best`` and ``validation`` given) or the last.

    model: any transformers model whose ``model(**batch)`` has ``loss`` (a mean over items).
    callbacks: each called as ``callback(step, model, history)`` after every step, on every
        process; one that returns True ends the training.
    compute_metrics: ``(logits, labels) -> {name: value}`` over the whole validation set.
    Raises InvalidValue (settings or data that do not fit the model), NonFiniteLoss.
    """
    with _accelerator(config) as accelerator:
        run = _Run(accelerator, model, train, validation, config, callbacks, compute_metrics)
        try:
            return run.fit()
        finally:
            accelerator.unwrap_model(run.wrapped, keep_fp32_wrapper=False)
            model.eval()


@contextmanager
def _accelerator(config: TrainingConfig) -> Iterator[Accelerator]:
    """An Accelerator of this run's own. Accelerate keeps its settings in process-wide
    dictionaries: they are put back afterwards, so that the next run may choose others."""
    hardware = runtime.detect(device=config.device, precision=config.precision, seed=config.seed)
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    states = [AcceleratorState, GradientState] + ([] if distributed else [PartialState])
    before = [dict(state._shared_state) for state in states]
    for state in states:
        state._shared_state.clear()
    try:
        yield Accelerator(
            cpu=hardware.device == "cpu", mixed_precision=MIXED_PRECISION[hardware.precision]
        )
    finally:
        # A process group that this run started lives on, and its PartialState with it.
        started = torch.distributed.is_available() and torch.distributed.is_initialized()
        for state, values in zip(states, before, strict=True):
            if state is PartialState and started:
                continue
            state._shared_state.clear()
            state._shared_state.update(values)


class _Run:
    """One call of ``fit``: what changes while it runs, and the steps of it."""

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
        self.best: dict[str, torch.Tensor] | None = None
        self.steps_per_epoch = ceil(len(train) / config.batch_size)
        planned = ceil(config.epochs * self.steps_per_epoch)
        self.total_steps = min(planned, config.max_steps or planned)
        runtime.set_seed(config.seed)
        optimizer = build_optimizer(model, config, accelerator.device.type)
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def fit(self) -> History:
        started, trained, seen = time.perf_counter(), 0.0, 0
        bar = tqdm(
            total=self.total_steps * self.config.batch_size,
            unit=" examples",
            disable=not (self.config.progress and self.accelerator.is_main_process),
        )
        with bar:
            for step, indices in enumerate(self._batches(0)):
                begun = time.perf_counter()
                loss = self._step(step, indices)
                trained += time.perf_counter() - begun
                seen += len(indices)
                bar.update(len(indices))
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                if self._after_step(step + 1):
                    break
        if self.best is not None and self.config.keep_best:
            self.model.load_state_dict(self.best, strict=False)
        self.history.seconds = time.perf_counter() - started
        self.history.examples_per_second = seen / trained
        return self.history

    def _batches(self, first: int) -> Iterator[np.ndarray]:
        """The global batches of steps ``first`` to the last."""
        epoch, batches = -1, []
        for step in range(first, self.total_steps):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                batches = length_grouped_batches(
                    self.train.lengths, self.config.batch_size, seed=self.config.seed, epoch=epoch
                )
            yield batches[step % self.steps_per_epoch]

    def _step(self, step: int, indices: np.ndarray) -> float:
        """One update of the weights from one global batch; returns its loss."""
        rate = learning_rate_at(step, self.total_steps, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.wrapped.train()
        loss = self._gradients(step, indices)
        self.accelerator.unscale_gradients()
        clip_gradients(self.parameters, self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.history.steps.append(
            {
                "step": step + 1,
                "epoch": (step + 1) / self.steps_per_epoch,
                "loss": loss,
                "learning_rate": rate,
            }
        )
        return loss

    def _gradients(self, step: int, indices: np.ndarray) -> float:
        """Gradients of the mean loss over the global batch ``indices``; returns that loss.

        Every process builds the whole batch (token ids, a few kB), so that masking and the
        number of items are the same however it is then shared out.
        """
        torch.manual_seed(derived_seed(self.config.seed, step, 0, self.rank))
        draws = torch.Generator().manual_seed(derived_seed(self.config.seed, step, 1))
        batch = self.train.batch(indices, draws)
        items = max(1, self.train.count_items(batch))
        pieces = micro_batches(len(indices), self.rank, self.world, self.accumulation)
        total = torch.zeros((), device=self.accelerator.device)
        for number, rows in enumerate(pieces, 1):
            part = take_rows(batch, rows if len(rows) else [0])
            count = self.train.count_items(part) if len(rows) else 0
            last = number == len(pieces)
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                output = self.wrapped(**_to(part, self.accelerator.device))
                # Without an item the model's mean is 0/0; the zero keeps the graph whole,
                # because every process must take part in summing the gradients.
                mean = output.loss if count else output.logits.sum() * 0.0
                # DDP averages gradients over processes: times their number gives the sum.
                self.accelerator.backward(mean * (count / items * self.world))
                total += mean.detach() * (count / items)
        loss = float(self.accelerator.reduce(total, "sum"))
        if not isfinite(loss):
            raise NonFiniteLoss(
                f"the loss of step {step + 1} is {loss}; its batch was examples "
                f"{indices.tolist()}. Lower learning_rate "
                f"({self.config.learning_rate:g} now), or look at those examples."
            )
        return loss

    def _after_step(self, done: int) -> bool:
        """Evaluation, best weights, callbacks after ``done`` steps; True to stop."""
        every = self.config.evaluate_every or self.steps_per_epoch
        stop = False
        if self.validation is not None and (done % every == 0 or done == self.total_steps):
            self._judge(done)
            stop = self._patience_is_over()
        for callback in self.callbacks:
            stop = bool(callback(done, self.model, self.history)) or stop
        return stop

    def _judge(self, done: int) -> None:
        scores = self._evaluate()
        name = self.config.metric
        if name not in scores:
            raise InvalidValue(f"metric is {name!r}; there are: {', '.join(sorted(scores))}.")
        self.history.evaluations.append({"step": done, **scores})
        best = self._best_evaluation()
        if best is self.history.evaluations[-1]:
            self.history.best_step = done
            if self.config.keep_best:
                self.best = {
                    k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()
                }

    def _best_evaluation(self) -> dict[str, float]:
        greater = self.config.greater_is_better
        if greater is None:
            greater = not self.config.metric.endswith(("loss", "perplexity", "error"))
        sign = 1 if greater else -1
        return max(self.history.evaluations, key=lambda scores: sign * scores[self.config.metric])

    def _patience_is_over(self) -> bool:
        if self.config.patience is None:
            return False
        best = next(
            i for i, s in enumerate(self.history.evaluations) if s["step"] == self.history.best_step
        )
        return len(self.history.evaluations) - 1 - best >= self.config.patience

    @torch.inference_mode()
    def _evaluate(self) -> dict[str, float]:
        """Mean loss and metrics over the validation set, the same on every process: each takes
        every so-manyth batch, and all are put together in one order."""
        self.model.eval()
        results = []
        batches = sorted_batches(self.validation.lengths, tokens_per_batch=EVALUATION_TOKENS)
        for number, indices in enumerate(batches):
            if number % self.world != self.rank:
                continue
            draws = torch.Generator().manual_seed(derived_seed(self.config.seed, number, 2))
            batch = self.validation.batch(indices, draws)
            count = self.validation.count_items(batch)
            with self.accelerator.autocast():
                output = self.model(**_to(batch, self.accelerator.device))
            keep = self.compute_metrics is not None or (
                output.logits.dim() == 2 and batch["labels"].dtype == torch.int64
            )
            logits = output.logits.float().cpu().numpy() if keep else None
            labels = batch["labels"].numpy() if keep else None
            results.append((number, float(output.loss) if count else 0.0, count, logits, labels))
        if self.world > 1:
            results = gather_object(results)
        results.sort(key=lambda result: result[0])
        items = sum(count for _, _, count, _, _ in results)
        scores = {"loss": sum(loss * count for _, loss, count, _, _ in results) / max(1, items)}
        if results[0][3] is not None:
            logits = np.concatenate([result[3] for result in results])
            labels = np.concatenate([result[4] for result in results])
            compute = self.compute_metrics or _accuracy
            scores |= {name: float(value) for name, value in compute(logits, labels).items()}
        return scores


def build_optimizer(
    model: nn.Module, config: TrainingConfig, device_type: str
) -> torch.optim.AdamW:
    """AdamW over the trainable weights, fused where torch has such a kernel. Vectors (biases
    and normalisation weights) get no weight decay."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise InvalidValue("no weight of the model is trainable; set requires_grad on some.")
    groups = [
        {"params": [p for p in trainable if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=device_type in ("cpu", "cuda"))


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> float:
    """Scale all gradients so that their joint norm is at most ``max_norm``; returns the norm
    before. Gradients that are short enough are only read."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = float(nn.utils.get_total_norm(gradients, foreach=True))
    if norm > max_norm:
        torch._foreach_mul_(gradients, max_norm / (norm + 1e-6))
    return norm


def micro_batches(examples: int, rank: int, world: int, accumulation: int) -> list[np.ndarray]:
    """The rows of a global batch that process ``rank`` of ``world`` takes (every ``world``-th),
    in up to ``accumulation`` runs of neighbours; one empty run if there is no row left for it."""
    rows = np.arange(rank, examples, world)
    return np.array_split(rows, max(1, min(accumulation, len(rows))))


def derived_seed(*numbers: int) -> int:
    """A seed of 64 bits that depends on all ``numbers`` and in which no pattern of them shows."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _to(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    if device.type == "cpu":
        return batch
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return {"accuracy": float(np.mean(logits.argmax(-1) == labels))}
