"""Training a classifier to treat groups alike: weights of examples, and a loss on pairs.

``FairLoss`` wraps a classifier so that its loss is the one below, ``PairedTexts`` provides what
that loss needs, and ``training.fit`` accepts both. For B examples with weights w_i, texts x_i and
counterfactuals x'_i,

    L = (1/B) sum_i w_i CE(y_i, z(x_i)) + strength (1/B) sum_i |g(x_i) - g(x'_i)|,

where CE is the cross-entropy in nats and g = z_1 - z_0 the log-odds of class 1. Both are means
over examples (the mean weight over the training data is 1), so gradient accumulation gives the
same gradients.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from helpers.batches import EncodedTexts
from helpers.errors import InvalidValue
from helpers.losses import cross_entropy

_OTHER = "other_"  # prefix of the names of a counterfactual's tensors in a batch


def reweighing(
    labels: Sequence[int] | np.ndarray, groups: Sequence[str] | np.ndarray
) -> np.ndarray:
    """(N,) weights that make label and group independent: how often each pair would occur if they
    were, divided by how often it does, P(s) P(y) / P(s, y). Their mean is 1.

    labels: (N,) class numbers. groups: (N,) names.
    Raises InvalidValue: no examples, unequal lengths, or a group that lacks a label (no weight
    can make an example that is not there). Source: Kamiran & Calders 2012, section 4.2.
    """
    labels, groups = np.asarray(labels), np.asarray(groups)
    if len(labels) == 0 or labels.shape != groups.shape or labels.ndim != 1:
        raise InvalidValue(
            f"labels have shape {labels.shape} and groups {groups.shape}; give one of each for "
            f"every example, and at least one example."
        )
    weights = np.empty(len(labels))
    for group in np.unique(groups):
        for label in np.unique(labels):
            both = (groups == group) & (labels == label)
            if not both.any():
                raise InvalidValue(
                    f"group {str(group)!r} has no example of label {label}: weights cannot make "
                    f"one. Add such examples, for instance by counterfactual augmentation."
                )
            expected = np.mean(groups == group) * np.mean(labels == label)
            weights[both] = expected / both.mean()
    return weights


def rebalanced(
    labels: Sequence[int] | np.ndarray, groups: Sequence[str] | np.ndarray, *, seed: int = 42
) -> np.ndarray:
    """Sorted row numbers of a sample in which every group has every label equally often: as many
    rows of each pair, drawn without replacement, as the rarest pair has.

    Arguments and errors as in ``reweighing``.
    """
    reweighing(labels, groups)  # its checks
    labels, groups = np.asarray(labels), np.asarray(groups)
    cells = [
        np.flatnonzero((groups == group) & (labels == label))
        for group in np.unique(groups)
        for label in np.unique(labels)
    ]
    least, random = min(map(len, cells)), np.random.default_rng(seed)
    return np.sort(np.concatenate([random.choice(cell, least, replace=False) for cell in cells]))


def logit_pairing_loss(logits: Tensor, other: Tensor) -> Tensor:
    """The MEAN over pairs of \\|g(x) - g(x')\\|, g = z_1 - z_0 (0 or above; to be minimised).

    logits, other: (N, 2), for a text and for its counterfactual. Scalar, in nats of log-odds.
    Raises InvalidValue for other shapes. Source: Garg et al. 2019, section 4.3, with one
    counterfactual drawn per text.
    """
    if logits.dim() != 2 or logits.shape[1] != 2 or logits.shape != other.shape or not len(logits):
        raise InvalidValue(
            f"logits {tuple(logits.shape)} and {tuple(other.shape)} do not match; pass two of the "
            f"same shape (N, 2), N at least 1."
        )
    odds, other_odds = (z[:, 1] - z[:, 0] for z in (logits.float(), other.float()))  # (N,)
    return (odds - other_odds).abs().mean()


class FairLoss(nn.Module):
    """A two-class classifier with the loss from the module's docstring.

    classifier: any transformers sequence classifier; it is trained in place: use it for predictions
        afterwards. strength: of the pairing, at least 0.
    Without ``weights`` every example's weight is 1; without ``other_input_ids`` nothing is paired.
    """

    def __init__(self, classifier: PreTrainedModel, *, strength: float = 1.0) -> None:
        super().__init__()
        if not 0 <= strength < float("inf"):
            raise InvalidValue(f"strength is {strength}; it must be a number, at least 0.")
        if classifier.config.num_labels != 2:
            raise InvalidValue(
                f"the classifier has {classifier.config.num_labels} classes; pairing compares the "
                f"log-odds of two."
            )
        self.classifier, self.strength = classifier, strength

    @property
    def config(self) -> PretrainedConfig:
        return self.classifier.config

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor | None = None,
        weights: Tensor | None = None,
        other_input_ids: Tensor | None = None,
        other_attention_mask: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """input_ids, attention_mask: (B, T). labels, weights: (B,). other_input_ids and
        other_attention_mask: (B, 1, U), one counterfactual per text."""
        logits = self.classifier(input_ids=input_ids, attention_mask=attention_mask).logits
        if labels is None:
            return SequenceClassifierOutput(logits=logits)
        losses = cross_entropy(logits, labels, reduction="none")  # (B,)
        loss = (losses if weights is None else weights * losses).mean()
        if other_input_ids is not None and other_attention_mask is not None and self.strength:
            other = self.classifier(
                input_ids=other_input_ids.flatten(0, 1),
                attention_mask=other_attention_mask.flatten(0, 1),
            )
            loss = loss + self.strength * logit_pairing_loss(logits, other.logits)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class PairedTexts:
    """Texts with labels and what else ``FairLoss`` needs, as ``batches.Batches`` for ``fit``.

    texts: with labels. others: their counterfactuals in the same order, or None. weights: (N,) at
    least 0, or None. Raises InvalidValue: unequal lengths, no labels, a weight below 0.
    """

    def __init__(
        self,
        texts: EncodedTexts,
        others: EncodedTexts | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        if texts.labels is None:
            raise InvalidValue("the texts have no labels; encode them with labels.")
        for what, given in (("counterfactuals", others), ("weights", weights)):
            if given is not None and len(given) != len(texts):
                raise InvalidValue(
                    f"{len(texts)} texts have {len(given)} {what}; give one for each text."
                )
        if weights is not None and not np.all(np.isfinite(weights) & (np.asarray(weights) >= 0)):
            raise InvalidValue("a weight is below 0 or not a number; weights are at least 0.")
        self.texts, self.others, self.labels = texts, others, texts.labels
        self.weights = None if weights is None else np.asarray(weights, dtype=np.float32)
        both = [part.lengths for part in (texts, others) if part is not None]
        self.lengths = np.max(both, axis=0)

    def __len__(self) -> int:
        return len(self.texts)

    def batch(
        self, indices: Sequence[int] | np.ndarray, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The batch of the texts; ``weights`` (B,); ``other_input_ids`` and
        ``other_attention_mask`` (B, 1, U). The axis of length 1 keeps a micro-batch from
        being cut to the width of its texts when their counterfactuals are longer."""
        batch = self.texts.batch(indices, generator)
        if self.weights is not None:
            batch["weights"] = torch.from_numpy(self.weights[np.asarray(indices)])
        if self.others is not None:
            other = self.others.batch(indices, generator)
            other.pop("labels", None)
            batch |= {_OTHER + name: tensor[:, None] for name, tensor in other.items()}
        return batch

    def count_items(self, batch: dict[str, Tensor]) -> int:
        """Examples: the loss is a mean over them."""
        return self.texts.count_items(batch)
