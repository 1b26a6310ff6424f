"""helpers.fairness, counterfactuals and mitigation against fairlearn, scikit-learn, scipy, torch
and small numbers that can be worked out on paper."""

import warnings

import numpy as np
import pytest
import torch
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equalized_odds_difference,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from scipy.stats import bootstrap
from sklearn.metrics import accuracy_score
from tiny import classifier, encoded

from helpers import fairness
from helpers.batches import EncodedTexts
from helpers.errors import InvalidValue
from helpers.fairness import counterfactuals, mitigation
from helpers.training import TrainingConfig, fit

PRONOUNS = counterfactuals.attribute("pronouns")


def people(n=400, seed=0):
    """labels, predictions and groups that depend on each other."""
    random = np.random.default_rng(seed)
    groups = random.choice(["a", "b", "c"], n)
    labels = (random.random(n) < np.where(groups == "a", 0.6, 0.3)).astype(int)
    predicted = (random.random(n) < 0.2 + 0.5 * labels + 0.1 * (groups == "b")).astype(int)
    return labels, predicted, groups


# -- the lexicon -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "to", "expected"),
    [
        ("He knows his lines.", "women", "She knows her lines."),
        ("She makes it her own.", "men", "He makes it his own."),
        ("The intensity that made her an interesting one", "men",
         "The intensity that made him an interesting one"),
        ("Love for her.", "men", "Love for him."),
        ("Her ''second coming'' awaits", "men", "His ''second coming'' awaits"),
        ("Many before his, and his (Nelson's) script", "women",
         "Many before hers, and her (Nelson's) script"),
        ("an actress, a man, the women", "men", "an actor, a man, the men"),
        ("Spider Man and Stephen King love him", "women", "Spider Man and Stephen King love her"),
        ("The theme of others there", "women", None),
        ("Mr. Burns, himself", "women", "Ms. Burns, herself"),
    ],
)  # fmt: skip
def test_words_are_swapped_as_english_wants_it(text, to, expected):
    if expected is None:
        with pytest.raises(InvalidValue, match=r"nothing to swap in 'The theme.*mentioned"):
            counterfactuals.swap(text, PRONOUNS, to=to)
    else:
        assert counterfactuals.swap(text, PRONOUNS, to=to) == expected


def test_pairs_of_a_swap_differ_in_the_lexicons_words_only():
    texts = ["He is good.", "A film.", "She met him.", "Her best work, by herself"]
    found = counterfactuals.pairs(texts, "pronouns", "men", "women")
    assert [pair.origin for pair in found] == [0, 3]
    assert found[0] == counterfactuals.Pair(0, "He is good.", "She is good.")
    assert found[1].first == "His best work, by himself" and found[1].second == texts[3]
    back = counterfactuals.pairs(texts, "pronouns", "women", "men")
    assert [(p.second, p.first) for p in back] == [(p.first, p.second) for p in found]


def test_pairs_of_an_insertion_leave_the_sentence_as_it_is():
    texts = [f"sentence {n}" for n in range(200)]
    found = counterfactuals.pairs(texts, "names", "men", "women", seed=1)
    names = counterfactuals.attribute("names").words
    assert [pair.origin for pair in found] == list(range(200))
    for pair in found:
        one, other = (text.removesuffix(texts[pair.origin]) for text in (pair.first, pair.second))
        assert one.removesuffix(" writes: ") in names["men"]
        assert other.removesuffix(" writes: ") in names["women"]
    assert {pair.first.split()[0] for pair in found} == set(names["men"])
    assert found == counterfactuals.pairs(texts, "names", "men", "women", seed=1)
    assert found != counterfactuals.pairs(texts, "names", "men", "women", seed=2)
    drawn = counterfactuals.pairs(texts, "names", "men", "women")
    assert drawn == counterfactuals.pairs(texts, "names", "men", "women", seed=42)


def test_the_lexicon_holds_what_its_card_says():
    lexicon = counterfactuals.load()
    assert {"pronouns", "names", "other_names", "surnames", "nationalities", "ages"} == set(lexicon)
    known, other = (
        {word for words in lexicon[name].words.values() for word in words}
        for name in ("names", "other_names")
    )
    assert not known & other
    for name in ("names", "other_names", "surnames"):
        assert len({len(words) for words in lexicon[name].words.values()}) == 1


