"""Wrong answers that a learner might well give in lesson 16."""

MISTAKES = {
    "q1": [
        "answer = 0.4",
        "answer = 0.1",
        "answer = 0.15",
        "answer = 0.25 / 0.75 * 0.4 / 0.6",
        "answer = 15",
        "answer = 0.05",
        "answer = '0.2'",
    ],
    "q2": [
        # True positives alone.
        "import numpy as np\n"
        "def answer(labels, predicted, groups):\n"
        "    r = [predicted[(groups == g) & (labels == 1)].mean() for g in np.unique(groups)]\n"
        "    return max(r) - min(r)",
        # The sum of both gaps.
        "import numpy as np\n"
        "def answer(labels, predicted, groups):\n"
        "    total = 0\n"
        "    for y in (0, 1):\n"
        "        r = [predicted[(groups == g) & (labels == y)].mean() for g in np.unique(groups)]\n"
        "        total += max(r) - min(r)\n"
        "    return total",
        # The first two groups alone, with a sign.
        "import numpy as np\n"
        "def answer(labels, predicted, groups):\n"
        "    gaps = []\n"
        "    for y in (0, 1):\n"
        "        r = [predicted[(groups == g) & (labels == y)].mean() for g in np.unique(groups)]\n"
        "        gaps.append(r[1] - r[0])\n"
        "    return max(gaps)",
        # Selection rates: demographic parity.
        "import numpy as np\n"
        "def answer(labels, predicted, groups):\n"
        "    r = [predicted[groups == g].mean() for g in np.unique(groups)]\n"
        "    return max(r) - min(r)",
        # Both gaps.
        "def answer(labels, predicted, groups):\n    return [0.0, 0.5]",
    ],
    "q3": [
        "answer = ([0.4, 0.4, 0.4, 0.4], [0.6, 0.6, 0.6, 0.6])",
        "answer = ([0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5])",
        "answer = ([0.4, 0.6], [0.6, 0.4])",
        "answer = ([-1, 2, -1, 2], [2, -1, 2, -1])",
        "answer = [0.4, 0.6, 0.4, 0.6]",
    ],
    "q4": [
        # Fair and right.
        "def answer(labels, groups):\n    return labels",
        # Nobody at all.
        "def answer(labels, groups):\n    return labels * 0",
        # Only a.
        "def answer(labels, groups):\n    return ((groups == 'a') & (labels == 1)).astype(int)",
        # By group alone.
        "def answer(labels, groups):\n    return (groups == 'a').astype(int)",
        "def answer(labels, groups):\n    return 1",
    ],
}
