"""Entities: BIO tags against seqeval, the alignment against the tokenizer's own words."""

import numpy as np
import pytest
import tiny
import torch
from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2
from tiny import one_thread  # noqa: F401
from torch.nn.functional import cross_entropy
from transformers import BertForTokenClassification

from helpers import models
from helpers.batches import IGNORED
from helpers.errors import InvalidValue
from helpers.tasks import entities as tok
from helpers.training import TrainingConfig, fit

LABELS = ("PERSON", "PLACE")
TEXT = "Tony Blair's car left New York for £18.8m."


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer()


def test_words_and_tags_of_a_text():
    sentence = tok.tag_text(TEXT, [(0, 10, "PERSON"), (22, 30, "PLACE")], LABELS)
    assert sentence.words[:4] == ("Tony", "Blair", "'", "s")
    assert sentence.tags[:3] == ("B-PERSON", "I-PERSON", "O")
    assert [w for w, t in zip(sentence.words, sentence.tags, strict=True) if "PLACE" in t] == [
        "New", "York",
    ]  # fmt: skip
    for word, start in zip(sentence.words, sentence.starts, strict=True):
        assert TEXT[start : start + len(word)] == word


def test_neighbours_of_one_label_stay_two_entities():
    sentence = tok.tag_text("Ann Bob", [(0, 3, "PERSON"), (4, 7, "PERSON")], LABELS)
    assert sentence.tags == ("B-PERSON", "B-PERSON")
    assert tok.spans_of(sentence.tags) == [(0, 1, "PERSON"), (1, 2, "PERSON")]


@pytest.mark.parametrize(
    ("entities", "message"),
    [
        ([(0, 6, "PERSON")], "cuts through a word"),
        ([(1, 10, "PERSON")], "cuts through a word"),
        ([(0, 10, "PERSN")], r"'PERSN'.*PERSON, PLACE"),
        ([(0, 10, "PERSON"), (5, 10, "PLACE")], "overlaps another"),
        ([(0, 99, "PERSON")], "outside the text of 42 characters"),
        ([(5, 5, "PERSON")], "or empty"),
        ([(-1, 4, "PERSON")], "outside the text"),
    ],
)
def test_faulty_entities_are_named(entities, message):
    with pytest.raises(InvalidValue, match=message):
        tok.tag_text(TEXT, entities, LABELS)


def test_a_text_without_words_is_refused():
    with pytest.raises(InvalidValue, match="has no word"):
        tok.tag_text("  \n", [], LABELS)


def random_tags(random, labels=LABELS, longest=12):
    names = tok.tag_names(labels)
    return [names[i] for i in random.integers(len(names), size=random.integers(1, longest))]


def test_spans_and_strict_scores_equal_seqevals_on_any_tags():
    random = np.random.default_rng(0)
    for _ in range(200):
        gold = [random_tags(random) for _ in range(3)]
        found = [[tag if random.random() < 0.7 else "O" for tag in tags] for tags in gold]
        if not any(tag.startswith("B-") for tags in gold for tag in tags):
            continue
        expected = f1_score(gold, found, mode="strict", scheme=IOB2, zero_division=0)
        right = marked = 0
        for own, other in zip(gold, found, strict=True):
            a, b = set(tok.spans_of(own)), set(tok.spans_of(other))
            right, marked = right + len(a & b), marked + len(a) + len(b)
        assert 2 * right / marked == pytest.approx(expected)
        assert tok.strict_scores(gold, found)["f1"] == pytest.approx(expected)


def test_spans_of_proper_tags_equal_seqevals():
    sentence = tok.tag_text(TEXT, [(0, 10, "PERSON"), (22, 30, "PLACE")], LABELS)
    theirs = [(start, end + 1, label) for label, start, end in get_entities(list(sentence.tags))]
    assert tok.spans_of(sentence.tags) == theirs


def test_token_accuracy_flatters():
    gold = [["O"] * 18 + ["B-PERSON", "I-PERSON"]]
    found = [["O"] * 18 + ["B-PERSON", "O"]]
    scores = tok.strict_scores(gold, found)
    assert (scores["token_accuracy"], scores["f1"]) == (0.95, 0.0)
    assert scores["per_label"]["PERSON"]["support"] == 1


