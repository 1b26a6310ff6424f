"""Wrong answers that a learner might well give in lesson 03."""

MISTAKES = {
    "q1": [
        "answer = 49_152",
        "answer = 1 / 49_152",
        "import math\nanswer = -math.log(49_152)",
        "import math\nanswer = math.log2(49_152)",
        "import math\nanswer = math.log10(49_152)",
        "answer = 'infinite'",
    ],
    "q2": [
        # No shift at all: each row is asked about a token it has seen.
        "from torch.nn import functional as F\n"
        "def answer(logits, input_ids):\n"
        "    return F.cross_entropy(logits, input_ids)",
        # The shift the wrong way round.
        "from torch.nn import functional as F\n"
        "def answer(logits, input_ids):\n"
        "    return F.cross_entropy(logits[1:], input_ids[:-1])",
        # The sum.
        "from torch.nn import functional as F\n"
        "def answer(logits, input_ids):\n"
        "    return F.cross_entropy(logits[:-1], input_ids[1:], reduction='sum')",
        # The log-likelihood.
        "from torch.nn import functional as F\n"
        "def answer(logits, input_ids):\n"
        "    return -F.cross_entropy(logits[:-1], input_ids[1:])",
        # Divided by the number of tokens.
        "from torch.nn import functional as F\n"
        "def answer(logits, input_ids):\n"
        "    total = F.cross_entropy(logits[:-1], input_ids[1:], reduction='sum')\n"
        "    return total / len(input_ids)",
        # One loss a token.
        "from torch.nn import functional as F\n"
        "def answer(logits, input_ids):\n"
        "    return F.cross_entropy(logits[:-1], input_ids[1:], reduction='none')",
    ],
    "q3": [
        # Characters for bytes.
        "import math\n"
        "def answer(total_nats, text):\n"
        "    return total_nats / math.log(2) / len(text)",
        # Nats for bits.
        "def answer(total_nats, text):\n    return total_nats / len(text.encode())",
        # Both.
        "def answer(total_nats, text):\n    return total_nats / len(text)",
        # The wrong way from nats to bits.
        "import math\n"
        "def answer(total_nats, text):\n"
        "    return total_nats * math.log(2) / len(text.encode())",
        # Not divided.
        "import math\ndef answer(total_nats, text):\n    return total_nats / math.log(2)",
    ],
    "q4": [
        # The scalar trap: an average that is already taken, times a mask.
        "from torch.nn import functional as F\n"
        "def answer(logits, labels):\n"
        "    weights = (labels != -100).float()\n"
        "    targets = labels.clamp_min(0)\n"
        "    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten()) * weights\n"
        "    return loss.sum() / weights.sum()",
        # Divided by all positions.
        "from torch.nn import functional as F\n"
        "def answer(logits, labels):\n"
        "    losses = F.cross_entropy(\n"
        "        logits.flatten(0, 1), labels.flatten(), reduction='none'\n"
        "    )\n"
        "    return losses.mean()",
        # The mean of each text's mean.
        "from torch.nn import functional as F\n"
        "def answer(logits, labels):\n"
        "    pairs = zip(logits, labels, strict=True)\n"
        "    losses = [F.cross_entropy(a, b) for a, b in pairs]\n"
        "    return sum(losses) / len(losses)",
        # The sum.
        "from torch.nn import functional as F\n"
        "def answer(logits, labels):\n"
        "    return F.cross_entropy(\n"
        "        logits.flatten(0, 1), labels.flatten(), reduction='sum'\n"
        "    )",
        # One loss a position.
        "from torch.nn import functional as F\n"
        "def answer(logits, labels):\n"
        "    return F.cross_entropy(\n"
        "        logits.flatten(0, 1), labels.flatten(), reduction='none'\n"
        "    )",
    ],
}
