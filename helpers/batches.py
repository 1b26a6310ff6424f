"""Texts as flat token ids, and batches of them cut in an order that depends only on a seed.

What ``training.fit`` and ``evaluation.predict`` eat is anything with four things: ``len(data)``,
``data.lengths`` (tokens of each example), ``data.batch(indices, generator)`` (a dictionary of
tensors for the model, loss included) and ``data.count_items(batch)`` (what the model's mean loss
was divided by).
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from helpers.errors import InvalidValue

IGNORED = -100  # the label that transformers' losses leave out
_CHUNK = 1000  # texts handed to the tokenizer at once, so that its memory stays bounded


class Batches(Protocol):
    """The batching protocol; see the module's docstring."""

    lengths: np.ndarray

    def __len__(self) -> int: ...
    def batch(
        self, indices: Sequence[int] | np.ndarray, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]: ...
    def count_items(self, batch: dict[str, Tensor]) -> int: ...


class EncodedTexts:
    """Token ids of N texts, end to end without padding, and their labels.

    ids: (sum of lengths,) int32. offsets: (N + 1,) int64, where each text starts.
    labels: (N,) int64 class numbers or float32 values, or None.
    truncated: how many texts were longer than the limit. pad_token_id: fills batches on the right.
    """

    def __init__(
        self,
        ids: np.ndarray,
        offsets: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        pad_token_id: int = 0,
        truncated: int = 0,
    ) -> None:
        self.ids, self.offsets, self.labels = ids, offsets, labels
        self.pad_token_id, self.truncated = pad_token_id, truncated
        self.lengths = np.diff(offsets)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(
        self, indices: Sequence[int] | np.ndarray, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask`` (B, T) int64, T the longest of these texts, and
        ``labels`` (B,) where there are any. Nothing is random here: ``generator`` is not used."""
        rows = row_numbers(indices, len(self))
        lengths = self.lengths[rows]
        columns = np.arange(lengths.max())
        filled = columns < lengths[:, None]  # (B, T)
        input_ids = np.full(filled.shape, self.pad_token_id, dtype=np.int64)
        input_ids[filled] = self.ids[(self.offsets[rows, None] + columns)[filled]]
        batch = {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(filled.astype(np.int64)),
        }
        if self.labels is not None:
            batch["labels"] = torch.from_numpy(self.labels[rows])
        return batch

    def count_items(self, batch: dict[str, Tensor]) -> int:
        """Examples: a classifier's loss is the mean over them."""
        return len(batch["input_ids"])


def encode(
    tokenizer: Any,
    texts: Sequence[str],
    labels: Sequence[int] | Sequence[float] | None = None,
    *,
    max_length: int = 128,
    label_count: int | None = None,
) -> EncodedTexts:
    """Token ids of ``texts``, as the tokenizer itself gives them with truncation.

    max_length: tokens of a text at most, special tokens included; the tokenizer's own
        ``model_max_length`` is a second limit. Longer texts are cut and counted in ``truncated``.
    labels: one a text: class numbers, or real numbers for a regression.
    label_count: number of classes; labels must lie in 0 .. label_count - 1.
    Raises InvalidValue: no texts, an empty one (its row is named), a label outside the classes.
    """
    if len(texts) == 0:
        raise InvalidValue("there are no texts to encode; give at least one.")
    least = tokenizer.num_special_tokens_to_add() + 1
    if max_length < least:
        raise InvalidValue(
            f"max_length is {max_length}; this tokenizer needs at least {least} "
            f"({least - 1} special tokens and one of the text)."
        )
    limit = min(max_length, tokenizer.model_max_length)
    pieces: list[np.ndarray] = []
    lengths: list[int] = []
    truncated = 0
    for start, chunk in checked_chunks(texts):
        rows = tokenizer(chunk, add_special_tokens=True, verbose=False)["input_ids"]
        for row, ids in enumerate(rows):
            if len(ids) < least:
                raise _empty_text(start + row, chunk[row])
        long = [row for row, ids in enumerate(rows) if len(ids) > limit]
        if long:
            cut = tokenizer([chunk[row] for row in long], truncation=True, max_length=limit)
            for row, ids in zip(long, cut["input_ids"], strict=True):
                rows[row] = ids
        truncated += len(long)
        pieces.append(np.fromiter((id for ids in rows for id in ids), dtype=np.int32))
        lengths += map(len, rows)
    return EncodedTexts(
        np.concatenate(pieces),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        None if labels is None else _check_labels(labels, len(texts), label_count),
        pad_token_id=tokenizer.pad_token_id or 0,
        truncated=truncated,
    )


def length_grouped_batches(
    lengths: np.ndarray, batch_size: int, *, seed: int, epoch: int, pool: int = 50
) -> list[np.ndarray]:
    """Every index of ``lengths`` exactly once, in batches whose texts are about equally long.

    The order depends on (seed, epoch) alone: indices are shuffled, each ``pool`` of batches is
    sorted by length and cut, and the batches are shuffled again. The last batch of the last pool
    holds what is left over. Inside a batch, indices run from the longest text to the shortest.
    """
    if batch_size < 1:
        raise InvalidValue(f"batch_size is {batch_size}; it must be at least 1.")
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), pool * batch_size):
        part = order[start : start + pool * batch_size]
        part = part[np.argsort(-lengths[part], kind="stable")]
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def sorted_batches(lengths: np.ndarray, *, tokens_per_batch: int) -> Iterator[np.ndarray]:
    """Every index once, from the longest text to the shortest, in batches of at most
    ``tokens_per_batch`` tokens with padding (at least one text each): for evaluation."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, tokens_per_batch // int(max(1, lengths[order[start]])))
        yield order[start : start + size]
        start += size


def take_rows(batch: dict[str, Tensor], rows: slice | Sequence[int]) -> dict[str, Tensor]:
    """Some examples of a batch, without the columns that are padding in all of them."""
    part = {name: tensor[rows] for name, tensor in batch.items()}
    mask = part.get("attention_mask")
    if mask is None:
        return part
    width, used = mask.shape[1], int(mask.any(dim=0).nonzero()[-1]) + 1
    if used == width:
        return part
    return {
        name: tensor[:, :used].contiguous()
        if tensor.dim() > 1 and tensor.shape[1] == width
        else tensor
        for name, tensor in part.items()
    }


def row_numbers(indices: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    """``indices`` as an array; raises InvalidValue if it is empty or leaves 0 .. count - 1."""
    rows = np.asarray(indices)
    if rows.size == 0:
        raise InvalidValue("a batch needs at least one index.")
    if rows.min() < 0 or rows.max() >= count:
        raise InvalidValue(
            f"indices from {rows.min()} to {rows.max()} asked for; there are 0 to {count - 1}."
        )
    return rows


def _empty_text(row: int, text: str) -> InvalidValue:
    return InvalidValue(
        f"text {row} is empty ({text!r}): it has no token to learn from. Remove that row."
    )


def checked_chunks(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Runs of ``texts`` for the tokenizer, each with the row of its first text. Raises
    InvalidValue, with the row, for what is not a text or an empty one."""
    for start in range(0, len(texts), _CHUNK):
        chunk = list(texts[start : start + _CHUNK])
        for row, text in enumerate(chunk, start):
            if not isinstance(text, str):
                raise InvalidValue(f"text {row} is {text!r}, which is not a string.")
            if not text.strip():
                raise _empty_text(row, text)
        yield start, chunk


def _check_labels(labels: Any, count: int, label_count: int | None) -> np.ndarray:
    values = np.asarray(labels)
    if values.shape != (count,):
        raise InvalidValue(f"{count} texts have labels of shape {values.shape}; give one a text.")
    if values.dtype.kind == "f" and label_count is None:
        return values.astype(np.float32)
    if values.dtype.kind not in "iub":
        raise InvalidValue(f"labels are {values.dtype}; class numbers are whole numbers.")
    highest = np.iinfo(np.int64).max if label_count is None else label_count - 1
    wrong = np.flatnonzero((values < 0) | (values > highest))
    if wrong.size:
        allowed = "0 or above" if label_count is None else f"0 to {label_count - 1}"
        raise InvalidValue(
            f"label {values[wrong[0]]} of text {wrong[0]} is outside the classes: {allowed}."
        )
    return values.astype(np.int64)


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
