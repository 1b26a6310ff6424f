"""Relations: sentences, marks, candidate pairs, and macro-F1 against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from helpers import models
from helpers.corpora.annotations import Entity, Opening, Relation
from helpers.errors import InvalidValue
from helpers.tasks import relations as rel
from helpers.tasks.relations import Mention

TEXT = 'Title here\n\nMr. Lee of Acme met Bob in Rome. "Acme bought Zed," he said. Zed is small.'
NAMES = [("Lee", "PERSON"), ("Acme", "ORGANISATION"), ("Bob", "PERSON"), ("Rome", "PLACE")]


def mentions() -> list[Mention]:
    found = [
        Mention(TEXT.index(name), TEXT.index(name) + len(name), label) for name, label in NAMES
    ]
    second = TEXT.index("Acme bought")
    zed = TEXT.index("Zed")
    return [
        *found,
        Mention(second, second + 4, "ORGANISATION"),
        Mention(zed, zed + 3, "ORGANISATION"),
    ]


def test_sentences_end_where_they_should():
    shown = [TEXT[start:end] for start, end in rel.sentences(TEXT)]
    assert shown == [
        "Title here",
        "Mr. Lee of Acme met Bob in Rome.",
        '"Acme bought Zed," he said.',
        "Zed is small.",
    ]
    assert rel.sentences("No end") == [(0, 6)]
    assert len(rel.sentences("It cost 3.5m. J. Smith paid. 12 saw.")) == 3


def test_both_mentions_are_marked_in_the_order_of_the_text():
    text, head, tail = "Lee of Acme", Mention(0, 3, "PERSON"), Mention(7, 11, "ORGANISATION")
    assert rel.mark(text, head, tail) == "@ * person * Lee @ of # ^ organisation ^ Acme #"
    assert rel.mark(text, tail, head) == "# ^ person ^ Lee # of @ * organisation * Acme @"


def test_six_words_stay_around_the_mentions_of_a_pair():
    before, after = [f"b{n}" for n in range(9)], [f"a{n}" for n in range(9)]
    text = " ".join([*before, "Lee met Bob", *after])
    lee, bob = (
        Mention(text.index(name), text.index(name) + 3, "PERSON") for name in ("Lee", "Bob")
    )
    middle = "@ * person * Lee @ met # ^ person ^ Bob #"
    assert rel.mark(text, lee, bob) == " ".join([*before[3:], middle, *after[:6]])
    pair = next(p for p in rel.pairs_of(text, [lee, bob]) if p.head == 0)
    assert pair.text == rel.mark(text, lee, bob)


def test_pairs_are_those_of_one_sentence_that_a_relation_could_join():
    gold = {(0, 1): "works_for", (4, 5): "acquired"}
    pairs = rel.pairs_of(TEXT, mentions(), gold)
    joined = {(pair.head, pair.tail) for pair in pairs}
    # Of the second sentence: each ordered pair of named things (a place can be beaten too).
    assert {(a, b) for a in range(4) for b in range(4) if a != b} <= joined
    assert {(4, 5), (5, 4)} <= joined
    assert len(pairs) == 14
    labels = {(pair.head, pair.tail): rel.NAMES[pair.label] for pair in pairs if pair.label}
    assert labels == gold
    lee = next(pair for pair in pairs if (pair.head, pair.tail) == (0, 1))
    assert (lee.between, lee.types) == ("of", ("PERSON", "ORGANISATION", "headfirst"))
    assert lee.text.startswith("Mr. @ * person * Lee @ of # ^ organisation ^ Acme #")
    back = next(pair for pair in pairs if (pair.head, pair.tail) == (1, 0))
    assert (back.between, back.types) == ("of", ("ORGANISATION", "PERSON", "tailfirst"))


def test_dates_take_part_in_no_relation():
    assert not rel.allowed("DATE", "PLACE") and not rel.allowed("PERSON", "MONEY")
    assert rel.allowed("PERSON", "ORGANISATION")


def test_a_relation_out_of_the_inventory_is_refused():
    with pytest.raises(ValueError, match="not in tuple"):
        rel.pairs_of(TEXT, mentions(), {(0, 1): "owns"})


def test_from_openings_keeps_documents_apart():
    entities = tuple(Entity(m.start, m.end, m.label, TEXT[m.start : m.end]) for m in mentions())
    opening = Opening("a", "train", TEXT, entities, (Relation(0, 1, "works_for"),), ())
    pairs = rel.from_openings([opening, opening])
    assert [pair.document for pair in pairs] == [0] * 14 + [1] * 14
    assert sum(pair.label > 0 for pair in pairs) == 2


def test_thinning_keeps_every_relation_and_the_order():
    pairs = rel.pairs_of(TEXT, mentions(), {(0, 1): "works_for", (4, 5): "acquired"})
    thin = rel.thin_out(pairs, per_relation=2)
    assert sum(pair.label > 0 for pair in thin) == 2 and len(thin) == 6
    assert [pair for pair in pairs if pair in thin] == thin
    assert thin == rel.thin_out(pairs, per_relation=2)
    assert len(rel.thin_out(pairs, per_relation=0)) == 2
    assert len(rel.thin_out(pairs, per_relation=99)) == len(pairs)
    with pytest.raises(InvalidValue, match="per_relation is -1"):
        rel.thin_out(pairs, per_relation=-1)


def test_macro_f1_equals_scikit_learns_over_the_relations():
    random = np.random.default_rng(0)
    for _ in range(30):
        labels, found = random.integers(len(rel.NAMES), size=(2, 60))
        occurring = sorted(set(labels) - {0})
        expected = f1_score(labels, found, labels=occurring, average="macro", zero_division=0)
        assert rel.macro_f1(labels, found) == pytest.approx(expected)
        hits, said, true = (
            ((found == 2) & (labels == 2)).sum(),
            (found == 2).sum(),
            (labels == 2).sum(),
        )
        assert rel.scores_of(labels, found, 2) == pytest.approx(
            {
                "precision": hits / max(1, said),
                "recall": hits / max(1, true),
                "f1": 2 * hits / max(1, said + true),
                "support": true,
            }
        )
    with pytest.raises(InvalidValue, match="nothing to score"):
        rel.macro_f1([0, 0], [0, 1])


def test_the_types_baseline_takes_the_commonest_of_the_types_and_order():
    pairs = rel.pairs_of(TEXT, mentions(), {(0, 1): "works_for", (2, 1): "works_for"})
    guessed = rel.TypesBaseline(pairs).predict(pairs)
    by_pair = {(p.head, p.tail): rel.NAMES[g] for p, g in zip(pairs, guessed, strict=True)}
    assert by_pair[(0, 1)] == "works_for" and by_pair[(1, 0)] == "none"
    assert rel.TypesBaseline([]).predict(pairs).tolist() == [0] * len(pairs)


def test_encoding_gives_the_marked_texts_and_their_classes():
    tokenizer = models.load_tokenizer()
    pairs = rel.pairs_of(TEXT, mentions(), {(0, 1): "works_for"})
    data = rel.encode(tokenizer, pairs)
    assert data.labels.tolist() == [pair.label for pair in pairs]
    ids = data.batch([0])["input_ids"][0]
    assert ids.tolist() == tokenizer(pairs[0].text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
