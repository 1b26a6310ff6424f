"""Questions: the official formula on hand-made edge cases, windows, spans, thresholds, files."""

import json

import numpy as np
import pytest
import tiny
import torch
from tiny import one_thread  # noqa: F401
from torch.nn.functional import cross_entropy
from torchmetrics.functional.text import squad as torchmetrics_squad
from transformers import BertForQuestionAnswering

from helpers import models
from helpers.errors import CourseError, InvalidValue
from helpers.evaluation import squad
from helpers.tasks import questions as qa
from helpers.tasks.squad_files import read_squad, split_by_document
from helpers.training import TrainingConfig, fit

TEXT = "Ann Lee lives in Rome. Bob Ray moved to New York in 1999, and Ann stayed."


def example(question="Where does Ann live?", answer="Rome", context=TEXT, name="1", document="a"):
    answers = ({"text": answer, "start": context.index(answer)},) if answer else ()
    return qa.Example(name, question, context, answers, document)


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer()


# Worked by hand after the official SQuAD 2.0 script: prediction, gold answers, EM, F1.
OFFICIAL = [
    ("Rome", ["Rome"], 1, 1),
    ("the  Rome.", ["rome"], 1, 1),  # article, spaces, full stop, case
    ("An apple a day", ["apple day"], 1, 1),
    ("theatre", ["atre"], 0, 0),  # articles go as whole words only
    ("in New York", ["New York"], 0, 0.8),
    ("New York York", ["York New"], 0, 0.8),  # words count as often as in both
    ("New York", ["Rome", "York"], 0, 2 / 3),  # the best of several
    ("3.5 million", ["35 million"], 1, 1),  # punctuation goes, figures or not
    ("U.S.", ["US"], 1, 1),
    ("", [""], 1, 1),  # silence where there is no answer
    ("Rome", [""], 0, 0),
    ("", ["Rome"], 0, 0),
    ("the", [""], 1, 1),  # nothing is left of it
    ("the", ["a", "Rome"], 0, 0),  # golds of which nothing is left do not count
    ("£18", ["18"], 0, 0),  # only ASCII punctuation goes
]


@pytest.mark.parametrize(("prediction", "golds", "em", "f1"), OFFICIAL)
def test_the_official_formula(prediction, golds, em, f1):
    assert squad.best_score(squad.exact_match, prediction, golds) == em
    assert squad.best_score(squad.f1_score, prediction, golds) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("prediction", "golds"), [(p, g) for p, g, _, _ in OFFICIAL if p.strip("the ") and all(g)]
)
def test_where_there_are_answers_torchmetrics_says_the_same(prediction, golds):
    theirs = torchmetrics_squad(
        [{"prediction_text": prediction, "id": "1"}],
        [{"answers": {"text": golds, "answer_start": [0] * len(golds)}, "id": "1"}],
    )
    ours = squad.best_score(squad.f1_score, prediction, golds)
    assert float(theirs["f1"]) == pytest.approx(100 * ours)
    ours = squad.best_score(squad.exact_match, prediction, golds)
    assert float(theirs["exact_match"]) == pytest.approx(100 * ours)


def test_the_sliding_window_takes_the_sentence_and_the_words_near_by():
    assert squad.sliding_window_answer("Which city, New what, in 1999?", TEXT) == "York"
    assert squad.sliding_window_answer("In which city does Ann Lee live, lives?", TEXT) == "Rome"
    assert squad.sliding_window_answer("Nothing in common?", TEXT)
    with pytest.raises(InvalidValue, match="no word"):
        squad.sliding_window_answer("What?", " ")


def test_windows_cover_every_token_and_overlap_by_the_stride(tokenizer):
    long = example(context=TEXT * 6)
    data = qa.encode(tokenizer, [long], max_length=40, stride=10)
    covered = set()
    for row in range(len(data)):
        places = [tuple(pair) for pair in data.offsets[row] if pair[0] >= 0]
        if row:
            assert len(set(places) & previous) == 10  # noqa: F821
        previous = set(places)
        covered |= previous
    whole = tokenizer(long.context, add_special_tokens=False, return_offsets_mapping=True)
    assert covered == {tuple(pair) for pair in whole["offset_mapping"]}
    assert data.lengths.max() == 40 and len(set(data.owners)) == 1


