"""Wrong answers that a learner might well give in lesson 05."""


def pool(result):
    return f"def answer(hidden, attention_mask):\n    return {result}"


def rates(result):
    return f"def answer(top_rate, decay, layers):\n    return {result}"


def needed(condition, order="sorted(curve)", otherwise="-1"):
    return (
        f"def answer(curve, goal):\n    for labels in {order}:\n"
        f"        score, low, high = curve[labels]\n        if {condition}:\n"
        f"            return labels\n    return {otherwise}"
    )


MISTAKES = {
    "q1": [
        pool("hidden.mean(dim=1)"),
        pool("(hidden * attention_mask.unsqueeze(-1)).mean(dim=1)"),
        pool("(hidden * attention_mask.unsqueeze(-1)).sum(dim=1)"),
        pool("hidden[:, 0]"),
        pool("hidden.mean(dim=2)"),
        pool("hidden * attention_mask"),
        "answer = 3",
    ],
    "q2": ["answer = 5 * 384", "answer = 385", "answer = 22_700_000", "answer = 389"],
    "q3": [
        needed("score >= goal"),
        needed("low >= goal", order="curve"),
        needed("low >= goal", order="sorted(curve, reverse=True)"),
        needed("high >= goal"),
        needed("low >= goal", otherwise="labels"),
        "answer = 100",
    ],
    "q4": [
        rates("[top_rate * decay ** part for part in range(layers + 2)]"),
        rates("[top_rate * decay ** (layers + 2 - part) for part in range(layers + 2)]"),
        rates("[top_rate * decay ** min(layers, layers + 1 - p) for p in range(layers + 2)]"),
        rates("[top_rate * decay ** (layers - p) for p in range(layers + 1)]"),
        rates("[top_rate] * (layers + 2)"),
        rates("[top_rate - decay * top_rate * p for p in range(layers + 2)]"),
        "answer = [1e-3]",
    ],
}
