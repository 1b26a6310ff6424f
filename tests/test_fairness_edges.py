"""helpers.fairness where small slips hide: defaults, ends of ranges, and what is refused."""

import warnings

import numpy as np
import pytest
import tiny
import torch

from helpers import fairness
from helpers.errors import InvalidValue
from helpers.fairness import counterfactuals, mitigation

RANDOM = np.random.default_rng(0)
FIRST, SECOND = RANDOM.random(50), RANDOM.random(50)
ORIGINS = np.sort(RANDOM.integers(20, size=50))
LABELS, CALLED = RANDOM.integers(2, size=(2, 50))
GROUPS = RANDOM.choice(["a", "b"], 50)
MEASURES = {
    "counterfactual_gap": lambda **o: fairness.counterfactual_gap(FIRST, SECOND, ORIGINS, **o),
    "group_gaps": lambda **o: fairness.group_gaps(
        LABELS, CALLED, GROUPS, first="a", second="b", origins=ORIGINS, **o
    ),
    "mean_estimate": lambda **o: {"mean": fairness.mean_estimate(FIRST, ORIGINS, **o)},
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_the_documented_defaults_are_used(measure):
    stated = measure(resamples=2000, confidence=0.95, seed=42)
    assert measure() == stated
    for other in ({"resamples": 1999}, {"confidence": 0.9}, {"seed": 43}):
        assert measure(**other) != stated


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_a_known_normal_interval_is_found(measure, confidence):
    """The half width of a nearly normal estimate is its spread times the normal's quantile."""
    quantile = {0.5: 0.6745, 0.9: 1.645}[confidence]
    wide = measure(confidence=0.6827, resamples=20_000)  # one standard deviation each way
    found = measure(confidence=confidence, resamples=20_000)
    for name in found:
        spread = (wide[name].high - wide[name].low) / 2
        assert found[name].high - found[name].low == pytest.approx(2 * quantile * spread, rel=0.15)
        assert found[name].value == wide[name].value


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"confidence": 0}, "confidence is 0;"),
        ({"confidence": 1}, "confidence is 1;"),
        ({"resamples": 0}, "resamples is 0"),
    ],
)
def test_settings_out_of_range_are_refused(measure, setting, message):
    with pytest.raises(InvalidValue, match=message):
        measure(**setting)


def test_probabilities_may_be_0_and_1():
    found = fairness.counterfactual_gap([0, 1, 0.2], [1, 0, 0.4], resamples=1)
    assert found["flip_rate"].value == pytest.approx(2 / 3)
    assert found["shift"].value == pytest.approx(0.2 / 3)
    for wrong in (-0.01, 1.01):
        with pytest.raises(InvalidValue, match=r"first\[1\] is"):
            fairness.counterfactual_gap([0.5, wrong], [0.5, 0.5])


def test_sentences_count_by_their_rows():
    """Two sentences: one of three pairs that shift by 0.1, one of a single pair by 0.5."""
    found = fairness.counterfactual_gap(
        [0.1, 0.1, 0.1, 0.1], [0.2, 0.2, 0.2, 0.6], [4, 4, 4, 9], resamples=4000
    )["shift"]
    assert found.value == pytest.approx((3 * 0.1 + 0.5) / 4)
    # A resample holds the first twice, each once, or the second twice.
    assert (found.low, found.high) == pytest.approx((0.1, 0.5))
    middle = fairness.counterfactual_gap(
        [0.1, 0.1, 0.1, 0.1], [0.2, 0.2, 0.2, 0.6], [4, 4, 4, 9], resamples=4000, confidence=0.4
    )["shift"]
    assert (middle.low, middle.high) == pytest.approx((0.2, 0.2))


def test_an_estimate_unpacks_into_value_low_and_high():
    value, low, high = fairness.Estimate(0.25, 0.125, 0.5)
    assert (value, low, high) == (0.25, 0.125, 0.5)
    assert str(fairness.Estimate(-0.1, -0.25, 0)) == "-0.100 [-0.250, +0.000]"


def test_a_rate_of_nobody_is_not_a_number_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fairness.group_rates([1, 1, 0], [1, 0, 1], ["b", "b", "a"])
    assert list(found) == ["a", "b"]
    assert np.isnan(found["a"]["true_positive_rate"])
    assert np.isnan(found["b"]["false_positive_rate"])
    expected = {"count": 2, "base_rate": 1, "selection_rate": 0.5, "true_positive_rate": 0.5}
    assert {name: found["b"][name] for name in expected} == expected
    assert found["a"]["accuracy"] == 0 and found["b"]["accuracy"] == 0.5


