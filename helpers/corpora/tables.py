"""Your own table, read one row at a time: CSV with any usual separator, TSV or JSON lines, each
also gzipped. Training and prediction read through ``Table``, so they see the same rows, and a file
of any length takes the same memory.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from helpers.errors import CourseError, InvalidValue

KINDS = (".csv", ".tsv", ".jsonl")
ENDINGS = (*KINDS, *(f"{kind}.gz" for kind in KINDS))
SEPARATORS = ",;\t|"
LONGEST_CELL = 10_000_000  # characters; ends the hunt for the end of a cell that is never closed
_HEAD = 2_000  # rows from which the values of each column are known before the first row is given
_SEPARATOR_LINE = re.compile(r'"?sep=([^\w\s"]|\t)"?\s*', re.IGNORECASE)  # written by Excel
_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


class Row(NamedTuple):
    """line: number of its first line in the file, from 1. values: {column: text}, or any JSON
    object. replaced: lone surrogates (halves of characters) that became U+FFFD."""

    line: int
    values: dict[str, Any]
    replaced: int = 0


def split_name(path: Path) -> tuple[str, str]:
    """The name of a file without its ending, and its kind: one of KINDS, or "" if the file is
    not a table. "a.b.CSV.gz" gives ("a.b", ".csv")."""
    found = re.fullmatch(r"(.+?)(\.csv|\.tsv|\.jsonl)(\.gz)?", path.name, re.IGNORECASE)
    return (found[1], found[2].lower()) if found else (path.stem, "")


def is_table(path: Path) -> bool:
    """Whether the name of ``path`` ends in one of ENDINGS."""
    return split_name(path)[1] != ""


class Table:
    """The rows of a UTF-8 file, with or without a byte order mark; iterate as often as you like.

    kind: one of KINDS. separator: of the cells; "" for JSON lines. columns: the names in the
    header, without the spaces around them (a column without a name is called by its number); for
    JSON lines the keys met so far.

    Blank lines are skipped. Cells are given as they are, unless each name in the header follows a
    space ("text, label"): then the spaces after separators are dropped. The separator is the one
    that finds the wanted columns, then the most columns, in the header; a first line like "sep=;"
    decides it.

    Iterating raises a CourseError that names the lines of a row that cannot be read, has more or
    fewer cells than the header or, at the end, was joined from several by a stray pair of quotation
    marks; an InvalidValue if no line of a JSON lines file has a wanted column.
    """

    def __init__(self, path: Path, **wanted: str) -> None:
        """wanted: the columns there must be, by what they hold: ``text="body"``.

        Raises InvalidValue: the name doesn't end in one of ENDINGS, there is no such file, a
        wanted column is missing, or the header has a name twice; CourseError: it cannot be read.
        """
        self.path = Path(path)
        self.kind = split_name(self.path)[1]
        if not self.kind:
            raise InvalidValue(
                f"{self.path.name} isn't a table; its name must end in {', '.join(ENDINGS)}."
            )
        if not self.path.is_file():
            raise InvalidValue(f"there is no file {self.path}; check the path.")
        self._wanted = wanted
        self.separator = ""
        self.columns: list[str] = []
        if self.kind != ".jsonl":
            self._read_header()

    def __iter__(self) -> Iterator[Row]:
        return self._json_rows() if self.kind == ".jsonl" else self._csv_rows()

    def cell(self, row: Row, column: str, kinds: tuple[type, ...] = (str,)) -> str:
        """What ``row`` holds in ``column``, as text; "" for null and for a key that isn't there.

        kinds: the types that a JSON value may have. Raises CourseError, with the line, for another.
        """
        value = row.values.get(column)
        if value is None:
            return ""
        if not isinstance(value, kinds):
            raise CourseError(
                f"{self.path.name}, line {row.line}: {column!r} is {json.dumps(value)[:80]}; it "
                f"must be {'a string' if kinds == (str,) else 'a string or a number'} or null. "
                f"Correct that line."
            )
        return value if isinstance(value, str) else json.dumps(value)

    # -- CSV and TSV -------------------------------------------------------------------------------

    def _read_header(self) -> None:
        declared = _SEPARATOR_LINE.fullmatch(next(_lines(self.path), ""))
        self._skipped = 1 if declared else 0
        candidates = declared[1] if declared else "\t,;|" if self.kind == ".tsv" else SEPARATORS
        headers = [(separator, *self._header(separator)) for separator in candidates]
        wanted = set(self._wanted.values())
        self.separator, self._padded, self.columns = max(
            headers, key=lambda header: (wanted <= set(header[2]), len(header[2]))
        )
        self._check_wanted()
        if len(set(self.columns)) < len(self.columns):
            raise InvalidValue(
                f"{self.path.name} names a column twice: {', '.join(self.columns)}. Rename one."
            )

    def _header(self, separator: str) -> tuple[bool, list[str]]:
        """Whether a space follows each separator, and the names of the columns."""

        def read(padded: bool) -> list[str]:
            return next(filter(None, _reader(self._body(), separator, padded)), [])

        try:
            names = read(padded=False)
            padded = len(names) > 1 and all(name.startswith(" ") for name in names[1:])
            names = read(padded)
        except csv.Error:  # a quotation mark that makes sense with another separator only
            return False, []
        return padded, [name.strip() or f"column {n}" for n, name in enumerate(names, 1)]

    def _check_wanted(self) -> None:
        if self._wanted and not self.columns:
            what = "first line with the names of its columns" if self.separator else "rows"
            raise InvalidValue(f"{self.path.name} has no {what}.")
        for what, name in self._wanted.items():
            if name not in self.columns:
                raise InvalidValue(
                    f"{self.path.name} has no column {name!r}; it has {', '.join(self.columns)}. "
                    f"Name the one that holds the {what}s (--{what}-column NAME)."
                )

    def _body(self) -> Iterator[str]:
        return islice(_lines(self.path), self._skipped, None)

    def _csv_rows(self) -> Iterator[Row]:
        # Whether a row has swallowed others shows in values that its columns have elsewhere.
        known: list[set[str]] = [set() for _ in self.columns]
        for _, lines, cells in islice(self._parse(), _HEAD):
            _remember(known, lines, cells)
        joined = []
        for start, lines, cells in self._parse():
            if len(cells) != len(self.columns):
                raise CourseError(
                    f"{self.path.name}, {_name(start, lines)}: {len(cells)} "
                    f"cell{'s' * (len(cells) != 1)}, but the header names {len(self.columns)} "
                    f"column{'s' * (len(self.columns) != 1)}. Put a text that holds "
                    f"{self.separator!r} in quotation marks, or correct that row."
                )
            _remember(known, lines, cells)
            if len(lines) > 1 and self._is_joined(lines, cells, known):
                joined.append(_name(start, lines))
            yield Row(start, dict(zip(self.columns, cells, strict=True)))
        if joined:
            raise CourseError(
                f"{self.path.name}: a quotation mark opens a cell in one row and the next mark "
                f"closes it in another, which makes one row of {'; '.join(joined[:5])}"
                f"{f' and {len(joined) - 5:,} more' if len(joined) > 5 else ''}. Remove these "
                f"marks, or put each whole text in quotation marks and write those inside twice."
            )

    def _parse(self) -> Iterator[tuple[int, list[str], list[str]]]:
        """Of each row after the header: the number of its first line, its lines (until the next row
        is asked for) and its cells."""
        csv.field_size_limit(LONGEST_CELL)  # the default, 131,072, is less than some documents
        lines: list[str] = []

        def collect() -> Iterator[str]:
            for line in self._body():
                lines.append(line)
                yield line

        reader = _reader(collect(), self.separator, self._padded)
        start, header = self._skipped + 1, True
        try:
            for cells in reader:
                if cells and not header:
                    yield start, lines, cells
                header = header and not cells
                start += len(lines)
                lines.clear()
        except csv.Error as error:
            raise CourseError(
                f"{self.path.name}, line {start}: a cell of the row that begins here does not end "
                f"as it should ({error}, line {start + len(lines) - 1}). A quotation mark at the "
                f"beginning of a cell must be closed at its end, and those inside are written "
                f"twice."
            ) from None

    def _is_joined(
        self, lines: Sequence[str], cells: Sequence[str], known: Sequence[set[str]]
    ) -> bool:
        """Whether more than half of a row's lines look like rows of their own: they have as many
        cells as there are columns, and one column has values that it has elsewhere too, or that
        count up.

        The number of cells alone would not tell: prose has commas. Nor would half of the lines: of
        a sound row's lines, the first or the last always has a value of its column.
        """
        separator = self.separator + " " * self._padded
        cut = [line.rstrip("\r\n").split(separator) for line in lines]
        alike = [(number, row) for number, row in enumerate(cut) if len(row) == len(known)]
        for column, values in enumerate(known):
            if "\n" in cells[column] or "\r" in cells[column]:
                continue  # the cell that spans the lines
            repeated = sum(row[column] in values for _, row in alike)
            starts = Counter(
                int(row[column]) - number
                for number, row in alike
                if re.fullmatch("0|[1-9][0-9]{0,17}", row[column])
            )
            if 2 * max(repeated, *starts.values(), 0) > len(lines):
                return True
        return False

    # -- JSON lines --------------------------------------------------------------------------------

    def _json_rows(self) -> Iterator[Row]:
        for number, line in enumerate(_lines(self.path), 1):
            if not line.strip():
                continue
            where = f"{self.path.name}, line {number}"
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = getattr(error, "msg", error)  # without its "line 1", the only one it saw
                raise CourseError(
                    f"{where} is not JSON: {reason}. Each line must be one JSON object."
                ) from None
            if not isinstance(values, dict):
                raise CourseError(
                    f"{where} is a {type(values).__name__}; each line must be one JSON object: "
                    f'{{"text": "...", ...}}.'
                )
            replaced = 0
            if _SURROGATE_ESCAPE.search(line):  # most come in pairs and are whole characters
                whole, replaced = _SURROGATE.subn("\ufffd", json.dumps(values, ensure_ascii=False))
                values = json.loads(whole)
            self.columns += [name for name in values if name not in self.columns]
            yield Row(number, values, replaced)
        self._check_wanted()


def csv_line(values: Sequence[Any], separator: str = ",") -> bytes:
    """One line of a CSV file; None is an empty cell."""
    text = io.StringIO(newline="")
    # With this terminator a carriage return in a cell is quoted too; with "\n" alone it isn't.
    csv.writer(text, delimiter=separator, lineterminator="\r\n").writerow(values)
    return text.getvalue().removesuffix("\r\n").encode() + b"\n"


def json_line(values: dict[str, Any]) -> bytes:
    """One line of a JSON lines file."""
    return json.dumps(values, ensure_ascii=False).encode() + b"\n"


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, line ends included. CourseError names the one that is not."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        # Bytes that are not UTF-8 become surrogates, which tell the line and the byte.
        with opened(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            for number, line in enumerate(file, 1):
                if wrong := _SURROGATE.search(line):
                    raise CourseError(
                        f"{path.name} cannot be read as UTF-8: line {number} holds the byte "
                        f"0x{ord(wrong[0]) - 0xDC00:02x}. Save the table again in UTF-8 "
                        f"(spreadsheets offer it when saving)."
                    )
                yield line
    except (OSError, EOFError, zlib.error) as error:
        raise CourseError(f"{path} cannot be read: {error}. Check the file.") from None


def _reader(lines: Iterator[str], separator: str, padded: bool) -> Any:
    return csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=padded)


def _name(start: int, lines: Sequence[str]) -> str:
    return f"line {start}" if len(lines) == 1 else f"lines {start} to {start + len(lines) - 1}"


def _remember(known: Sequence[set[str]], lines: Sequence[str], cells: Sequence[str]) -> None:
    """Add the cells of a row to the values of their columns: short ones, 1,000 at most."""
    if len(lines) == 1:
        for values, cell in zip(known, cells, strict=False):
            if 0 < len(cell) <= 100 and len(values) < 1_000:
                values.add(cell)
