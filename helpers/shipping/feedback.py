"""A log of what a model said and of what people said about it: one JSON object a line, only ever
appended to. It holds the texts: tell those who write them, and keep it where your rules allow."""

import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.errors import CourseError, InvalidValue, unknown_name


class FeedbackLog:
    """The log at ``path``, made when the first line is written.

    labels: of the model, in its order. A line cut short by a crash is left out when reading.
    """

    def __init__(
        self, path: str | Path, labels: list[str], *, clock: Callable[[], float] = time.time
    ) -> None:
        self.path, self.labels, self._clock = Path(path), list(labels), clock

    def record(self, text: str, label: str, probability: float) -> str:
        """Note a prediction; returns its id, under which it can be corrected. Raises InvalidValue
        for a label that the model does not have or a probability outside 0 to 1."""
        self._check(label)
        if not 0 <= probability <= 1:
            raise InvalidValue(f"probability is {probability}; it must be from 0 to 1.")
        id = secrets.token_hex(8)
        line = {"id": id, "text": text, "label": label, "probability": probability}
        self._append({"kind": "prediction", **line})
        return id

    def correct(self, id: str, label: str) -> None:
        """Note what a person says is right; the last word on an id counts. ``label`` may be the
        predicted one: agreement is feedback too. Raises InvalidValue: unknown id or label."""
        self._check(label)
        if id not in {row["id"] for row in self.predictions()}:
            raise InvalidValue(f"there is no prediction {id!r} in {self.path.name}.")
        self._append({"kind": "correction", "id": id, "label": label})

    def predictions(self) -> list[dict[str, Any]]:
        """Every prediction in its order; ``corrected`` is the last word of a person, or None."""
        lines = self._lines()
        said = {line["id"]: line["label"] for line in lines if line["kind"] == "correction"}
        return [
            {key: line[key] for key in ("id", "time", "text", "label", "probability")}
            | {"corrected": said.get(line["id"])}
            for line in lines
            if line["kind"] == "prediction"
        ]

    def summary(self) -> dict[str, Any]:
        """``predictions``, ``answered`` (by a person), ``agreed``, and ``confusions``:
        {(said, right): count} of those that were wrong. ``agreed / answered`` is no accuracy:
        people answer mostly where something struck them."""
        answered = [row for row in self.predictions() if row["corrected"] is not None]
        wrong = [row for row in answered if row["corrected"] != row["label"]]
        return {
            "predictions": len(self.predictions()),
            "answered": len(answered),
            "agreed": len(answered) - len(wrong),
            "confusions": dict(Counter((row["label"], row["corrected"]) for row in wrong)),
        }

    def _check(self, label: str) -> None:
        if label not in self.labels:
            raise unknown_name("label", label, self.labels)

    def _append(self, line: dict[str, Any]) -> None:
        """One whole line in one write, on the disk when this returns."""
        content = json.dumps({**line, "time": self._clock()}, ensure_ascii=False).encode() + b"\n"
        with self.path.open("ab+") as file:
            size = file.seek(0, os.SEEK_END)
            if size and file.seek(size - 1) is not None and file.read(1) != b"\n":
                content = b"\n" + content  # an earlier writer was cut off
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def _lines(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                parsed = json.loads(line)
            except ValueError:
                continue
            if not isinstance(parsed, dict) or parsed.get("kind") not in (
                "prediction",
                "correction",
            ):
                raise CourseError(f"{self.path} is no feedback log; name another file.")
            kept.append(parsed)
        return kept
