"""How good is a classifier: its predictions, a report on them, and baselines to compare with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support
from sklearn.pipeline import Pipeline, make_pipeline
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from helpers.batches import Batches, sorted_batches
from helpers.errors import InvalidValue
from helpers.evaluation.metrics import bootstrap_interval, check_pair
from helpers.training.steps import move

TARGETS = ("labels", "start_positions", "end_positions")  # in a batch, not for the forward pass


@dataclass(frozen=True)
class Predictions:
    """A classifier's predictions for N examples, in their order.

    logits: (N, C) float32. labels: (N,) int64, or None if the data has none.
    loss: mean cross-entropy in nats per example, or None without labels.
    """

    logits: np.ndarray
    labels: np.ndarray | None
    loss: float | None

    @property
    def probabilities(self) -> np.ndarray:
        """(N, C) float64; each row sums to 1."""
        return softmax(self.logits.astype(np.float64), axis=1)

    @property
    def classes(self) -> np.ndarray:
        """(N,) the most probable class."""
        return self.logits.argmax(axis=1)


def predict(
    model: nn.Module,
    data: Batches,
    *,
    tokens_per_batch: int | None = None,
    progress: bool = False,
    device: str | None = None,
) -> Predictions:
    """Run a classifier over ``data``; the model keeps its training or eval mode.

    Texts are processed from the longest to the shortest, at most ``tokens_per_batch`` tokens at a
    time (with padding; None: 2,048 on a CPU, which fit its caches, else 16,384). So almost nothing
    is padding, and a batch too large for the memory fails first. Only the logits are kept.
    The loss is summed over all examples and divided once.

    device: moves the model there first; None: where the model already is.
    Raises InvalidValue: no examples, ``tokens_per_batch`` below 1, a label outside the classes,
    labels that aren't one class number per example.
    """
    logits, total = np.empty((0, 0), dtype=np.float32), 0.0
    labels: np.ndarray | None = None
    for indices, batch, output in forward(
        model, data, tokens_per_batch=tokens_per_batch, progress=progress, device=device
    ):
        found = output.logits.float().cpu()  # (B, C)
        if not len(logits):
            logits = np.empty((len(data), found.shape[1]), dtype=np.float32)
            labels = np.empty(len(data), dtype=np.int64) if "labels" in batch else None
        logits[indices] = found.numpy()
        if labels is not None:
            answers = batch["labels"]  # (B,)
            _check_answers(answers, found)
            total += float(functional.cross_entropy(found, answers, reduction="sum"))
            labels[indices] = answers.numpy()
    return Predictions(logits, labels, None if labels is None else total / len(data))


def forward(
    model: nn.Module,
    data: Batches,
    *,
    tokens_per_batch: int | None = None,
    progress: bool = False,
    device: str | None = None,
) -> Iterator[tuple[np.ndarray, dict[str, Tensor], Any]]:
    """Run any model over ``data`` without gradients, in the order and with the settings of
    ``predict``: yields (indices of the examples, their batch, the model's output without loss).
    """
    if len(data) == 0:
        raise InvalidValue("there are no examples to predict; give at least one.")
    if tokens_per_batch is not None and tokens_per_batch < 1:
        raise InvalidValue(f"tokens_per_batch is {tokens_per_batch}; it must be at least 1.")
    if device is not None:
        model.to(device)
    place = next(model.parameters()).device
    limit = tokens_per_batch or (2_048 if place.type == "cpu" else 16_384)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), tqdm(total=len(data), disable=not progress) as bar:
            for indices in sorted_batches(data.lengths, tokens_per_batch=limit):
                batch = data.batch(indices)
                inputs = {name: part for name, part in batch.items() if name not in TARGETS}
                yield indices, batch, model(**move(inputs, place))
                bar.update(len(indices))
    finally:
        model.train(was_training)


class Report(dict):
    """The numbers of ``classification_report``; printed, they are a small table."""

    def __str__(self) -> str:
        width = max(len(name) for name in (*self["per_class"], "accuracy", "macro F1"))
        lines = [f"{'':{width}}  precision  recall     f1  support"]
        for name, row in self["per_class"].items():
            lines.append(
                f"{name:{width}}  {row['precision']:9.3f}  {row['recall']:6.3f}  "
                f"{row['f1']:5.3f}  {row['support']:7d}"
            )
        for name, key in (("accuracy", "accuracy"), ("macro F1", "macro_f1")):
            line = f"{name:{width}}  {self[key]:.3f}"
            if self["intervals"]:
                low, high = self["intervals"][key]
                line += f", {self['confidence']:.0%} interval {low:.3f} to {high:.3f}"
            lines.append(line)
        return "\n".join(lines)


def classification_report(
    labels: Sequence[int] | np.ndarray,
    predicted: Sequence[int] | np.ndarray,
    names: Sequence[str],
    *,
    intervals: bool = True,
    confidence: float = 0.95,
    seed: int = 42,
) -> Report:
    """Accuracy, macro-F1 and each class's precision, recall, F1 and support, by scikit-learn.

    labels, predicted: (N,) class numbers. names: of all C classes, in their order.
    Returns keys ``accuracy``, ``macro_f1`` (fractions), ``per_class`` ({name: {precision, recall,
    f1, support}}), ``intervals`` ({"accuracy" and "macro_f1": (low, high)}, empty if not asked
    for) and ``confidence``. A quotient 0/0 counts as 0; macro-F1 is the mean over the classes
    that occur among the labels or the predictions, as in scikit-learn.
    Raises InvalidValue: no examples, different lengths, a class number without a name.
    """
    labels, predicted = check_pair(labels, predicted)
    _check_classes(np.concatenate([labels, predicted]), len(names))
    columns = precision_recall_fscore_support(
        labels, predicted, labels=range(len(names)), zero_division=0
    )
    keys = ("precision", "recall", "f1")
    return Report(
        accuracy=float(accuracy_score(labels, predicted)),
        macro_f1=float(f1_score(labels, predicted, average="macro", zero_division=0)),
        per_class={
            name: {key: float(column[row]) for key, column in zip(keys, columns, strict=False)}
            | {"support": int(columns[3][row])}
            for row, name in enumerate(names)
        },
        intervals={
            metric: bootstrap_interval(labels, predicted, metric, confidence=confidence, seed=seed)
            for metric in (("accuracy", "macro_f1") if intervals else ())
        },
        confidence=confidence,
    )


def majority_baseline(
    train_labels: Sequence[int] | np.ndarray, test_labels: Sequence[int] | np.ndarray
) -> np.ndarray:
    """The most frequent class among ``train_labels`` (of several, the lowest number), once for
    each test example: (M,) int64. Raises InvalidValue: no training labels."""
    train_labels = np.asarray(train_labels)
    if len(train_labels) == 0:
        raise InvalidValue("there are no training labels to count; give at least one.")
    classes, counts = np.unique(train_labels, return_counts=True)
    return np.full(len(test_labels), classes[counts.argmax()], dtype=np.int64)


def tfidf_pipeline(*, seed: int = 42) -> Pipeline:
    """The 50,000 most frequent words and word pairs, weighted by 1 + log(count) times inverse
    document frequency, each text scaled to length 1; then logistic regression with C = 10 (L2)."""
    return make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), max_features=50_000),
        LogisticRegression(C=10.0, max_iter=1000, random_state=seed),
    )


def tfidf_baseline(
    train_texts: Sequence[str],
    train_labels: Sequence[int] | np.ndarray,
    test_texts: Sequence[str],
    *,
    seed: int = 42,
) -> tuple[np.ndarray, np.ndarray]:
    """``tfidf_pipeline``, fitted on the training texts and applied to the test texts.

    Returns the predicted classes (M,) int64 and probabilities (M, C) float64, whose columns are
    the class numbers 0 to the highest in training; classes missing there have probability 0.
    If training has only one class, that one gets probability 1.
    Raises InvalidValue: no texts, not one label per text, or texts without any word.
    """
    train_labels = np.asarray(train_labels)
    if len(train_texts) == 0 or len(train_texts) != len(train_labels) or len(test_texts) == 0:
        raise InvalidValue(
            f"{len(train_texts)} training texts, {len(train_labels)} labels and "
            f"{len(test_texts)} test texts; give at least one of each and a label per text."
        )
    seen = np.unique(train_labels)
    probabilities = np.zeros((len(test_texts), int(seen[-1]) + 1))
    if len(seen) == 1:
        probabilities[:, seen] = 1.0
    else:
        pipeline = tfidf_pipeline(seed=seed)
        try:
            pipeline.fit(list(train_texts), train_labels)
        except ValueError as error:
            raise InvalidValue(f"TF-IDF cannot use the training texts: {error}.") from None
        probabilities[:, seen] = pipeline.predict_proba(list(test_texts))
    return probabilities.argmax(axis=1), probabilities


def _check_answers(answers: torch.Tensor, logits: torch.Tensor) -> None:
    if answers.dim() != 1 or logits.dim() != 2 or answers.is_floating_point():
        raise InvalidValue(
            f"labels of shape {tuple(answers.shape)} ({answers.dtype}) for logits of shape "
            f"{tuple(logits.shape)}; predict is for classifiers: give one class number per example."
        )
    _check_classes(answers.numpy(), logits.shape[1])


def _check_classes(classes: np.ndarray, count: int) -> None:
    wrong = classes[(classes < 0) | (classes >= count)]
    if wrong.size:
        raise InvalidValue(f"class {wrong[0]} is outside the {count} classes, 0 to {count - 1}.")
