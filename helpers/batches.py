"""From texts to batches of tensors: token ids, padding, masks, and the order of the batches.

``training.fit`` and ``evaluation.predict`` accept whatever provides what ``Batches`` lists.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.utils.rnn import pad_sequence

from helpers.errors import InvalidValue
from helpers.losses import IGNORED

Indices = Sequence[int] | np.ndarray
Rows = Sequence[Sequence[int]] | np.ndarray
_CHUNK = 1000  # texts per call of the tokenizer


class Batches(Protocol):
    """Examples that can be cut into batches."""

    lengths: np.ndarray  # (N,) tokens of each example

    def __len__(self) -> int:
        """N, the number of examples."""
        ...

    def batch(self, indices: Indices, generator: Generator | None = None) -> dict[str, Tensor]:
        """The model's arguments for these examples, labels included, so that it returns a loss.

        Whatever is random is drawn from ``generator``, so that a resumed run sees the same batches.
        """
        ...

    def count_items(self, batch: dict[str, Tensor]) -> int:
        """How many items the loss of this batch is a mean over: examples, or tokens with a label.

        Batches hold different numbers of items, so losses of several batches are multiplied by
        their counts, added up and divided once; the mean of their means would be another number.
        """
        ...


# -- texts with labels -----------------------------------------------------------------------------


class EncodedTexts:
    """Token ids of N texts, end to end without padding, and their labels.

    ids: (sum of lengths,) int32.
    offsets: (N + 1,) int64, the place in ``ids`` where each text starts, and the end of the last.
    labels: (N,), int64 class numbers or float32 values, or None.
    truncated: how many texts were cut because they were longer than the limit.
    pad_token_id: fills the batches on the right.
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

    def batch(self, indices: Indices, generator: Generator | None = None) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, both (B, T) int64, where T is the length of the
        longest of these texts, and ``labels`` (B,) if there are any. Nothing here is random, so
        ``generator`` is not used."""
        rows = row_numbers(indices, len(self))
        lengths = self.lengths[rows]  # (B,)
        columns = np.arange(lengths.max())  # (T,)
        filled = columns < lengths[:, None]  # (B, T)
        input_ids = np.full(filled.shape, self.pad_token_id, dtype=np.int64)
        # One indexing operation copies all tokens; a Python loop over the texts would be slower.
        input_ids[filled] = self.ids[(self.offsets[rows, None] + columns)[filled]]
        batch = {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(filled.astype(np.int64)),
        }
        if self.labels is not None:
            batch["labels"] = torch.from_numpy(self.labels[rows])
        return batch

    def count_items(self, batch: dict[str, Tensor]) -> int:
        """Examples, because a classifier's loss is the mean over examples."""
        return len(batch["input_ids"])


def encode(
    tokenizer: Any,
    texts: Sequence[str],
    labels: Sequence[int] | Sequence[float] | None = None,
    *,
    max_length: int = 128,
    label_count: int | None = None,
) -> EncodedTexts:
    """Token ids of ``texts``, the same that the tokenizer returns with truncation.

    max_length: the most tokens per text, including special tokens. The tokenizer's own
        ``model_max_length`` also applies. Longer texts are cut and counted in ``truncated``.
    labels: one per text: class numbers, or real numbers for a regression.
    label_count: the number of classes; labels must be in 0 .. label_count - 1.
    Raises InvalidValue if there are no texts, if a text is empty (the message names its row), or
    if a label is outside the classes.
    """
    if len(texts) == 0:
        raise InvalidValue("there are no texts to encode; give at least one.")
    least = tokenizer.num_special_tokens_to_add() + 1
    if max_length < least:
        raise InvalidValue(f"max_length is {max_length}; this tokenizer needs at least {least}.")
    limit = min(max_length, tokenizer.model_max_length)
    pieces: list[np.ndarray] = []
    truncated = 0
    for chunk in _chunks(texts):
        encoded = tokenizer(chunk, truncation=True, max_length=limit)
        for text, ids in zip(chunk, encoded["input_ids"], strict=True):
            if len(ids) < least:  # a text of characters that the tokenizer removes
                raise InvalidValue(f"text {len(pieces)} has no token ({text!r}). Remove that row.")
            pieces.append(np.array(ids, dtype=np.int32))
        truncated += sum(bool(text.overflowing) for text in encoded.encodings)
    return EncodedTexts(
        np.concatenate(pieces),
        np.cumsum([0, *map(len, pieces)]),
        None if labels is None else _check_labels(labels, len(texts), label_count),
        pad_token_id=tokenizer.pad_token_id or 0,
        truncated=truncated,
    )


