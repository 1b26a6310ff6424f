"""Training and judging a text classifier on a catalogued corpus, from names to numbers.

The pieces are those of the lessons (``corpora``, ``models``, ``batching``, ``training``,
``evaluation``); this module owns only their order, each task's settings and what is written:
``out/model`` (loads with ``from_pretrained`` and ``pipeline``) and ``out/metrics.json``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from helpers import batches, corpora, evaluation, models, runtime
from helpers.errors import CourseError, InvalidValue, unknown_name
from helpers.files import sha256_of
from helpers.models import lora
from helpers.tasks.running import RunOptions, finished_run, load_run, recorded, run, say_nothing

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
    # Their counterparts on the Hub, with the settings of Devlin et al. 2019, section 4.1.
    "sst2": ClassificationTask("sst2", None, 3, 2e-5, 96, dropout=0.1, metric="accuracy"),
    "ag-news": ClassificationTask("ag-news", None, 3, 2e-5, 128, dropout=0.1, metric="accuracy"),
}

# For a file of one's own, whatever it holds.
OWN = ClassificationTask("own", None, 3, 1e-4, 128, batch_size=16, metric="accuracy")


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


def training_batches(
    name: str, tokenizer: Any, *, examples: int | None = None
) -> batches.EncodedTexts:
    """The training rows of task ``name``, cut at the tokenizer's ``model_max_length``.

    examples: how many; None: the task's own number. Raises InvalidValue if there are not as many.
    """
    task = get_task(name)
    number = task.examples if examples is None else examples
    data = corpora.load(task.corpus, seed=SPLIT_SEED, examples=number)
    return _encode(tokenizer, data["train"], len(corpora.label_names(task.corpus)))


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
    say: Callable[[str], None] = say_nothing,
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
    options = RunOptions(
        out=Path(out),
        model=model,
        examples=examples,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
        max_steps=max_steps,
        checkpoint_every=checkpoint_every,
        resume=resume,
        progress=progress,
        say=say,
    )
    runtime.check_seed(seed)
    load = partial(
        corpora.load,
        task.corpus,
        seed=SPLIT_SEED,
        examples=task.examples if examples is None else examples,
    )
    names = corpora.label_names(task.corpus)
    return _train(options, name, task, names, load, lora_rank, lora_alpha)


def train_csv(
    path: Path,
    options: RunOptions,
    *,
    text_column: str = "text",
    label_column: str = "label",
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
) -> dict[str, Any] | None:
    """Fine-tune on a CSV file of one's own (``corpora.load_csv``), with the settings of OWN and
    all else as in ``train_task``. metrics.json remembers the columns."""
    path = Path(path)
    if (done := finished_run(options)) is not None:
        return done
    data, names, report = corpora.load_csv(
        path,
        text_column=text_column,
        label_column=label_column,
        seed=SPLIT_SEED,
        examples=options.examples,
    )
    conflicts = report["label_conflicts"]
    options.say(
        f"{path.name}: {report['kept']:,} different texts of {len(names)} classes; left out: "
        f"{report['empty']:,} rows without a text or label, {report['duplicates_removed']:,} copies"
        + (f" ({conflicts:,} texts had copies with other labels)" if conflicts else "")
        + (f"; halves of characters replaced: {report['replaced']:,}" if report["replaced"] else "")
    )
    extra = {"text_column": text_column, "label_column": label_column, "sha256": sha256_of(path)}
    return _train(options, path.name, OWN, names, lambda: data, lora_rank, lora_alpha, extra)


def _train(
    options: RunOptions,
    name: str,
    task: ClassificationTask,
    names: Sequence[str],
    load: Callable[[], Any],
    lora_rank: int | None,
    lora_alpha: float | None,
    extra: dict[str, Any] | None = None,
) -> dict[str, Any] | None:
    if lora_rank is None and lora_alpha is not None:
        raise InvalidValue(
            f"lora_alpha is {lora_alpha:g}, but no adapter is asked for: give its rank."
        )
    config = options.training_config(
        epochs=task.epochs,
        learning_rate=task.learning_rate if lora_rank is None else task.lora_learning_rate,
        batch_size=task.batch_size,
        consistency=task.consistency,
        metric=task.metric,
    )
    if (done := finished_run(options)) is not None:
        return done
    model_name = options.model_name()
    data = load()
    tokenizer = models.load_tokenizer(model_name)
    tokenizer.model_max_length = min(task.max_length, tokenizer.model_max_length)
    encoded = {split: _encode(tokenizer, data[split], len(names)) for split in data}
    classifier = models.load_classifier(
        model_name,
        labels=names,
        seed=options.seed,
        dropout=task.dropout,
        attention_dropout=0.0,
    )
    adapter, trained = None, ""
    if lora_rank is not None:
        classifier = lora.add_lora(classifier, rank=lora_rank, alpha=lora_alpha, seed=options.seed)
        count = models.count_parameters(classifier, trainable_only=True)
        adapter = {**lora.settings(classifier), "trainable_parameters": count}
        trained = f", {count:,} of them trained"

    def judge(model: Any) -> dict[str, Any]:
        predictions = evaluation.predict(model, encoded["test"])
        return {
            "lora": adapter,
            "examples": len(data["train"]),
            "max_length": tokenizer.model_max_length,
            "truncated": {split: encoded[split].truncated for split in encoded},
            **(extra or {}),
            "test": score(predictions.labels, predictions.classes, names),
            "baseline": score_baselines(data, names),
        }

    return run(
        options,
        config,
        task=name,
        what=f"{len(data['train']):,} training, {len(data['validation']):,} validation, "
        f"{len(data['test']):,} test texts",
        model=classifier,
        tokenizer=tokenizer,
        train=encoded["train"],
        validation=encoded["validation"],
        judge=judge,
        finish=lora.merge if adapter else lambda model: model,
        note=trained,
    )


def evaluate_saved(folder: Path, name: str) -> dict[str, Any]:
    """Scores of a saved model on task ``name``'s test rows, beside the baselines.

    folder: what ``train_task`` wrote, or any folder with a classifier of the task's labels.
    Raises CourseError if the folder holds no model, InvalidValue if its labels are others.
    """
    task = get_task(name)
    names = corpora.label_names(task.corpus)
    load = partial(corpora.load, task.corpus, seed=SPLIT_SEED)
    return _evaluate(folder, name, task, names, load)


def evaluate_csv(folder: Path, path: Path) -> dict[str, Any]:
    """As ``evaluate_saved``, of a model that ``train_csv`` trained on the file ``path``.

    Raises InvalidValue if there is no such file, CourseError if it is not the one trained on.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidValue(f"there is no file {path}; check the path.")
    found = sha256_of(path)
    if recorded(folder, "sha256", found) != found:
        raise CourseError(
            f"{path.name} is not the file that the model in {folder} was trained on, or it has "
            f"changed since: its test texts may be ones that the model learnt from. Evaluate on "
            f"the file as it was, or train again."
        )
    data, names, _ = corpora.load_csv(
        path,
        text_column=recorded(folder, "text_column", "text"),
        label_column=recorded(folder, "label_column", "label"),
        seed=SPLIT_SEED,
        examples=recorded(folder, "examples"),
    )
    return _evaluate(folder, path.name, OWN, names, lambda examples: data)


