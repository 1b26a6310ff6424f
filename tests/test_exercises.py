"""Every exercise: its solution passes, its starter is untouched, its mistakes are named."""

import ast
import contextlib
import importlib
import importlib.util
import io
import json
import pkgutil
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from helpers import exercises
from helpers.errors import InvalidValue
from helpers.exercises import Question, assert_close, quiz
from helpers.exercises.question import NOT_A_FUNCTION
from helpers.exercises.quizzes import load_quiz, to_html, to_text

TESTS = Path(__file__).parent
ROOT = TESTS.parent
QUIZZES = sorted((ROOT / "data" / "quizzes").glob("*.json"))
LESSONS = sorted(
    found.name
    for found in pkgutil.iter_modules(exercises.__path__)
    if re.fullmatch(r"lesson\d\d", found.name)
)


def questions_of(lesson):
    module = importlib.import_module(f"helpers.exercises.{lesson}")
    return {name: value for name, value in vars(module).items() if isinstance(value, Question)}


def mistakes_of(lesson):
    path = TESTS / "exercise_mistakes" / f"{lesson}.py"
    spec = importlib.util.spec_from_file_location(f"mistakes_{lesson}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MISTAKES


def run_source(source):
    """The ``answer`` that a piece of source defines."""
    namespace = {}
    exec(compile(source, "<answer>", "exec"), namespace)
    return namespace["answer"]


def starter_cells(lesson):
    """The lesson's code before its first exercise is imported, and the first cell of each."""
    (path,) = (ROOT / "notebooks").glob(f"{lesson.removeprefix('lesson')}_*.ipynb")
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    starters = {}
    for cell in cells:
        for name in re.findall(r"\b(q\d+)\.check\(", cell.source):
            starters.setdefault(name, cell)
    return cells, starters


def imports_of(cells):
    """The namespace that the lesson's own import statements make."""
    namespace = {}
    for cell in cells:
        if "setup" in cell.metadata.get("tags", []):
            continue
        for node in ast.parse(cell.source).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(compile(ast.Module([node], []), "<imports>", "exec"), namespace)
    return namespace


def unwrapped(text):
    return " ".join(text.split())


EACH = [(lesson, name) for lesson in LESSONS for name in questions_of(lesson)]
EACH_MISTAKE = [
    (lesson, name, number)
    for lesson in LESSONS
    for name, sources in mistakes_of(lesson).items()
    for number in range(len(sources))
]


@pytest.mark.parametrize(("lesson", "name"), EACH)
def test_the_solution_passes(lesson, name):
    question = questions_of(lesson)[name]
    found = question.result(run_source(question.solution_source))
    assert (found.status, found.message) == ("passed", question.passed)
    assert question.id == f"{lesson.removeprefix('lesson')}.{name.removeprefix('q')}"
    assert question.first_step and question.hints and question.passed


@pytest.mark.parametrize("lesson", LESSONS)
def test_untouched_starters_say_what_to_do_first(lesson):
    questions = questions_of(lesson)
    cells, starters = starter_cells(lesson)
    assert sorted(starters) == sorted(questions)
    for name, cell in starters.items():
        namespace = imports_of(cells)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(cell.source, "<starter>", "exec"), namespace)
        expected = unwrapped(f"Not attempted yet. First step: {questions[name].first_step}")
        assert expected in unwrapped(printed.getvalue())
        stored = "".join(output.get("text", "") for output in cell.outputs)
        assert stored == printed.getvalue(), "the stored output is of another version"


@pytest.mark.parametrize(("lesson", "name", "number"), EACH_MISTAKE)
def test_a_plausible_mistake_is_rejected(lesson, name, number):
    found = questions_of(lesson)[name].result(run_source(mistakes_of(lesson)[name][number]))
    assert found.status == "wrong"
    assert len(found.message.split()) >= 4 and "Traceback" not in found.message


@pytest.mark.parametrize(("lesson", "name"), EACH)
def test_two_mistakes_are_foreseen_and_named(lesson, name):
    """Some wrong code stops by itself, and its error says why; the check must know the others."""
    named = set()
    for source in mistakes_of(lesson)[name]:
        message = questions_of(lesson)[name].result(run_source(source)).message
        if not re.search("^Calling `.*` raised |^The check could not use your answer", message):
            named.add(message)
    assert len(named) >= 2


@pytest.mark.parametrize("path", QUIZZES, ids=lambda path: path.stem)
def test_a_quiz_explains_every_option(path):
    questions = json.loads(path.read_text(encoding="utf-8"))
    assert 3 <= len(questions) <= 5
    for item in questions:
        assert set(item) == {"question", "answers"} and item["question"].strip()
        assert len(item["answers"]) >= 2
        right = [answer["correct"] for answer in item["answers"]]
        assert True in right and False in right
        for answer in item["answers"]:
            assert set(answer) == {"answer", "correct", "feedback"}
            assert isinstance(answer["correct"], bool)
            assert answer["answer"].strip() and len(answer["feedback"].split()) >= 4
    places = {[answer["correct"] for answer in item["answers"]].index(True) for item in questions}
    assert len(places) > 1, "the right answer should not always stand in the same place"
    page = to_html(questions)
    assert page.count("<details") == page.count("</details>") >= 2 * len(questions)
    assert "<script" not in page


def test_every_lesson_with_exercises_has_a_quiz():
    assert [path.stem for path in QUIZZES] == [name.removeprefix("lesson") for name in LESSONS]


# The mechanism itself.


