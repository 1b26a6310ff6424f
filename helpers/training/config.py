"""The settings of a training run (``TrainingConfig``), its history (``History``), and the learning
rate as a plain function of the step."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from math import ceil, cos, inf, isfinite, isnan, pi
from pathlib import Path
from typing import Any

import numpy as np

from helpers.errors import InvalidValue

SCHEDULES = ("linear", "cosine", "constant")


def _whole(value: Any, low: int = 1, high: float = inf) -> bool:
    return type(value) is int and low <= value <= high  # True is an int, but not meant here


def _number(value: Any, high: float = inf) -> bool:
    return type(value) is not bool and 0 <= value <= high and isfinite(value)


_ALLOWED: list[tuple[str, str, Callable[[Any], bool]]] = [  # settings, in words, and as a test
    ("epochs", "a number above 0", lambda v: _number(v) and v > 0),
    ("max_grad_norm", "above 0", lambda v: type(v) is not bool and v > 0),  # inf: no clipping
    ("learning_rate layer_decay", "above 0, at most 1", lambda v: _number(v, 1) and v > 0),
    ("weight_decay warmup_fraction", "0 to 1", lambda v: _number(v, 1)),
    ("consistency", "0 to 100", lambda v: _number(v, 100)),
    ("schedule", f"one of {', '.join(SCHEDULES)}", SCHEDULES.__contains__),
    ("metric", "loss or accuracy", ("loss", "accuracy").__contains__),
    ("seed", "a whole number from 0 to 2**32 - 1", lambda v: _whole(v, 0, 2**32 - 1)),
    ("batch_size accumulation", "a whole number, at least 1", _whole),
    (
        "max_steps evaluate_every patience checkpoint_every",
        "a whole number, at least 1, or None",
        lambda v: v is None or _whole(v),
    ),
    ("keep_best resume progress", "True or False", lambda v: type(v) is bool),
    ("checkpoint_folder", "a path", lambda v: v is None or isinstance(v, str | Path)),
]


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of ``fit``; InvalidValue names any that is out of its range.

    epochs: passes over the training examples, above 0; fractions are allowed.
    batch_size: examples of one optimizer step, over all processes and micro-batches.
    learning_rate: the peak; above 0, at most 1.
    layer_decay: factor of the learning rate from the head to the top layer, and from each layer to
        the one below it; above 0, at most 1 (Howard & Ruder 2018, section 3.2, use 1/2.6).
    weight_decay: of AdamW, 0 to 1; never applied to biases and normalisation weights.
    warmup_fraction: of all steps, 0 to 1, during which the learning rate rises to its peak.
    schedule: after that "linear" or "cosine" to 0, or "constant".
    consistency: weight of R-Drop's term (``losses.consistency_loss``, Liang et al. 2021), 0 to
        100; for classifiers with dropout. Each example passes twice per step, under two masks. The
        loss is the mean of both passes; the paper takes the sum, so its weight is twice this.
    max_grad_norm: gradients are scaled down to this norm; above 0.
    accumulation: micro-batches into which each process cuts its share of a batch.
    seed: 0 to 2**32 - 1; decides order, masking and dropout.
    max_steps: the most steps to take, whatever ``epochs`` says.
    evaluate_every: steps between evaluations (None: each epoch); the last step is always judged.
    metric: "loss" or (of classifiers) "accuracy"; it decides which step is best.
    patience: stop after this many evaluations in a row without a better one (None: never).
    keep_best: end with the best evaluation's weights rather than the last.
    checkpoint_every: steps between checkpoints in checkpoint_folder (None: no checkpoints).
    resume: continue from the newest sound checkpoint there, if there is one.
    device, precision: as in ``runtime.detect`` (None: what suits this machine).
    progress: show a progress bar.
    """

    epochs: float = 2
    batch_size: int = 32
    learning_rate: float = 1e-4
    layer_decay: float = 1.0
    weight_decay: float = 0.01
    warmup_fraction: float = 0.1
    schedule: str = "linear"
    consistency: float = 0.0
    max_grad_norm: float = 1.0
    accumulation: int = 1
    seed: int = 42
    max_steps: int | None = None
    evaluate_every: int | None = None
    metric: str = "loss"
    patience: int | None = None
    keep_best: bool = True
    checkpoint_every: int | None = None
    checkpoint_folder: Path | None = None
    resume: bool = False
    device: str | None = None
    precision: str | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, np.generic):  # from np.geomspace, say; checkpoints hold plain ones
                object.__setattr__(self, name, value.item())
        for names, allowed, is_fine in _ALLOWED:
            for name in names.split():
                value = getattr(self, name)
                try:
                    fine = is_fine(value)
                except TypeError:  # a text where a number belongs
                    fine = False
                if not fine:
                    raise InvalidValue(f"{name} is {value!r}; it must be {allowed}.")
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

    def decisive_settings(self) -> dict[str, Any]:
        """The settings that determine the final weights: a resumed run must have the same."""
        others = {"checkpoint_every", "checkpoint_folder", "resume", "device", "progress"}
        return {name: value for name, value in asdict(self).items() if name not in others}


@dataclass
class History:
    """What happened in a run.

    steps: one dictionary per step: step (from 1), epoch (fraction), loss (mean nats per item),
        learning_rate. evaluations: step, loss and metrics. events: anything out of the ordinary.
    seconds: in total. examples_per_second: of training alone. best_step: of the kept weights.
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
        """The training loss of every step, in nats per item."""
        return [step["loss"] for step in self.steps]

    def add_evaluation(self, scores: dict[str, float], config: TrainingConfig) -> bool:
        """Append ``scores``; True (and noted as ``best_step``) if they are the best so far."""
        sign = -1 if config.metric == "loss" else 1
        values = [sign * evaluation[config.metric] for evaluation in self.evaluations]
        best = max((value for value in values if not isnan(value)), default=-inf)
        self.evaluations.append(scores)
        improved = sign * scores[config.metric] > best  # never, if it is not a number
        if improved:
            self.best_step = int(scores["step"])
        return improved

    def patience_is_over(self, config: TrainingConfig) -> bool:
        """Whether ``config.patience`` evaluations have passed since the best one."""
        best = self.best_step or 0
        since = sum(evaluation["step"] > best for evaluation in self.evaluations)
        return config.patience is not None and since >= config.patience


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
