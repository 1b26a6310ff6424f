"""How a run judges itself along the way: loss and accuracy over the validation set."""

from typing import Any

import torch
from torch import Tensor, nn

from helpers.batches import IGNORED, Batches, sorted_batches, take_rows
from helpers.errors import InvalidValue
from helpers.training.config import TrainingConfig
from helpers.training.machine import Machine
from helpers.training.steps import EVALUATION, generator_for, micro_batches, move


class Validator:
    """Calling it gives ``{"loss": mean nats per item}``, and of a classifier "accuracy" (of a token
    classifier, over all labelled tokens), the same on every process: of N processes each takes
    every N-th batch, and the results are put together in one order.
    """

    def __init__(
        self, model: nn.Module, data: Batches, machine: Machine, config: TrainingConfig
    ) -> None:
        self.model, self.data, self.machine, self.config = model, data, machine, config
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
                loss = float(output.loss) * count if count else 0.0
                found = self._count_right(output, part.get("labels"))
                results.append((number, piece, loss, count, *found))
        # In one order, so that rounding does not depend on who judged what.
        results = sorted(self.machine.gather(results))
        _, _, loss, count, right, judged = map(sum, zip(*results, strict=True))
        scores = {"loss": loss / max(1, count)}
        return scores | {"accuracy": right / judged} if judged else scores

    def require_metric(self, name: str) -> None:
        """Raises InvalidValue if ``name`` is not measured: better before the training than after
        an epoch of it. One batch is judged to find out."""
        if name != "loss" and name not in (scores := self(batches_at_most=1)):
            raise InvalidValue(f"metric is {name!r}; there are: {', '.join(sorted(scores))}.")

    def _count_right(self, output: Any, labels: Tensor | None) -> tuple[int, int]:
        """How many predicted classes are right, and of how many; 0 of 0 for other models."""
        logits = getattr(output, "logits", None)
        classes = getattr(getattr(self.model, "config", None), "num_labels", 0)
        if logits is None or labels is None or labels.is_floating_point():
            return 0, 0
        if not logits.shape[-1] == classes > 1:  # a language model, say
            return 0, 0
        marked = (labels != IGNORED).numpy()
        right = logits.float().cpu().numpy().argmax(-1) == labels.numpy()
        return int(right[marked].sum()), int(marked.sum())
