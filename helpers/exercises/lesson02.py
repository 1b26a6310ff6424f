"""Exercises of lesson 02: longest match, texts that look alike, the first merge, padding."""

from functools import cache
from typing import Any

from helpers.exercises.question import Question

_VOCABULARY = {"play", "##ing", "##er", "##s", "p", "##lay", "un", "##play", "##able", "##a"}
_WORDS = {
    "playing": ["play", "##ing"],
    "players": ["play", "##er", "##s"],
    "unplayable": ["un", "##play", "##able"],
    "play": ["play"],
    "plays": ["play", "##s"],
    "playx": ["[UNK]"],
    "xplay": ["[UNK]"],
}


def _check_wordpiece(answer: Any) -> str | None:
    for word, right in _WORDS.items():
        found = answer(word, set(_VOCABULARY))
        if list(found) == right:
            continue
        shown = f"For {word!r} it gave {list(found)}; right is {right}."
        if right == ["[UNK]"]:
            return f"{shown} A word that cannot be split to its end becomes ONE [UNK], whole."
        if [piece.removeprefix("##") for piece in found] == [p.removeprefix("##") for p in right]:
            return f"{shown} Pieces after the first are looked up, and written, with ## in front."
        if list(found)[:1] == ["p"]:
            return f"{shown} Begin with the longest candidate and shorten it from the right."
        return shown
    return None


q1 = Question(
    id="02.1",
    title="the longest match",
    check=_check_wordpiece,
    first_step="set `start = 0` and look for the longest vocabulary entry that begins there.",
    hints=(
        "Try `word[start:end]` for `end` from `len(word)` down to `start + 1`.",
        "If `start > 0`, the candidate is '##' + word[start:end].",
        "Found: append it and set `start = end`. Nothing found: return ['[UNK]'] at once.",
    ),
    solution="""
def answer(word, vocabulary):
    pieces, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocabulary:
                pieces.append(piece)
                start = end
                break
        else:
            return ["[UNK]"]
    return pieces
""",
    passed="Greedy, and never sorry: it does not look back, even where another split would fit.",
)


@cache
def _tokenizer() -> Any:
    from helpers import models

    return models.load_tokenizer("encoder")


def _check_alike(answer: Any) -> str | None:
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        return "Two texts are wanted: (text, other text)."
    a, b = answer
    if not (isinstance(a, str) and isinstance(b, str) and a.strip() and b.strip()):
        return "Both must be texts that are not empty."
    if a == b:
        return "They are the same text. Find two different ones with the same ids."
    ids = [_tokenizer()(text)["input_ids"] for text in (a, b)]
    unknown = _tokenizer().unk_token_id
    if ids[0] != ids[1]:
        return f"Their ids differ: {ids[0]} and {ids[1]}. What does the tokenizer throw away?"
    if unknown in ids[0]:
        return "Same ids, but with [UNK] in them, which is too easy. Find a pair without."
    if a.split() == b.split():
        return "They differ in white space only. Find two that a reader would tell apart."
    return None


q2 = Question(
    id="02.2",
    title="two texts, one input",
    check=_check_alike,
    first_step="recall what happens to a text before it is split: which differences are removed?",
    hints=(
        "This vocabulary is *uncased*.",
        "Accents are stripped too. In which languages does an accent change a word's meaning?",
    ),
    solution='answer = ("Er hat schöne Augen", "er hat schone augen")',
    passed="Whatever the model says about one, it must say about the other.",
)


def _check_merge(answer: Any) -> str | None:
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        return "Two symbols are wanted, such as ('l', 'o')."
    pair = tuple(answer)
    if pair == ("w", "e"):
        return None
    counts = {
        ("e", "r"): "8: 6 times in newer and 2 in lower",
        ("n", "e"): "9: 6 in newer, 3 in new",
        ("e", "w"): "9: 6 in newer, 3 in new",
        ("l", "o"): "7: 5 in low and 2 in lower",
        ("o", "w"): "7: 5 in low and 2 in lower",
    }
    if pair in counts:
        return f"That pair occurs {counts[pair]}. One pair occurs more often."
    return "Count every pair of neighbours, times the word's count. That pair is not the first."


q3 = Question(
    id="02.3",
    title="the first merge",
    check=_check_merge,
    first_step="list the pairs of neighbours in each word, and add the word's count to each.",
    hints=(
        "newer: n-e, e-w, w-e, e-r, each 6 times. wet: w-e and e-t, each 4 times.",
        "w-e stands in newer, in lower and in wet.",
    ),
    solution='answer = ("w", "e")',
    passed="Twelve times: 6 + 2 + 4. BPE looks at counts only; it knows nothing of endings.",
)


def _check_padding(answer: Any) -> str | None:
    for lengths in ([2, 4], [10, 10, 10], [1, 1, 1, 97]):
        total, real = max(lengths) * len(lengths), sum(lengths)
        found = float(answer(list(lengths)))
        if abs(found - (total - real) / total) < 1e-6:
            continue
        if abs(found - (total - real)) < 1e-6:
            return "That is the number of padded positions. Divide by all positions."
        if abs(found - real / total) < 1e-6:
            return "That is the share of REAL tokens. Padding is the rest."
        if abs(found - (total - real) / real) < 1e-6:
            return "You divided by the real tokens; divide by all positions, padding included."
        return (
            f"For lengths {lengths} it gave {found:.3f}. Each text is padded to the longest of "
            f"the batch: {len(lengths)} x {max(lengths)} positions in all."
        )
    return None


q4 = Question(
    id="02.4",
    title="padding's share",
    check=_check_padding,
    first_step="how many positions has the padded batch? Texts times the longest length.",
    hints=(
        "`max(lengths) * len(lengths)` positions, of which `sum(lengths)` hold real tokens.",
        "The share of padding is 1 minus the share of real tokens.",
    ),
    solution="""
def answer(lengths):
    return 1 - sum(lengths) / (max(lengths) * len(lengths))
""",
    passed="One long text among short ones, and three quarters of the work is done on nothing.",
)