def test_scores_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="inconsistent numbers"):
        tok.strict_scores([["O", "B-PERSON"]], [["O"]])
    with pytest.raises(InvalidValue, match="no entity"):
        tok.strict_scores([["O"]], [["O"]])


def test_only_the_first_piece_of_a_word_is_labelled(tokenizer):
    text = "Quentin Fortune met Dragan Mladenovic"
    sentence = tok.tag_text(text, [(0, 15, "PERSON"), (20, 37, "PERSON")], LABELS)
    data = tok.encode(tokenizer, [sentence], LABELS)
    batch = data.batch([0])
    pieces = tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    assert batch["input_ids"].tolist() == [tokenizer(text)["input_ids"]]
    for piece, label in zip(pieces, batch["labels"][0].tolist(), strict=True):
        assert (label == IGNORED) == (piece.startswith("##") or piece in ("[CLS]", "[SEP]"))
    kept = [label for label in batch["labels"][0].tolist() if label != IGNORED]
    assert [tok.tag_names(LABELS)[label] for label in kept] == list(sentence.tags)
    assert data.count_items(batch) == len(sentence.words)


def test_segments_say_which_pieces_belong_to_a_word_with_a_capital(tokenizer):
    sentences = [tok.tag_text(text, [], LABELS) for text in ("Dragan met Mladenovic", "he Left")]
    data = tok.encode(tokenizer, sentences, LABELS)
    batch = data.batch([0, 1])
    assert data.capitals is not None
    for ids, segments in zip(batch["input_ids"], batch["token_type_ids"], strict=True):
        pieces = tokenizer.convert_ids_to_tokens(ids)
        small = {"met", "he", "[CLS]", "[SEP]", "[PAD]"}
        assert segments.tolist() == [int(piece not in small) for piece in pieces]
    padded = batch["input_ids"][1] == tokenizer.pad_token_id
    assert padded.any() and (batch["labels"][1][padded] == IGNORED).all()
    assert batch["attention_mask"][1].tolist() == (~padded).int().tolist()


def test_words_that_the_tokenizer_drops_or_cuts_off_are_outside(tokenizer):
    sentence = tok.Sentence(("ok", "\u200d", "Ann"), ("O", "O", "B-PERSON"), "", (0, 0, 0))
    data = tok.encode(tokenizer, [sentence], LABELS)
    assert data.firsts[0].tolist() == [[0, 1], [2, 2]]
    cut = tok.encode(tokenizer, [sentence], LABELS, max_length=3)
    assert cut.truncated == 1 and cut.firsts[0].tolist() == [[0, 1]]
    model = models.load_token_classifier(labels=tok.tag_names(LABELS))
    (tags,) = tok.predict_tags(model, cut, [sentence])
    assert len(tags) == 3 and tags[1:] == ["O", "O"]


def test_encode_refuses_what_it_cannot_label(tokenizer):
    sentence = tok.tag_text(TEXT, [(0, 10, "PERSON")], LABELS)
    with pytest.raises(InvalidValue, match="B-PERSON, I-PERSON; they must be among O, B-PLACE"):
        tok.encode(tokenizer, [sentence], ("PLACE",))


