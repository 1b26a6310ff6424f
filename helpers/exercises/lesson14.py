"""Exercises of lesson 14: from tags to names, a strict F1 in your head, accuracy that flatters."""

from typing import Any

from helpers.exercises.question import Question
from helpers.tasks.entities import strict_scores

_CASES: tuple[tuple[list[str], list[str], list[tuple[str, str]], str], ...] = (
    (
        ["Ann", "Lee", "left", "Rome"],
        ["B-PERSON", "I-PERSON", "O", "B-PLACE"],
        [("Ann Lee", "PERSON"), ("Rome", "PLACE")],
        "the words of one entity are joined by spaces, and the last one ends with the sentence",
    ),
    (
        ["Ann", "Bob", "ran"],
        ["B-PERSON", "B-PERSON", "O"],
        [("Ann", "PERSON"), ("Bob", "PERSON")],
        "a new B begins a new entity, even right behind another",
    ),
    (
        ["in", "New", "York"],
        ["O", "I-PLACE", "I-PLACE"],
        [],
        "an I without a B before it belongs to no entity",
    ),
    (
        ["Acme", "Rome"],
        ["B-ORGANISATION", "I-PLACE"],
        [("Acme", "ORGANISATION")],
        "an I of another label does not go on with the entity",
    ),
)


def _check_names(answer: Any) -> str | None:
    for words, tags, expected, why in _CASES:
        found = answer(list(words), list(tags))
        if not isinstance(found, list):
            return f"A list of (name, label) is wanted; you gave {found!r}."
        if [tuple(pair) for pair in found] != expected:
            return f"For {tags} you gave {found}, not {expected}: {why}."
    return None


q1 = Question(
    id="14.1",
    title="from tags to names",
    check=_check_names,
    first_step="go through words and tags together, and keep the entity that is being built.",
    hints=(
        "Three cases: a B begins an entity, a fitting I adds a word, everything else ends it.",
        "`tag[2:]` is the label of a tag, `tag[0]` its B, I or O.",
        "Do not forget the entity that is still open after the last word.",
    ),
    solution="""
def answer(words, tags):
    found, label = [], None
    for word, tag in zip(words, tags):
        if tag.startswith("B-"):
            label = tag[2:]
            found.append([[word], label])
        elif label and tag == f"I-{label}":
            found[-1][0].append(word)
        else:
            label = None
    return [(" ".join(name), label) for name, label in found]
""",
    passed="Ten lines, and the stray tags of a half-trained model cannot fool them.",
)


def _check_f1(answer: Any) -> str | None:
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        return f"A number is wanted; yours is of type {type(answer).__name__}."
    if abs(answer - 16 / 19) < 0.005:
        return None
    if abs(answer - 0.8) < 0.005:
        return "0.8 is the recall: eight of ten. The tagger claimed nine, and eight are right."
    if abs(answer - 8 / 9) < 0.005:
        return "That is the precision, eight of nine claimed. F1 lies between it and the recall."
    if abs(answer - 18 / 19) < 0.005 or abs(answer - 0.9) < 0.005:
        return "You counted the entity that was cut short as found. Strict means both borders."
    return "F1 is 2 TP / (claimed + there). How many were claimed, and how many of them are right?"


q2 = Question(
    id="14.2",
    title="strict F1 in your head",
    check=_check_f1,
    first_step="write down three counts: there, claimed, exactly right.",
    hints=(
        "The entity that was cut short was claimed too, and it is not right.",
        "There: 10. Claimed: 8 + 1. Exactly right: 8.",
    ),
    solution="answer = 2 * 8 / (9 + 10)",
    passed="One border off by one word cost as much as one entity missed and one made up.",
)


def _check_flattery(answer: Any) -> str | None:
    if not isinstance(answer, list | tuple) or len(answer) != 2:
        return "Give two lists of tags: `answer = (gold, predicted)`."
    gold, said = (list(tags) for tags in answer)
    if len(gold) != len(said) or not gold:
        return f"The lists have {len(gold)} and {len(said)} tags; they must be equally long."
    if not any(tag.startswith("B-") for tag in gold):
        return "The gold tags hold no entity; then there is nothing to find."
    if not any(tag.startswith("B-") for tag in said):
        return "The prediction holds no entity. Saying O everywhere is too easy: mark one, wrongly."
    scores = strict_scores([gold], [said])
    if scores["f1"] > 0:
        return f"Strict F1 is {scores['f1']:.2f}: at least one entity is exactly right. Cut it."
    if scores["token_accuracy"] < 0.9:
        return (
            f"Token accuracy is {scores['token_accuracy']:.2f}. Make the sentence longer, or the "
            f"mistake smaller."
        )
    return None


q3 = Question(
    id="14.3",
    title="an accuracy that flatters",
    check=_check_flattery,
    first_step="begin with a sentence of many O's and one entity of two words.",
    hints=(
        "One word of the entity wrong is enough to lose all of it.",
        "With ten words and one wrong tag, token accuracy is 0.9.",
    ),
    solution="""
gold = ["B-PERSON", "I-PERSON"] + ["O"] * 18
said = ["B-PERSON", "O"] + ["O"] * 18
answer = (gold, said)
""",
    passed="Nineteen of twenty words right, and nothing found.",
)
