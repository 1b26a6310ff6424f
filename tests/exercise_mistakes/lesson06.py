"""Wrong answers that a learner might well give in lesson 06."""

P = "p = z.softmax(-1).gather(-1, y[:, None]).squeeze(-1)"


def focal(result):
    return f"def answer(z, y, gamma, alpha):\n    {P}\n    return {result}"


MISTAKES = {
    "q1": [
        "answer = ([0.5, 0.5], [4.0, 4.0])",  # one size
        "answer = ([5.0, 5.0, 5.0], [0.0])",  # too low
        "answer = ([1.0, 1.0, 1.0], [2.0])",  # too little
        "answer = ([0.0, 0.0, 0.0], [])",
        "answer = ([0.0, 0.0, -9.0], [5.0])",
        "answer = [1.0, 2.0]",
        "answer = ([0.0, 0.0, 'a'], [5.0])",
    ],
    "q2": [
        "def answer(C):\n    return 0.0",
        "import math\ndef answer(C):\n    return math.log(C)",
        "import math\ndef answer(C):\n    return math.log(1 + 1 / math.e)",
        "import math\ndef answer(C):\n    return math.e / (math.e + C - 1)",
        "import math\ndef answer(C):\n    return math.log2(math.e + C - 1) - math.log2(math.e)",
        "import math\ndef answer(C):\n    return math.log(1 + (C - 1) * math.e)",
        "import math\ndef answer(C):\n    return math.log(math.e + C) - 1",
        "answer = 0.905",
    ],
    "q3": [
        "answer = (128, 4)",
        "answer = (512, 4)",
        "answer = (8, 1)",
        "answer = (256, 8)",
        "answer = 512",
    ],
    "q4": [
        "answer = (-2e-3, 2e-7, 0.0)",
        "answer = (1e-4, -1e-4, 0.0)",
        "answer = (1e-4, 1e-4, 1e-4)",
        "answer = (-1e-4, -1e-4, 0.0)",
        "answer = (-1.0, 1.0, 0.0)",
        "answer = (-1e-4, 1e-4)",
    ],
    "q5": [
        focal("(-((1 - p) ** gamma) * p.log()).mean()"),
        focal("(-alpha[y] * (1 - p) ** gamma * p.log()).sum()"),
        focal("(-alpha[y] * (1 - p) ** gamma * p.log()).sum() / alpha[y].sum()"),
        focal("(-alpha[y] * p ** gamma * p.log()).mean()"),
        focal("(-alpha[y] * p.log()).mean()"),
        focal("(alpha[y] * (1 - p) ** gamma * p.log()).mean()"),
        focal("(-alpha[y] * (1 - p) ** 2 * p.log()).mean()"),  # the gamma it was given is unused
        focal("-alpha[y] * (1 - p) ** gamma * p.log()"),
        focal("(-alpha * (1 - p) ** gamma * p.log()).mean()"),  # shapes differ
        "answer = 0.5",
    ],
}
