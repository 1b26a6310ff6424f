"""Wrong answers that a learner might well give in lesson 10."""

COUNT = "def answer(shapes, r):\n    return "
MERGE = "def answer(W, A, B, alpha):\n    return "
LABELS = "def answer(prompt_ids, answer_ids, end_id, length):\n    "
UNENDED = "[-100 if a == end_id else a for a in answer_ids]"
BLOCK = "def answer(w):\n    scale = w.abs().max() / {0}\n    return {1}, scale"


def padded(labels, padding="-100"):
    return f"{LABELS}labels = {labels}\n    return labels + [{padding}] * (length - len(labels))"


MISTAKES = {
    "q1": [
        COUNT + "sum(m * n for m, n in shapes)",
        COUNT + "sum(r * m * n for m, n in shapes)",
        COUNT + "sum(r * n for m, n in shapes)",
        COUNT + "sum(r * m for m, n in shapes)",
        COUNT + "sum(m + n for m, n in shapes)",
        COUNT + "r * (shapes[0][0] + shapes[0][1])",
        COUNT + "sum(2 * r * (m + n) for m, n in shapes)",
        "answer = 18874368",
    ],
    "q2": [
        MERGE + "W + B @ A",
        MERGE + "W + alpha * (B @ A)",
        MERGE + "W + len(A) / alpha * (B @ A)",
        MERGE + "W + alpha / A.shape[1] * (B @ A)",
        MERGE + "W - alpha / len(A) * (B @ A)",
        MERGE + "alpha / len(A) * (B @ A)",
        MERGE + "alpha / len(A) * (W + B @ A)",
        MERGE + "W + alpha / len(A) * (A @ B)",  # shapes do not fit
        MERGE + "W.add_(alpha / len(A) * (B @ A))",  # in place
        MERGE + "W + 0.5 * alpha / len(A) * (B @ A)",
        MERGE + "(W + alpha / len(A) * (B @ A)).T",
    ],
    "q3": [
        padded("prompt_ids + answer_ids + [end_id]"),
        padded("[-100] * len(prompt_ids) + answer_ids + [-100]"),
        LABELS + "return [-100] * len(prompt_ids) + answer_ids + [end_id]",  # no padding
        padded("[-100] * len(prompt_ids) + answer_ids + [end_id]", "end_id"),
        padded("[-100] * len(prompt_ids) + answer_ids + [end_id]", "0"),
        padded("[0] * len(prompt_ids) + answer_ids + [end_id]", "0"),
        padded("[-100] * (len(prompt_ids) - 1) + answer_ids + [end_id]"),
        padded("prompt_ids + [-100] * len(answer_ids) + [-100]"),
        padded(f"[-100] * len(prompt_ids) + {UNENDED} + [end_id]"),
        padded("[-100] * len(prompt_ids) + [end_id] + answer_ids"),
        "answer = [-100, -100, 5]",
    ],
    "q4": [
        BLOCK.format(7, "w / scale"),
        BLOCK.format(15, "(w / scale).round()"),
        BLOCK.format(7, "(w / scale).trunc()"),
        BLOCK.format(8, "(w / scale).round()"),
        BLOCK.format(7, "(w / scale).round()"),  # a block of zeros
        BLOCK.format(15, "(w / scale).round().clamp(-8, 7)"),
        "def answer(w):\n    return (w / 0.1).round()",
        "answer = 0.1",
    ],
    "q5": [
        "answer = (6, 12, 48)",
        "answer = (2, 12, 48)",
        "answer = (1.5, 1.5, 48)",
        "answer = (1.5, 6, 48)",
        "answer = (1.5, 12, 6)",
        "answer = (1.5, 12, 24)",
        "answer = (1.5e9, 12e9, 48e9)",
        "answer = (1.5, 12)",
    ],
}
