"""Wrong answers that a learner might well give in lesson 18."""

MISTAKES = {
    "q1": [
        "answer = 0",
        "answer = (1 / 400 + 1 / 100) * 10",
        "answer = 9 / 500",
        "answer = 0.1",
        "answer = '0.1125'",
    ],
    "q2": [
        # Everything is read first.
        "def answer(rows, size):\n"
        "    rows = list(rows)\n"
        "    return [rows[i : i + size] for i in range(0, len(rows), size)]",
        # The rest is lost.
        "def answer(rows, size):\n"
        "    chunk = []\n"
        "    for row in rows:\n"
        "        chunk.append(row)\n"
        "        if len(chunk) == size:\n"
        "            yield chunk\n"
        "            chunk = []",
        # An empty chunk at the end.
        "def answer(rows, size):\n"
        "    chunk = []\n"
        "    for row in rows:\n"
        "        chunk.append(row)\n"
        "        if len(chunk) == size:\n"
        "            yield chunk\n"
        "            chunk = []\n"
        "    yield chunk",
        # One list that is emptied while others still hold it.
        "def answer(rows, size):\n"
        "    chunk, given = [], []\n"
        "    for row in rows:\n"
        "        chunk.append(row)\n"
        "        if len(chunk) == size:\n"
        "            given.append(chunk)\n"
        "            chunk.clear()\n"
        "    return given",
        "def answer(rows, size):\n    return rows[:size]",
    ],
    "q3": [
        "answer = [400, 300, 290, 10, 0]",
        "answer = [370, 330, 290, 10, 0]",
        "answer = [100, 200, 300, 200, 200]",
        "answer = [400, 300, 290, 10, 30]",
        "answer = [370, 300, 290, 40]",
        "answer = [399.5, 300, 290, 10, 0.5]",
    ],
}
