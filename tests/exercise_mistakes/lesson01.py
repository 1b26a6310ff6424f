"""Wrong answers that a learner might well give in lesson 01."""

IMPORT = "import math\n"


def entropy(result):
    return f"{IMPORT}def answer(p):\n    return {result}"


def witten_bell(result):
    return f"def answer(count, total, kinds, shorter):\n    return {result}"


def units(result):
    return f"{IMPORT}def answer(perplexity, tokens, number_of_bytes):\n    return {result}"


def days(result):
    return f"def answer(N, D, peak, share):\n    return {result}"


MISTAKES = {
    "q1": [
        entropy("sum(x * math.log2(x) for x in p if x > 0)"),  # the sign
        entropy("-sum(x * math.log(x) for x in p if x > 0)"),  # nats
        entropy("-sum(math.log2(x) for x in p if x > 0)"),  # not weighted
        entropy("-sum(math.log2(x) for x in p if x > 0) / len(p)"),  # plain mean
        entropy("-sum(x * math.log2(x) for x in p)"),  # stops at 0
        entropy("-sum(x * math.log2(x + 0.01) for x in p)"),
        entropy("1.0"),
        "answer = 1.5",
    ],
    "q2": [
        witten_bell("count / total"),
        witten_bell("(count + kinds * shorter) / total"),
        witten_bell("(count + shorter) / (total + 1)"),
        witten_bell("(count + 1) / (total + kinds)"),
        witten_bell("(count + kinds * shorter) / (total + kinds)"),  # a context never seen
        witten_bell("(count + kinds * shorter) / (total + kinds) if total else 0.0"),
        witten_bell("0.5 * shorter"),
        "answer = 0.271",
    ],
    "q3": [
        units("math.log2(perplexity)"),
        units("math.log(perplexity) * tokens / number_of_bytes"),
        units("math.log2(perplexity) * number_of_bytes / tokens"),
        units("perplexity * tokens / number_of_bytes"),
        units("math.log2(perplexity) * tokens"),
        units("perplexity"),
        "answer = 1.08",
    ],
    "q4": [
        days("6 * N * D / (peak * share)"),  # seconds
        days("6 * N * D / (peak * share) / 3600"),
        days("N * D / (peak * share) / 86400"),
        days("2 * N * D / (peak * share) / 86400"),
        days("6 * N * D / peak / 86400"),
        days("6 * N * D * share / peak / 86400"),
        days("N / D"),
        "answer = 694.4",
    ],
}
