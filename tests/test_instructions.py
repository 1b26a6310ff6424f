"""data/instructions.json keeps the promises of its card (data/README.md)."""

import json
import re
from collections import Counter
from difflib import SequenceMatcher
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / "data"
PAIRS = json.loads((DATA / "instructions.json").read_text(encoding="utf-8"))
SPLITS = ("train", "heldout")
LABELS = {
    "sentiment": {"positive", "negative"},
    "topic": {"business", "entertainment", "politics", "sports", "tech"},
    "spam": {"spam", "ham"},
    "yes_no": {"yes", "no"},
}
# The answer depends on a single item (a country, a word, a term, a sentence).
WORDS = ("capital", "opposite", "plural", "past_tense", "spelling")
COPIES = ("person", "year", "reading")
KINDS = (*LABELS, *WORDS, *COPIES, "definition", "lower_case")
# Kinds whose instructions contain a sentence.
TEXTS = ("sentiment", "topic", "spam", "yes_no", *COPIES, "lower_case")


def words(text: str) -> list[str]:
    """The words of ``text`` in lower case, without white space and punctuation."""
    return re.findall(r"[a-z0-9]+", text.lower())


def folded(text: str) -> str:
    return " ".join(words(text))


def of(kind: str | None = None, split: str | None = None) -> list[dict[str, str]]:
    return [
        pair
        for pair in PAIRS
        if (kind is None or pair["kind"] == kind) and (split is None or pair["split"] == split)
    ]


def sentences(kind: str) -> list[set[str]]:
    """The distinctive words of each training sentence of ``kind``: those in at most two of its
    instructions. The phrasing around a sentence occurs in at least three."""
    texts = [set(words(pair["instruction"])) for pair in of(kind, "train")]
    uses = Counter(word for text in texts for word in text)
    return [{word for word in text if uses[word] <= 2} for text in texts]


def test_a_pair_has_its_five_fields_and_is_short():
    for pair in PAIRS:
        assert list(pair) == ["id", "split", "kind", "instruction", "answer"], pair
        assert pair["split"] in SPLITS and pair["kind"] in KINDS, pair
        assert re.fullmatch(rf"{pair['kind']}-\d\d", pair["id"]), pair
        assert 2 <= len(pair["instruction"].split()) <= 25, pair
        assert 1 <= len(pair["answer"].split()) <= 20, pair


def test_texts_are_clean_ascii_lines_without_quotation_marks():
    for text in (pair[field] for pair in PAIRS for field in ("instruction", "answer")):
        assert text.isascii() and text.isprintable(), text
        assert text == " ".join(text.split()), text
        assert not set(text) & set('"`'), text
        assert not re.search(r"\B'|'\B", text), f"an apostrophe outside a word: {text}"


def test_ids_and_instructions_are_unique():
    for values in ([p["id"] for p in PAIRS], [folded(p["instruction"]) for p in PAIRS]):
        assert [value for value, count in Counter(values).items() if count > 1] == []


def test_there_are_enough_pairs_of_every_kind():
    assert len(of(split="train")) >= 240 and len(of(split="heldout")) >= 60
    for kind in KINDS:
        assert len(of(kind, "train")) >= 16 and len(of(kind, "heldout")) >= 4


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("split", SPLITS)
def test_the_labels_of_closed_kinds_are_balanced(kind, split):
    counts = Counter(pair["answer"] for pair in of(kind, split))
    assert set(counts) == LABELS[kind]
    assert max(counts.values()) <= 1.5 * min(counts.values())


@pytest.mark.parametrize("kind", [*WORDS, *COPIES, "definition", "lower_case"])
def test_held_out_answers_are_not_in_training(kind):
    trained = {folded(pair["answer"]) for pair in of(kind, "train")}
    assert trained.isdisjoint(folded(pair["answer"]) for pair in of(kind, "heldout"))


@pytest.mark.parametrize("kind", [*WORDS, "definition"])
def test_held_out_items_are_not_in_training_pairs_of_their_kind(kind):
    """Each held-out instruction has a word that no training pair of its kind has, and no word of a
    held-out answer occurs in a training instruction (as in cold -> hot after hot -> cold)."""
    trained = {w for p in of(kind, "train") for w in words(p["instruction"] + " " + p["answer"])}
    for pair in of(kind, "heldout"):
        assert set(words(pair["instruction"])) - trained, pair
        if kind != "definition":
            assert trained.isdisjoint(words(pair["answer"])), pair


@pytest.mark.parametrize("kind", TEXTS)
def test_no_held_out_sentence_is_close_to_a_training_sentence(kind):
    trained = sentences(kind)
    assert all(trained)
    for pair in of(kind, "heldout"):
        for telling in trained:
            shared = telling & set(words(pair["instruction"]))
            assert len(shared) < len(telling) / 2, (pair, shared)


def test_no_instruction_is_close_to_one_of_the_other_split():
    """Close means the same words in another order, or the same letters except for a few. (Two
    instructions with the same phrasing differ in their item, which other tests compare.)"""
    for pair in of(split="heldout"):
        held = folded(pair["instruction"])
        for other in of(split="train"):
            trained = folded(other["instruction"])
            assert sorted(held.split()) != sorted(trained.split())
            assert SequenceMatcher(None, held, trained, autojunk=False).ratio() < 0.96


def test_every_kind_is_phrased_in_several_ways():
    """Instructions with the same phrasing share their first two words or their last two."""
    for kind in KINDS:
        texts = [words(pair["instruction"]) for pair in of(kind, "train")]
        assert len({tuple(text[:2]) for text in texts}) >= 4, kind
        assert len({tuple(text[-2:]) for text in texts}) >= 4, kind


@pytest.mark.parametrize("kind", COPIES)
def test_a_copied_answer_occurs_in_its_sentence(kind):
    for pair in of(kind):
        assert f" {folded(pair['answer'])} " in f" {folded(pair['instruction'])} ", pair


def test_answers_have_the_form_of_their_kind():
    forms = {
        "capital": r"[A-Z][a-z]+( [A-Z][a-z]+)?",
        "opposite": r"[a-z]+",
        "plural": r"[a-z]+",
        "past_tense": r"[a-z]+",
        "spelling": r"[a-z]+",
        "person": r"[A-Z][a-z]+( [A-Z][a-z]+)?",
        "year": r"\d{4}",
        "reading": r"[a-zA-Z ]+[a-z]",
        "definition": r"[A-Z][^.]+\.",
        "lower_case": r"[a-z ]+",
    }
    for kind, form in forms.items():
        for pair in of(kind):
            assert re.fullmatch(form, pair["answer"]), pair


def test_lower_case_equals_that_of_python():
    for pair in of("lower_case"):
        assert pair["answer"] == pair["instruction"].rpartition(":")[2].strip().lower()


def test_a_sentence_with_a_year_has_only_one():
    for pair in of("year"):
        assert re.findall(r"\b\d{4}\b", pair["instruction"]) == [pair["answer"]]


def test_the_card_states_the_sizes():
    card = (DATA / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (\d+ \| \d+) \|$", card, flags=re.MULTILINE))
    assert rows == {
        kind: f"{len(of(kind, 'train'))} | {len(of(kind, 'heldout'))}" for kind in KINDS
    }
    total = f"{len(of(split='train'))} training and {len(of(split='heldout'))} held-out pairs"
    assert total in card


def test_the_card_lists_every_data_set_of_the_catalogue():
    from helpers.assets import catalog

    card = (DATA / "README.md").read_text(encoding="utf-8")
    for name, asset in catalog.load_catalog().items():
        assert asset.kind != "data set" or f"| `{name}` |" in card
