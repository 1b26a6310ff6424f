"""The files of each corpus, read into rows as they are there.

A reader takes, last, the asset's folder and the names of the classes. It returns the rows of the
files, the rows after repair (the same ones where nothing is broken) and counts of what it met. A
row is a dictionary with ``text``, ``label`` (class number), for reviews ``rating``, and ``split``
("train" or "test") where the publisher made the split. AssetError: the folder lacks a file.
"""

import csv
import gzip
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from helpers.errors import AssetError

Row = dict[str, Any]
Contents = tuple[list[Row], list[Row], dict[str, int]]
Reader = Callable[[Path, Sequence[str]], Contents]


def read_news(folder: Path, names: Sequence[str]) -> Contents:
    """One article per file, in a folder named after its topic."""
    rows, not_utf8 = [], 0
    for label, name in enumerate(names):
        for path in _find(folder, f"{name}/*.txt"):
            text, is_utf8 = read_text(path)
            not_utf8 += not is_utf8
            rows.append({"text": text, "label": label})
    return rows, rows, {"not_utf8": not_utf8}


def read_text(path: Path) -> tuple[str, bool]:
    """An article with line feeds as line ends and no white space around it, and whether its
    file is UTF-8 (otherwise it is read as Windows-1252)."""
    content = path.read_bytes()
    try:
        text, is_utf8 = content.decode("utf-8"), True
    except UnicodeDecodeError:
        text, is_utf8 = content.decode("cp1252"), False
    return text.replace("\r\n", "\n").strip(), is_utf8


def read_messages(folder: Path, names: Sequence[str]) -> Contents:
    """The table was made from lines ``ham<tab>text``. Where a text began with a quotation mark
    that nothing closed, all lines up to the next mark became part of one row."""
    table = _table(folder, "sms-spam.csv")
    rows: list[Row] = [{"text": row["text"], "label": int(row["spam"])} for row in table]
    whole: list[Row] = []
    for row in rows:
        first, *swallowed = row["text"].split("\n")
        whole.append({"text": first.strip(), "label": row["label"]})
        for line in swallowed:
            label, text = line.split("\t", 1)
            whole.append({"text": text.strip(), "label": names.index(label)})
    return rows, whole, {"malformed": sum("\n" in row["text"] for row in rows)}


def read_ratings(file: str, folder: Path, names: Sequence[str]) -> Contents:
    """One of Hutto and Gilbert's files, ``<file>_GroundTruth.csv.gz``."""
    rows = []
    for row in _table(folder, f"{file}_GroundTruth.csv.gz"):
        rating = float(row["sentiment"])
        rows.append({"text": row["text"].strip(), "label": int(rating > 0), "rating": rating})
    return rows, rows, {}


def read_hub(text_column: str, test: str, folder: Path, names: Sequence[str]) -> Contents:
    """Parquet files (``read_parquet``); ``test`` is the publisher's split that serves as ours."""
    rows = [
        {"text": row[text_column].strip(), "label": row["label"], "split": ours}
        for theirs, ours in (("train", "train"), (test, "test"))
        for row in read_parquet(folder, theirs, [text_column, "label"])
    ]
    return rows, rows, {}


def read_parquet(folder: Path, split: str, columns: Sequence[str]) -> list[Row]:
    """The rows of a split's parquet files, as dictionaries of ``columns``. The name of each file
    begins with the split's name, or its folder has that name."""
    import pyarrow.parquet

    return [
        row
        for path in _find(folder, f"{split}*.parquet", f"{split}/*.parquet")
        for row in pyarrow.parquet.read_table(path, columns=list(columns)).to_pylist()
    ]


def _table(folder: Path, file_name: str) -> Iterable[dict[str, str]]:
    content = _find(folder, file_name)[0].read_bytes()
    text = gzip.decompress(content) if file_name.endswith(".gz") else content
    return csv.DictReader(io.StringIO(text.decode("utf-8"), newline=""))


def _find(folder: Path, *patterns: str) -> list[Path]:
    """The files at any depth that fit a pattern, in the same order on every system."""
    found = {path for pattern in patterns for path in folder.rglob(pattern)}
    if not found:
        raise AssetError(
            f"{folder} holds no {patterns[0]}. Remove that folder, then fetch again: "
            f"python -m helpers fetch"
        )
    return sorted(found, key=Path.as_posix)
