"""The files of each corpus, read into rows as they lie there.

Every reader takes the asset's folder and the names of the classes, and returns the rows as they
lie in the files, the rows repaired (the same ones where nothing is broken) and counts of what it
met. A row is a dictionary with ``text``, ``label`` (class number), for reviews ``rating``, and
``split`` ("train" or "test") where the publisher made the split.
"""

import csv
import gzip
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from helpers.errors import AssetError, CourseError, InvalidValue

Row = dict[str, Any]
Contents = tuple[list[Row], list[Row], dict[str, int]]
SEPARATORS = (",", ";", "\t")  # of the fields in a table of one's own


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
    """A CSV table with a header, UTF-8 with or without a byte order mark, its fields separated by
    commas, semicolons or tabs: the classes (the distinct labels in order, as numbers if they all
    are), the rows, and how many rows were left out for an empty text or label.

    Raises CourseError: it cannot be read, a quotation mark is not closed, a row has more fields
    than the header, fewer than two classes; InvalidValue: a column is missing or named twice.
    """
    lines = _fields(path, _utf8(path), text_column, label_column)
    whole = [(text, label) for text, label in lines if text and label]
    names = _in_order({label for _, label in whole})
    if len(names) < 2:
        found = f"{len(whole):,} of its {len(lines):,} rows have both a text and a label"
        found += f", and the label is always {names[0]!r}" if names else ""
        raise CourseError(
            f"{path.name} cannot train a classifier: {found}. It needs at least two classes in "
            f"column {label_column!r}; is it the right one?"
        )
    numbers = {name: number for number, name in enumerate(names)}
    rows = [{"text": text, "label": numbers[label]} for text, label in whole]
    return names, rows, len(lines) - len(whole)


def _utf8(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CourseError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CourseError(
            f"{path.name} cannot be read as UTF-8: line {line} holds the byte "
            f"0x{content[error.start]:02x}. Save the table again as CSV in UTF-8 (spreadsheets "
            f"offer it when saving)."
        ) from None


def _fields(path: Path, content: str, text_column: str, label_column: str) -> list[tuple[str, str]]:
    """Text and label of each row that is not blank, without white space around them."""
    separator, header = _header(path, content, text_column, label_column)
    text, label = header.index(text_column), header.index(label_column)
    table = _reader(content, separator)
    found = []
    try:
        next(table)
        for row in filter(None, table):
            if any(row[len(header) :]):
                raise CourseError(
                    f"{path.name}, line {table.line_num}: {len(row)} fields, but the header names "
                    f"{len(header)}. A text that holds {separator!r} must stand in quotation marks."
                )
            row += [""] * (len(header) - len(row))
            found.append((row[text].strip(), row[label].strip()))
    except csv.Error as error:
        raise CourseError(
            f"{path.name}, near line {table.line_num}: {error}. A quotation mark opens a field "
            f"only at its beginning, must be closed at its end, and is written twice inside."
        ) from None
    return found


def _header(path: Path, content: str, text_column: str, label_column: str) -> tuple[str, list[str]]:
    """What separates the fields, and the names of the columns."""
    if text_column == label_column:
        raise InvalidValue(f"texts and labels cannot both stand in column {text_column!r}.")
    found = {}
    for separator in SEPARATORS:
        try:
            names = [name.strip() for name in next(_reader(content, separator), [])]
        except csv.Error:
            names = []
        if {text_column, label_column} <= set(names):
            if names.count(text_column) + names.count(label_column) > 2:
                raise InvalidValue(f"{path.name} names a column twice: {', '.join(names)}.")
            return separator, names
        found[separator] = names
    names = max(found.values(), key=len)
    missing = text_column if text_column not in names else label_column
    raise InvalidValue(
        f"{path.name} has no column {missing!r}. There are: {', '.join(names) or 'none'}. Name "
        f"yours with --text-column and --label-column."
    )


def _reader(content: str, separator: str) -> Any:
    return csv.reader(
        io.StringIO(content, newline=""), delimiter=separator, strict=True, skipinitialspace=True
    )


def _in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Sorted; by their values if all are numbers, so that 2 stands before 10."""
    names = sorted(labels)
    try:
        return tuple(sorted(names, key=float))
    except ValueError:
        return tuple(names)


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
