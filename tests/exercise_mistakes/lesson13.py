"""Wrong answers that a learner might well give in lesson 13."""

MISTAKES = {
    "q1": [
        # The first gold answer alone, without normalisation, without the empty cases.
        "def answer(prediction, golds):\n"
        "    found, wanted = prediction.lower().split(), golds[0].lower().split()\n"
        "    n = len(set(found) & set(wanted))\n"
        "    return 2 * n / max(1, len(found) + len(wanted))",
        # The mean over the gold answers.
        "from helpers.evaluation.squad import f1_score\n"
        "def answer(prediction, golds):\n"
        "    return sum(f1_score(prediction, gold) for gold in golds) / len(golds)",
        # Sets instead of counts.
        "from helpers.evaluation.squad import normalize_answer\n"
        "def answer(prediction, golds):\n"
        "    def f1(gold):\n"
        "        a, b = normalize_answer(prediction).split(), normalize_answer(gold).split()\n"
        "        if not a or not b:\n"
        "            return float(a == b)\n"
        "        return 2 * len(set(a) & set(b)) / (len(set(a)) + len(set(b)))\n"
        "    return max(map(f1, golds))",
        # Nothing done about empty answers.
        "from helpers.evaluation.squad import normalize_answer\n"
        "def answer(prediction, golds):\n"
        "    def f1(gold):\n"
        "        a, b = normalize_answer(prediction).split(), normalize_answer(gold).split()\n"
        "        n = sum(min(a.count(w), b.count(w)) for w in set(a))\n"
        "        return 2 * n / (len(a) + len(b))\n"
        "    return max(map(f1, golds))",
        # Exact match.
        "from helpers.evaluation.squad import exact_match\n"
        "def answer(prediction, golds):\n"
        "    return max(exact_match(prediction, gold) for gold in golds)",
        "answer = 0.8",
    ],
    "q2": ["answer = 4", "answer = 5", "answer = 7", "answer = 10", "answer = 200", "answer = '6'"],
    "q3": [
        # The greatest difference within a window.
        "def answer(windows, threshold):\n"
        "    text, score, null = max(windows, key=lambda w: w[1] - w[2])\n"
        "    return text if score - null >= threshold else ''",
        # The null score of the best window.
        "def answer(windows, threshold):\n"
        "    text, score, null = max(windows, key=lambda w: w[1])\n"
        "    return text if score - null >= threshold else ''",
        # The highest null score.
        "def answer(windows, threshold):\n"
        "    text, score, _ = max(windows, key=lambda w: w[1])\n"
        "    return text if score - max(w[2] for w in windows) >= threshold else ''",
        # Above, where at least was meant.
        "def answer(windows, threshold):\n"
        "    text, score, _ = max(windows, key=lambda w: w[1])\n"
        "    return text if score - min(w[2] for w in windows) > threshold else ''",
        # The threshold forgotten.
        "def answer(windows, threshold):\n    return max(windows, key=lambda w: w[1])[0]",
    ],
    "q4": ['answer = "$1.3bn"', 'answer = "the $1.3bn"', 'answer = "$1.4bn"', "answer = 13"],
}