def test_the_labelled_tokens_spell_the_answer(tokenizer):
    examples = [example(), example("When?", "1999", name="2"), example(answer="", name="3")]
    data = qa.encode(tokenizer, examples)
    for row, asked in enumerate(examples):
        if asked.answers:
            first = data.offsets[row][data.starts[row], 0]
            last = data.offsets[row][data.ends[row], 1]
            assert asked.context[first:last] == asked.answers[0]["text"]
        else:
            assert data.starts[row] == data.ends[row] == 0
    assert data.has_answer.tolist() == [True, True, False]
    batch = data.batch([0, 1])
    by_tokenizer = tokenizer(
        [e.question for e in examples[:2]], [TEXT] * 2, padding=True, return_tensors="pt"
    )
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(batch[name], by_tokenizer[name])


def test_an_answer_no_longer_than_the_stride_is_whole_in_some_window(tokenizer):
    context = TEXT * 5
    for start in range(0, len(context), 37):
        word = context[start:].split()[0 if context[start - 1 : start] in ("", " ") else 1]
        place = context.index(word, start)
        asked = qa.Example("1", "Which?", context, ({"text": word.strip(".,"), "start": place},))
        assert qa.encode(tokenizer, [asked], max_length=32, stride=8).has_answer.any()


def test_select_keeps_rows_whole(tokenizer):
    data = qa.encode(tokenizer, [example(context=TEXT * 4)], max_length=40, stride=5)
    chosen = data.select([2, 0])
    for new, old in enumerate([2, 0]):
        one, other = chosen.batch([new]), data.batch([old])
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert np.array_equal(chosen.offsets[new], data.offsets[old])


def test_thinning_keeps_every_window_with_an_answer(tokenizer):
    examples = [example(context=TEXT * 4, name=str(n)) for n in range(30)]
    data = qa.encode(tokenizer, examples, max_length=40, stride=5)
    thin = data.thin_out(kept=0.3)
    assert thin.has_answer.sum() == data.has_answer.sum() == 30
    others = int((~data.has_answer).sum())
    assert 0.15 * others < (~thin.has_answer).sum() < 0.45 * others
    assert data.thin_out(kept=0).has_answer.all() and len(data.thin_out(kept=1)) == len(data)
    with pytest.raises(InvalidValue, match="kept is 2"):
        data.thin_out(kept=2)


def test_the_best_span_is_the_best_of_all_that_are_allowed():
    random = np.random.default_rng(0)
    for _ in range(50):
        start, end = random.normal(size=(2, 12))
        allowed = random.random(12) < 0.7
        if not allowed.any():
            continue
        best = max(
            (start[i] + end[j], i, j)
            for i in range(12)
            for j in range(i, min(12, i + 4))
            if allowed[i] and allowed[j]
        )
        i, j, score = qa.best_span(start, end, allowed, longest=4)
        assert (score, i, j) == (pytest.approx(best[0]), *best[1:])
    with pytest.raises(InvalidValue, match="at least 1"):
        qa.best_span(start, end, allowed, longest=0)
    with pytest.raises(InvalidValue, match="no span of at most 16 tokens is allowed"):
        qa.best_span(start, end, np.zeros(12, dtype=bool))


def test_the_threshold_is_the_best_of_all():
    random = np.random.default_rng(1)
    examples = [
        example(answer="Rome" if random.random() < 0.7 else "", name=str(i)) for i in range(40)
    ]
    found = [
        qa.Prediction(e.id, random.choice(["Rome", "York", "in Rome"]), 0, *random.normal(size=2))
        for e in examples
    ]
    chosen = qa.score(examples, qa.answer_texts(found, qa.choose_threshold(found, examples)))["f1"]
    tried = np.linspace(-5, 5, 2001)
    best = max(qa.score(examples, qa.answer_texts(found, t))["f1"] for t in tried)
    assert chosen == pytest.approx(best)
    with pytest.raises(InvalidValue, match="one for each"):
        qa.choose_threshold(found[:3], examples)


