"""What the fine-tuning of a task will take before it starts: memory, operations, steps, and time
and cost here and on a card. No weights are loaded; ``measure`` times a few steps of a model of the
same shape with random ones, which takes as long."""

import time
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np

from helpers import models, runtime, tasks, training
from helpers.batches import Batches, length_grouped_batches
from helpers.errors import InvalidValue
from helpers.hardware import gpus, planner
from helpers.hardware.gpus import Card, Fit, PlannedRun
from helpers.hardware.planner import StepSettings
from helpers.hardware.published import MODELS, model_config
from helpers.tasks import Task
from helpers.training.config import TrainingConfig

UTILISATION = 0.3  # of a card's peak; assumed, and shown beside every time that rests on it
MEASURED_STEPS = 5
SHORTEST = 8  # word pieces


@dataclass(frozen=True)
class TaskSettings:
    """What is planned for, where it differs from the task's own settings.

    model: one of ``hardware.MODELS`` or a folder; a BERT. batch_size, examples, epochs: None for
        the task's own. max_length: tokens of a text at most.
    precision: None: what suits this machine, and for each card what suits that.
    card: one of ``gpus.CARDS``; None: all. utilisation: the share of a card's peak that is
        reached. price_per_hour: of a card, in any currency. measure: time a few steps here.
    """

    model: str | None = None
    batch_size: int | None = None
    max_length: int | None = None
    examples: int | None = None
    epochs: float | None = None
    precision: str | None = None
    checkpointing: bool = False
    lora_rank: int | None = None
    card: str | None = None
    utilisation: float = UTILISATION
    price_per_hour: float | None = None
    measure: bool = False


@dataclass(frozen=True)
class OnCard:
    """The run on one card. run: None where a step does not fit. largest_batch: the most texts
    that one step could take at once."""

    fit: Fit
    precision: str
    run: PlannedRun | None
    largest_batch: int


@dataclass(frozen=True)
class TaskPlan:
    """The plan of one task's run.

    plan: of its largest step, on this machine. passes: forward passes of each text in a step (2
    with R-Drop). steps, examples, epochs: of the run. mean_width: tokens of a text with its
    padding, on average. flops: of the whole run, from the width of each batch.
    here: the run at ``rate`` FLOP/s, measured on this machine; None: not measured.
    """

    task: str
    plan: planner.Plan
    passes: int
    batch_size: int
    examples: int
    epochs: float
    steps: int
    mean_width: float
    flops: int
    device: str
    utilisation: float
    cards: tuple[OnCard, ...]
    rate: float | None = None
    here: PlannedRun | None = None


def plan_task(task: str | Task, settings: TaskSettings | None = None, **changes: Any) -> TaskPlan:
    """Plan the run that ``python -m helpers train TASK`` would do.

    task: a name or a file, as in ``tasks.get``, or a Task.
    settings, changes: a TaskSettings, or its fields by name, or both.
    Raises InvalidValue for what is unknown or out of range.
    """
    settings = replace(settings or TaskSettings(), **changes)
    task = tasks.get(task) if isinstance(task, str) else task
    name, step, config, passes = _of_task(task, settings)
    one, all_cards = settings.card, gpus.CARDS.values()
    cards = all_cards if one is None else [gpus.get_card(one)]
    if not 0 < (share := settings.utilisation) <= 1:
        raise InvalidValue(f"utilisation is {share}; it must be above 0, at most 1.")
    # A price out of range is reported before the data are read.
    gpus.planned_run(1, 1, rate=share, price_per_hour=settings.price_per_hour)
    data = _training_data(task, name, step.sequence_length, settings.examples)
    batches = length_grouped_batches(data.lengths, config.batch_size, seed=config.seed, epoch=0)
    counts = np.array([len(rows) for rows in batches])
    widths = np.array([data.lengths[rows].max() for rows in batches])
    of_batch = [
        planner.flops(name, step, batch_size=passes * int(count), sequence_length=int(width))
        for count, width in zip(counts, widths, strict=True)
    ]
    steps = ceil(config.epochs * len(batches))
    flops = round(sum(of_batch) / len(batches) * steps)
    rate = _measured_rate(name, step, data, config, of_batch) if settings.measure else None
    largest = planner.plan(
        name, step, batch_size=passes * int(counts.max()), sequence_length=int(widths.max())
    )
    return TaskPlan(
        task=task.name,
        plan=largest,
        passes=passes,
        batch_size=config.batch_size,
        examples=len(data),
        epochs=config.epochs,
        steps=steps,
        mean_width=float(np.average(widths, weights=counts)),
        flops=flops,
        device=runtime.detect(profile="quick").device,
        utilisation=settings.utilisation,
        cards=tuple(_on_card(card, largest, settings, passes, flops, steps) for card in cards),
        rate=rate,
        here=gpus.planned_run(flops, steps, rate=rate) if rate else None,
    )