def _check_labels(labels: Any, count: int, label_count: int | None) -> np.ndarray:
    values = np.asarray(labels)
    if values.shape != (count,):
        raise InvalidValue(f"{count} texts have labels of shape {values.shape}; give one per text.")
    if values.dtype.kind == "f" and label_count is None:
        return values.astype(np.float32)
    if values.dtype.kind not in "iub":
        raise InvalidValue(f"labels are {values.dtype}; class numbers must be whole numbers.")
    wrong = np.flatnonzero((values < 0) | (values >= (label_count or np.inf)))
    if wrong.size:
        allowed = "0 or above" if label_count is None else f"0 to {label_count - 1}"
        raise InvalidValue(
            f"label {values[wrong[0]]} of text {wrong[0]} is outside the classes: {allowed}."
        )
    return values.astype(np.int64)


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    """``texts`` in parts for the tokenizer, so that its memory stays bounded. Raises InvalidValue
    for a text that is empty or not a string, and names its row."""
    for row, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise InvalidValue(f"text {row} is {text!r}; it must hold a word. Remove that row.")
    for start in range(0, len(texts), _CHUNK):
        yield list(texts[start : start + _CHUNK])


# -- texts with a label for each token -------------------------------------------------------------


class TokenRows:
    """N texts with one row of values per text in each column, among them ``labels``.

    columns: by name, the rows and what fills them up on the right; ``input_ids`` is one.
    truncated: how many texts were cut.
    """

    def __init__(self, columns: Mapping[str, tuple[Rows, int]], *, truncated: int = 0) -> None:
        self.columns, self.truncated = columns, truncated
        self.lengths = np.array([len(row) for row in columns["input_ids"][0]])

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, indices: Indices, generator: Generator | None = None) -> dict[str, Tensor]:
        """Every column, (B, T) int64; ``generator`` is not used."""
        numbers = row_numbers(indices, len(self))
        return {
            name: pad_sequence([torch.tensor(rows[i]).long() for i in numbers], True, filling)
            for name, (rows, filling) in self.columns.items()
        }

    def count_items(self, batch: dict[str, Tensor]) -> int:
        """Tokens with a label, because the loss is the mean over them. The first never counts: it
        is a special token, or has nothing that predicts it."""
        return int((batch["labels"][:, 1:] != IGNORED).sum())


class LanguageBlocks(TokenRows):
    """Token ids cut into N blocks of equal length, for training a causal language model. Labels
    and ids are equal: the model shifts the labels itself.

    blocks: (N, T) int32.
    dropped: tokens at the very end that didn't fill a block.
    """

    def __init__(self, blocks: np.ndarray, *, dropped: int = 0) -> None:
        super().__init__({"input_ids": (blocks, 0), "labels": (blocks, 0)})
        self.blocks, self.dropped = blocks, dropped


def language_blocks(tokenizer: Any, texts: Sequence[str], *, length: int) -> LanguageBlocks:
    """All texts joined end to end, each followed by the tokenizer's end token if it has one, and
    cut into blocks of ``length`` tokens (at least 2), so that nothing is wasted on padding.

    Raises InvalidValue if a text is empty, or if the texts don't fill one block.
    """
    if length < 2:
        raise InvalidValue(f"length is {length}; a block needs at least 2 tokens, one to predict.")
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    pieces = [np.empty(0, np.int32)]
    for chunk in _chunks(texts):
        rows = tokenizer(chunk, add_special_tokens=False, verbose=False)["input_ids"]
        pieces += [np.array(ids + end, dtype=np.int32) for ids in rows]
    ids = np.concatenate(pieces)
    count, dropped = divmod(len(ids), length)
    if count == 0:
        raise InvalidValue(
            f"the texts have {len(ids)} tokens, fewer than one block of {length}. Give more text "
            f"or a smaller length."
        )
    return LanguageBlocks(ids[: count * length].reshape(count, length), dropped=dropped)


# -- masked language modelling ---------------------------------------------------------------------


