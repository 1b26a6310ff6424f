"""Batches for the two pre-training objectives: predict the next token, or the masked ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from helpers.batching import IGNORED, EncodedTexts, checked_chunks, row_numbers
from helpers.errors import InvalidValue


class LanguageBlocks:
    """Token ids cut into N blocks of equal length, for training a causal language model.

    blocks: (N, T) int32. dropped: tokens at the very end that did not fill a block.
    ``labels`` equal ``input_ids``: the model shifts them, so a block has T - 1 predictions.
    """

    def __init__(self, blocks: np.ndarray, *, dropped: int = 0) -> None:
        self.blocks, self.dropped = blocks, dropped
        self.lengths = np.full(len(blocks), blocks.shape[1])

    def __len__(self) -> int:
        return len(self.blocks)

    def batch(
        self, indices: Sequence[int] | np.ndarray, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """``input_ids`` and ``labels``, both (B, T) int64. ``generator`` is not used."""
        rows = row_numbers(indices, len(self))
        input_ids = torch.from_numpy(self.blocks[rows].astype(np.int64))
        return {"input_ids": input_ids, "labels": input_ids.clone()}

    def count_items(self, batch: dict[str, Tensor]) -> int:
        """Predictions: every position but each block's first."""
        return int((batch["labels"][:, 1:] != IGNORED).sum())


def language_blocks(tokenizer: Any, texts: Sequence[str], *, length: int) -> LanguageBlocks:
    """All texts one after another, each ended by the tokenizer's end token if it has one, cut
    into blocks of ``length`` tokens (at least 2).

    Raises InvalidValue: no texts, an empty one, or not enough text for one block.
    """
    if length < 2:
        raise InvalidValue(f"length is {length}; a block needs at least 2 tokens, one to predict.")
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    pieces = []
    for _, chunk in checked_chunks(texts):
        rows = tokenizer(chunk, add_special_tokens=False, verbose=False)["input_ids"]
        pieces.append(np.fromiter((id for ids in rows for id in [*ids, *end]), dtype=np.int32))
    ids = np.concatenate(pieces) if pieces else np.empty(0, np.int32)
    count = len(ids) // length
    if count == 0:
        raise InvalidValue(
            f"the texts have {len(ids)} tokens, fewer than one block of {length}. "
            f"Give more text or a smaller length."
        )
    return LanguageBlocks(
        ids[: count * length].reshape(count, length), dropped=len(ids) - count * length
    )


def mask_tokens(
    input_ids: Tensor,
    *,
    mask_token_id: int,
    vocabulary_size: int,
    special_tokens_mask: Tensor,
    generator: torch.Generator | None = None,
    probability: float = 0.15,
) -> tuple[Tensor, Tensor]:
    """BERT's masking (Devlin et al. 2019, 3.1): choose each ordinary token with ``probability``;
    of the chosen, 80 % become the mask token, 10 % a random token, 10 % stay.

    input_ids: (B, T). special_tokens_mask: (B, T) bool, True where nothing may be chosen (special
    tokens and padding). Returns the masked ids and the labels, both (B, T): the original token
    where one was chosen, -100 elsewhere.
    """
    if not 0 < probability <= 1:
        raise InvalidValue(f"probability is {probability}; it must be above 0 and at most 1.")
    chance = torch.rand(input_ids.shape, generator=generator)
    chosen = (chance < probability) & ~special_tokens_mask.bool()
    labels = input_ids.masked_fill(~chosen, IGNORED)
    kind = torch.rand(input_ids.shape, generator=generator)
    random_ids = torch.randint(vocabulary_size, input_ids.shape, generator=generator)
    masked = input_ids.masked_fill(chosen & (kind < 0.8), mask_token_id)
    masked = torch.where(chosen & (kind >= 0.9), random_ids, masked)
    return masked, labels


class MaskedTexts:
    """Encoded texts with words masked anew in every batch, for masked-language modelling.

    The masks come from the generator that ``batch`` is given: ``fit`` seeds one from the run's
    seed and the step. Without one, a batch's masks are the same each time it is asked for.
    """

    def __init__(self, texts: EncodedTexts, tokenizer: Any, *, probability: float = 0.15) -> None:
        if tokenizer.mask_token_id is None:
            raise InvalidValue("this tokenizer has no mask token; use one of a masked model.")
        self.texts, self.probability = texts, probability
        self.mask_token_id, self.vocabulary_size = tokenizer.mask_token_id, len(tokenizer)
        self.special_ids = torch.tensor(sorted(set(tokenizer.all_special_ids)))
        self.lengths = texts.lengths

    def __len__(self) -> int:
        return len(self.texts)

    def batch(
        self, indices: Sequence[int] | np.ndarray, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """``input_ids`` (masked), ``attention_mask`` and ``labels``, all (B, T) int64."""
        batch = self.texts.batch(indices)
        special = torch.isin(batch["input_ids"], self.special_ids) | (batch["attention_mask"] == 0)
        batch["input_ids"], batch["labels"] = mask_tokens(
            batch["input_ids"],
            mask_token_id=self.mask_token_id,
            vocabulary_size=self.vocabulary_size,
            special_tokens_mask=special,
            generator=generator or torch.Generator().manual_seed(0),
            probability=self.probability,
        )
        return batch

    def count_items(self, batch: dict[str, Tensor]) -> int:
        """Chosen tokens: those with a label."""
        return int((batch["labels"] != IGNORED).sum())
