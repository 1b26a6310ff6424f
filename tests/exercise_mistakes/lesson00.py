"""Wrong answers that a learner might well give in lesson 00."""

MISTAKES = {
    "q1": [
        "answer = 49_152",
        "answer = 100 / 49_152",
        "answer = 0.5",
        "answer = 'no idea'",
        "answer = -1",
    ],
    "q2": [
        # The dot product alone: the longest vector wins.
        "def answer(query, candidates):\n    return (candidates @ query).argmax()",
        # The smallest instead of the largest.
        "def answer(query, candidates):\n    return (candidates @ query).argmin()",
        # Distance between the ends.
        "import numpy as np\n"
        "def answer(query, candidates):\n"
        "    return np.linalg.norm(candidates - query, axis=1).argmin()",
        # All the cosines instead of the place of the largest.
        "import numpy as np\n"
        "def answer(query, candidates):\n"
        "    return candidates @ query / np.linalg.norm(candidates, axis=1)",
        # The largest cosine itself.
        "import numpy as np\n"
        "def answer(query, candidates):\n"
        "    return (candidates @ query / np.linalg.norm(candidates, axis=1)).max()",
        # Works, but spoils what it was given.
        "import numpy as np\n"
        "def answer(query, candidates):\n"
        "    candidates /= np.linalg.norm(candidates, axis=1, keepdims=True)\n"
        "    return (candidates @ query).argmax()",
        "answer = 2",
    ],
    "q3": [
        "answer = ('The film was wonderful.', 'The movie was great!')",
        "answer = ('The film was wonderful.', 'Our train leaves at noon today.')",
        "answer = ('wonderful film', 'great movie')",
        "answer = 'The film was wonderful.'",
    ],
}