def test_scores_are_split_by_answerable():
    examples = [example(), example(answer="", name="2"), example(name="3")]
    scores = qa.score(examples, ["Rome", "", ""])
    assert scores["f1"] == pytest.approx(2 / 3) and scores["exact_match"] == pytest.approx(2 / 3)
    assert (scores["f1_answerable"], scores["f1_unanswerable"]) == (0.5, 1.0)
    assert qa.score(examples[:1], ["Rome"])["f1_unanswerable"] is None


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        (qa.Example("1", "Who?", "  ", ()), "'1' has an empty question or context"),
        (qa.Example("1", " ", TEXT, ()), "an empty question"),
        (qa.Example("1", "Who?", TEXT, ({"text": "Paris", "start": 3},)), "not in the text"),
        (qa.Example("1", "Who?", TEXT, ({"text": "Rome", "start": 3},)), "it is at 17"),
        (qa.Example("1", "Who?", TEXT, ({"text": "", "start": 0},)), "not in the text"),
        (qa.Example("1", "Who?", TEXT, ({"text": "Rome", "start": -4},)), "it is at 17"),
    ],
)
def test_faulty_questions_are_named(faulty, message, tokenizer):
    with pytest.raises(InvalidValue, match=message):
        qa.encode(tokenizer, [faulty])


def test_encode_refuses_windows_that_do_not_move_on(tokenizer):
    with pytest.raises(InvalidValue, match=r"stride is 40; .* less than the 40 tokens of 48"):
        qa.encode(tokenizer, [example()], max_length=48, stride=40)
    with pytest.raises(InvalidValue, match="stride is -1; it must be at least 0"):
        qa.encode(tokenizer, [example()], stride=-1)
    with pytest.raises(InvalidValue, match="occurs twice"):
        qa.encode(tokenizer, [example(), example()])


def squad_file(folder, documents=5, **changes):
    data = [
        {"title": f"T{number}", "paragraphs": [{"context": TEXT, "qas": [
            {"id": f"{number}-1", "question": "Where does Ann live?", "is_impossible": False,
             "answers": [{"text": "Rome", "answer_start": 17}]},
            {"id": f"{number}-2", "question": "Where is Carl?", "is_impossible": True,
             "answers": [], "plausible_answers": [{"text": "Rome", "answer_start": 17}]},
        ]}]}
        for number in range(documents)
    ]  # fmt: skip
    path = folder / "own.json"
    path.write_text(json.dumps({"version": "v2.0", "data": data} | changes), encoding="utf-8")
    return path


def test_a_squad_file_is_read_and_split_by_document(tmp_path):
    examples = read_squad(squad_file(tmp_path, 10))
    assert [len(e.answers) for e in examples] == [1, 0] * 10
    parts = split_by_document(examples)
    assert [len(parts[s]) for s in ("train", "validation", "test")] == [14, 2, 4]
    documents = [{e.document for e in part} for part in parts.values()]
    assert not (documents[0] & documents[1] or documents[0] & documents[2])
    with pytest.raises(InvalidValue, match=r"is 2; at least 3 are needed.*each article"):
        split_by_document(read_squad(squad_file(tmp_path, 2)))


QUESTION = {"id": "7", "question": "Where?", "answers": [{"text": "Rome", "answer_start": 17}]}


def form(**changes) -> str:
    paragraph = {"context": TEXT, "qas": [QUESTION | changes]}
    return json.dumps({"data": [{"paragraphs": [paragraph]}]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read as JSON"),
        ("hello", "cannot be read as JSON"),
        ("[]", " has no 'data'"),
        ('{"data": 3}', "is 3, not a list"),
        ('{"data": [{"paragraphs": [{}]}]}', "article 1, paragraph 1 has no 'context'"),
        ('{"data": [{"paragraphs": [{"context": 5}]}]}', "is 5, not a text"),
        (form(id=None), "article 1, paragraph 1, question 1 is None, not a text or a number"),
        (form(question=None), "question '7' is None, not a text"),
        (form(answers=None), "question '7' is None, not a list"),
        (form(answers={"text": ["Rome"]}), "not a list"),
        (form(answers=[{"text": "Rome"}]), "question '7' has no 'answer_start'"),
        (form(answers=[{"text": "Rome", "answer_start": "17"}]), "is '17', not a whole number"),
    ],
)
def test_a_file_of_another_form_is_refused_with_the_place(content, message, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CourseError, match=rf"other\.json.*{message}"):
        read_squad(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"data": []}', "no questions"),
        (form(is_impossible=True), "'7' has 1 answers and is_impossible is True"),
        (form(is_impossible=False, answers=[]), "'7' has 0 answers and is_impossible is False"),
        (form(answers=[{"text": "Rome", "answer_start": 3}]), "'7'.*it is at 17"),
    ],
)
def test_a_file_with_faulty_questions_is_refused(content, message, tmp_path):
    path = tmp_path / "own.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InvalidValue, match=message):
        read_squad(path)


