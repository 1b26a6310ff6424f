"""Labels for a file of any length: in constant memory, and without losing what was done before a
kill.

The whole file is checked before the first label. Then rows are labelled in chunks of a fixed number
of rows. A chunk is written to ``<out>.part`` and forced to the disk before
``<out>.progress.json`` records it. A resumed run cuts off what that record does not cover and goes
on with the next chunk, so each text is in the same batch as in an uninterrupted run, and the output
is the same to the last bit.
"""

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from helpers import batches, evaluation
from helpers.corpora.tables import Table, csv_line, json_line
from helpers.errors import CourseError, InvalidValue
from helpers.files import model_folder, sha256_of, write_text
from helpers.tasks.running import load_run, recorded_run

ADDED = ("predicted_label", "probability")
_MODEL = ("config.json", "model.safetensors", "tokenizer.json")  # what identifies a model


@dataclass
class Summary:
    """What was predicted. rows: in the file. empty: rows without a text, which get no label.
    truncated: texts longer than the model reads. replaced: halves of characters in the file, which
    became U+FFFD. labels: how often each was given. confidence: sum of the probabilities of the
    labels given. resumed_from: rows that an earlier run had done."""

    rows: int = 0
    empty: int = 0
    truncated: int = 0
    replaced: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    confidence: float = 0.0
    resumed_from: int = 0

    @property
    def mean_confidence(self) -> float:
        """Mean probability of the labels given; 0 without any."""
        return self.confidence / max(1, self.rows - self.empty)