def mask_tokens(
    input_ids: Tensor,
    *,
    mask_token_id: int,
    vocabulary_size: int,
    special_tokens_mask: Tensor,
    generator: Generator | None = None,
    probability: float = 0.15,
) -> tuple[Tensor, Tensor]:
    """BERT's masking: choose each ordinary token with ``probability``. Of the chosen ones, 80 %
    become the mask token, 10 % a random token, and 10 % stay as they are.

    input_ids: (B, T).
    special_tokens_mask: (B, T), True where no token may be chosen (special tokens and padding).
    Returns the masked ids and the labels, both (B, T). A label is the original token where it
    was chosen, and -100 elsewhere.
    Source: Devlin et al. 2019 (BERT), section 3.1.
    """
    if not 0 < probability <= 1:
        raise InvalidValue(f"probability is {probability}; it must be above 0 and at most 1.")
    chance = torch.rand(input_ids.shape, generator=generator)
    chosen = (chance < probability) & ~special_tokens_mask.bool()  # (B, T)
    labels = input_ids.masked_fill(~chosen, IGNORED)
    # Fine-tuning never shows a mask token. With 20 % of the chosen tokens shown as words, right or
    # wrong, the model has to represent every word well, not only the masked ones.
    kind = torch.rand(input_ids.shape, generator=generator)
    random_ids = torch.randint(vocabulary_size, input_ids.shape, generator=generator)
    masked = input_ids.masked_fill(chosen & (kind < 0.8), mask_token_id)
    masked = torch.where(chosen & (kind >= 0.9), random_ids, masked)
    return masked, labels


class MaskedTexts:
    """Encoded texts that are masked anew in every batch, so that each epoch hides other words.

    The masks are drawn from the generator given to ``batch``; ``fit`` seeds one from the seed of
    the run and the step. Without a generator, the same indices always get the same masks.
    """

    def __init__(self, texts: EncodedTexts, tokenizer: Any, *, probability: float = 0.15) -> None:
        if tokenizer.mask_token_id is None:
            raise InvalidValue("this tokenizer has no mask token; use that of a masked model.")
        self.texts, self.lengths, self.probability = texts, texts.lengths, probability
        self.mask_token_id, self.vocabulary_size = tokenizer.mask_token_id, len(tokenizer)
        self.special_ids = torch.tensor(tokenizer.all_special_ids)

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, indices: Indices, generator: Generator | None = None) -> dict[str, Tensor]:
        """``input_ids`` (masked), ``attention_mask`` and ``labels``, all (B, T) int64."""
        batch = self.texts.batch(indices)
        special = torch.isin(batch["input_ids"], self.special_ids) | (batch["attention_mask"] == 0)
        batch["input_ids"], batch["labels"] = mask_tokens(
            batch["input_ids"],
            mask_token_id=self.mask_token_id,
            vocabulary_size=self.vocabulary_size,
            special_tokens_mask=special,
            generator=generator or Generator().manual_seed(0),
            probability=self.probability,
        )
        return batch

    def count_items(self, batch: dict[str, Tensor]) -> int:
        """The chosen tokens, which are those with a label."""
        return int((batch["labels"] != IGNORED).sum())


# -- the order of the batches ----------------------------------------------------------------------


def length_grouped_batches(
    lengths: np.ndarray, batch_size: int, *, seed: int, epoch: int, pool: int = 50
) -> list[np.ndarray]:
    """Batches of similar length for training: every index of ``lengths`` exactly once.

    Sorting all texts by length would waste the least padding, but every epoch would then show the
    same batches, from long to short. So the indices are shuffled, each ``pool`` of batches is
    sorted by length and cut (from longest to shortest; the last batch holds what is left over), and
    the batches are shuffled again. The order depends only on (seed, epoch).
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), pool * batch_size):
        part = order[start : start + pool * batch_size]
        part = part[np.argsort(-lengths[part], kind="stable")]
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def sorted_batches(lengths: np.ndarray, *, tokens_per_batch: int) -> Iterator[np.ndarray]:
    """Batches for evaluation, where the order doesn't matter: every index once, from the longest
    text to the shortest, in batches of at most ``tokens_per_batch`` tokens including padding (but
    at least one text).

    The largest batches come first, so that a lack of memory shows at once and not at the end.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, tokens_per_batch // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size


def take_rows(
    batch: dict[str, Tensor], rows: slice | Sequence[int] | np.ndarray
) -> dict[str, Tensor]:
    """Some examples of a batch, without the columns that are padding in all of them."""
    part = {name: tensor[rows] for name, tensor in batch.items()}
    mask = part.get("attention_mask")
    if mask is None:
        return part
    width, used = mask.shape[1], int(mask.any(dim=0).nonzero()[-1]) + 1
    for name, tensor in part.items():
        if tensor.dim() > 1 and tensor.shape[1] == width and used < width:  # not labels of (B,)
            part[name] = tensor[:, :used].contiguous()
    return part


def row_numbers(indices: Indices, count: int) -> np.ndarray:
    """``indices`` as an array. Raises InvalidValue if one is outside 0 .. count - 1 (NumPy would
    read -1 as the last row)."""
    rows = np.asarray(indices)
    if rows.min() < 0 or rows.max() >= count:
        raise InvalidValue(
            f"the indices run from {rows.min()} to {rows.max()}; they must be in 0 to {count - 1}."
        )
    return rows