def tiny_sentences(count: int, seed: int = 0) -> list[tok.Sentence]:
    """``w5`` and ``w6`` begin entities, ``w7`` goes on with them."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        words = [f"w{n}" for n in random.integers(10, 40, size=random.integers(4, 12))]
        tags = ["O"] * len(words)
        words[1], words[2], words[-1] = "w5", "w7", "w6"
        tags[1], tags[2], tags[-1] = "B-PERSON", "I-PERSON", "B-PLACE"
        made.append(tok.from_tagged_words(words, tags))
    return made


def tiny_model():
    torch.manual_seed(0)
    names = tok.tag_names(LABELS)
    settings = {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    return BertForTokenClassification(tiny.bert_config(**settings)).eval()


def test_training_learns_the_tags_and_its_first_loss_is_the_one_by_hand():
    sentences = tiny_sentences(40)
    data = tok.encode(tiny.tokenizer(), sentences, LABELS)
    model = tiny_model()
    batch = data.batch(range(40))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits = model(**inputs).logits
    by_hand = cross_entropy(logits[batch["labels"] >= 0], batch["labels"][batch["labels"] >= 0])
    settings = {"batch_size": 40, "learning_rate": 5e-3, "progress": False}
    history = fit(model, data, data, TrainingConfig(epochs=60, **settings))
    assert history.losses[0] == pytest.approx(by_hand.item(), abs=1e-5)
    assert history.evaluations[-1]["accuracy"] == 1.0
    held_out = tiny_sentences(20, seed=1)
    found = tok.predict_tags(model, tok.encode(tiny.tokenizer(), held_out, LABELS), held_out)
    assert tok.strict_scores([list(s.tags) for s in held_out], found)["f1"] > 0.95


def test_accumulation_changes_nothing_though_sentences_have_unequally_many_labels():
    data, losses = tok.encode(tiny.tokenizer(), tiny_sentences(24), LABELS), []
    for accumulation in (1, 4):
        config = TrainingConfig(
            epochs=2, batch_size=8, learning_rate=1e-3, accumulation=accumulation, progress=False
        )
        losses.append(fit(tiny_model(), data, None, config).losses)
    assert losses[0] == pytest.approx(losses[1], abs=2e-6)


def test_validation_accuracy_is_over_all_labelled_words():
    sentences = tiny_sentences(10)
    data, model = tok.encode(tiny.tokenizer(), sentences, LABELS), tiny_model()
    config = TrainingConfig(max_steps=1, batch_size=4, learning_rate=1e-9, progress=False)
    history = fit(model, data, data, config)
    found = tok.predict_tags(model, data, sentences)
    scores = tok.strict_scores([list(s.tags) for s in sentences], found)
    assert history.evaluations[-1]["accuracy"] == pytest.approx(scores["token_accuracy"])


def test_the_gazetteer_marks_the_longest_name_it_knows():
    train = [
        tok.tag_text("New York", [(0, 8, "PLACE")], LABELS),
        tok.tag_text("York met York", [(0, 4, "PERSON"), (9, 13, "PLACE")], LABELS),
        tok.tag_text("York", [(0, 4, "PERSON")], LABELS),
    ]
    gazetteer = tok.Gazetteer(train)
    assert gazetteer.tag(["in", "New", "York", ",", "York"]) == [
        "O", "B-PLACE", "I-PLACE", "O", "B-PERSON",
    ]  # fmt: skip
    assert tok.Gazetteer([]).tag(["York"]) == ["O"]


def test_the_interval_is_that_of_drawing_documents_and_scoring_with_seqeval():
    random = np.random.default_rng(1)
    gold = [["B-PERSON", "O", "B-PLACE"] * 3 for _ in range(40)]
    found = [[tag if random.random() < 0.8 else "O" for tag in tags] for tags in gold]
    scores = []
    for _ in range(300):
        rows = random.integers(40, size=40)
        pair = ([gold[row] for row in rows], [found[row] for row in rows])
        scores.append(f1_score(*pair, mode="strict", scheme=IOB2))
    expected = np.quantile(scores, [0.025, 0.975])
    assert tok.bootstrap_f1(gold, found) == pytest.approx(expected, abs=0.012)
    assert expected[1] - expected[0] > 0.05


def test_the_interval_holds_the_score_and_narrows_with_more_documents():
    random = np.random.default_rng(1)
    gold = [["B-PERSON", "O", "B-PLACE"] * 3 for _ in range(80)]
    found = [[tag if random.random() < 0.8 else "O" for tag in tags] for tags in gold]
    low, high = tok.bootstrap_f1(gold, found)
    assert low < tok.strict_scores(gold, found)["f1"] < high
    few_low, few_high = tok.bootstrap_f1(gold[:10], found[:10])
    assert few_high - few_low > high - low
