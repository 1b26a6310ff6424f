"""Wrong answers that a learner might well give in lesson 09."""

MISTAKES = {
    "q1": [
        "answer = 7 * 4",
        "answer = 7 * 8",
        "answer = 7 * 12",
        "answer = 7 * 2",
        "answer = 7e9 * 16 / 2**30",
        "answer = 7e9 * 16",
        "answer = 7",
        "answer = '112 GB'",
    ],
    "q2": [
        # Not rounded, rounded down.
        "def answer(batch_size, fixed, per_example, memory):\n"
        "    return batch_size / ((memory - fixed) // per_example)",
        "def answer(batch_size, fixed, per_example, memory):\n"
        "    return max(1, batch_size // ((memory - fixed) // per_example))",
        # What is fixed forgotten, or divided as well.
        "def answer(batch_size, fixed, per_example, memory):\n"
        "    return -(-batch_size * per_example // memory)",
        "def answer(batch_size, fixed, per_example, memory):\n"
        "    return -(-(fixed + batch_size * per_example) // memory)",
        # One example at a time always fits.
        "def answer(batch_size, fixed, per_example, memory):\n    return batch_size",
        # The size of a micro-batch instead of their number.
        "def answer(batch_size, fixed, per_example, memory):\n"
        "    return min(batch_size, (memory - fixed) // per_example)",
        # Only powers of two.
        "def answer(batch_size, fixed, per_example, memory):\n"
        "    k = 1\n"
        "    while fixed + -(-batch_size // k) * per_example > memory:\n"
        "        k *= 2\n"
        "    return k",
        # Never says that it cannot be done.
        "def answer(batch_size, fixed, per_example, memory):\n"
        "    return -(-batch_size // max(1, (memory - fixed) // per_example))",
    ],
    "q3": [
        "def answer(rows_by_process, batch_size):\n    return len(rows_by_process) > 1",
        "def answer(rows_by_process, batch_size):\n"
        "    return sum(map(len, rows_by_process)) == batch_size",
        "def answer(rows_by_process, batch_size):\n"
        "    return set().union(*rows_by_process) == set(range(batch_size))",
        "def answer(rows_by_process, batch_size):\n"
        "    return len({len(rows) for rows in rows_by_process}) == 1 and len(rows_by_process) > 1",
        "def answer(rows_by_process, batch_size):\n"
        "    rows = sorted(sum(rows_by_process, []))\n"
        "    return rows == list(range(batch_size)) and len(rows_by_process) > 1",
        "def answer(rows_by_process, batch_size):\n    return len(rows_by_process)",
    ],
    "q4": [
        "def answer(C):\n    return (C / 20) ** 0.5, 20 * (C / 20) ** 0.5",
        "def answer(C):\n    return C / 120, C / 6",
        "def answer(C):\n    return 20 * (C / 120) ** 0.5, (C / 120) ** 0.5",
        "def answer(C):\n    return (C / 6) ** 0.5, (C / 6) ** 0.5",
        "def answer(C):\n    return (C / 120) ** 0.5",
        "def answer(C):\n    return (C / 40) ** 0.5, 20 * (C / 40) ** 0.5",
    ],
}
