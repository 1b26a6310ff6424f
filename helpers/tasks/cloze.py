"""Questions without an annotator: cloze sentences made from plain articles (Lewis et al. 2019,
"Unsupervised question answering by cloze translation").

A name, number or date is taken out of a sentence. What surrounds it, with some words dropped and
sometimes with the two halves swapped, follows a question word as the question; the sentence and
its neighbours are the text to search.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from helpers import assets, corpora
from helpers.corpora.annotations import Opening
from helpers.corpora.readers import read_text
from helpers.errors import InvalidValue
from helpers.tasks.questions import Example
from helpers.tasks.relations import sentences

WORDS_EACH_SIDE = 10
DROPPED = 0.15  # of a question's words
UNANSWERABLE = 0.1  # of the questions
_MONTHS = "January|February|March|April|June|July|August|September|October|November|December"
_DAYS = "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"
_DATE = rf"(?:{_DAYS}|{_MONTHS}|(?:19|20)\d\d)"
_NUMBER = r"(?:[£$€]\s?\d[\d.,]*\w*(?:\s(?:million|billion))?|\d[\d.,]*\d%?|\d%?)"
_SMALL = "The|This|That|These|Those|An|In|On|At|For|From|By|With|But|And|As|If|It|He|She|We|They"
_NAME = rf"(?:(?!(?:{_SMALL})\b)[A-Z][\w-]*\w(?:\s(?:of\s|and\s)?[A-Z][\w-]+)*)"
_ANSWER = re.compile(rf"\b{_DATE}\b|{_NUMBER}(?!\w)|\b{_NAME}")
_TITLE = re.compile(r"(?:Mr|Mrs|Ms|Sir|Dr|Lord|Dame)\.?\s$")
_IN = re.compile(r"\b(?:in|at|from|to)\s(?:the\s)?$", re.IGNORECASE)


def article_texts(without: list[Opening]) -> dict[str, str]:
    """Every different news article by its document name, except those in ``without``: the model
    must not learn from the validation and test openings."""
    folder, hidden = assets.fetch("news"), {opening.document for opening in without}
    beginnings = tuple(corpora.fold(opening.text) for opening in without)
    texts, seen = {}, set()
    for path in sorted(folder.glob("*/*.txt"), key=Path.as_posix):
        document, text = f"{path.parent.name}/{path.name}", read_text(path)[0]
        folded = corpora.fold(text)
        if document not in hidden and folded not in seen and not folded.startswith(beginnings):
            seen.add(folded)
            texts[document] = text
    return texts


def question_word(answer: str, before: str) -> str:
    """The word that asks for ``answer``, judged by its form and by what comes before it."""
    if answer[0] in "£$€":
        return "How much"
    if re.fullmatch(_DATE, answer):
        return "When"
    if answer[0].isdigit():
        return "How many"
    if _TITLE.search(before):
        return "Who"
    if _IN.search(before):
        return "Where"
    two_names = re.fullmatch(r"\S+ \S+", answer) and len(answer) < 22
    return "Who" if two_names else "What"


def cloze_questions(texts: Mapping[str, str], count: int, *, seed: int = 42) -> list[Example]:
    """``count`` questions drawn from ``texts`` (name -> article). The share DROPPED of their words
    is left out; the share UNANSWERABLE gets another part of its article, without the answer.

    Raises InvalidValue: articles with too few sentences that hold a name or a number.
    """
    random, names = np.random.default_rng(seed), sorted(texts)
    made: list[Example] = []
    for _ in range(100 * count):
        name = names[random.integers(len(names))]
        example = _one(name, texts[name], random, len(made))
        if example:
            made.append(example)
        if len(made) == count:
            return made
    raise InvalidValue(
        f"only {len(made)} of {count} questions could be made; ask for at least 1, and give longer "
        f"texts, with names and numbers in them."
    )


def _one(name: str, text: str, random: np.random.Generator, number: int) -> Example | None:
    hidden = random.random() < UNANSWERABLE
    bounds = sentences(text)
    chosen = int(random.integers(len(bounds)))
    begin, end = bounds[chosen]
    sentence = text[begin:end]
    if not 8 <= len(sentence.split()) <= 45:
        return None
    found = [m for m in _ANSWER.finditer(sentence) if m.start() or " " in m[0]]
    if not found:
        return None
    answer = found[random.integers(len(found))]
    first = max(0, chosen - int(random.integers(2)))
    last = min(len(bounds) - 1, chosen + int(random.integers(2)))
    if hidden:
        far = [place for place in range(len(bounds) - 1) if abs(place - chosen) > 3]
        if not far:
            return None
        first = far[random.integers(len(far))]
        last = first + 1
    start = bounds[first][0]
    context = text[start : bounds[last][1]]
    if hidden and answer[0] in context:
        return None
    before, after = sentence[: answer.start()], sentence[answer.end() :]
    halves = [before.split()[-WORDS_EACH_SIDE:], after.split()[:WORDS_EACH_SIDE]]
    kept = [[word for word in half if random.random() >= DROPPED] for half in halves]
    if random.random() < 0.5:
        kept.reverse()
    words = " ".join(kept[0] + kept[1]).strip(" .,;:\"'")
    question = f"{question_word(answer[0], before)} {words}?"
    answers = () if hidden else ({"text": answer[0], "start": begin + answer.start() - start},)
    return Example(f"cloze {number}", question, context, answers, name)
