"""Questions made from plain articles: answers stand where they say, nothing held out is used."""

import pytest

from helpers.corpora import cleaning_report, fold
from helpers.corpora.annotations import Opening
from helpers.errors import InvalidValue
from helpers.tasks import cloze
from helpers.tasks.questions import check

TEXTS = {
    "a": "The firm said on Friday that it had paid $3.5 million to Acme Corp for the old factory. "
    * 3
    + "Mr Brown told workers in New Delhi that nobody would lose a job before the end of 2005. " * 3
    + "Nothing else is known about the plan and the workers do not like it very much at all. " * 4
}


def test_every_answer_stands_where_it_says_and_questions_do_not_depend_on_more_than_the_seed():
    made = check(cloze.cloze_questions(TEXTS, 60, seed=3))
    assert made == cloze.cloze_questions(TEXTS, 60, seed=3)
    assert made != cloze.cloze_questions(TEXTS, 60, seed=4)
    assert len(made) == 60 and all(asked.question.endswith("?") for asked in made)
    answers = {asked.answers[0]["text"] for asked in made if asked.answers}
    assert {"Friday", "$3.5 million", "Acme Corp", "New Delhi", "2005"} <= answers
    assert 0 < sum(not asked.answers for asked in made) < 20


def test_a_small_word_that_begins_a_sentence_is_no_part_of_a_name():
    text = "In Albania the firm said on Friday that nobody would lose a job this year. " * 9
    made = cloze.cloze_questions({"a": text}, 20)
    assert {asked.answers[0]["text"] for asked in made if asked.answers} == {"Albania", "Friday"}


def test_without_dropped_words_every_word_of_a_question_is_in_its_context(monkeypatch):
    monkeypatch.setattr(cloze, "DROPPED", 0)
    monkeypatch.setattr(cloze, "UNANSWERABLE", 0)
    for asked in cloze.cloze_questions(TEXTS, 30):
        assert asked.answers
        words = {word.strip(".") for word in asked.question.rstrip("?").split()[1:]}
        assert words <= {word.strip(".") for word in asked.context.split()} | {"many", "much"}


@pytest.mark.parametrize(
    ("answer", "before", "word"),
    [
        ("$3m", "paid ", "How much"),
        ("Friday", "on ", "When"),
        ("1999", "in ", "When"),
        ("12%", "by ", "How many"),
        ("Blair", "Mr ", "Who"),
        ("Tony Blair", "said ", "Who"),
        ("Rome", "in ", "Where"),
        ("Labour", "of ", "What"),
    ],
)
def test_the_question_word_follows_the_form(answer, before, word):
    assert cloze.question_word(answer, before) == word


@pytest.mark.parametrize(("texts", "count"), [(TEXTS, 0), ({"a": "no names in here."}, 1)])
def test_what_cannot_be_made_is_named(texts, count):
    with pytest.raises(InvalidValue, match=f"only 0 of {count} questions"):
        cloze.cloze_questions(texts, count)


def test_held_out_openings_and_their_copies_are_left_out():
    everything = cloze.article_texts([])
    document, text = next(iter(everything.items()))
    hidden = Opening(document, "test", text[:300], (), (), ())
    rest = cloze.article_texts([hidden])
    assert document not in rest and len(rest) >= len(everything) - 2
    assert not any(fold(other).startswith(fold(hidden.text)) for other in rest.values())
    kept = cleaning_report("news")["kept"]
    assert len({fold(other) for other in everything.values()}) == len(everything) == kept