def test_the_lexicon_is_complete():
    for name, of in counterfactuals.load().items():
        assert of.name == name and len(of.groups) >= 2 and all(of.words.values())
        assert of.kind in ("swap", "insert") and of.template.count("{}") == (of.kind == "insert")
        words = [word for group in of.words.values() for word in set(group)]
        assert len(words) == len(set(words)), f"{name} has a word in two groups"
    assert PRONOUNS.capitals == 6 and len(PRONOUNS.words["men"]) == 20 and PRONOUNS.object_before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: counterfactuals.attribute("pronoun"), "Did you mean 'pronouns'"),
        (lambda: counterfactuals.pairs(["he"], "pronouns", "men", "woman"), "mean 'women'"),
        (lambda: counterfactuals.pairs(["x"], "names", "men", "men"), "two different"),
        (lambda: counterfactuals.pairs(["A film."], "pronouns", "men", "women"),
         "nothing to swap: none of the 1 texts"),
        (lambda: counterfactuals.swap("x", counterfactuals.attribute("ages"), to="old"),
         "'ages' is inserted"),
        (lambda: counterfactuals.mentioned("x", counterfactuals.attribute("ages")), "is inserted"),
    ],
)  # fmt: skip
def test_what_cannot_be_rewritten_is_refused(call, message):
    with pytest.raises(InvalidValue, match=message):
        call()


# -- measures --------------------------------------------------------------------------------------


def test_a_rate_without_examples_is_not_a_number():
    found = fairness.group_rates([1, 1, 0], [1, 0, 0], [2, 2, 3])
    assert list(found) == ["2", "3"]
    assert found["2"] == pytest.approx(
        {"count": 2, "base_rate": 1, "selection_rate": 0.5, "true_positive_rate": 0.5,
         "false_positive_rate": float("nan"), "accuracy": 0.5}, nan_ok=True,
    )  # fmt: skip
    assert np.isnan(found["3"]["true_positive_rate"]) and isinstance(found["3"]["count"], int)


def test_rates_of_groups_equal_fairlearns():
    labels, predicted, groups = people()
    frame = MetricFrame(
        metrics={
            "selection_rate": selection_rate,
            "true_positive_rate": true_positive_rate,
            "false_positive_rate": false_positive_rate,
            "accuracy": accuracy_score,
        },
        y_true=labels, y_pred=predicted, sensitive_features=groups,
    )  # fmt: skip
    found = fairness.group_rates(labels, predicted, groups)
    for group, row in frame.by_group.iterrows():
        for name, value in row.items():
            assert found[group][name] == pytest.approx(value, abs=1e-12)
        assert found[group]["count"] == np.sum(groups == group)
        assert found[group]["base_rate"] == pytest.approx(labels[groups == group].mean())


def test_gaps_equal_fairlearns_differences_but_for_the_sign():
    labels, predicted, groups = people()
    kept = groups != "c"
    found = fairness.group_gaps(labels, predicted, groups, first="a", second="b", resamples=50)
    y, called, g = labels[kept], predicted[kept], groups[kept]
    parity = demographic_parity_difference(y, called, sensitive_features=g)
    assert abs(found["selection_rate"].value) == pytest.approx(parity, abs=1e-12)
    odds = equalized_odds_difference(y, called, sensitive_features=g)
    pair = (found["true_positive_rate"].value, found["false_positive_rate"].value)
    assert max(map(abs, pair)) == pytest.approx(odds, abs=1e-12)
    rates = fairness.group_rates(labels, predicted, groups)
    back = fairness.group_gaps(labels, predicted, groups, first="b", second="a", resamples=50)
    for name in fairness.RATES:
        expected = rates["b"][name] - rates["a"][name]
        assert found[name].value == pytest.approx(expected, abs=1e-12)
        assert back[name].value == pytest.approx(-expected, abs=1e-12)