def judge_successor(answer):
    if answer(1) == 0:
        return "You subtracted; add."
    return None if answer(1) == 2 else f"answer(1) should be 2 and is {answer(1)}."


@pytest.fixture
def question():
    return Question(
        id="99.1",
        title="the successor",
        check=judge_successor,
        first_step="write `return n`.",
        hints=("one", "two"),
        solution="\ndef answer(n):\n    return n + 1\n",
        passed="You can count.",
    )


def test_a_right_answer(question, capsys):
    assert question.check(lambda n: n + 1) is None
    assert capsys.readouterr().out == "✓ 99.1 the successor: right. You can count.\n"


def test_a_wrong_answer(question, capsys):
    question.check(lambda n: n - 1)
    assert capsys.readouterr().out == "✗ 99.1 the successor: not yet. You subtracted; add.\n"


def empty(n): ...


def documented(n):
    """The next number."""


def passes(n):
    pass


def ellipsis(n):
    return ...


def forgot_return(n):
    n + 1


@pytest.mark.parametrize("answer", [None, ..., empty, documented, passes, ellipsis, (1, ...)])
def test_an_untouched_starter(answer, question, capsys):
    question.check(answer)
    expected = "○ 99.1 the successor: Not attempted yet. First step: write `return n`.\n"
    assert capsys.readouterr().out == expected


def test_a_forgotten_return_is_suspected(question):
    found = question.result(forgot_return)
    assert found.status == "not attempted"
    assert "`forgot_return` gave back nothing: does it end with `return`?" in found.message


def test_a_container_with_a_gap_is_untouched(question):
    assert question.result([1, ...]).status == "not attempted"
    assert question.result({"a": ...}).status == "not attempted"


def divides(n):
    return n / 0


def test_an_exception_is_told_without_a_trace(question):
    found = question.result(divides)
    assert found.status == "wrong"
    assert found.message == "Calling `divides` raised ZeroDivisionError: division by zero"


def test_what_is_not_the_function_asked_for_is_turned_away_before_the_check(question):
    found = question.result(3)
    assert (found.status, found.message) == ("wrong", NOT_A_FUNCTION)


def test_a_value_that_the_check_cannot_use_is_reported_with_its_type():
    question = Question(
        id="99.2",
        title="a number",
        check=lambda answer: None if answer + 1 == 3 else "It should be 2.",
        first_step="replace the dots by a number.",
        hints=(),
        solution="answer = 2",
        passed="You can count.",
    )
    assert question.result(2).status == "passed"
    assert question.result(3).message == "It should be 2."
    found = question.result("two")
    assert found.status == "wrong"
    assert "its type is str" in found.message and "TypeError" in found.message


def test_long_messages_are_wrapped_between_words(question, capsys):
    question.passed = "words " * 40 + "end\n    indented"
    question.check(lambda n: n + 1)
    *lines, last = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 88 and len(lines) == 4
    assert last == "    indented"


def test_hints_come_one_by_one(question, capsys):
    for _ in range(3):
        question.hint()
    expected = "Hint 1 of 2: one\nHint 2 of 2: two\nHint 1 of 2: one\n"
    assert capsys.readouterr().out == expected


def test_the_solution_is_shown(question, capsys):
    question.solution()
    assert capsys.readouterr().out == "def answer(n):\n    return n + 1\n"


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (1.0, 1.0000001),
        (torch.tensor([1.0, 2.0], requires_grad=True), np.array([1.0, 2.0])),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
        ([1, 2], torch.tensor([1, 2])),
        (float("inf"), float("inf")),
    ],
)
def test_assert_close_says_what_holds(actual, expected, capsys):
    assert_close(actual, expected, 1e-6, "both agree")
    assert capsys.readouterr().out == "✓ both agree (equal to within 1e-06)\n"


def test_assert_close_shows_both_values():
    with pytest.raises(AssertionError, match=r"Got 2 and expected 3 at \(1,\).*allowed is 0.5"):
        assert_close([1, 2], [1, 3], 0.5, "both agree")


def test_assert_close_refuses_nan_and_other_shapes():
    with pytest.raises(AssertionError, match="Got nan"):
        assert_close(float("nan"), float("nan"), 1.0, "both agree")
    with pytest.raises(AssertionError, match=r"Shapes differ: \(2,\) and \(1,\)"):
        assert_close([1, 2], [1], 1.0, "both agree")


QUESTIONS = [
    {
        "question": "Is `1 < 2`?",
        "answers": [
            {"answer": "Yes", "correct": True, "feedback": "One is less."},
            {"answer": "No & never", "correct": False, "feedback": "Count again."},
        ],
    }
]


def test_a_quiz_is_static_html():
    page = to_html(QUESTIONS)
    assert "<code>1 &lt; 2</code>" in page and "No &amp; never" in page
    assert page.index("✓ Correct.") < page.index("One is less.") < page.index("✗ Not this one.")
    assert "color:" not in page.replace("border-left", "")


def test_a_quiz_in_a_terminal_does_not_give_the_answers_away():
    assert to_text(QUESTIONS) == "1. Is `1 < 2`?\n   - Yes\n   - No & never"


def test_an_unknown_quiz_names_what_there_is():
    with pytest.raises(InvalidValue, match="unknown quiz '77'"):
        quiz("77")


def test_a_quiz_is_displayed_as_html(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    number = QUIZZES[0].stem
    quiz(number)
    assert shown[0]["text/html"] == to_html(load_quiz(number))
