"""Wrong answers that a learner might well give in lesson 11."""

MISTAKES = {
    "q1": [
        # Pearson of the values.
        "import numpy as np\ndef answer(x, y):\n    return np.corrcoef(x, y)[0, 1]",
        # Ties broken by position.
        "import numpy as np\n"
        "def answer(x, y):\n"
        "    ranks = lambda v: np.argsort(np.argsort(v, kind='stable'))\n"
        "    return np.corrcoef(ranks(x), ranks(y))[0, 1]",
        # Sorted instead of ranked.
        "import numpy as np\ndef answer(x, y):\n    return np.corrcoef(np.argsort(x), y)[0, 1]",
        # The lowest rank for all that are equal.
        "import numpy as np\n"
        "def answer(x, y):\n"
        "    ranks = lambda v: np.array([np.sum(np.asarray(v) < a) for a in v])\n"
        "    return np.corrcoef(ranks(x), ranks(y))[0, 1]",
        "answer = 1.0",
    ],
    "q2": [
        'answer = {"accuracy", "pearson", "spearman"}',
        'answer = {"spearman"}',
        'answer = {"accuracy", "pearson", "spearman", "error"}',
        'answer = {"kendall"}',
        "answer = 2",
        "answer = set()",
    ],
    "q3": [
        'answer = [("A good film.", "A bad film.")] * 4',
        'answer = [("Long, but good.", "Good, but long.")]',
        'answer = [("Long, but good.", "Good, but long.")] * 4',
        'answer = [("Good film", "Good film")] * 4',
        'answer = ["Long, but good."] * 4',
    ],
}
