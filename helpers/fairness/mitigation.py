"""Training a classifier to treat groups alike: weights of examples, and a loss on pairs.

``FairLoss`` wraps a classifier so that its loss is the one below, ``PairedTexts`` provides what
that loss needs, and ``training.fit`` accepts both. For B examples with weights w_i, texts x_i and
counterfactuals x'_i,

    L = (1/B) sum_i w_i CE(y_i, z(x_i)) + strength (1/B) sum_i |g(x_i) - g(x'_i)|,

where CE is the cross-entropy in nats and g = z_1 - z_0 the log-odds of class 1. Both are means
over examples (the mean weight over the training data is 1), so gradient accumulation gives the
same gradients.
"""

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from helpers.batches import EncodedTexts, Indices
from helpers.errors import InvalidValue
from helpers.evaluation.metrics import Classes
from helpers.fairness.gaps import Groups
from helpers.losses import cross_entropy


def reweighing(labels: Classes, groups: Groups) -> np.ndarray:
    """(N,) weights that make label and group independent: how often each pair would occur if they
    were, divided by how often it does, P(s) P(y) / P(s, y). Their mean is 1.

    labels: (N,) class numbers. groups: (N,) names.
    Raises InvalidValue: a group that lacks a label (no weight can make an example that is not
    there). Source: Kamiran & Calders 2012, section 4.2.
    """
    table = _table(labels, groups)

    def share(*columns: str) -> pd.Series:
        """(N,) how often the row's values occur in these columns."""
        return table.groupby(list(columns))["label"].transform("size") / len(table)

    return (share("group") * share("label") / share("group", "label")).to_numpy()


def rebalanced(labels: Classes, groups: Groups, *, seed: int = 42) -> np.ndarray:
    """Sorted row numbers of a sample in which every group has every label equally often: as many
    rows of each pair, drawn without replacement, as the rarest pair has.

    Arguments and errors as in ``reweighing``.
    """
    cells = _table(labels, groups).groupby(["group", "label"])
    drawn = cells.sample(cells.size().min(), random_state=np.random.default_rng(seed))
    return np.sort(drawn.index)


def _table(labels: Classes, groups: Groups) -> pd.DataFrame:
    table = pd.DataFrame({"group": groups, "label": labels})
    for (group, label), count in pd.crosstab(table["group"], table["label"]).stack().items():
        if not count:
            raise InvalidValue(
                f"group {group!r} has no example of label {label}: weights cannot make one. Add "
                f"such examples, for instance by counterfactual augmentation."
            )
    return table


def logit_pairing_loss(logits: Tensor, other: Tensor) -> Tensor:
    """The MEAN over pairs of \\|g(x) - g(x')\\|, g = z_1 - z_0 (0 or above; to be minimised).

    logits, other: (N, 2), for a text and for its counterfactual. Scalar, in nats of log-odds.
    Raises InvalidValue for other shapes. Source: Garg et al. 2019, section 4.3, with one
    counterfactual drawn per text.
    """
    if logits.shape[1:] != (2,) or logits.shape != other.shape:
        raise InvalidValue(
            f"logits {tuple(logits.shape)} and {tuple(other.shape)}; both must have the same shape "
            f"(N, 2)."
        )
    odds, other_odds = (z[:, 1] - z[:, 0] for z in (logits.float(), other.float()))  # (N,)
    return (odds - other_odds).abs().mean()


class FairLoss(nn.Module):
    """A two-class classifier with the loss from the module's docstring.

    classifier: any transformers sequence classifier; it is trained in place: use it for predictions
        afterwards. strength: of the pairing, at least 0.
    """

    def __init__(self, classifier: PreTrainedModel, *, strength: float = 1.0) -> None:
        super().__init__()
        if not strength >= 0:
            raise InvalidValue(f"strength is {strength}; it must be at least 0.")
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
        """input_ids, attention_mask: (B, T). labels: (B,). weights: (B,), None: all 1.
        other_input_ids, other_attention_mask: (B, 1, U), a counterfactual per text; None: no pairs.
        """
        logits = self.classifier(input_ids=input_ids, attention_mask=attention_mask).logits
        if labels is None:
            return SequenceClassifierOutput(logits=logits)
        losses = cross_entropy(logits, labels, reduction="none")  # (B,)
        loss = (losses if weights is None else weights * losses).mean()
        if other_input_ids is not None and other_attention_mask is not None and self.strength:
            input_ids, attention_mask = other_input_ids[:, 0], other_attention_mask[:, 0]
            other = self.classifier(input_ids=input_ids, attention_mask=attention_mask).logits
            loss = loss + self.strength * logit_pairing_loss(logits, other)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class PairedTexts:
    """Texts with labels and what else ``FairLoss`` needs, as ``batches.Batches`` for ``fit``.

    texts: with labels. others: their counterfactuals in the same order, or None. weights: (N,) at
    least 0, or None. Raises InvalidValue: unequal lengths.
    """

    def __init__(
        self,
        texts: EncodedTexts,
        others: EncodedTexts | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        for what, given in (("counterfactuals", others), ("weights", weights)):
            if given is not None and len(given) != len(texts):
                raise InvalidValue(
                    f"{len(texts)} texts have {len(given)} {what}; give one for each text."
                )
        self.texts, self.others = texts, others
        self.weights = None if weights is None else np.asarray(weights, dtype=np.float32)
        self.lengths = np.maximum(texts.lengths, 0 if others is None else others.lengths)

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, indices: Indices, generator: Generator | None = None) -> dict[str, Tensor]:
        """The batch of the texts; ``weights`` (B,); ``other_input_ids`` and
        ``other_attention_mask`` (B, 1, U). The axis of length 1 keeps a micro-batch from
        being cut to the width of its texts when their counterfactuals are longer."""
        batch = self.texts.batch(indices, generator)
        if self.weights is not None:
            batch["weights"] = torch.from_numpy(self.weights[np.asarray(indices)])
        if self.others is not None:
            other = self.others.batch(indices, generator)
            other.pop("labels", None)
            batch |= {f"other_{name}": tensor[:, None] for name, tensor in other.items()}
        return batch

    def count_items(self, batch: dict[str, Tensor]) -> int:
        """Examples: the loss is a mean over them."""
        return self.texts.count_items(batch)