def test_a_file_that_cannot_be_read_is_named_and_a_byte_order_mark_does_not_matter(tmp_path):
    path = tmp_path / "own.json"
    with pytest.raises(CourseError, match="cannot be read"):
        read_squad(path)
    path.write_bytes(
        form(question="Wo wohnt J\u00fcrg?").replace("\\u00fc", "\u00fc").encode("latin-1")
    )
    with pytest.raises(CourseError, match="in UTF-8"):
        read_squad(path)
    path.write_text(form(), encoding="utf-8-sig")
    assert [asked.texts for asked in read_squad(path)] == [["Rome"]]


def tiny_questions(count: int, seed: int = 0) -> list[qa.Example]:
    """The answer is the word after the one that the question asks for; w6 asks for nothing."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        words = [f"w{n}" for n in random.permutation(np.arange(10, 40))[:10]]
        place, hidden = random.integers(8), random.random() < 0.2
        text = " ".join(words)
        answer = {"text": words[place + 1], "start": len(" ".join(words[: place + 1])) + 1}
        asked = "w6" if hidden else words[place]
        made.append(qa.Example(str(number), asked, text, () if hidden else (answer,), str(number)))
    return made


def pair_tokenizer():
    from tokenizers.processors import TemplateProcessing

    made = tiny.tokenizer()
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return made


def test_the_loss_of_a_step_is_the_one_by_hand_and_a_batch_can_be_learnt():
    examples = tiny_questions(32)
    data = qa.encode(pair_tokenizer(), examples, stride=4)
    torch.manual_seed(0)
    model = BertForQuestionAnswering(tiny.bert_config()).eval()
    batch = data.batch(range(32))
    starts, ends = batch.pop("start_positions"), batch.pop("end_positions")
    output = model(**batch)
    by_hand = (
        cross_entropy(output.start_logits, starts) + cross_entropy(output.end_logits, ends)
    ) / 2
    config = TrainingConfig(epochs=150, batch_size=32, learning_rate=5e-3, progress=False)
    history = fit(model, data, data, config)
    assert history.losses[0] == pytest.approx(by_hand.item(), abs=1e-5)
    assert history.losses[-1] < 0.05
    found = qa.predict(model, data, examples)
    texts = qa.answer_texts(found, qa.choose_threshold(found, examples))
    assert qa.score(examples, texts)["f1"] > 0.95


def test_accumulation_changes_nothing_for_questions():
    data, losses = qa.encode(pair_tokenizer(), tiny_questions(24), stride=4), []
    for accumulation in (1, 4):
        torch.manual_seed(0)
        model = BertForQuestionAnswering(tiny.bert_config()).eval()
        config = TrainingConfig(
            epochs=1, batch_size=8, learning_rate=1e-3, accumulation=accumulation, progress=False
        )
        losses.append(fit(model, data, None, config).losses)
    assert losses[0] == pytest.approx(losses[1], abs=2e-6)


def test_the_interval_is_that_of_drawing_whole_documents_in_a_loop():
    random = np.random.default_rng(0)
    documents = np.repeat(np.arange(30), random.integers(1, 6, size=30))
    values = np.clip(random.random(len(documents)) + documents % 2 - 0.5, 0, 1)
    of_document = [values[documents == number] for number in range(30)]
    means = []
    for _ in range(4000):
        rows = random.integers(30, size=30)
        means.append(np.concatenate([of_document[row] for row in rows]).mean())
    expected = np.quantile(means, [0.025, 0.975])
    found = qa.bootstrap_mean(values, documents.astype(str))
    assert found == pytest.approx(expected, abs=0.015)
    assert expected[1] - expected[0] > 0.15


def test_the_interval_draws_documents_not_questions():
    values = np.repeat(np.random.default_rng(0).integers(2, size=20), 5).astype(float)
    apart = qa.bootstrap_mean(values, [str(n) for n in range(100)])
    together = qa.bootstrap_mean(values, [str(n // 5) for n in range(100)])
    assert together[1] - together[0] > 1.5 * (apart[1] - apart[0])
    assert together[0] <= values.mean() <= together[1]
