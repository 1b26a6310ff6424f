"""Rows of a CSV or JSONL file one by one, so that a file of any length needs the same memory."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from helpers.errors import CourseError, InvalidValue

KINDS = (".csv", ".jsonl")
Row = dict[str, Any]


def check_kind(path: Path) -> None:
    """Raises InvalidValue unless ``path`` is a file that ends in one of KINDS."""
    if path.suffix.lower() not in KINDS:
        raise InvalidValue(
            f"{path.name} ends in {path.suffix or 'nothing'}; give a CSV file with a header "
            f"(.csv) or one JSON object a line (.jsonl)."
        )
    if not path.is_file():
        raise InvalidValue(f"there is no file {path}; check the path.")


def columns_of(path: Path) -> list[str]:
    """The columns of a CSV file, or the keys of a JSONL file's first row. CourseError: there are
    none, or a CSV names one twice."""
    if path.suffix.lower() == ".jsonl":
        first = next(read_rows(path), None)
        if first is None:
            raise CourseError(f"{path.name} holds no rows.")
        return list(first)
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            columns = next(csv.reader(file), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise _unreadable(path, 1, error) from None
    if not columns or len(set(columns)) < len(columns):
        raise CourseError(
            f"{path.name} needs a first line with the names of its columns, all different; "
            f"found: {', '.join(columns) or 'nothing'}."
        )
    return columns


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a UTF-8 file, empty lines left out: {column: text} for CSV, any JSON object for
    JSONL. CourseError names the line of a row that cannot be read."""
    read = _csv_rows if path.suffix.lower() == ".csv" else _json_rows
    line = 0
    try:
        for line, row in read(path):  # noqa: B007 (the error below names it)
            yield row
    except (ValueError, csv.Error) as error:
        raise _unreadable(path, line, error) from None


def csv_line(values: Sequence[Any]) -> bytes:
    """One line of a CSV file; None is an empty field."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()


def json_line(row: Row) -> bytes:
    """One line of a JSONL file."""
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _csv_rows(path: Path) -> Iterator[tuple[int, Row]]:
    columns = columns_of(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        next(reader)
        for values in reader:
            if values and len(values) != len(columns):
                raise ValueError(
                    f"a row of {len(values)} values for {len(columns)} columns ends in line "
                    f"{reader.line_num}"
                )
            if values:
                yield reader.line_num, dict(zip(columns, values, strict=True))


def _json_rows(path: Path) -> Iterator[tuple[int, Row]]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            row = json.loads(text)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} holds a {type(row).__name__}, no JSON object")
            yield number, row


def _unreadable(path: Path, line: int, error: Exception) -> CourseError:
    if isinstance(error, UnicodeDecodeError):
        return CourseError(
            f"{path.name} is not UTF-8 somewhere after line {line} ({error.reason}). Save it as "
            f"UTF-8."
        )
    return CourseError(f"{path.name} cannot be read after line {line}: {error}. Mend that row.")
