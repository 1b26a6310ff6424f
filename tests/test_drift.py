"""The stability index against scipy, its behaviour by chance, and planted shifts."""

import numpy as np
import pytest
import tiny
from scipy.stats import entropy

from helpers.errors import CourseError, InvalidValue
from helpers.shipping import drift


def test_the_index_is_jeffreys_divergence():
    random = np.random.default_rng(0)
    for _ in range(20):
        expected, actual = random.integers(0, 200, (2, 8))
        e, a = ((counts + 0.5) / (counts + 0.5).sum() for counts in (expected, actual))
        found = drift.population_stability_index(expected, actual)
        assert found == pytest.approx(entropy(a, e) + entropy(e, a))
        assert found == pytest.approx(drift.population_stability_index(actual, expected))


def test_equal_shares_give_zero_and_an_empty_bin_is_finite():
    assert drift.population_stability_index([1, 1], [1, 1]) == 0
    assert 0 < drift.population_stability_index([0, 100], [100, 0]) < 20


@pytest.mark.parametrize("sizes", [(1000, 1000), (500, 100), (2000, 200)])
def test_without_drift_the_limit_is_passed_as_rarely_as_it_says(sizes):
    random, shares = np.random.default_rng(1), np.full(10, 0.1)
    limit = drift.chance_limit(*sizes, bins=10, false_alarms=0.05)
    passed = np.mean([
        drift.population_stability_index(*(random.multinomial(n, shares) for n in sizes)) > limit
        for _ in range(2000)
    ])  # fmt: skip
    assert 0.02 < passed < 0.09, passed


def test_bins_hold_about_equally_many_and_none_is_empty():
    for values in (np.arange(1000.0), np.repeat([0.0, 1, 2], [700, 200, 100]), np.zeros(60)):
        edges = drift._edges(values)
        counts = drift._count(values, edges)
        assert len(counts) == len(edges) + 1 and sum(counts) == len(values)
        assert edges == sorted(set(edges))
        if len(np.unique(values)) > 1:
            assert min(counts) > 0
    counts = drift._count(np.arange(1000.0), drift._edges(np.arange(1000.0)))
    assert len(counts) == 10 and set(counts) <= {99, 100, 101}


def confident(count, low, seed):
    top = np.random.default_rng(seed).uniform(low, 1, count)
    return np.stack([top, 1 - top], axis=1)


def some_texts(words, count, longest, seed):
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(words, random.integers(3, longest + 1))) for _ in range(count)]


@pytest.fixture(scope="module")
def reference():
    """Held-out texts like the training texts: words w5 to w40, up to 15 of them."""
    words = [f"w{i}" for i in range(5, 41)]
    return drift.Reference.build(
        tiny.tokenizer(), some_texts(words, 400, 15, 0), some_texts(words, 500, 15, 1),
        confident(500, 0.5, 1),
    )  # fmt: skip


OLD, NEW = [f"w{i}" for i in range(5, 41)], [f"w{i}" for i in range(30, 59)]


@pytest.mark.parametrize(
    ("words", "longest", "low", "alarms"),
    [
        (OLD, 15, 0.5, set()),
        (NEW, 15, 0.5, {"unseen"}),
        (OLD, 6, 0.5, {"length"}),
        (OLD, 15, 0.9, {"confidence"}),
        (NEW, 6, 0.9, {"unseen", "length", "confidence"}),
    ],
)
def test_a_planted_shift_is_found_where_it_was_planted(reference, words, longest, low, alarms):
    texts = some_texts(words, 300, longest, 7)
    found = reference.compare(tiny.tokenizer(), texts, confident(300, low, 7))
    assert {name for name, values in found.items() if values["alarm"]} == alarms


def test_a_shift_that_chance_rules_out_is_no_alarm_while_it_is_small():
    """Of 4,000 texts each, 55 % instead of 50 % are above the median confidence: the index is far
    above the limit of chance, and far below LARGE."""
    tokenizer, low, high = tiny.tokenizer(), [0.6, 0.4], [0.9, 0.1]
    texts = ["w5 w6"] * 4000
    before = np.repeat([low, high], 2000, axis=0)
    after = np.repeat([low, high], [1800, 2200], axis=0)
    built = drift.Reference.build(tokenizer, ["w5 w6"], texts, before)
    found = built.compare(tokenizer, texts, after)["confidence"]
    e, a = np.array([0.5, 0.5]), np.array([0.45, 0.55])
    assert found["index"] == pytest.approx(entropy(a, e) + entropy(e, a), rel=0.01)
    assert found["limit"] < found["index"] < drift.LARGE and not found["alarm"]


def test_the_signals_are_those_of_each_text():
    signals = drift.text_signals(
        tiny.tokenizer(), ["w5 w6 w7 w50", "w5"], np.array([[0.9, 0.1], [0.3, 0.7]]), {5, 6, 7}
    )
    assert signals["length"].tolist() == [4, 1]
    assert signals["unseen"].tolist() == [0.25, 0]
    assert signals["confidence"].tolist() == [0.9, 0.7]


def test_a_reference_comes_back_from_its_file(reference, tmp_path):
    reference.save(tmp_path / "reference.json")
    assert drift.Reference.load(tmp_path / "reference.json") == reference


@pytest.mark.parametrize("content", ["", "[]", '{"seen": []}', '{"texts": 3'])
def test_another_file_is_no_reference(tmp_path, content):
    path = tmp_path / "reference.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CourseError, match="not a drift reference"):
        drift.Reference.load(path)
    with pytest.raises(CourseError, match="not a drift reference"):
        drift.Reference.load(tmp_path / "missing.json")


def test_values_out_of_range_are_named(reference):
    tokenizer = tiny.tokenizer()
    for expected, actual, message in (
        ([1, 2], [1, 2, 3], "same bins"),
        ([1, -1], [1, 1], "below 0"),
    ):
        with pytest.raises(InvalidValue, match=message):
            drift.population_stability_index(expected, actual)
    with pytest.raises(InvalidValue, match="10 and 0 texts"):
        drift.chance_limit(10, 0, bins=3)
    with pytest.raises(InvalidValue, match="bins is 1"):
        drift.chance_limit(10, 10, bins=1)
    with pytest.raises(InvalidValue, match="wait for at least 50"):
        reference.compare(tokenizer, ["w5"] * 49, confident(49, 0.5, 0))
    with pytest.raises(InvalidValue, match="10 texts and probabilities of shape"):
        drift.text_signals(tokenizer, ["w5"] * 10, confident(9, 0.5, 0), set())
    with pytest.raises(InvalidValue, match="49 held-out texts"):
        drift.Reference.build(tokenizer, ["w5"], ["w5"] * 49, confident(49, 0.5, 0))
