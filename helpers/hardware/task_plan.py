"""What the fine-tuning of a task will take before it starts: memory, operations, steps, and time
and cost here and on a card. No weights are loaded; ``measure`` times a few steps of a model of the
same shape with random ones, which takes as long."""

import time
import warnings
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from helpers import models, runtime, tasks, training
from helpers.batches import Batches, length_grouped_batches
from helpers.errors import InvalidValue
from helpers.hardware import gpus, planner
from helpers.hardware.gpus import Card, Fit, PlannedRun
from helpers.models import lora
from helpers.tasks import Task
from helpers.training.config import TrainingConfig

UTILISATION = 0.3  # of a card's peak; assumed, and said beside every time that rests on it
MEASURED_STEPS = 5
SHORTEST = 8  # word pieces


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


def plan_task(
    task: str | Task,
    *,
    model: str | None = None,
    batch_size: int | None = None,
    max_length: int | None = None,
    examples: int | None = None,
    epochs: float | None = None,
    precision: str | None = None,
    checkpointing: bool = False,
    lora_rank: int | None = None,
    card: str | None = None,
    utilisation: float = UTILISATION,
    price_per_hour: float | None = None,
    measure: bool = False,
) -> TaskPlan:
    """Plan the run that ``python -m helpers train TASK`` would do.

    task: a name or a file, as in ``tasks.get``, or a Task.
    model: one of ``planner.MODELS`` or a folder; a BERT. batch_size, examples, epochs: None for
        the task's own. max_length: tokens of a text at most.
    precision: None: what suits this machine, and for each card what suits that.
    card: one of ``gpus.CARDS``; None: all. utilisation: the share of a card's peak that is
        reached. price_per_hour: of a card, in any currency. measure: time a few steps here.
    Raises InvalidValue for what is unknown or out of range.
    """
    task = tasks.get(task) if isinstance(task, str) else task
    chosen = list(gpus.CARDS.values()) if card is None else [gpus.get_card(card)]
    own, here = task.defaults, runtime.detect(precision=precision)
    config = TrainingConfig(
        epochs=own.epochs if epochs is None else epochs,
        batch_size=own.batch_size if batch_size is None else batch_size,
        consistency=own.consistency,
        precision=precision,
        max_steps=MEASURED_STEPS,
        progress=False,
    )
    name = model or models.default_model(here.profile)
    length = own.max_length if max_length is None else max_length
    passes = 2 if config.consistency else 1
    settings = {
        "head": task.head.kind,
        "labels": task.head.outputs,
        "checkpointing": checkpointing,
        "lora_rank": lora_rank,
        "dropout": own.dropout,
        "attention_dropout": None if own.dropout is None else 0.0,
        "padded": True,
        "precision": here.precision,
        "device": "cuda" if here.device == "cuda" else "cpu",
    }
    _check_shape(name, length)
    # What is out of range is told before the data are read.
    planner.plan(name, batch_size=1, sequence_length=length, **settings)
    share = 1 / gpus.step_seconds(1, 1.0, utilisation=utilisation)
    gpus.planned_run(1, 1, rate=share, price_per_hour=price_per_hour)
    data = _training_data(task, name, length, examples)
    batches = length_grouped_batches(data.lengths, config.batch_size, seed=config.seed, epoch=0)
    counts = np.array([len(rows) for rows in batches])
    widths = np.array([data.lengths[rows].max() for rows in batches])
    plan = planner.plan(
        name,
        batch_size=passes * int(counts.max()),
        sequence_length=int(widths.max()),
        **settings,
    )
    of_width = {
        width: planner.plan(name, batch_size=1, sequence_length=int(width), **settings).flops
        for width in set(widths)
    }
    of_batch = [
        passes * int(count) * of_width[width] for count, width in zip(counts, widths, strict=True)
    ]
    steps = ceil(config.epochs * len(batches))
    flops = round(sum(of_batch) / len(batches) * steps)
    rate = _measured_rate(name, settings, data, config, of_batch) if measure else None
    return TaskPlan(
        task=task.name,
        plan=plan,
        passes=passes,
        batch_size=config.batch_size,
        examples=len(data),
        epochs=config.epochs,
        steps=steps,
        mean_width=float(np.average(widths, weights=counts)),
        flops=flops,
        device=here.device,
        utilisation=utilisation,
        cards=tuple(
            _on_card(
                each, plan, settings | {"precision": precision or each.precision}, passes,
                flops, steps, utilisation, price_per_hour,
            )
            for each in chosen
        ),
        rate=rate,
        here=gpus.planned_run(flops, steps, rate=rate) if rate else None,
    )  # fmt: skip


def _on_card(
    card: Card,
    plan: planner.Plan,
    settings: dict[str, Any],
    passes: int,
    flops: int,
    steps: int,
    utilisation: float,
    price_per_hour: float | None,
) -> OnCard:
    settings = settings | {"device": "cuda"}
    precision, length = settings["precision"], plan.sequence_length
    there = planner.plan(plan.model, batch_size=plan.batch_size, sequence_length=length, **settings)
    (fit,) = gpus.which_fits(there, cards=[card])
    if precision not in card.flops:
        return OnCard(fit, precision, None, 0)
    run = gpus.planned_run(
        flops,
        steps,
        rate=card.peak_flops(precision) * utilisation,
        price_per_hour=price_per_hour,
        seconds_a_step=there.update_bytes / card.bandwidth,
    )
    most = gpus.largest_batch(plan.model, card, sequence_length=length, **settings)
    return OnCard(fit, precision, run if fit.fits else None, most // passes)


def _check_shape(name: str, length: int) -> None:
    config = planner.model_config(name)
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
    tokenizer = models.load_tokenizer("encoder" if model in planner.MODELS else model)
    tokenizer.model_max_length = length
    return task.training_batches(tokenizer, examples)


def _measured_rate(
    name: str, settings: dict[str, Any], data: Batches, config: TrainingConfig, of_batch: list[int]
) -> float:
    """FLOP/s of ``training.fit`` on the first batches of the run, the very first not counted."""
    model = _random_model(name, **settings)
    moments = []
    training.fit(
        model, data, None, config, callbacks=[lambda *_: moments.append(time.perf_counter())]
    )
    if len(moments) < 2:
        raise InvalidValue(
            f"measure needs at least two steps, and {len(data)} texts in batches of "
            f"{config.batch_size} make one; give a smaller batch_size."
        )
    return sum(of_batch[1 : len(moments)]) / (moments[-1] - moments[0])


def _random_model(
    name: str,
    *,
    head: str,
    labels: int,
    dropout: float | None = None,
    attention_dropout: float | None = None,
    checkpointing: bool = False,
    lora_rank: int | None = None,
    **others: Any,
) -> Any:
    """A BERT of the shape that ``planner.plan`` was asked for, its weights drawn anew."""
    from copy import deepcopy

    from transformers import (
        BertForQuestionAnswering,
        BertForSequenceClassification,
        BertForTokenClassification,
    )

    kinds = {
        "classifier": BertForSequenceClassification,
        "tokens": BertForTokenClassification,
        "questions": BertForQuestionAnswering,
    }
    config = deepcopy(planner.model_config(name))
    config.num_labels = labels
    if dropout is not None:
        config.hidden_dropout_prob = dropout
    if attention_dropout is not None:
        config.attention_probs_dropout_prob = attention_dropout
    model = kinds[head](config)
    if checkpointing:
        with warnings.catch_warnings():  # transformers has a new name for it in its later versions
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_enable()
    return model if lora_rank is None else lora.add_lora(model, rank=lora_rank)
