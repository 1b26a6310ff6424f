"""Training and judging a text classifier on a catalogued corpus, from names to numbers.

The pieces are those of the lessons (``corpora``, ``models``, ``batching``, ``training``,
``evaluation``); this module owns only their order, each task's settings and what is written:
``out/model`` (loads with ``from_pretrained`` and ``pipeline``) and ``out/metrics.json``.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from helpers import batching, corpora, evaluation, lora, models, runtime, training
from helpers.errors import CourseError, InvalidValue, unknown_name

SPLIT_SEED = 42  # the split never depends on a run's seed: every run is judged on the same rows


@dataclass(frozen=True)
class ClassificationTask:
    """One task's settings; every one can be overridden in a call of ``train_task``.

    corpus: name of the corpus in ``helpers.corpora``.
    examples: training rows (None: all there are).
    epochs: passes over the training rows.
    learning_rate: peak of the schedule.
    max_length: word pieces a text is truncated to, special tokens included.
    batch_size: examples of one optimiser step.
    dropout: probability, everywhere but in attention: there each process would draw its own, and
        the loss curve would depend on how many share a batch.
    consistency: weight of R-Drop's term, see ``TrainingConfig``.
    metric: what decides on the best epoch.
    lora_learning_rate: peak of the schedule when an adapter is trained in place of all weights.
    """

    corpus: str
    examples: int | None
    epochs: int
    learning_rate: float
    max_length: int
    batch_size: int = 32
    dropout: float = 0.0
    consistency: float = 0.0
    metric: str = "loss"
    lora_learning_rate: float = 2e-3


# Chosen on validation rows, and for reviews on 3,000 training rows that were left over: there two
# passes under dropout and four epochs are worth one to two points of accuracy.
# With an adapter of rank 8, news on validation rows: 0.45 right at a rate of 5e-4, 0.81 at 2e-3 and
# 0.97 at 1e-2, in its 38 steps. Tasks with more steps keep 2e-3 (messages: 0.98 right after 94
# steps; not measured on reviews).
TASKS: dict[str, ClassificationTask] = {
    "news": ClassificationTask("news", 600, 2, 2e-4, 96, lora_learning_rate=1e-2),
    "messages": ClassificationTask("messages", None, 2, 1e-4, 96),
    "reviews": ClassificationTask(
        "reviews", 2000, 4, 1e-4, 96, batch_size=16, dropout=0.1, consistency=4.0, metric="accuracy"
    ),
}


def get_task(name: str) -> ClassificationTask:
    """The settings of task ``name``; raises InvalidValue with the nearest names if unknown."""
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]


def score(
    labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], *, seed: int = SPLIT_SEED
) -> dict[str, Any]:
    """Accuracy, macro-F1 and each class's F1, every one with its 95 % bootstrap interval.

    labels, predicted: (N,) class numbers. Returns plain JSON types, fractions from 0 to 1.
    """
    report = evaluation.classification_report(labels, predicted, names, seed=seed)
    per_class = {name: dict(values) for name, values in report["per_class"].items()}
    for number, name in enumerate(names):
        metric = partial(_f1_of_class, number=number)
        low, high = evaluation.bootstrap_interval(labels, predicted, metric, seed=seed)
        per_class[name]["f1_interval"] = [low, high]
    return {
        "accuracy": report["accuracy"],
        "accuracy_interval": list(report["intervals"]["accuracy"]),
        "macro_f1": report["macro_f1"],
        "macro_f1_interval": list(report["intervals"]["macro_f1"]),
        "per_class": per_class,
    }


def _f1_of_class(labels: np.ndarray, predicted: np.ndarray, *, number: int) -> float:
    hits = np.sum((labels == number) & (predicted == number))
    marked = np.sum(labels == number) + np.sum(predicted == number)
    return float(2 * hits / marked) if marked else 0.0


def score_baselines(data: Any, names: Sequence[str]) -> dict[str, Any]:
    """Scores on ``data["test"]`` of two baselines fitted on the very rows of ``data["train"]``:
    the majority class, and TF-IDF with logistic regression."""
    train, test = data["train"], data["test"]
    train_labels, labels = np.asarray(train["label"]), np.asarray(test["label"])
    majority = evaluation.majority_baseline(train_labels, labels)
    tfidf, _ = evaluation.tfidf_baseline(list(train["text"]), train_labels, list(test["text"]))
    return {
        "majority": score(labels, majority, names),
        "tfidf_logreg": score(labels, tfidf, names),
    }


def train_task(
    name: str,
    *,
    out: Path,
    model: str | None = None,
    examples: int | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    seed: int = 42,
    max_steps: int | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any] | None:
    """Fine-tune a pretrained encoder on task ``name``, judge it on the test rows, save both.

    The loss curve does not depend on how many processes share a batch. The best epoch on the
    validation rows is kept. Under ``torchrun`` or ``accelerate launch`` every process trains,
    and only the main one judges, writes and returns the metrics (the others return None).

    out: folder for ``model/``, ``metrics.json`` and, with ``checkpoint_every``, ``checkpoints/``.
    batch_size: examples of one optimiser step over all processes.
    lora_rank, lora_alpha: train an adapter of that rank and the head alone, as in
        ``lora.add_lora``; the saved model has it merged in. None: train all weights.
    say: called with one line at each stage.
    Raises InvalidValue (an option out of range, unknown names), CourseError (``out`` already
    holds a run; training failed). Nothing in ``out`` from an earlier run is touched on failure.
    """
    task = get_task(name)
    detected = runtime.detect(seed=seed)
    out = Path(out)
    finished = out / "metrics.json"
    if lora_rank is None and lora_alpha is not None:
        raise InvalidValue(
            f"lora_alpha is {lora_alpha:g}, but no adapter is asked for: give its rank."
        )
    rate = task.learning_rate if lora_rank is None else task.lora_learning_rate
    config = training.TrainingConfig(
        epochs=task.epochs if epochs is None else epochs,
        batch_size=task.batch_size if batch_size is None else batch_size,
        consistency=task.consistency,
        metric=task.metric,
        learning_rate=rate if learning_rate is None else learning_rate,
        seed=seed,
        max_steps=max_steps,
        checkpoint_every=checkpoint_every,
        checkpoint_folder=out / "checkpoints" if checkpoint_every or resume else None,
        resume=resume,
        progress=progress,
    )
    _refuse_to_overwrite(out, resume=resume)
    if resume and finished.exists():
        say(f"{out} holds a finished run; nothing is left to resume.")
        return json.loads(finished.read_text(encoding="utf-8"))

    model_name = model or models.default_model(detected.profile)
    names = corpora.label_names(task.corpus)
    data = corpora.load(
        task.corpus, seed=SPLIT_SEED, examples=task.examples if examples is None else examples
    )
    tokenizer = models.load_tokenizer(model_name)
    tokenizer.model_max_length = min(task.max_length, tokenizer.model_max_length)
    encoded = {split: _encode(tokenizer, data[split], len(names)) for split in data}
    classifier = models.load_classifier(
        model_name, labels=names, seed=seed, dropout=task.dropout, attention_dropout=0.0
    )
    total = models.count_parameters(classifier)
    adapter, trained = None, ""
    if lora_rank is not None:
        classifier = lora.add_lora(classifier, rank=lora_rank, alpha=lora_alpha, seed=seed)
        count = models.count_parameters(classifier, trainable_only=True)
        adapter = {**lora.settings(classifier), "trainable_parameters": count}
        trained = f", {count:,} of them trained"
    say(
        f"{name}: {len(data['train']):,} training, {len(data['validation']):,} validation, "
        f"{len(data['test']):,} test texts; {model_name}, "
        f"{total / 1e6:.1f} M parameters{trained}; "
        f"{detected.device}, {detected.precision} ({detected.precision_reason})"
    )
    history = training.fit(classifier, encoded["train"], encoded["validation"], config)
    for event in history.events:
        say(event)
    if not PartialState().is_main_process:
        return None
    if adapter:
        classifier = lora.merge(classifier)

    say("judging on the test texts, and fitting the baselines on the same training texts")
    predictions = evaluation.predict(classifier, encoded["test"])
    metrics = {
        "task": name,
        "model": model_name,
        "seed": seed,
        "device": detected.device,
        "precision": detected.precision,
        "processes": history.processes,
        "lora": adapter,
        "examples": len(data["train"]),
        "max_length": tokenizer.model_max_length,
        "truncated": {split: encoded[split].truncated for split in encoded},
        "test": score(predictions.labels, predictions.classes, names),
        "baseline": score_baselines(data, names),
        "train_seconds": history.seconds,
        "examples_per_second": history.examples_per_second,
        "losses": history.losses,
        "evaluations": history.evaluations,
    }
    _save(classifier, tokenizer, metrics, out)
    return metrics


def evaluate_saved(folder: Path, name: str) -> dict[str, Any]:
    """Scores of a saved model on task ``name``'s test rows, beside the baselines.

    folder: what ``train_task`` wrote, or any folder with a classifier of the task's labels.
    Raises CourseError if the folder holds no model, InvalidValue if its labels are others.
    """
    task = get_task(name)
    folder = Path(folder)
    model_folder = folder / "model" if (folder / "model").is_dir() else folder
    classifier, tokenizer = models.load_trained(model_folder)
    names = corpora.label_names(task.corpus)
    found = [classifier.config.id2label[i] for i in range(classifier.config.num_labels)]
    if found != names:
        raise InvalidValue(
            f"the model in {folder} tells apart {', '.join(found)}, but task {name!r} needs "
            f"{', '.join(names)}. Name the task that the model was trained for."
        )
    recorded = folder / "metrics.json"
    examples = task.examples
    if recorded.exists():
        examples = json.loads(recorded.read_text(encoding="utf-8"))["examples"]
    data = corpora.load(task.corpus, seed=SPLIT_SEED, examples=examples)
    tokenizer.model_max_length = min(task.max_length, tokenizer.model_max_length)
    predictions = evaluation.predict(classifier, _encode(tokenizer, data["test"], len(names)))
    return {
        "task": name,
        "model": str(folder),
        "examples": len(data["train"]),
        "test": score(predictions.labels, predictions.classes, names),
        "baseline": score_baselines(data, names),
    }


def _encode(tokenizer: Any, rows: Any, label_count: int) -> batching.EncodedTexts:
    return batching.encode(
        tokenizer,
        list(rows["text"]),
        list(rows["label"]),
        max_length=tokenizer.model_max_length,
        label_count=label_count,
    )


def _refuse_to_overwrite(out: Path, *, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InvalidValue(f"--out {out} is a file; name a folder that is new or empty.")
    if not resume and any((out / part).exists() for part in ("metrics.json", "checkpoints")):
        raise CourseError(
            f"{out} already holds a run, and nothing of it is overwritten. Continue it with "
            f"--resume, name another folder with --out, or remove this one first."
        )


def _save(classifier: Any, tokenizer: Any, metrics: dict[str, Any], out: Path) -> None:
    """Write the model, then metrics.json; each appears whole or not at all."""
    models.save_trained(classifier, tokenizer, out / "model")
    partial_metrics = out / f".metrics-{os.getpid()}.json"
    partial_metrics.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    partial_metrics.replace(out / "metrics.json")
