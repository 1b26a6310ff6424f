"""Wrong answers that a learner might well give in lesson 08."""

MISTAKES = {
    "q1": [
        # As they are, without folding.
        "def answer(train_texts, test_texts):\n"
        "    return sum(text in train_texts for text in test_texts)",
        # Case alone.
        "def answer(train_texts, test_texts):\n"
        "    seen = {text.lower() for text in train_texts}\n"
        "    return sum(text.lower() in seen for text in test_texts)",
        # Different texts instead of test rows.
        "def answer(train_texts, test_texts):\n"
        "    fold = lambda text: ' '.join(text.lower().split())\n"
        "    return len({fold(t) for t in train_texts} & {fold(t) for t in test_texts})",
        # Training rows instead of test rows.
        "def answer(train_texts, test_texts):\n"
        "    fold = lambda text: ' '.join(text.lower().split())\n"
        "    seen = {fold(text) for text in test_texts}\n"
        "    return sum(fold(text) in seen for text in train_texts)",
        # All white space removed.
        "def answer(train_texts, test_texts):\n"
        "    fold = lambda text: ''.join(text.lower().split())\n"
        "    seen = {fold(text) for text in train_texts}\n"
        "    return sum(fold(text) in seen for text in test_texts)",
        # The leaked texts themselves.
        "def answer(train_texts, test_texts):\n"
        "    return [text for text in test_texts if text in train_texts]",
        "answer = 0",
    ],
    "q2": [
        # Precision, recall, micro, weighted.
        "def answer(confusion):\n    return (confusion.diagonal() / confusion.sum(axis=0)).mean()",
        "def answer(confusion):\n    return (confusion.diagonal() / confusion.sum(axis=1)).mean()",
        "def answer(confusion):\n    return confusion.diagonal().sum() / confusion.sum()",
        "def answer(confusion):\n"
        "    rows = confusion.sum(axis=1)\n"
        "    f1 = 2 * confusion.diagonal() / (rows + confusion.sum(axis=0))\n"
        "    return (rows * f1).sum() / rows.sum()",
        # 0/0 left as it is.
        "def answer(confusion):\n"
        "    return (2 * confusion.diagonal() / (confusion.sum(0) + confusion.sum(1))).mean()",
        # The empty class left out.
        "import numpy as np\n"
        "def answer(confusion):\n"
        "    below = confusion.sum(0) + confusion.sum(1)\n"
        "    return np.nanmean(2 * confusion.diagonal() / below)",
        # F1 of macro-precision and macro-recall, which is another number.
        "def answer(confusion):\n"
        "    p = (confusion.diagonal() / confusion.sum(0)).mean()\n"
        "    r = (confusion.diagonal() / confusion.sum(1)).mean()\n"
        "    return 2 * p * r / (p + r)",
        # One F1 a class.
        "def answer(confusion):\n"
        "    return 2 * confusion.diagonal() / (confusion.sum(0) + confusion.sum(1))",
    ],
    "q3": [
        "answer = 1.96**2 * 0.95 * 0.05 / 0.02**2",
        "answer = 0.95 * 0.05 / 0.01**2",
        "answer = 9604",
        "answer = 100",
        "answer = 0",
        "answer = '2000'",
    ],
    "q4": [
        # The probability of class 1 taken for confidence.
        "def answer(probabilities, labels, coverage):\n"
        "    kept = (-probabilities[:, 1]).argsort()[: max(1, round(coverage * len(labels)))]\n"
        "    return (probabilities[kept].argmax(1) == labels[kept]).mean()",
        # The least sure first.
        "def answer(probabilities, labels, coverage):\n"
        "    kept = probabilities.max(1).argsort()[: max(1, round(coverage * len(labels)))]\n"
        "    return (probabilities[kept].argmax(1) == labels[kept]).mean()",
        # Coverage taken for a threshold of confidence.
        "def answer(probabilities, labels, coverage):\n"
        "    kept = probabilities.max(1) >= coverage\n"
        "    return (probabilities[kept].argmax(1) == labels[kept]).mean()",
        # Divided by all rows.
        "def answer(probabilities, labels, coverage):\n"
        "    kept = (-probabilities.max(1)).argsort()[: max(1, round(coverage * len(labels)))]\n"
        "    return (probabilities[kept].argmax(1) == labels[kept]).sum() / len(labels)",
        # Nothing left at a tiny coverage.
        "def answer(probabilities, labels, coverage):\n"
        "    kept = (-probabilities.max(1)).argsort()[: round(coverage * len(labels))]\n"
        "    return (probabilities[kept].argmax(1) == labels[kept]).sum() / len(kept)\n",
    ],
}