def test_a_counterfactual_gap_on_paper():
    found = fairness.counterfactual_gap([0.2, 0.6, 0.9, 0.4], [0.4, 0.4, 0.9, 0.5], resamples=50)
    assert found["shift"].value == pytest.approx(0.025)
    assert found["absolute_shift"].value == pytest.approx(0.125)
    assert found["flip_rate"].value == pytest.approx(0.5)
    edge = fairness.counterfactual_gap([0.5, 0.6], [0.6, 0.5], resamples=5)
    assert edge["flip_rate"].value == 0  # 0.5 itself is called class 1


def test_intervals_equal_scipys_bootstrap():
    random = np.random.default_rng(3)
    first, second = random.random(120), random.random(120)
    found = fairness.counterfactual_gap(first, second, resamples=20_000)["shift"]
    theirs = bootstrap(
        (second - first,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.005)
    assert found.low < found.value < found.high


def test_gap_intervals_equal_resampling_the_rows_of_sentences_one_by_one():
    labels, predicted, groups = people(90)
    origins = np.arange(90) // 3
    random, gaps = np.random.default_rng(5), []
    for _ in range(4000):
        rows = np.concatenate([np.flatnonzero(origins == s) for s in random.integers(30, size=30)])
        y, called, g = labels[rows], predicted[rows], groups[rows]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gaps.append(called[(g == "b") & (y == 1)].mean() - called[(g == "a") & (y == 1)].mean())
    found = fairness.group_gaps(
        labels, predicted, groups, first="a", second="b", origins=origins, resamples=20_000
    )["true_positive_rate"]
    assert (found.low, found.high) == pytest.approx(np.nanquantile(gaps, [0.025, 0.975]), abs=0.03)


def test_rows_of_one_sentence_are_not_counted_as_independent():
    random = np.random.default_rng(0)
    first, second = random.random(40), random.random(40)
    alone = fairness.counterfactual_gap(first, second)["shift"]
    again = [np.repeat(values, 5) for values in (first, second)]
    together = fairness.counterfactual_gap(*again, np.repeat(np.arange(40) + 7, 5))["shift"]
    careless = fairness.counterfactual_gap(*again)["shift"]
    assert list(together) == pytest.approx(list(alone))
    assert careless.high - careless.low < 0.6 * (alone.high - alone.low)


def test_a_model_that_does_not_look_has_no_gap():
    labels, predicted, _ = people(200)
    twice = np.tile(np.arange(200), 2)
    found = fairness.group_gaps(
        labels[twice], predicted[twice], np.repeat(["a", "b"], 200), first="a", second="b",
        origins=twice,
    )  # fmt: skip
    assert all(list(gap) == [0, 0, 0] for gap in found.values())


def test_a_mean_has_the_same_kind_of_interval():
    right = np.array([1, 1, 0, 1] * 20)
    found = fairness.mean_estimate(right, np.arange(80) // 2)
    assert found.value == 0.75 and found.low < 0.75 < found.high
    assert str(fairness.Estimate(0.5, -0.25, 1)) == "+0.500 [-0.250, +1.000]"


def gaps(labels, predicted, groups, **options):
    return fairness.group_gaps(labels, predicted, groups, **{"first": "a", "second": "b"} | options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gaps([0, 1], [0, 1], ["a", "a"]), r"has no members here\) 'b'"),
        (lambda: gaps([0, 1], [0, 1], ["a", "b"], second="women"), "'women'.*There are: a, b"),
        (lambda: gaps([0, 1, 1], [0, 1, 1], ["a", "a", "b"]), "has no example of a label"),
        (lambda: gaps([0, 1] * 2, [0, 1] * 2, ["a", "a", "b", "b"]), "too few for an interval"),
        (lambda: gaps([0, 1], [0, 1], ["a"]), "2 examples have 1 groups"),
        (lambda: gaps([0, 1], [0], ["a", "b"]), "give one class"),
        (lambda: gaps([0, 2], [0, 1], ["a", "b"]), "class 2 is neither 0 nor 1"),
        (lambda: gaps([0, 1], [0, 1], ["a", "b"], second="a"), "two different"),
        (lambda: gaps([0, 1], [0, 1], ["a", "b"], origins=[1]), "give one for each of 2"),
        (lambda: fairness.group_rates([], [], []), "no test examples"),
        (lambda: fairness.counterfactual_gap([0.5], [0.5, 0.1]), "first has length 1, second 2"),
        (lambda: fairness.counterfactual_gap([0.5], [1.5]), r"second\[0\] is 1.5.*\[0, 1\]"),
        (lambda: fairness.counterfactual_gap([float("nan")], [0.5]), r"first\[0\] is nan"),
        (lambda: fairness.counterfactual_gap([[0.5, 0.5]], [[0.5, 0.5]]), "one probability"),
        (lambda: fairness.counterfactual_gap([], []), "no examples"),
        (lambda: fairness.counterfactual_gap([0.5], [0.5], resamples=0), "resamples is 0"),
        (lambda: fairness.mean_estimate([1, 0], confidence=95), "confidence is 95"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, message):
    with pytest.raises(InvalidValue, match=message):
        call()


# -- mitigation ------------------------------------------------------------------------------------


def test_weights_follow_kamiran_and_calders():
    """|s| |y| / (n |s and y|), on the counts 4, 1, 2, 3 of ten people."""
    groups = np.array(["m"] * 5 + ["f"] * 5)
    labels = np.array([1, 1, 1, 1, 0, 1, 1, 0, 0, 0])
    found = mitigation.reweighing(labels, groups)
    assert found[[0, 4, 5, 7]] == pytest.approx(
        [5 * 6 / (10 * 4), 5 * 4 / (10 * 1), 5 * 6 / (10 * 2), 5 * 4 / (10 * 3)]
    )
    assert found.mean() == pytest.approx(1)
    for group in "mf":
        inside = groups == group
        share = np.average(labels[inside], weights=found[inside])
        assert share == pytest.approx(labels.mean())


def test_a_rebalanced_sample_has_every_label_of_every_group_equally_often():
    labels, _, groups = people(300)
    rows = mitigation.rebalanced(labels, groups)
    assert len(set(rows)) == len(rows)
    _, counts = np.unique(
        [f"{g}{y}" for g, y in zip(groups[rows], labels[rows], strict=True)], return_counts=True
    )
    _, before = np.unique(
        [f"{g}{y}" for g, y in zip(groups, labels, strict=True)], return_counts=True
    )
    assert counts.tolist() == [before.min()] * 6


def test_logit_pairing_equals_the_formula_in_torch():
    torch.manual_seed(0)
    z, other = torch.randn(7, 2, requires_grad=True), torch.randn(7, 2)
    expected = sum(abs((z[i, 1] - z[i, 0]) - (other[i, 1] - other[i, 0])) for i in range(7)) / 7
    found = mitigation.logit_pairing_loss(z, other)
    torch.testing.assert_close(found, expected)
    theirs = torch.nn.functional.l1_loss(
        torch.logit(z.softmax(1)[:, 1]), other @ torch.tensor([-1.0, 1])
    )
    torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-5)
    assert mitigation.logit_pairing_loss(z, z) == 0
    torch.testing.assert_close(found, mitigation.logit_pairing_loss(z + 5, other))


def paired(examples=40, weights=None):
    """Texts and counterfactuals that are longer by up to three tokens, as longer names are."""
    texts = encoded(examples, labels=2)
    random, pieces = np.random.default_rng(1), []
    for start, end in zip(texts.offsets, texts.offsets[1:], strict=False):
        extra = random.integers(10, 60, random.integers(0, 4))
        pieces.append(
            np.concatenate([texts.ids[start : start + 1], extra, texts.ids[start + 1 : end]])
        )
    offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int64)
    others = EncodedTexts(np.concatenate(pieces).astype(np.int32), offsets)
    return mitigation.PairedTexts(texts, others, weights)


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def settings(**given):
    return TrainingConfig(
        **{"batch_size": 8, "learning_rate": 1e-3, "epochs": 2, "progress": False} | given
    )


