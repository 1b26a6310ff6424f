"""A classifier's predictions, and baselines to compare them with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from torch import Tensor, nn
from torch.nn import functional

from helpers.batches import Batches, sorted_batches
from helpers.errors import InvalidValue
from helpers.evaluation.metrics import Classes
from helpers.training.steps import move

TARGETS = ("labels", "start_positions", "end_positions")  # in a batch, not for the forward pass
TOKENS_AT_ONCE = {"cpu": 2_048, "gpu": 16_384}  # on a CPU, what fits its caches


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


def predict(model: nn.Module, data: Batches) -> Predictions:
    """Run a classifier over ``data``, in the order and with the settings of ``forward``. Only the
    logits are kept; the loss is summed over all examples and divided once.

    Raises InvalidValue: labels that aren't one class number per example.
    """
    logits, total = np.empty((0, 0), dtype=np.float32), 0.0
    labels: np.ndarray | None = None
    for indices, batch, output in forward(model, data):
        found = output.logits.float().cpu()  # (B, C)
        if not len(logits):
            logits = np.empty((len(data), found.shape[1]), dtype=np.float32)
            labels = np.empty(len(data), dtype=np.int64) if "labels" in batch else None
        logits[indices] = found.numpy()
        if labels is not None:
            answers = batch["labels"]  # (B,)
            if answers.dim() != 1 or found.dim() != 2 or answers.is_floating_point():
                raise InvalidValue(
                    f"labels of shape {tuple(answers.shape)} ({answers.dtype}) for logits of shape "
                    f"{tuple(found.shape)}; predict needs a classifier and one class number per "
                    "example."
                )
            total += float(functional.cross_entropy(found, answers, reduction="sum"))
            labels[indices] = answers.numpy()
    return Predictions(logits, labels, None if labels is None else total / len(data))


def forward(model: nn.Module, data: Batches) -> Iterator[tuple[np.ndarray, dict[str, Tensor], Any]]:
    """Run any model over ``data`` without gradients, where the model is; it keeps its training or
    eval mode. Yields (indices of the examples, their batch, the model's output without loss).

    Texts go from the longest to the shortest, as many at a time as ``TOKENS_AT_ONCE`` allows with
    their padding. So almost nothing is padding, and too large a batch fails at the beginning.
    """
    device = next(model.parameters()).device
    limit = TOKENS_AT_ONCE["cpu" if device.type == "cpu" else "gpu"]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for indices in sorted_batches(data.lengths, tokens_per_batch=limit):
                batch = data.batch(indices)
                inputs = {name: part for name, part in batch.items() if name not in TARGETS}
                yield indices, batch, model(**move(inputs, device))
    finally:
        model.train(was_training)


def majority_baseline(train_labels: Classes, test_labels: Classes) -> np.ndarray:
    """The most frequent class among ``train_labels`` (of several, the lowest number), once for
    each test example: (M,) int64."""
    return np.full(len(test_labels), np.bincount(train_labels).argmax(), dtype=np.int64)


def tfidf_pipeline(*, seed: int = 42) -> Pipeline:
    """The 50,000 most frequent words and word pairs, weighted by 1 + log(count) times inverse
    document frequency, each text scaled to length 1; then logistic regression with C = 10 (L2)."""
    return make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), max_features=50_000),
        LogisticRegression(C=10.0, max_iter=1000, random_state=seed),
    )


def tfidf_baseline(
    train_texts: Sequence[str],
    train_labels: Classes,
    test_texts: Sequence[str],
    *,
    seed: int = 42,
) -> tuple[np.ndarray, np.ndarray]:
    """``tfidf_pipeline``, fitted on the training texts and applied to the test texts.

    Returns the predicted classes (M,) int64 and probabilities (M, C) float64, whose columns are
    the class numbers 0 to the highest in training; classes missing there have probability 0.
    Raises InvalidValue: not one label per text, or texts without any word.
    """
    seen = np.unique(train_labels)
    if len(seen) == 1:  # nothing to tell apart, which logistic regression refuses
        found = np.ones((len(test_texts), 1))
    else:
        try:
            pipeline = tfidf_pipeline(seed=seed).fit(list(train_texts), train_labels)
        except ValueError as error:
            raise InvalidValue(f"TF-IDF cannot use the training texts: {error}.") from None
        found = pipeline.predict_proba(list(test_texts))
    probabilities = np.zeros((len(test_texts), seen[-1] + 1))
    probabilities[:, seen] = found
    return probabilities.argmax(axis=1), probabilities
