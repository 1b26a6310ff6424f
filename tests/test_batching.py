"""Encoding and the order of cut."""

import numpy as np
import pytest
import tiny
import torch

from helpers import batches
from helpers.errors import InvalidValue


def test_batches_equal_the_tokenizer_with_padding():
    tokenizer, texts = tiny.tokenizer(), tiny.texts()
    data = batches.encode(tokenizer, texts, [0] * 50, max_length=12)
    rows = [7, 3, 11, 49]
    expected = tokenizer(
        [texts[i] for i in rows],
        padding=True,
        truncation=True,
        max_length=12,
        return_tensors="pt",
    )
    batch = data.batch(rows)
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    assert batch["labels"].tolist() == [0] * 4
    assert data.count_items(batch) == 4


def test_every_text_is_encoded_as_by_the_tokenizer_across_chunks(monkeypatch):
    monkeypatch.setattr(batches, "_CHUNK", 7)
    tokenizer, texts = tiny.tokenizer(), tiny.texts()
    data = batches.encode(tokenizer, texts, max_length=12)
    expected = tokenizer(texts, truncation=True, max_length=12)["input_ids"]
    found = [data.ids[a:b].tolist() for a, b in zip(data.offsets, data.offsets[1:], strict=False)]
    assert found == expected
    assert data.lengths.tolist() == [len(ids) for ids in expected]


def test_truncated_texts_are_counted():
    texts = ["w5 " * words for words in (1, 9, 10, 11, 60)]  # with [CLS] and [SEP]: 3, 11, 12 ...
    data = batches.encode(tiny.tokenizer(), texts, max_length=12)
    assert data.truncated == 2
    assert data.lengths.tolist() == [3, 11, 12, 12, 12]


def test_a_text_has_128_tokens_at_most_if_nothing_else_is_said():
    tokenizer = tiny.tokenizer()
    tokenizer.model_max_length = 1000
    assert batches.encode(tokenizer, ["w5 " * 300]).lengths.tolist() == [128]


def test_the_tokenizers_own_limit_holds_too():
    data = batches.encode(tiny.tokenizer(), ["w5 " * 100], max_length=1000)
    assert data.lengths.tolist() == [tiny.POSITIONS]
    assert data.truncated == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], None), "no texts"),
        ((["w5", "   "], None), "text 1 is '   '"),
        ((["w5", "", "w6"], None), "text 1 is ''"),
        ((["w5", None], None), "text 1 is None"),
        ((["w5", "w6"], [0, 3]), "label 3 of text 1 is outside the classes: 0 to 2"),
        ((["w5", "w6"], [-1, 0]), "label -1 of text 0"),
        ((["w5", "w6"], [0]), "2 texts have labels of shape"),
        ((["w5", "w6"], [0.5, 1.0]), "whole numbers"),
        ((["w5", "w6"], ["ham", "spam"]), "whole numbers"),
    ],
)
def test_what_cannot_be_encoded_is_named(arguments, message):
    texts, labels = arguments
    with pytest.raises(InvalidValue, match=message):
        batches.encode(tiny.tokenizer(), texts, labels, label_count=3)


def test_max_length_must_hold_a_token():
    with pytest.raises(InvalidValue, match="at least 3"):
        batches.encode(tiny.tokenizer(), ["w5"], max_length=2)


def test_real_numbers_are_labels_of_a_regression():
    data = batches.encode(tiny.tokenizer(), ["w5", "w6"], [0.5, -2.0])
    assert data.batch([1, 0])["labels"].tolist() == [-2.0, 0.5]
    assert data.batch([1, 0])["labels"].dtype == torch.float32


@pytest.mark.parametrize("rows", [[-1], [50]])
def test_rows_that_are_not_there(rows):
    with pytest.raises(InvalidValue, match="indices run from"):
        tiny.encoded(50).batch(rows)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 1000])
def test_every_example_exactly_once_an_epoch(count):
    lengths = np.random.default_rng(0).integers(3, 90, count)
    cut = batches.length_grouped_batches(lengths, 32, seed=1, epoch=0, pool=4)
    assert sorted(np.concatenate(cut).tolist()) == list(range(count))
    assert sorted(map(len, cut), reverse=True)[:-1] == [32] * (len(cut) - 1)


def test_batches_depend_on_seed_and_epoch_alone_and_waste_little():
    lengths = np.random.default_rng(0).integers(3, 90, 1600)

    def order(seed, epoch):
        cut = batches.length_grouped_batches(lengths, 32, seed=seed, epoch=epoch)
        return np.concatenate(cut).tolist()

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)
    cut = batches.length_grouped_batches(lengths, 32, seed=1, epoch=0)
    padded = sum(len(rows) * lengths[rows].max() for rows in cut)
    assert padded < 1.05 * lengths.sum()
    longest = [lengths[rows].max() for rows in cut]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)


def test_evaluation_batches_hold_every_row_within_the_budget():
    lengths = np.random.default_rng(0).integers(3, 90, 500)
    cut = list(batches.sorted_batches(lengths, tokens_per_batch=256))
    assert sorted(np.concatenate(cut).tolist()) == list(range(500))
    assert all(len(rows) * lengths[rows].max() <= 256 for rows in cut)
    single = list(batches.sorted_batches(np.array([9, 9]), tokens_per_batch=4))
    assert [rows.tolist() for rows in single] == [[0], [1]]


def test_taking_rows_drops_columns_of_padding():
    data = tiny.encoded()
    whole = data.batch(range(20))
    part = batches.take_rows(whole, [3, 8])
    alone = data.batch([3, 8])
    assert all(torch.equal(part[name], alone[name]) for name in alone)


def test_rows_of_tokens_are_filled_up_column_by_column():
    labels = [[-100, 6, 7], [-100]]
    data = batches.TokenRows({"input_ids": ([[5, 6, 7], [8]], 9), "labels": (labels, -100)})
    batch = data.batch([1, 0])
    assert batch["input_ids"].tolist() == [[8, 9, 9], [5, 6, 7]]
    assert batch["labels"].tolist() == [[-100, -100, -100], [-100, 6, 7]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert len(data) == 2 and data.lengths.tolist() == [3, 1]
    assert data.count_items(batch) == 2
