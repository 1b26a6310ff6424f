"""Wrong answers that a learner might well give in lesson 17."""

RATES = "import numpy as np\n\ndef answer(low, high, groups):\n    return "
NAME = """def answer(name):
    ours = {start}
    for theirs, mine in {pairs}:
        ours = ours.replace(theirs, mine)
    if ours.endswith("_embeddings"):
        ours += {table!r}
    return {result}
"""
PAIRS = '((".kernel", ".weight"), (".gamma", ".weight"), (".beta", ".bias"))'
START = 'name.removeprefix("bert/").replace("layer_", "layer/").replace("/", ".")'


def name(start=START, pairs=PAIRS, table=".weight", result='(ours, name.endswith("/kernel"))'):
    return NAME.format(start=start, pairs=pairs, table=table, result=result)


SCALE = """def answer(overflows, scale, interval):
    scales, calm = [], 0
    for overflow in overflows:
        {before}
        if overflow:
            {fall}
        else:
            calm += 1
            if calm {compare} interval:
                {grow}
        {after}
    return scales
"""


def scale(
    before="pass",
    fall="scale, calm = scale / 2, 0",
    compare="==",
    grow="scale, calm = scale * 2, 0",
    after="scales.append(scale)",
):
    return SCALE.format(before=before, fall=fall, compare=compare, grow=grow, after=after)


LAMB = "def answer(w, g, lr, weight_decay):\n    u = {u}\n    return {result}"


def lamb(u="g.sign() + weight_decay * w", result="w - lr * w.norm() / u.norm() * u"):
    return LAMB.format(u=u, result=result)


MISTAKES = {
    "q1": [
        RATES + "np.linspace(low, high, groups)",
        RATES + "np.geomspace(high, low, groups)",
        RATES + "[low * (high / low) ** (k / groups) for k in range(groups)]",
        RATES + "[low, high]",
        RATES + "[low * 2**k for k in range(groups)]",
        RATES + "[high] * groups",
        "answer = [0.0001, 0.001, 0.01]",
    ],
    "q2": [
        name(result="(ours, False)"),
        name(result="(ours, True)"),
        name(result="ours"),
        name(table=""),
        name(pairs='((".kernel", ".weight"), (".gamma", ".bias"), (".beta", ".weight"))'),
        name(pairs='((".kernel", ".weight"),)'),
        name(start='name.replace("layer_", "layer/").replace("/", ".")'),
        name(start='name.removeprefix("bert/").replace("/", ".")'),
        "answer = 'pooler.dense.weight'",
    ],
    "q3": [
        scale(fall="scale = scale / 2"),
        scale(fall="scale, calm = scale, 0"),
        scale(grow="scale, calm = scale, 0"),
        scale(before="scales.append(scale)", after="pass"),
        scale(compare=">", grow="scale, calm = scale * 2, 0"),
        scale(grow="scale = scale * 2"),
        scale(fall="scale, calm = scale / 4, 0"),
        scale().replace("scales, calm = [], 0", "scales, calm = [scale], 0"),
        "answer = [1024, 2048]",
    ],
    "q4": [
        lamb(result="w - lr * u"),
        lamb(result="w - lr * u.norm() / w.norm() * u"),
        lamb(result="w + lr * w.norm() / u.norm() * u"),
        lamb(u="g.sign()"),
        lamb(u="g + weight_decay * w"),
        lamb(u="g.sign()", result="w - lr * (w.norm() / u.norm() * u + weight_decay * w)"),
        lamb(result="w - lr * w.abs() / u.abs() * u"),
        lamb(result="w"),
        lamb(result="(w - lr * w.norm() / u.norm() * u).norm()"),
        "answer = 0.1",
    ],
}
