"""The files of each corpus, read into rows as they lie there.

Every reader takes the asset's folder and the names of the classes, and returns the rows as they
lie in the files, the rows repaired (the same ones where nothing is broken) and counts of what it
met. A row is a dictionary with ``text``, ``label`` (class number), for reviews ``rating``, and
``split`` ("train" or "test") where the publisher made the split.
"""

import csv
import gzip
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from helpers.errors import AssetError, CourseError, InvalidValue

Row = dict[str, Any]
Contents = tuple[list[Row], list[Row], dict[str, int]]


def read_news(folder: Path, names: Sequence[str]) -> Contents:
    paths = [path for path in folder.rglob("*.txt") if path.parent.name in names]
    if not paths:
        raise _missing(folder, "<topic>/*.txt")
    rows, not_utf8 = [], 0
    for path in sorted(paths, key=lambda path: (path.parent.name, path.name)):
        text, is_utf8 = read_text(path)
        not_utf8 += not is_utf8
        rows.append({"text": text, "label": names.index(path.parent.name)})
    return rows, rows, {"not_utf8": not_utf8}


def read_text(path: Path) -> tuple[str, bool]:
    """An article with line feeds for line ends and no white space around it, and whether its
    file is UTF-8 (otherwise it is read as Windows-1252)."""
    content = path.read_bytes()
    try:
        text, is_utf8 = content.decode("utf-8"), True
    except UnicodeDecodeError:
        text, is_utf8 = content.decode("cp1252"), False
    return text.replace("\r\n", "\n").strip(), is_utf8


def read_messages(folder: Path, names: Sequence[str]) -> Contents:
    """The table was made from lines ``ham<tab>text``; where a text began with a quotation mark
    that nothing closed, all lines up to the next such mark became part of one row."""
    rows = [
        {"text": line["text"], "label": int(line["spam"])}
        for line in csv.DictReader(io.StringIO(_text(folder, "sms-spam.csv"), newline=""))
    ]
    whole = []
    for row in rows:
        first, *swallowed = row["text"].split("\n")
        whole.append({"text": first.strip(), "label": row["label"]})
        for line in swallowed:
            label, text = line.split("\t", 1)
            whole.append({"text": text.strip(), "label": names.index(label)})
    malformed = sum("\n" in row["text"] for row in rows)
    return rows, whole, {"malformed": malformed}


def read_table(
    path: Path, text_column: str, label_column: str
) -> tuple[tuple[str, ...], list[Row], int]:
    """A CSV file with a header, UTF-8 with or without a byte order mark: the classes (the
    distinct labels, sorted), the rows, and how many rows were left out for an empty text or
    label. Raises CourseError: it cannot be read or has no such rows; InvalidValue: a column is
    missing."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CourseError(
            f"{path} cannot be read as UTF-8 text: {error}. Save it as CSV in UTF-8."
        ) from error
    table = csv.DictReader(io.StringIO(content, newline=""))
    for column in (text_column, label_column):
        if column not in (table.fieldnames or ()):
            raise InvalidValue(
                f"{path.name} has no column {column!r}. There are: "
                f"{', '.join(table.fieldnames or ['none'])}. Name yours with --text-column and "
                f"--label-column."
            )
    try:
        lines = [((row[text_column] or "").strip(), (row[label_column] or "").strip())
                 for row in table]  # fmt: skip
    except csv.Error as error:
        raise CourseError(f"{path.name}, line {table.line_num}: {error}.") from None
    whole = [(text, label) for text, label in lines if text and label]
    names = tuple(sorted({label for _, label in whole}))
    if len(names) < 2:
        raise CourseError(
            f"{path.name} has {len(whole)} rows with a text and a label, of {len(names)} classes "
            f"in column {label_column!r}; a classifier needs at least two classes."
        )
    rows = [{"text": text, "label": names.index(label)} for text, label in whole]
    return names, rows, len(lines) - len(whole)


def read_ratings(file: str) -> Callable[[Path, Sequence[str]], Contents]:
    """A reader of one of Hutto and Gilbert's files, ``<file>_GroundTruth.csv.gz``."""

    def read(folder: Path, names: Sequence[str]) -> Contents:
        text = _text(folder, f"{file}_GroundTruth.csv.gz")
        rows = [
            {
                "text": line["text"].strip(),
                "label": int(float(line["sentiment"]) > 0),
                "rating": float(line["sentiment"]),
            }
            for line in csv.DictReader(io.StringIO(text, newline=""))
        ]
        return rows, rows, {}

    return read


def read_hub(text_column: str, splits: dict[str, str]) -> Callable[[Path, Sequence[str]], Contents]:
    """A reader of parquet files named ``<split>-00000-of-00001.parquet``; ``splits`` says which of
    the publisher's splits serves as which of ours."""

    def read(folder: Path, names: Sequence[str]) -> Contents:
        rows: list[Row] = []
        for theirs, ours in splits.items():
            for row in read_parquet(folder, theirs, [text_column, "label"]):
                rows.append(
                    {"text": row[text_column].strip(), "label": row["label"], "split": ours}
                )
        return rows, rows, {}

    return read


def read_parquet(folder: Path, split: str, columns: Sequence[str]) -> list[Row]:
    """The rows of a split's parquet files, of which either the name or the folder begins with the
    split's name, as dictionaries of ``columns``."""
    import pyarrow.parquet

    paths = sorted(
        (
            path
            for path in folder.rglob("*.parquet")
            if path.name.startswith(split) or path.parent.name == split
        ),
        key=lambda path: path.as_posix(),
    )
    if not paths:
        raise _missing(folder, f"{split}*.parquet")
    return [
        row
        for path in paths
        for row in pyarrow.parquet.read_table(path, columns=list(columns)).to_pylist()
    ]


def _text(folder: Path, file_name: str) -> str:
    paths = sorted(folder.rglob(file_name), key=lambda path: path.as_posix())
    if not paths:
        raise _missing(folder, file_name)
    content = paths[0].read_bytes()
    return (gzip.decompress(content) if file_name.endswith(".gz") else content).decode("utf-8")


def _missing(folder: Path, file_name: str) -> AssetError:
    return AssetError(
        f"{folder} holds no {file_name}. Remove that folder, then fetch again: "
        f"python -m helpers fetch"
    )
