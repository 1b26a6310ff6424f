"""Wrong answers that a learner might well give in lesson 12."""

MISTAKES = {
    "q1": [
        "answer = 0.01",
        "answer = 0.5",
        "answer = 98 / 99",
        "answer = 99",
        "answer = 10 / 11",
        "answer = '0.99'",
    ],
    "q2": [
        # A softmax over all classes.
        "import numpy as np\n"
        "def answer(logits, names, threshold):\n"
        "    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)\n"
        "    return [[names[k] for k in np.argsort(-r) if r[k] > threshold] or [names[r.argmax()]]"
        " for r in p]",
        # In the order of the classes.
        "import numpy as np\n"
        "def answer(logits, names, threshold):\n"
        "    p = 1 / (1 + np.exp(-logits))\n"
        "    return [[n for n, v in zip(names, r) if v > threshold] or [names[r.argmax()]]"
        " for r in p]",
        # Nothing for an unsure text.
        "import numpy as np\n"
        "def answer(logits, names, threshold):\n"
        "    p = 1 / (1 + np.exp(-logits))\n"
        "    return [[names[k] for k in np.argsort(-r) if r[k] > threshold] for r in p]",
        # The threshold on the logits.
        "import numpy as np\n"
        "def answer(logits, names, threshold):\n"
        "    return [[names[k] for k in np.argsort(-r, kind='stable') if r[k] > threshold]"
        " or [names[r.argmax()]] for r in logits]",
        # The surest alone.
        "def answer(logits, names, threshold):\n    return [[names[r.argmax()]] for r in logits]",
        "def answer(logits, names, threshold):\n    return 3",
    ],
    "q3": [
        # Plain accuracy.
        "def answer(true, predicted, parent):\n"
        "    return sum(a == b for a, b in zip(true, predicted)) / len(true)",
        # The parents alone.
        "def answer(true, predicted, parent):\n"
        "    return sum(parent[a] == parent[b] for a, b in zip(true, predicted)) / len(true)",
        # The right class counts its parent too.
        "def answer(true, predicted, parent):\n"
        "    return sum((a == b) + 0.5 * (parent[a] == parent[b])"
        " for a, b in zip(true, predicted)) / len(true)",
        # The sum.
        "def answer(true, predicted, parent):\n"
        "    return sum(1 if a == b else 0.5 * (parent[a] == parent[b])"
        " for a, b in zip(true, predicted))",
    ],
}
