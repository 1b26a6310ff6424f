"""Wrong answers that a learner might well give in lesson 04."""


def masked(result):
    return f"import torch\ndef answer(scores, mask):\n    return {result}"


def counted(result):
    return f"def answer(V, P, H, inner, layers):\n    return {result}"


def slope(result):
    return f"def answer(a, g):\n    return {result}"


BLOCK = "(4 * (H * H + H) + 2 * H * inner + inner + H + 4 * H)"

MISTAKES = {
    "q1": [
        masked("scores.softmax(-1)"),
        masked("scores.softmax(-1) * mask"),
        masked("(scores * mask).softmax(-1)"),
        masked("scores.masked_fill(mask, -torch.inf).softmax(-1)"),
        masked("scores.masked_fill(~mask, -torch.inf).softmax(-2)"),
        masked("scores.masked_fill(~mask, -1.0).softmax(-1)"),
        masked("scores.masked_fill(~mask, -torch.inf)"),
        masked("scores + mask"),
        "answer = 0.0",
    ],
    "q2": [
        counted(f"(V + P) * H + 2 * H + layers * {BLOCK}"),  # no segments
        counted(f"(V + P) * H + layers * {BLOCK}"),
        counted(f"(V + 2) * H + 2 * H + layers * {BLOCK}"),
        counted(f"(P + 2) * H + 2 * H + layers * {BLOCK}"),
        counted("(V + P + 2) * H + 2 * H + layers * (4 * H * H + 2 * H * inner + 4 * H)"),
        counted(f"(V + P + 2) * H + 2 * H + layers * ({BLOCK} - 4 * H)"),
        counted(f"(V + P + 2) * H + 2 * H + layers * ({BLOCK} - H * H - H)"),
        counted(f"(V + P + 2) * H + 2 * H + {BLOCK}"),
        counted("(V + P + 2) * H + 2 * H + layers * (12 * H * H + 13 * H)"),
        counted(f"(V + P + 2) * H + 2 * H + H * H + H + layers * {BLOCK}"),  # with pooler
        "answer = 108_891_648",
    ],
    "q3": [
        slope("a * g"),
        slope("a * (1 - a) * g"),
        slope("a * (g - g.mean(-1, keepdim=True))"),
        slope("a * (g - (a * g).sum())"),
        slope("a * ((a * g).sum(-1, keepdim=True) - g)"),
        slope("g - (a * g).sum(-1, keepdim=True)"),
        slope("a * (g - (a * g).sum(-1))"),  # shapes differ
        slope("(a * g).sum(-1)"),
        "answer = 0.0",
    ],
    "q4": [
        "answer = (2, 11520)",
        "answer = (5, 11520)",
        "answer = (1, 5760)",
        "answer = (1, 34560)",
        "answer = (1, 384)",
        "answer = (1, 3840)",
        "answer = (1, 23040)",
        "answer = (1, 64)",
        "answer = 1",
    ],
}