def test_a_few_resamples_without_a_label_are_borne_and_many_are_not():
    """Group b has k examples of label 1 among 40: none is drawn in about exp(-k) of resamples."""

    def gaps(k):
        labels = np.array([0, 1] * 10 + [0] * (20 - k) + [1] * k)
        groups = np.repeat(["a", "b"], 20)
        return fairness.group_gaps(labels, labels, groups, first="a", second="b")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gaps(4)["accuracy"].value == 0  # 1.5 % of resamples
    with pytest.raises(InvalidValue, match=r"in 1\d% of the resamples"):
        gaps(2)


# -- counterfactual pairs --------------------------------------------------------------------------


def test_the_groups_that_a_text_mentions():
    pronouns = counterfactuals.attribute("pronouns")
    men, women = pronouns.groups
    assert counterfactuals.mentioned("A film.", pronouns) == ()
    assert counterfactuals.mentioned("She left.", pronouns) == (women,)
    assert counterfactuals.mentioned("She met him.", pronouns) == (men, women)


def test_words_of_your_own():
    men = ["he", "him", "his", "his", "king", "kingpin"]
    women = ["she", "her", "her", "hers", "queen", "queenpin"]
    people = counterfactuals.Attribute(
        "people",
        "swap",
        {"m": men, "w": women},
        capitals=4,
        object_before=frozenset({"and", "to"}),
    )
    for text, to, expected in [
        (
            "He and the King, the king, the kingpin.",
            "w",
            "She and the King, the queen, the queenpin.",
        ),
        ("Ask her and go to her (house).", "m", "Ask him and go to his (house)."),
        ("It is his. His (own) it is", "w", "It is hers. Her (own) it is"),
        ("she saw the queen", "w", "she saw the queen"),
    ]:
        assert counterfactuals.swap(text, people, to=to) == expected
    with pytest.raises(InvalidValue, match="unknown group of people 'x'"):
        counterfactuals.swap("he", people, to="x")


# -- mitigation ------------------------------------------------------------------------------------


def test_rebalancing_keeps_rows_in_order_and_depends_on_the_seed():
    rows = mitigation.rebalanced(LABELS, GROUPS)
    assert (np.diff(rows) > 0).all()
    assert rows.tolist() == mitigation.rebalanced(LABELS, GROUPS, seed=42).tolist()
    assert rows.tolist() != mitigation.rebalanced(LABELS, GROUPS, seed=1).tolist()


def test_reweighing_wants_one_label_for_each_group():
    with pytest.raises(ValueError, match="same length"):
        mitigation.reweighing([1, 0], ["a"])


def test_pairing_is_in_float32_and_needs_a_pair():
    half = torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16)
    found = mitigation.logit_pairing_loss(half, half + 1)
    assert found.dtype == torch.float32 and found == 0
    for shape in ((2,), (3, 3), (1, 2, 2)):
        with pytest.raises(InvalidValue, match="same shape"):
            mitigation.logit_pairing_loss(torch.zeros(shape), torch.zeros(shape))


@pytest.mark.parametrize("strength", [-0.1, float("nan")])
def test_a_strength_is_a_number_from_0(strength):
    with pytest.raises(InvalidValue, match="strength is"):
        mitigation.FairLoss(tiny.classifier(labels=2), strength=strength)


def test_the_fair_loss_pairs_with_strength_1_and_not_at_all_with_0():
    texts, others = tiny.encoded(8, labels=2), tiny.encoded(8, labels=2, seed=5)
    data = mitigation.PairedTexts(texts, others)
    batch = data.batch(range(8))
    model = tiny.classifier(labels=2)
    plain = model(**texts.batch(range(8))).loss
    other = model(**others.batch(range(8))).logits
    z = model(**texts.batch(range(8))).logits
    apart = (z[:, 1] - z[:, 0] - other[:, 1] + other[:, 0]).abs().mean()
    torch.testing.assert_close(mitigation.FairLoss(model)(**batch).loss, plain + apart)
    torch.testing.assert_close(mitigation.FairLoss(model, strength=0)(**batch).loss, plain)
    batch.pop("labels")
    unlabelled = mitigation.FairLoss(model)(**batch)
    assert unlabelled.loss is None and torch.equal(unlabelled.logits, z)


def test_a_paired_text_is_as_long_as_the_longer_of_the_two():
    texts, others = tiny.encoded(8, labels=2), tiny.encoded(8, labels=2, seed=5)
    data = mitigation.PairedTexts(texts, others, np.arange(8))
    assert data.lengths.tolist() == np.maximum(texts.lengths, others.lengths).tolist()
    assert mitigation.PairedTexts(texts).lengths.tolist() == texts.lengths.tolist()
    batch = data.batch([5, 2])
    assert batch["weights"].tolist() == [5, 2] and batch["weights"].dtype == torch.float32
    assert "other_labels" not in batch and batch["other_input_ids"].shape[1] == 1
    assert len(data) == 8 and data.count_items(batch) == 2