def _of_task(task: Task, settings: TaskSettings) -> tuple[str, StepSettings, TrainingConfig, int]:
    """The model's name, a step on one of the longest texts, the run, and the passes of a text."""
    own, here = task.defaults, runtime.detect(precision=settings.precision)
    config = TrainingConfig(
        epochs=own.epochs if settings.epochs is None else settings.epochs,
        batch_size=own.batch_size if settings.batch_size is None else settings.batch_size,
        consistency=own.consistency,
        precision=settings.precision,
        max_steps=MEASURED_STEPS,
        progress=False,
    )
    name = settings.model or models.default_model(here.profile)
    length = own.max_length if settings.max_length is None else settings.max_length
    _check_shape(name, length)
    step = StepSettings(
        batch_size=1,
        sequence_length=length,
        head=task.head.kind,
        labels=task.head.outputs,
        checkpointing=settings.checkpointing,
        lora_rank=settings.lora_rank,
        dropout=own.dropout,
        attention_dropout=None if own.dropout is None else 0.0,
        padded=True,
        precision=here.precision,
        device="cuda" if here.device == "cuda" else "cpu",
    )
    return name, step, config, 2 if config.consistency else 1


def _on_card(
    card: Card, here: planner.Plan, settings: TaskSettings, passes: int, flops: int, steps: int
) -> OnCard:
    precision = settings.precision or card.precision
    step = replace(here.settings, device="cuda", precision=precision)
    there = planner.plan(here.model, step)
    (fit,) = gpus.which_fits(there, [card])
    if precision not in card.flops:
        return OnCard(fit, precision, None, 0)
    run = gpus.planned_run(
        flops,
        steps,
        rate=card.peak_flops(precision) * settings.utilisation,
        price_per_hour=settings.price_per_hour,
        seconds_per_step=there.update_bytes / card.bandwidth,
    )
    most = gpus.largest_batch(here.model, card, step)
    return OnCard(fit, precision, run if fit.fits else None, most // passes)


def _check_shape(name: str, length: int) -> None:
    config = model_config(name)
    if config.model_type != "bert":
        raise InvalidValue(
            f"{name} is a {config.model_type}; the tasks fine-tune a BERT, such as encoder, "
            "bert-base or bert-large."
        )
    longest = config.max_position_embeddings
    if isinstance(length, bool) or not SHORTEST <= length <= longest:
        raise InvalidValue(f"max_length is {length}; {name} takes {SHORTEST} to {longest} tokens.")


def _training_data(task: Task, model: str, length: int, examples: int | None) -> Batches:
    # The published models that the planner knows share one vocabulary, the course's encoder's.
    tokenizer = models.load_tokenizer("encoder" if model in MODELS else model)
    tokenizer.model_max_length = length
    return task.training_batches(tokenizer, examples)


def _measured_rate(
    name: str, step: StepSettings, data: Batches, config: TrainingConfig, of_batch: list[int]
) -> float:
    """FLOP/s of ``training.fit`` on the first batches of the run, the very first not counted."""
    model, moments = planner.build_model(name, step), []
    training.fit(
        model, data, None, config, callbacks=[lambda *_: moments.append(time.perf_counter())]
    )
    if len(moments) < 2:
        raise InvalidValue(
            f"measure needs at least two steps, and {len(data)} texts in batches of "
            f"{config.batch_size} make one; give a smaller batch_size."
        )
    return sum(of_batch[1 : len(moments)]) / (moments[-1] - moments[0])
