"""Wrong answers that a learner might well give in lesson 14."""

MISTAKES = {
    "q1": [
        # A stray I begins an entity.
        "def answer(words, tags):\n"
        "    found, label = [], None\n"
        "    for word, tag in zip(words, tags):\n"
        "        if tag == 'O':\n"
        "            label = None\n"
        "        elif tag.startswith('B-') or tag[2:] != label:\n"
        "            label = tag[2:]\n"
        "            found.append([[word], label])\n"
        "        else:\n"
        "            found[-1][0].append(word)\n"
        "    return [(' '.join(name), label) for name, label in found]",
        # Neighbours of one label run together.
        "def answer(words, tags):\n"
        "    from itertools import groupby\n"
        "    rows = groupby(zip(words, tags), key=lambda pair: pair[1][2:])\n"
        "    return [(' '.join(w for w, _ in group), label) for label, group in rows if label]",
        # The last entity is forgotten.
        "def answer(words, tags):\n"
        "    found, name, label = [], [], None\n"
        "    for word, tag in zip(words, tags):\n"
        "        if label and tag == f'I-{label}':\n"
        "            name.append(word)\n"
        "            continue\n"
        "        if label:\n"
        "            found.append((' '.join(name), label))\n"
        "        name, label = ([word], tag[2:]) if tag.startswith('B-') else ([], None)\n"
        "    return found",
        # One word an entity.
        "def answer(words, tags):\n"
        "    return [(w, t[2:]) for w, t in zip(words, tags) if t.startswith('B-')]",
        "answer = []",
    ],
    "q2": ["answer = 0.8", "answer = 8 / 9", "answer = 0.9", "answer = 18 / 19", "answer = 'high'"],
    "q3": [
        "answer = (['B-A'] + ['O'] * 9, ['O'] * 10)",
        "answer = (['B-A'] + ['O'] * 9, ['B-A'] + ['O'] * 9)",
        "answer = (['B-A', 'O'], ['O', 'B-A'])",
        "answer = (['O'] * 10, ['B-A'] + ['O'] * 9)",
        "answer = (['B-A'] * 3, ['B-A'] * 2)",
        "answer = ['B-A', 'O', 'O']",
    ],
}
