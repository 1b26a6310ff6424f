"""Every lesson holds the rules, and each rule is seen to fail on a lesson that breaks it."""

import copy

import lesson_rules as rules
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

LESSONS = rules.tool.lessons()
NAME = "03_example.ipynb"


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_holds_every_rule(path):
    assert rules.problems(rules.Lesson.read(path)) == []


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_is_stored_as_the_tool_stores_it(path):
    assert rules.tool.differences(path) == []


def test_there_are_lessons():
    assert LESSONS and LESSONS[0].name.startswith("00")


def printed(source, text="1\n", **metadata):
    cell = new_code_cell(source, metadata=metadata)
    cell.outputs = [new_output("stream", name="stdout", text=text)]
    return cell


@pytest.fixture
def good():
    """A lesson without fault."""
    first = (
        f"# 03 Example\n\n{rules.tool.badge(NAME)}\n\nWhy?\n\n## You will be able to\n\n"
        "## Before this\n\n## Time\n"
    )
    cells = [
        new_markdown_cell(first),
        new_code_cell(rules.tool.setup_source(), metadata={"tags": ["setup"]}),
        new_markdown_cell(
            "word " * 2500
            + r"is above 0.95, costs \$3 and $x_{1}$ of $$y \leftarrow \left(z\right)$$."
        ),
        printed("print(score)", tags=[rules.IGNORED]),
        printed("assert score > 0.95"),
        *[printed(f"print({number})") for number in range(22)],
        *[printed(f"answer = ...\nq{number}.check(answer)") for number in (1, 2, 3)],
        printed('quiz("03")'),
        new_markdown_cell("## Recap\n\nDone.\n\n## Further reading\n\n[a](https://arxiv.org)"),
    ]
    notebook = new_notebook(cells=cells, metadata=copy.deepcopy(rules.tool.METADATA))
    for count, cell in enumerate([c for c in cells if c.cell_type == "code"], 1):
        cell.execution_count = count
    return notebook


def found(notebook):
    return " | ".join(rules.problems(rules.Lesson(NAME, notebook)))


def test_the_good_lesson_has_no_problem(good):
    assert found(good) == ""


def replaced(place, old, new):
    def spoil(notebook):
        source = notebook.cells[place].source
        assert old in source
        notebook.cells[place].source = source.replace(old, new)

    return spoil


def with_output(output):
    def spoil(notebook):
        notebook.cells[5].outputs = [output]

    return spoil


def stdout(text):
    return with_output(new_output("stream", name="stdout", text=text))


def same_ids(notebook):
    notebook.cells[5].id = notebook.cells[6].id


def many_long_cells(notebook):
    for place in range(5, 11):
        notebook.cells[place].source = "x = 1\n" * 15 + "x"


def high_median(notebook):
    for place in range(3, 27):
        notebook.cells[place].source += "\nassert True" * 10


def no_outputs(notebook):
    for cell in notebook.cells[5:25]:
        cell.outputs = []


def unasserted(notebook):
    notebook.cells[4].source = "limit = 0.95"


def two_exercises(notebook):
    notebook.cells[28].source = "q1.check(answer)"


def widgets(notebook):
    notebook.metadata["widgets"] = {}


def huge(notebook):
    notebook.cells[5].outputs = [new_output("display_data", {"image/png": "A" * 1_000_000})]


def skipped(notebook):
    notebook.cells[5].metadata["tags"] = ["nbval-skip"]


def unexecuted(notebook):
    notebook.cells[5].execution_count = None


FOLDERS = (
    "assets", "batches", "corpora", "evaluation", "fairness", "generation", "hardware", "losses",
    "models", "plots", "runtime", "tasks", "training",
)  # fmt: skip
SPOILED = {
    "title": (replaced(0, "# 03 ", "# 3 "), "first line"),
    "badge": (replaced(0, "Open in Colab", "Open"), "badge"),
    "aims": (replaced(0, "## You will be able to", "## Aims"), "You will be able to"),
    "needs": (replaced(0, "## Before this", "## Needs"), "Before this"),
    "time": (replaced(0, "## Time", "## Hours"), "## Time"),
    "set-up changed": (replaced(1, "pip", "pap"), "set-up cell"),
    "set-up elsewhere": (lambda nb: nb.cells.insert(1, new_markdown_cell("x")), "set-up cell"),
    "two exercises": (two_exercises, "fewer than three exercises"),
    "no quiz": (replaced(30, "quiz", "print"), "no quiz"),
    "no recap": (replaced(31, "Recap", "End"), "Recap"),
    "no reading": (replaced(31, "Further reading", "Links"), "Further reading"),
    "magic": (replaced(5, "print(0)", "%matplotlib inline"), "not plain Python"),
    "shell": (replaced(5, "print(0)", "!pip install x"), "not plain Python"),
    "assigned shell": (replaced(5, "print(0)", "x = !ls"), "not plain Python"),
    "many modules": (
        replaced(5, "print(0)", "from helpers import " + ", ".join(FOLDERS)),
        "13 helpers modules",
    ),
    "semicolon": (replaced(5, "print(0)", "print(0);"), "ends with a semicolon"),
    "error": (with_output(new_output("error", ename="E", evalue="", traceback=[])), "an error"),
    "stderr": (with_output(new_output("stream", name="stderr", text="x")), "standard error"),
    "home": (stdout("in /home/user/x"), "a path"),
    "root": (stdout("in " + "/".join(["", "root", "x"])), "a path"),
    "temporary": (stdout("in /tmp/x"), "a path"),
    "windows": (stdout("in D:\\data"), "a path"),
    "path in html": (
        with_output(new_output("display_data", {"text/html": "<p>/tmp/x</p>"})),
        "a path",
    ),
    "warning": (stdout("UserWarning: x"), "a warning"),
    "bar": (stdout("50%|█████     | 1/2 [00:01<00:01, 1.0it/s]"), "a progress bar"),
    "address": (stdout("<object at 0x7f00aa12bb>"), "a memory address"),
    "skipped": (skipped, "nbval-skip"),
    "unexecuted": (unexecuted, "not executed"),
    "widgets": (widgets, "metadata.widgets"),
    "ids": (same_ids, "ids"),
    "huge": (huge, "under 1 MB"),
    "long cell": (replaced(5, "print(0)", "x = 1\n" * 26), "25 at most"),
    "long cells": (many_long_cells, "over 15 lines"),
    "median": (high_median, "median"),
    "few words": (replaced(2, "word word", "word"), "words of prose"),
    "few cells": (lambda nb: nb.cells.__delitem__(slice(5, 12)), "code cells; at least"),
    "no outputs": (no_outputs, "have no output"),
    "unasserted": (unasserted, "no assertion within two cells"),
    "claim": (replaced(4, "0.95", "0.94"), "no cell asserts the bound 'above 0.95'"),
    "dollar": (replaced(2, "$x_{1}$", "$x_{1}"), "odd number of $"),
    "brace": (replaced(2, "$x_{1}$", "$x_{1$"), "unbalanced"),
    "left without right": (replaced(2, "$x_{1}$", r"$\left( x$"), "unbalanced"),
    "link": (replaced(31, "https://arxiv.org", "77_nothing.ipynb"), "leads nowhere"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_lesson_is_found(case, good):
    spoil, expected = SPOILED[case]
    spoil(good)
    assert expected in found(good)


def test_reading_and_writing_changes_nothing(good, tmp_path):
    path = tmp_path / NAME
    rules.tool.write(good, path)
    assert nbformat.writes(rules.Lesson.read(path).notebook) == nbformat.writes(good)
