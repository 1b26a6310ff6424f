"""Wrong answers that a learner might well give in lesson 15."""

BYTES = "def answer(layers, heads, kv_heads, head_dim, T, bytes_each):\n    return "
RANKED = "sorted(range(len(p)), key=lambda i: -p[i])"


def nucleus(body):
    return f"from itertools import accumulate\ndef answer(p, top_p):\n    order = {RANKED}\n{body}"


SUMS = "    sums = list(accumulate(p[i] for i in order))\n"

MISTAKES = {
    "q1": [
        BYTES + "2 * layers * heads * head_dim * T * bytes_each",
        BYTES + "layers * kv_heads * head_dim * T * bytes_each",
        BYTES + "3 * layers * kv_heads * head_dim * T * bytes_each",
        BYTES + "2 * layers * kv_heads * head_dim * T",
        BYTES + "2 * layers * kv_heads * head_dim * bytes_each",
        BYTES + "2 * layers * kv_heads * head_dim * T**2 * bytes_each",
        BYTES + "2 * kv_heads * head_dim * T * bytes_each",
        BYTES + "2 * layers * (heads + kv_heads) * head_dim * T * bytes_each",
        "answer = 4608000",
    ],
    "q2": [
        "answer = (0.5, 0.9, 0.4, 0.9)",  # greedy is right
        "answer = (0.4, 0.5, 0.5, 0.9)",  # greedy takes B at once
        "answer = (0.7, 0.2, 0.6, 0.9)",  # more than 1 together
        "answer = (0.5, 0.4, 0.4, 1.9)",
        "answer = (0.5, 0.4)",
    ],
    "q3": [
        nucleus(SUMS + "    return [i for i, s in zip(order, sums) if s < top_p]"),
        nucleus(SUMS + "    return [i for i, s in zip(order, sums) if s <= top_p + 1e-9]"),
        nucleus("    return [i for i in order if p[i] >= top_p]"),
        "def answer(p, top_p):\n    kept, total = [], 0\n    for i, value in enumerate(p):\n"
        "        kept.append(i)\n        total += value\n        if total >= top_p - 1e-9:\n"
        "            break\n    return kept",
        "def answer(p, top_p):\n    kept, total = [], 0\n"
        "    for i in sorted(range(len(p)), key=lambda i: p[i]):\n"
        "        kept.append(i)\n        total += p[i]\n        if total >= top_p - 1e-9:\n"
        "            break\n    return kept",
        nucleus("    return order[:2]"),
        nucleus("    return order"),
        "answer = [0, 1]",
    ],
    "q4": [
        "answer = (3, 2)",
        "answer = (3, 3)",
        "answer = (2, 2)",
        "answer = (1, 3)",
        "answer = (2, 4)",
        "answer = 2",
    ],
    "q5": [
        "answer = ([1.0, 3.0], 1)",
        "answer = ([1.0, 0.0], 1)",
        "answer = ([-3.0], 0)",
        "answer = ([1.0, -3.0], 2)",
        "answer = ([1.0, -3.0], 0)",
        "answer = [1.0, -3.0, 0.5]",
    ],
}
