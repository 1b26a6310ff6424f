"""Wrong answers that a learner might well give in lesson 02."""

WORDPIECE = """
def answer(word, vocabulary):
    pieces, start = [], 0
    while start < len(word):
        for end in {ends}:
            piece = {prefix} + word[start:end]
            if {found}:
                pieces.append(piece)
                start = end
                break
        else:
            {otherwise}
    return pieces
"""
RIGHT = {
    "ends": "range(len(word), start, -1)",
    "prefix": '("##" if start else "")',
    "found": "piece in vocabulary",
    "otherwise": 'return ["[UNK]"]',
}


def wordpiece(**changes):
    return WORDPIECE.format(**RIGHT | changes)


MISTAKES = {
    "q1": [
        wordpiece(ends="range(start + 1, len(word) + 1)"),
        wordpiece(otherwise='return [*pieces, "[UNK]"]'),
        wordpiece(
            prefix='""', found='piece in vocabulary or "##" + piece in vocabulary'
        ),  # no ## in what it returns
        "def answer(word, vocabulary):\n    return [word]",
        "answer = ['play', '##ing']",
    ],
    "q2": [
        "answer = ('a cat', 'a cat')",
        "answer = ('a cat', 'a dog')",
        "answer = ('a  cat', 'a cat')",
        "answer = ('\U0001f600', '\U0001f601')",
        "answer = ('', 'a')",
        "answer = 'a cat'",
    ],
    "q3": [
        "answer = ('e', 'r')",
        "answer = ('n', 'e')",
        "answer = ('e', 'w')",
        "answer = ('l', 'o')",
        "answer = ('x', 'y')",
        "answer = 'we '",
    ],
    "q4": [
        "def answer(lengths):\n    return max(lengths) * len(lengths) - sum(lengths)",
        "def answer(lengths):\n    return sum(lengths) / (max(lengths) * len(lengths))",
        "def answer(lengths):\n    return max(lengths) * len(lengths) / sum(lengths) - 1",
        "def answer(lengths):\n    return 1 - min(lengths) / max(lengths)",
        "answer = 0.25",
    ],
}
