"""Blocks for causal models, and masks for masked ones."""

import pytest
import tiny
import torch

from helpers import batches
from helpers.batches import IGNORED
from helpers.errors import InvalidValue


def test_language_blocks_hold_all_the_text_in_order():
    tokenizer = tiny.tokenizer()
    tokenizer.eos_token = "[SEP]"
    texts = tiny.texts()
    data = batches.language_blocks(tokenizer, texts, length=16)
    stream = [
        id for text in texts for id in [*tokenizer(text, add_special_tokens=False)["input_ids"], 3]
    ]
    assert data.blocks.flatten().tolist() == stream[: len(data) * 16]
    assert data.dropped == len(stream) - len(data) * 16 < 16
    batch = data.batch([2, 0])
    assert torch.equal(batch["labels"], batch["input_ids"])
    assert data.count_items(batch) == 2 * 15


@pytest.mark.parametrize(
    ("texts", "length", "message"),
    [(["w5"], 1, "at least 2"), (["w5"], 8, "1 tokens, fewer"), ([], 8, "0 tokens")],
)
def test_language_blocks_that_cannot_be(texts, length, message):
    with pytest.raises(InvalidValue, match=message):
        batches.language_blocks(tiny.tokenizer(), texts, length=length)


def test_masking_is_80_10_10():
    ids = torch.randint(5, 1000, (400, 500))
    special = torch.zeros_like(ids, dtype=torch.bool)
    special[:, 0] = special[:, 400:] = True
    masked, labels = batches.mask_tokens(
        ids,
        mask_token_id=4,
        vocabulary_size=1000,
        special_tokens_mask=special,
        generator=torch.Generator().manual_seed(1),
    )
    chosen = labels != IGNORED
    assert not chosen[special].any()
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(masked[~chosen], ids[~chosen])
    assert abs(chosen[~special].float().mean() - 0.15) < 0.01
    assert abs((masked[chosen] == 4).float().mean() - 0.8) < 0.01
    kept = (masked[chosen] == ids[chosen]).float().mean()
    assert abs(kept - 0.1) < 0.01
    other = masked[chosen & (masked != 4) & (masked != ids)]
    assert abs(len(other) / int(chosen.sum()) - 0.1) < 0.01
    assert other.min() < 20 and other.max() > 980  # random tokens come from the whole vocabulary


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.1, float("nan")])
def test_masking_probability_range(probability):
    with pytest.raises(InvalidValue, match="probability"):
        batches.mask_tokens(
            torch.ones(1, 2, dtype=torch.int64),
            mask_token_id=4,
            vocabulary_size=9,
            special_tokens_mask=torch.zeros(1, 2),
            probability=probability,
        )


def test_masked_texts_mask_anew_with_each_seed_and_never_padding():
    tokenizer = tiny.tokenizer()
    texts = batches.encode(tokenizer, tiny.texts(), max_length=20)
    data = batches.MaskedTexts(texts, tokenizer)
    rows = range(50)
    plain = texts.batch(rows)

    def draw(seed):
        return data.batch(rows, torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1)["input_ids"], draw(1)["input_ids"])
    assert not torch.equal(draw(1)["labels"], draw(2)["labels"])
    assert torch.equal(data.batch(rows)["labels"], data.batch(rows)["labels"])
    batch = draw(1)
    untouchable = torch.isin(plain["input_ids"], torch.tensor([0, 1, 2, 3, 4]))
    assert (batch["labels"][untouchable] == IGNORED).all()
    assert torch.equal(batch["input_ids"][untouchable], plain["input_ids"][untouchable])
    assert data.count_items(batch) == int((batch["labels"] != IGNORED).sum())
    assert data.count_items(batch) / (~untouchable).sum() == pytest.approx(0.15, abs=0.04)


def test_masking_needs_a_mask_token():
    tokenizer = tiny.tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(InvalidValue, match="no mask token"):
        batches.MaskedTexts(tiny.encoded(), tokenizer)
