"""``quiz("03")``: the quiz of a lesson as static HTML, without a kernel or JavaScript."""

import json
from html import escape
from typing import Any

from helpers.errors import unknown_name

_MARKS = {True: ("✓ Correct.", "#2f9e63"), False: ("✗ Not this one.", "#d9604c")}


def load_quiz(lesson: str) -> list[dict[str, Any]]:
    """The questions of a lesson: ``{"question", "answers": [{"answer", "correct", "feedback"}]}``.

    Raises:
        InvalidValue: there is no quiz for that lesson.
    """
    from helpers.assets.catalog import data_folder

    folder = data_folder() / "quizzes"
    path = folder / f"{lesson}.json"
    known = [found.stem for found in folder.glob("*.json")]
    if lesson not in known:
        raise unknown_name("quiz", lesson, known)
    return json.loads(path.read_text(encoding="utf-8"))


def quiz(lesson: str) -> None:
    """Show the quiz of a lesson. Opening an answer shows whether it is right, and why."""
    from IPython.display import display

    questions = load_quiz(lesson)
    display({"text/html": to_html(questions), "text/plain": to_text(questions)}, raw=True)


def to_html(questions: list[dict[str, Any]]) -> str:
    """The quiz as self-contained HTML: one ``<details>`` per answer, legible on any background."""
    parts = []
    for number, item in enumerate(questions, 1):
        options = "\n".join(_option(answer) for answer in item["answers"])
        parts.append(
            f'<div style="margin: 0 0 1.4em 0">\n'
            f"<p><b>{number}. {_inline(item['question'])}</b></p>\n{options}\n</div>"
        )
    return "\n".join(parts)


def to_text(questions: list[dict[str, Any]]) -> str:
    """The quiz without its answers, for a terminal."""
    lines = []
    for number, item in enumerate(questions, 1):
        lines.append(f"{number}. {item['question']}")
        lines.extend(f"   - {answer['answer']}" for answer in item["answers"])
    return "\n".join(lines)


def _option(answer: dict[str, Any]) -> str:
    mark, colour = _MARKS[answer["correct"]]
    return (
        '<details style="margin: 0.3em 0 0.3em 1em">'
        f'<summary style="cursor: pointer">{_inline(answer["answer"])}</summary>'
        f'<div style="margin: 0.3em 0 0.6em 1em; padding-left: 0.8em; '
        f'border-left: 3px solid {colour}"><b>{mark}</b> {_inline(answer["feedback"])}</div>'
        "</details>"
    )


def _inline(text: str) -> str:
    """Escaped text in which `backquoted` parts become code."""
    parts = escape(text, quote=False).split("`")
    if len(parts) % 2 == 0:
        return "`".join(parts)
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))
