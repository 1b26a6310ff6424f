"""Batches of texts that carry further values per token: labels, segments."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.utils.rnn import pad_sequence

from helpers.batches import Indices, row_numbers


class TokenRows:
    """N texts with one row of values per text in each column, for ``training.fit``.

    columns: by name, the rows and what fills them up on the right; ``input_ids`` is one.
    lengths: (N,) tokens of each text. truncated: how many texts were cut.
    """

    def __init__(
        self, columns: Mapping[str, tuple[Sequence[Sequence[int]], int]], *, truncated: int = 0
    ) -> None:
        self.columns = {
            name: ([np.asarray(row, dtype=np.int32) for row in rows], filling)
            for name, (rows, filling) in columns.items()
        }
        self.truncated = truncated
        self.lengths = np.array([len(row) for row in self.columns["input_ids"][0]])

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, indices: Indices, generator: Generator | None = None) -> dict[str, Tensor]:
        """Every column, (B, T) int64; nothing is random here."""
        numbers = row_numbers(indices, len(self))
        return {
            name: pad_sequence(
                [torch.from_numpy(rows[number]) for number in numbers],
                batch_first=True,
                padding_value=filling,
            ).long()
            for name, (rows, filling) in self.columns.items()
        }
