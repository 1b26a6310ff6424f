"""How a run judges itself along the way: the loss and metrics over the validation set."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from helpers.batches import IGNORED, Batches, sorted_batches, take_rows
from helpers.errors import InvalidValue
from helpers.training.config import TrainingConfig
from helpers.training.machine import Machine
from helpers.training.steps import EVALUATION, generator_for, micro_batches, move

Metrics = Callable[[np.ndarray, np.ndarray], dict[str, float]]


class Validator:
    """Calling it gives ``{"loss": mean nats per item, ...}``, the same on every process: of N
    processes each takes every N-th batch, and the results are put together in one order.

    compute_metrics: ``(logits, labels) -> {name: value}`` over the whole set (for a token
    classifier, over all labelled tokens); without it, a classifier's accuracy is measured.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Batches,
        machine: Machine,
        config: TrainingConfig,
        compute_metrics: Metrics | None,
    ) -> None:
        self.model, self.data, self.machine = model, data, machine
        self.compute_metrics, self.config = compute_metrics, config
        tokens = config.batch_size * int(data.lengths.max())
        self.batches = list(sorted_batches(data.lengths, tokens_per_batch=tokens))

    @torch.inference_mode()
    def __call__(self, parts: int = 1, *, batches_at_most: int | None = None) -> dict[str, float]:
        """``parts``: pieces into which a batch is cut, so that it fits in memory where training
        does."""
        self.model.eval()
        rank, world = self.machine.rank, self.machine.world
        results = []
        for number in range(rank, len(self.batches[:batches_at_most]), world):
            draws = generator_for(self.config.seed, number, EVALUATION)
            batch = self.data.batch(self.batches[number], draws)
            for piece, rows in enumerate(micro_batches(len(self.batches[number]), 0, 1, parts)):
                part = take_rows(batch, rows)
                count = self.data.count_items(part)
                with self.machine.autocast():
                    output = self.model(**move(part, self.machine.device))
                loss = float(output.loss) if count else 0.0
                kept = self._kept(output, part.get("labels"))
                results.append(((number, piece), loss, count, *kept))
        # In one order, so that sums and metrics do not depend on who judged what.
        results = sorted(self.machine.gather(results), key=lambda result: result[0])
        _, losses, counts, logits, labels = zip(*results, strict=True)
        total = sum(loss * count for loss, count in zip(losses, counts, strict=True))
        scores = {"loss": total / max(1, sum(counts))}
        if logits[0] is not None:
            compute = self.compute_metrics or _accuracy
            metrics = compute(np.concatenate(logits), np.concatenate(labels))
            scores |= {name: float(value) for name, value in metrics.items()}
        return scores

    def require_metric(self, name: str) -> None:
        """Raises InvalidValue if ``name`` is not measured: better before the training than after
        an epoch of it. One batch is judged to find out."""
        if name != "loss" and name not in (scores := self(batches_at_most=1)):
            raise InvalidValue(f"metric is {name!r}; there are: {', '.join(sorted(scores))}.")

    def _kept(self, output: Any, labels: Tensor | None) -> tuple[Any, Any]:
        """What the metrics need: a classifier's logits (n, C) and class numbers (n,); for a token
        classifier, those of the labelled tokens, one after another. Nothing otherwise: a language
        model's logits would fill the memory."""
        logits = getattr(output, "logits", None)
        if logits is None or labels is None:
            return None, None
        classes = getattr(getattr(self.model, "config", None), "num_labels", 0)
        if logits.shape[-1] == classes > 1 and not labels.is_floating_point():
            marked = (labels != IGNORED).cpu()
            return logits.float().cpu()[marked].numpy(), labels[marked].numpy()
        if self.compute_metrics and logits.shape[:-1].numel() == len(labels):
            return logits.float().cpu().numpy(), labels.numpy()
        return None, None


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return {"accuracy": float(np.mean(logits.argmax(-1) == labels))}