def test_the_loss_is_the_weighted_cross_entropy_and_the_pairing():
    data = paired(12, np.linspace(0.2, 1.8, 12))
    model = mitigation.FairLoss(classifier(labels=2), strength=0.7)
    batch = data.batch([3, 0, 7])
    found = model(**batch)

    def alone(text, i):
        ids = text.ids[text.offsets[i] : text.offsets[i + 1]]
        return model.classifier(torch.tensor(ids.astype(int))[None]).logits

    z, other = (
        torch.cat([alone(text, i) for i in (3, 0, 7)]) for text in (data.texts, data.others)
    )
    w = torch.tensor(data.weights[[3, 0, 7]])
    labels = torch.tensor(data.texts.labels[[3, 0, 7]])
    ce = torch.nn.functional.cross_entropy(z, labels, reduction="none")
    expected = (w * ce).mean() + 0.7 * (z[:, 1] - z[:, 0] - other[:, 1] + other[:, 0]).abs().mean()
    torch.testing.assert_close(found.loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.logits, z, rtol=1e-5, atol=1e-6)


def test_without_weights_and_pairs_training_is_plain_training():
    plain, wrapped = classifier(labels=2), classifier(labels=2)
    texts = encoded(24, labels=2)
    fit(plain, texts, config=settings())
    fit(mitigation.FairLoss(wrapped), mitigation.PairedTexts(texts), config=settings())
    for name, tensor in weights_of(plain).items():
        torch.testing.assert_close(wrapped.state_dict()[name], tensor)


