"""Any task from its name to its numbers: ``get`` it, ``train`` it, ``evaluate`` what was saved."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from helpers import models, runtime, training
from helpers.corpora.tables import ENDINGS, is_table
from helpers.errors import CourseError, InvalidValue, unknown_name
from helpers.files import model_folder, write_text
from helpers.models import lora
from helpers.tasks import classification, extraction
from helpers.tasks.task import Task

TASKS = classification.TASKS | extraction.TASKS
METRICS = "metrics.json"
TRAINED = "trained.json"  # the same without scores, from saving the model until it is judged


def get(
    name: str | Path, *, text_column: str | None = None, label_column: str | None = None
) -> Task:
    """The task ``name``, or one made from a file of your own: a table of texts and labels, or
    questions in SQuAD form (.json).

    text_column, label_column: of a table; None: "text" and "label". Raises InvalidValue: no such
    task or file, or columns for what isn't a table.
    """
    path = Path(name)
    table, questions = is_table(path), path.suffix.lower() == ".json"
    if (text_column or label_column) and not table:
        raise InvalidValue(
            f"text_column and label_column are for a table of your own ({', '.join(ENDINGS)}); "
            f"{name} isn't one."
        )
    if str(name) in TASKS:
        return TASKS[str(name)]
    if not path.is_file():
        if table or questions:
            raise InvalidValue(f"there is no file {path}; check the path.")
        raise unknown_name("task", str(name), TASKS)
    if questions:
        return extraction.Questions(path)
    if table:
        return classification.OwnTable(path, text_column or "text", label_column or "label")
    raise InvalidValue(
        f"{path} can't be trained on; a file of your own ends in {', '.join(ENDINGS)}, .json."
    )


@dataclass(frozen=True)
class RunSettings:
    """The settings of one training run; None leaves a choice to the task.

    out: folder for ``model/``, ``metrics.json`` and, with ``checkpoint_every``, ``checkpoints/``.
    model: name or folder of the pretrained encoder (None: the profile's).
    examples: training examples to use. epochs: passes over them.
    batch_size: examples per optimiser step, over all processes.
    lora_rank, lora_alpha: train an adapter and the head alone, as in ``lora.add_lora``; the saved
        model has it merged in. None: train all weights.
    max_steps, checkpoint_every: steps. resume: go on from the last checkpoint.
    """

    out: Path
    model: str | None = None
    examples: int | None = None
    epochs: float | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    lora_rank: int | None = None
    lora_alpha: float | None = None
    seed: int = 42
    max_steps: int | None = None
    checkpoint_every: int | None = None
    resume: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out))
        if self.lora_alpha is not None and self.lora_rank is None:
            raise InvalidValue(
                f"lora_alpha is {self.lora_alpha:g}, but no adapter is asked for: give its rank."
            )

    def training_config(self, task: Task) -> training.TrainingConfig:
        """What ``training.fit`` is given: the task's defaults where a setting is None. Raises
        InvalidValue for a value out of its range, or an adapter that the task can't train."""
        own, adapted = task.defaults, self.lora_rank is not None
        if adapted and own.lora_learning_rate is None:
            raise InvalidValue(
                f"task {task.name!r} trains all weights; an adapter is for text classifiers: "
                f"{', '.join(classification.TASKS)} and a table of your own."
            )
        defaults: dict[str, Any] = {
            "epochs": own.epochs,
            "learning_rate": own.lora_learning_rate if adapted else own.learning_rate,
            "batch_size": own.batch_size,
        }
        chosen = {name: value for name in defaults if (value := getattr(self, name)) is not None}
        return training.TrainingConfig(
            **(defaults | chosen),
            consistency=own.consistency,
            metric=own.metric,
            seed=self.seed,
            max_steps=self.max_steps,
            checkpoint_every=self.checkpoint_every,
            checkpoint_folder=(
                self.out / "checkpoints" if self.checkpoint_every or self.resume else None
            ),
            resume=self.resume,
            progress=self.progress,
        )


def train(
    task: Task, settings: RunSettings, *, report: Callable[[str], None] = lambda line: None
) -> dict[str, Any] | None:
    """Fine-tune a pretrained encoder on ``task``, save it, judge it on the test rows beside the
    task's baselines, and return the metrics, which are in ``out/metrics.json`` too.

    The weights of the best epoch on the validation rows are kept. Under ``torchrun`` or
    ``accelerate launch`` every process trains; the main one alone saves, judges and returns the
    metrics, the others return None. report: called with a line of text at each stage.
    Raises InvalidValue (a setting out of range, an unknown name), CourseError (``out`` holds a
    run already, a file of your own can't be used, training failed).
    """
    config, out = settings.training_config(task), settings.out
    if finished := _finished_run(settings, task):
        if os.environ.get("RANK", "0") != "0":
            return None
        if "test" in finished:
            report(f"{out} holds a finished run; nothing is left to resume.")
            return finished
        report(f"{out} holds a trained model that was not judged yet; judging it")
        return _save_metrics(out, evaluate(out, task) | finished)
    detected = runtime.detect(seed=settings.seed)
    name = settings.model or models.default_model(detected.profile)

    data, origin = task.load(settings.examples), task.origin()
    report(f"{task.name}: {task.describe(data)}")
    tokenizer = _cut(models.load_tokenizer(name), task)
    # The test rows too: whatever can't be encoded should fail now, not after the training.
    encoded: dict[str, Any] = {
        split: task.encode(tokenizer, rows, training=split == "train")
        for split, rows in data.items()
    }
    model = task.head.build(name, seed=settings.seed, dropout=task.defaults.dropout)
    adapter = None
    if settings.lora_rank is not None:
        model = lora.add_lora(
            model, rank=settings.lora_rank, alpha=settings.lora_alpha, seed=settings.seed
        )
        count = models.count_parameters(model, trainable_only=True)
        adapter = (lora.settings(model) or {}) | {"trainable_parameters": count}
    report(
        f"{name}, {models.count_parameters(model) / 1e6:.1f} M parameters"
        + (f", {adapter['trainable_parameters']:,} of them trained" if adapter else "")
        + f"; {detected.device}, {detected.precision} ({detected.precision_reason})"
    )
    history = training.fit(model, encoded["train"], encoded["validation"], config)
    for event in history.events:
        report(event)
    if not PartialState().is_main_process:
        return None
    # Saved before it is judged: nothing that fails from here on can cost the trained model.
    if adapter:
        model = lora.merge(model)
    models.save_trained(model, tokenizer, out / "model")
    trained = {
        "task": task.name,
        "model": name,
        "seed": settings.seed,
        "device": detected.device,
        "precision": detected.precision,
        "processes": history.processes,
        "lora": adapter,
        "examples": len(data["train"]),
        "max_length": tokenizer.model_max_length,
        "truncated": {split: rows.truncated for split, rows in encoded.items()},
        **origin,
        "train_seconds": history.seconds,
        "examples_per_second": history.examples_per_second,
        "losses": history.losses,
        "evaluations": history.evaluations,
    }
    write_text(out / TRAINED, json.dumps(trained, indent=2) + "\n")
    report("judging on the test set, and fitting the baselines on the same training set")
    return _save_metrics(out, trained | task.judge(model, encoded, data))


def _save_metrics(out: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    write_text(out / METRICS, json.dumps(metrics, indent=2) + "\n")
    (out / TRAINED).unlink(missing_ok=True)
    return metrics


def evaluate(folder: Path, task: Task) -> dict[str, Any]:
    """Scores of a saved model on the test rows of ``task``, beside the baselines.

    folder: what ``train`` wrote, or any folder with a model that has the task's head and labels.
    Raises CourseError (no model there, or a file of your own that has changed since the training),
    InvalidValue (a model for another task).
    """
    model, tokenizer = load_run(folder)
    record = recorded_run(Path(folder))
    task = task.as_trained(record)
    task.head.check(model, task.name)
    data = task.load(record.get("examples"))
    tokenizer = _cut(tokenizer, task)
    encoded = {split: task.encode(tokenizer, data[split]) for split in ("validation", "test")}
    return {
        "task": task.name,
        "model": str(folder),
        "examples": len(data["train"]),
        **task.judge(model, encoded, data),
    }


def _cut(tokenizer: Any, task: Task) -> Any:
    tokenizer.model_max_length = min(task.defaults.max_length, tokenizer.model_max_length)
    return tokenizer


def _finished_run(settings: RunSettings, task: Task) -> dict[str, Any]:
    """What is recorded of a finished training that is to be resumed, else nothing. Raises
    InvalidValue if ``out`` is a file, CourseError if it holds a run that isn't to be resumed, or
    one of another task."""
    out = settings.out
    if out.exists() and not out.is_dir():
        raise InvalidValue(f"--out {out} is a file; name a folder that is new or empty.")
    if settings.resume:
        record = recorded_run(out)
        if record and record["task"] != task.name:
            raise CourseError(
                f"{out} holds a run of {record['task']}, not of {task.name}. Name another folder "
                f"with --out."
            )
        return record
    if any((out / part).exists() for part in (METRICS, TRAINED, "model", "checkpoints")):
        raise CourseError(
            f"{out} already holds a run, and nothing of it is overwritten. Continue it with "
            f"--resume, name another folder with --out, or remove this one first."
        )
    return {}


def recorded_run(folder: Path) -> dict[str, Any]:
    """What a run's folder says of it: its metrics.json, or trained.json until it is judged; nothing
    without either."""
    for path in (folder / METRICS, folder / TRAINED):
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
    return {}


def load_run(folder: Path) -> tuple[Any, Any]:
    """The model and tokenizer in ``folder/model``, or in ``folder`` itself."""
    return models.load_trained(model_folder(folder))
