"""Labels for a file of any length: in constant memory, and without losing what a kill left done.

Rows go through in chunks that are cut by counting alone. A chunk is written to ``<out>.part`` and
forced to the disk; only then does ``<out>.progress.json`` say so. A run that is taken up again cuts
off what that file does not vouch for and goes on at the next chunk, so the texts share batches as
they would have, and the output is the same to the last bit.
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
from helpers.corpora.tables import Row, check_kind, columns_of, csv_line, json_line, read_rows
from helpers.errors import CourseError, InvalidValue
from helpers.files import model_folder, sha256_of, write_text
from helpers.tasks.running import load_run, say_nothing

ADDED = ("predicted_label", "probability")


@dataclass
class Summary:
    """What was predicted. rows: in the file. empty: rows without a text, which get no label.
    truncated: texts longer than the model reads. labels: how often each was given.
    confidence: sum of the probabilities of the labels given. resumed_from: rows that an earlier
    run had done."""

    rows: int = 0
    empty: int = 0
    truncated: int = 0
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
    text_column: str = "text",
    chunk_rows: int = 512,
    resume: bool = False,
    say: Callable[[str], None] = say_nothing,
) -> Summary:
    """Label every row of a CSV or JSONL file with a saved text classifier.

    folder: what ``train`` wrote, or a folder with a classifier. source: UTF-8; a CSV with a header,
    or one JSON object a line. out: a file of the same kind: each row of the source, in its order,
    with ``predicted_label`` and ``probability`` (six decimals; both empty where there is no text).
    chunk_rows: rows held in memory at once. resume: go on where an interrupted run stopped.

    Raises InvalidValue: another kind of file, a column that is not there or would be overwritten,
    ``chunk_rows`` below 1, a model of another kind. CourseError: a row that cannot be read (its
    line is named), ``out`` or its unfinished part exists, or that part belongs to another source,
    model or setting.
    """
    source, out = Path(source), Path(out)
    columns = _check_call(source, out, text_column, chunk_rows)
    model, tokenizer = load_run(folder)
    names = label_names(model, folder)
    run = {
        "source": sha256_of(source),
        "model": _hash_model(Path(folder)),
        "text_column": text_column,
        "chunk_rows": chunk_rows,
    }
    part, progress = Path(f"{out}.part"), Path(f"{out}.progress.json")
    summary, written = _restore(part, progress, run, out, resume)
    if resume:
        say(f"{summary.resumed_from:,} rows of an earlier run are kept")
    is_csv = source.suffix.lower() == ".csv"
    rows = islice(read_rows(source), summary.rows, None)
    with part.open("r+b" if written else "wb") as file:
        file.seek(written)
        file.truncate()
        if is_csv and not written:
            file.write(csv_line([*columns, *ADDED]))
        while chunk := list(islice(rows, chunk_rows)):
            for row in _label(model, tokenizer, names, chunk, text_column, summary):
                file.write(csv_line(list(row.values())) if is_csv else json_line(row))
            _force(file)
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
    model: Any,
    tokenizer: Any,
    names: list[str],
    chunk: list[Row],
    text_column: str,
    summary: Summary,
) -> list[Row]:
    """The rows with their labels; counts them in ``summary``."""
    for number, row in enumerate(chunk, summary.rows + 1):
        if not isinstance(row.get(text_column), str):
            raise CourseError(
                f"row {number} has {row.get(text_column)!r} under {text_column!r}, and a text is "
                f"wanted. Mend that row, or write an empty text."
            )
    full = [i for i, row in enumerate(chunk) if row[text_column].strip()]
    given: dict[int, tuple[str, float]] = {}
    if full:
        texts = [chunk[i][text_column] for i in full]
        encoded = batches.encode(tokenizer, texts, max_length=tokenizer.model_max_length)
        found = evaluation.predict(model, encoded)
        best = zip(full, found.classes, found.probabilities.max(axis=1), strict=True)
        given = {i: (names[number], round(float(p), 6)) for i, number, p in best}
        summary.truncated += encoded.truncated
    counts = Counter(summary.labels)
    counts.update(label for label, _ in given.values())
    summary.labels = {name: counts[name] for name in names if counts[name]}
    summary.confidence += sum(probability for _, probability in given.values())
    summary.rows += len(chunk)
    summary.empty += len(chunk) - len(full)
    nothing = (None, None)
    return [
        row | dict(zip(ADDED, given.get(i, nothing), strict=True)) for i, row in enumerate(chunk)
    ]


def _check_call(source: Path, out: Path, text_column: str, chunk_rows: int) -> list[str]:
    """The source's columns, if the call can be carried out."""
    check_kind(source)
    if out.suffix.lower() != source.suffix.lower():
        raise InvalidValue(f"{source.name} gives a file of its own kind; {out.name} is another.")
    if not out.parent.is_dir():
        raise InvalidValue(f"there is no folder {out.parent} to write {out.name} into; make it.")
    if chunk_rows < 1:
        raise InvalidValue(f"chunk_rows is {chunk_rows}; it must be at least 1, usually 512.")
    columns = columns_of(source)
    if text_column not in columns:
        raise InvalidValue(
            f"{source.name} has no column {text_column!r}; it has {', '.join(columns)}. "
            f"Name the one that holds the texts (--text-column NAME)."
        )
    if taken := [name for name in ADDED if name in columns]:
        raise InvalidValue(
            f"{source.name} already has a column {taken[0]!r}, and nothing is overwritten. "
            f"Rename it first."
        )
    return columns


def _restore(
    part: Path, progress: Path, run: dict[str, Any], out: Path, resume: bool
) -> tuple[Summary, int]:
    """What an interrupted run has done, and how many bytes of its part count."""
    if out.exists():
        raise CourseError(f"{out} exists, and nothing is overwritten. Name another, or remove it.")
    if part.exists() and not resume:
        raise CourseError(
            f"{part.name} is left of an interrupted run. Go on with --resume, or remove it."
        )
    if not progress.exists() or not part.exists():
        return Summary(), 0
    state = json.loads(progress.read_text(encoding="utf-8"))
    other = [key for key, value in run.items() if state["run"].get(key) != value]
    if other or part.stat().st_size < state["written"]:
        why = f"another {' and '.join(other)}" if other else "a file that has lost its end"
        raise CourseError(
            f"{part.name} is of {why.replace('_', ' ')}: going on would mix two runs. Remove "
            f"{part.name} and {progress.name} to start again."
        )
    summary = Summary(**state["summary"])
    summary.resumed_from = summary.rows
    return summary, state["written"]


def _force(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _hash_model(folder: Path) -> str:
    """What a model is recognised by, its tokenizer included."""
    inner = model_folder(folder)
    parts = [inner / name for name in ("config.json", "model.safetensors", "tokenizer.json")]
    return "".join(sha256_of(path)[:16] for path in parts if path.is_file())