def test_accumulation_gives_the_same_weights_though_counterfactuals_are_longer():
    ends = []
    for accumulation in (1, 4):
        model = classifier(labels=2)
        data = paired(24, np.linspace(0.5, 1.5, 24))
        fit(
            mitigation.FairLoss(model, strength=1.0),
            data,
            config=settings(accumulation=accumulation),
        )
        ends.append(weights_of(model))
    for name, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][name], tensor, rtol=1e-4, atol=1e-6)


def test_same_seed_same_weights_and_pairing_brings_the_pairs_together():
    def trained(strength, seed=0):
        model, data = classifier(labels=2), paired(24)
        fit(mitigation.FairLoss(model, strength=strength), data,
            config=settings(epochs=24, seed=seed))  # fmt: skip
        batch = data.batch(range(24))
        pair = mitigation.FairLoss(model)(**batch)
        right = (pair.logits.argmax(1) == batch["labels"]).float().mean()
        other = model(batch["other_input_ids"][:, 0], batch["other_attention_mask"][:, 0]).logits
        return model, mitigation.logit_pairing_loss(pair.logits, other).item(), float(right)

    one, far, right = trained(0.0)
    again, _, _ = trained(0.0)
    assert all(torch.equal(a, again.state_dict()[n]) for n, a in weights_of(one).items())
    _, near, also_right = trained(1.0)
    assert right == 1.0 and also_right == 1.0
    assert near < 0.1 * far


def test_an_example_of_weight_0_teaches_nothing():
    def trained(flip):
        model, texts = classifier(labels=2), encoded(16, labels=2)
        labels = texts.labels.copy()
        labels[:8] = 1 - labels[:8] if flip else labels[:8]
        texts.labels = labels
        weights = np.repeat([0.0, 2.0], 8)
        fit(mitigation.FairLoss(model), mitigation.PairedTexts(texts, None, weights),
            config=settings(epochs=3))  # fmt: skip
        return weights_of(model)

    one, other = trained(False), trained(True)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mitigation.reweighing([1, 1, 0], ["a", "b", "b"]), "'a' has no example of label"),
        (lambda: mitigation.rebalanced([1, 1, 0], ["a", "b", "b"]), "'a' has no example of label"),
        (lambda: mitigation.logit_pairing_loss(torch.zeros(2, 2), torch.zeros(3, 2)), "same shape"),
        (lambda: mitigation.logit_pairing_loss(torch.zeros(2, 3), torch.zeros(2, 3)), "same shape"),
        (lambda: mitigation.FairLoss(classifier(labels=2), strength=-1), "strength is -1"),
        (lambda: mitigation.PairedTexts(encoded(4), encoded(5)), "4 texts have 5 counterfactuals"),
        (lambda: mitigation.PairedTexts(encoded(4), None, [1, 1]), "4 texts have 2 weights"),
    ],
)
def test_what_cannot_be_mitigated_is_refused(call, message):
    with pytest.raises(InvalidValue, match=message):
        call()