def predict_file(
    folder: Path,
    source: Path,
    out: Path,
    *,
    text_column: str | None = None,
    chunk_rows: int = 512,
    resume: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Summary:
    """Label every row of a table (``corpora.tables.Table``) with a saved text classifier.

    folder: what ``train`` wrote, or a folder with a classifier. out: a file of the same kind, with
    the same separator, in UTF-8 and not compressed: each row of the source, in its order, with
    ``predicted_label`` and ``probability`` (six decimals; both empty if there is no text).
    text_column: None for the one that the model was trained on, by the run's metrics.json, or
    "text". chunk_rows: rows held in memory at once. resume: go on where an interrupted run stopped.

    Raises InvalidValue: not a table, a column that isn't there or would be overwritten,
    ``chunk_rows`` below 1, a model of another kind. CourseError: a row that cannot be read (its
    line is named), ``out`` or its unfinished part exists, or that part belongs to another source,
    model or setting. All of these are raised before a row is labelled.
    """
    folder, source, out = Path(folder), Path(source), Path(out)
    column = text_column or recorded_run(folder).get("text_column", "text")
    table = Table(source, text=column)
    replaced = _check(table, column, out, chunk_rows)
    model, tokenizer = load_run(folder)
    names = label_names(model, folder)
    parts = [path for path in map(model_folder(folder).joinpath, _MODEL) if path.is_file()]
    run = {
        "source": sha256_of(source),
        "model": "".join(sha256_of(path)[:16] for path in parts),
        "text_column": column,
        "chunk_rows": chunk_rows,
    }
    part, progress = Path(f"{out}.part"), Path(f"{out}.progress.json")
    summary, written = _restore(part, progress, run, out, resume)
    summary.replaced = replaced
    if resume:
        say(f"{summary.resumed_from:,} rows of an earlier run are kept")
    rows = islice(table, summary.rows, None)
    with part.open("r+b" if written else "wb") as file:
        file.seek(written)
        file.truncate()
        if table.separator and not written:
            file.write(csv_line([*table.columns, *ADDED], table.separator))
        while chunk := list(islice(rows, chunk_rows)):
            texts = [table.cell(row, column) for row in chunk]
            labels = _label(model, tokenizer, names, texts, summary)
            for row, given in zip(chunk, labels, strict=True):
                values = row.values | dict(zip(ADDED, given, strict=True))
                if table.separator:
                    file.write(csv_line(list(values.values()), table.separator))
                else:
                    file.write(json_line(values))
            file.flush()
            os.fsync(file.fileno())
            state = {"run": run, "written": file.tell(), "summary": asdict(summary)}
            write_text(progress, json.dumps(state))
            say(f"{summary.rows:,} rows")
    part.replace(out)
    progress.unlink(missing_ok=True)
    return summary


def label_names(model: Any, folder: Path) -> list[str]:
    """The classes of a text classifier, in the order of their numbers; InvalidValue for a model of
    another kind."""
    if not type(model).__name__.endswith("SequenceClassification") or model.config.num_labels < 2:
        raise InvalidValue(
            f"the model in {folder} is a {type(model).__name__} with {model.config.num_labels} "
            f"outputs; labels for texts come from a classifier, such as the one of: python -m "
            f"helpers train reviews"
        )
    return [str(model.config.id2label[i]) for i in range(model.config.num_labels)]


def _label(
    model: Any, tokenizer: Any, names: list[str], texts: list[str], summary: Summary
) -> list[tuple[str, float] | tuple[None, None]]:
    """The label and its probability for each text; counts them in ``summary``."""
    given: dict[int, tuple[str, float]] = {}
    full = [i for i, text in enumerate(texts) if text.strip()]
    if full:
        some, limit = [texts[i] for i in full], tokenizer.model_max_length
        encoded = batches.encode(tokenizer, some, max_length=limit)
        found = evaluation.predict(model, encoded)
        best = found.probabilities.max(axis=1)
        for i, number, probability in zip(full, found.classes, best, strict=True):
            given[i] = names[number], round(float(probability), 6)
        summary.truncated += encoded.truncated
    counts = Counter(summary.labels)
    counts.update(label for label, _ in given.values())
    summary.labels = {name: counts[name] for name in names if counts[name]}
    summary.confidence += sum(probability for _, probability in given.values())
    summary.rows += len(texts)
    summary.empty += len(texts) - len(full)
    return [given.get(i, (None, None)) for i in range(len(texts))]


def _check(table: Table, column: str, out: Path, chunk_rows: int) -> int:
    """Read the whole table; returns how many halves of characters were replaced in it."""
    if out.suffix.lower() != table.kind:
        raise InvalidValue(
            f"the labels of {table.path.name} go into a {table.kind} file; {out.name} is another "
            f"kind."
        )
    if not out.parent.is_dir():
        raise InvalidValue(f"there is no folder {out.parent} to write {out.name} into; make it.")
    if chunk_rows < 1:
        raise InvalidValue(f"chunk_rows is {chunk_rows}; it must be at least 1, usually 512.")
    replaced = 0
    for row in table:
        table.cell(row, column)
        replaced += row.replaced
    if taken := [name for name in ADDED if name in table.columns]:
        raise InvalidValue(
            f"{table.path.name} already has a column {taken[0]!r}, and nothing is overwritten. "
            f"Rename it first."
        )
    return replaced


def _restore(
    part: Path, progress: Path, run: dict[str, Any], out: Path, resume: bool
) -> tuple[Summary, int]:
    """What an interrupted run has done, and how many bytes of its part are valid."""
    if out.exists():
        raise CourseError(f"{out} exists, and nothing is overwritten. Name another, or remove it.")
    if part.exists() and not resume:
        raise CourseError(
            f"{part.name} is left over from an interrupted run. Go on with --resume, or remove it."
        )
    if not progress.exists() or not part.exists():
        return Summary(), 0
    state = json.loads(progress.read_text(encoding="utf-8"))
    other = [key for key, value in run.items() if state["run"].get(key) != value]
    if other or part.stat().st_size < state["written"]:
        why = f"another {' and '.join(other)}" if other else "a file that has lost its end"
        raise CourseError(
            f"{part.name} is from {why.replace('_', ' ')}: going on would mix two runs. Remove "
            f"{part.name} and {progress.name} to start again."
        )
    summary = Summary(**state["summary"])
    summary.resumed_from = summary.rows
    return summary, state["written"]