def _evaluate(
    folder: Path,
    name: str,
    task: ClassificationTask,
    names: Sequence[str],
    load: Callable[..., Any],
) -> dict[str, Any]:
    classifier, tokenizer = load_run(folder)
    found = [classifier.config.id2label[i] for i in range(classifier.config.num_labels)]
    if found != list(names) or not type(classifier).__name__.endswith("SequenceClassification"):
        raise InvalidValue(
            f"the model in {folder} tells apart {', '.join(found)}, but task {name!r} needs "
            f"{', '.join(names)}. Name the task that the model was trained for."
        )
    data = load(examples=recorded(folder, "examples", task.examples))
    tokenizer.model_max_length = min(task.max_length, tokenizer.model_max_length)
    predictions = evaluation.predict(classifier, _encode(tokenizer, data["test"], len(names)))
    return {
        "task": name,
        "model": str(folder),
        "examples": len(data["train"]),
        "test": score(predictions.labels, predictions.classes, names),
        "baseline": score_baselines(data, names),
    }


def _encode(tokenizer: Any, rows: Any, label_count: int) -> batches.EncodedTexts:
    return batches.encode(
        tokenizer,
        list(rows["text"]),
        list(rows["label"]),
        max_length=tokenizer.model_max_length,
        label_count=label_count,
    )
