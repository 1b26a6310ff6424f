"""A catalogued data set as ``datasets.DatasetDict``: cleaned, without duplicates, split once.

Duplicates go *before* the split, so that no text is in two splits. Two texts are duplicates if
they are equal after folding case and white space; the first one stays. If copies of one text
carry different labels, the label that most of them carry wins and a tie removes the text:
``cleaning_report`` counts these as ``label_conflicts``. Everything depends on the seed and the
files alone: paths are sorted, and no hash order or global random state is used.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers import assets
from helpers.corpora import readers
from helpers.corpora.readers import Row
from helpers.corpora.tables import Table
from helpers.errors import CourseError, InvalidValue, unknown_name

if TYPE_CHECKING:
    from datasets import DatasetDict

NEUTRAL = 0.5  # a review whose mean rating is no further from 0 than this is neither class
SPLITS = ("train", "validation", "test")
LEAST_OF_A_CLASS = 10  # different texts, in your own table
_LABEL = (str, int, float)  # what a label in JSON may be


@dataclass(frozen=True)
class _Corpus:
    """names: the classes, in the order of their numbers. read: gives the rows of its files.
    validation, test: rows; test 0 means the publisher's own split. asset: where the files are, if
    not in the asset of the corpus's own name."""

    names: tuple[str, ...]
    read: readers.Reader
    validation: int
    test: int = 0
    asset: str = ""


def label_names(name: str) -> list[str]:
    """The classes of corpus ``name``, in the order of their numbers."""
    return list(_corpus(name).names)


def raw(name: str) -> list[Row]:
    """The rows as they are in the files, duplicates, broken and neutral ones included: ``text``,
    ``label`` (class number) and, for reviews, ``rating``."""
    return [dict(row) for row in _open(name)[0]]


def cleaning_report(name: str) -> dict[str, int]:
    """What cleaning did to corpus ``name``, in rows.

    rows_read: rows in the files. not_utf8: files that had to be read as Windows-1252.
    malformed: rows that had swallowed others. repaired: rows recovered from those.
    neutral_removed: ratings too close to 0. duplicates_removed: copies of an earlier row.
    label_conflicts: texts whose copies disagreed. kept: rows that are split. So
    ``kept = rows_read + repaired - neutral_removed - duplicates_removed``.
    """
    return dict(_open(name)[2])


def load(name: str, *, seed: int = 42, examples: int | None = None) -> "DatasetDict":
    """Corpus ``name`` in the splits ``train``, ``validation`` and ``test``, stratified by label.

    Columns: ``text`` (str), ``label`` (ClassLabel) and, for reviews, ``rating`` (-4 to 4).
    seed: of the split and of the rows' order. examples: keep that many training rows, stratified;
    with the same seed, a smaller choice is (up to rounding by class) part of a larger one, and
    validation and test are always the same.
    Raises InvalidValue: unknown name, or ``examples`` outside 1 .. number of training rows.
    """
    corpus, (_, rows, _) = _corpus(name), _open(name)
    parts = _split(rows, seed, validation=corpus.validation, test=corpus.test)
    return _pack(rows, parts, corpus.names, name, examples)


def load_csv(
    path: str | Path,
    *,
    text_column: str = "text",
    label_column: str = "label",
    examples: int | None = None,
) -> tuple["DatasetDict", list[str], dict[str, int]]:
    """Your own table (``tables.Table``), cleaned and split like the course's corpora: the data,
    the names of the classes in order, and what cleaning did, in rows.

    The classes are the distinct labels, sorted: as numbers if they all are, so that 2 comes before
    10. A fifth of the texts is for testing and a tenth for validation, stratified. The report has
    the keys of ``cleaning_report`` that apply and ``empty``: rows left out because they have no
    text or no label, ``replaced``: halves of characters that became U+FFFD.

    Raises InvalidValue: a column that isn't there, ``examples`` out of range; CourseError: a table
    that cannot be read, fewer than two classes, or too few different texts of a class to split.
    """
    if text_column == label_column:
        raise InvalidValue(f"texts and labels cannot both be in column {text_column!r}.")
    table = Table(Path(path), text=text_column, label=label_column)
    pairs, replaced = [], 0
    for row in table:
        text, label = table.cell(row, text_column), table.cell(row, label_column, _LABEL)
        pairs.append((text.strip(), label.strip()))
        replaced += row.replaced
    whole = [pair for pair in pairs if all(pair)]
    names = _in_order({label for _, label in whole})
    if len(names) < 2:
        raise CourseError(
            f"{table.path.name} cannot train a classifier: {len(whole):,} of its {len(pairs):,} "
            f"rows have both a text and a label, and the different labels are {names}. At least "
            f"two classes are needed in column {label_column!r}; is it the right one?"
        )
    numbers = {name: number for number, name in enumerate(names)}
    rows, report = _without_duplicates([{"text": t, "label": numbers[name]} for t, name in whole])
    counts = np.bincount([row["label"] for row in rows], minlength=len(names))
    scarce = [name for name, count in zip(names, counts, strict=True) if count < LEAST_OF_A_CLASS]
    if scarce:
        raise CourseError(
            f"{table.path.name} has fewer than {LEAST_OF_A_CLASS} different texts of "
            f"{len(scarce)} of the {len(names)} classes in column {label_column!r} "
            f"({', '.join(map(repr, scarce[:5]))}{', ...' if len(scarce) > 5 else ''}); each "
            f"needs as many to be split into training, validation and test. Collect more of "
            f"them, leave a class out, or sort grades into a few classes first."
        )
    parts = _split(rows, 42, validation=len(rows) // 10, test=len(rows) // 5)
    data = _pack(rows, parts, names, table.path.name, examples)
    return data, names, {"empty": len(pairs) - len(whole), "replaced": replaced, **report}


def _in_order(labels: Iterable[str]) -> list[str]:
    names = sorted(labels)
    with suppress(ValueError):  # not all are numbers
        return sorted(names, key=float)
    return names


def fold(text: str) -> str:
    """``text`` as it is compared for duplicates: without case, every run of white space one
    space."""
    return " ".join(text.casefold().split())


def _corpus(name: str) -> _Corpus:
    if name not in _CORPORA:
        raise unknown_name("corpus", name, _CORPORA)
    return _CORPORA[name]


# -- cleaning and splitting ------------------------------------------------------------------------


def _open(name: str) -> tuple[list[Row], list[Row], dict[str, int]]:
    """The rows as they were read, the clean ones, and the report."""
    return _clean(name, assets.fetch(_corpus(name).asset or name))


@lru_cache(maxsize=8)
def _clean(name: str, folder: Path) -> tuple[list[Row], list[Row], dict[str, int]]:
    read, rows, counts = _CORPORA[name].read(folder, _CORPORA[name].names)
    rated = [row for row in rows if abs(row.get("rating", np.inf)) > NEUTRAL]
    # Where the publisher split, the test rows come first: a copy in train is the one that goes.
    rated.sort(key=lambda row: row.get("split") != "test")
    kept, report = _without_duplicates(rated)
    before = {
        "rows_read": len(read),
        "not_utf8": 0,
        "malformed": 0,
        "repaired": len(rows) - len(read),
        "neutral_removed": len(rows) - len(rated),
    }
    return read, kept, before | report | counts


def _without_duplicates(rows: Sequence[Row]) -> tuple[list[Row], dict[str, int]]:
    copies: dict[str, list[Row]] = {}
    for row in rows:
        copies.setdefault(fold(row["text"]), []).append(row)
    decided = [_decide(same) for folded, same in copies.items() if folded]
    kept = [row for row in decided if row]
    return kept, {
        "duplicates_removed": len(rows) - len(kept),
        "label_conflicts": sum(len({r["label"] for r in same}) > 1 for same in copies.values()),
        "kept": len(kept),
    }


def _decide(copies: list[Row]) -> Row | None:
    """The first of the rows that carry the label most copies carry; None on a tie."""
    votes = Counter(row["label"] for row in copies).most_common(2)
    if len(votes) > 1 and votes[0][1] == votes[1][1]:
        return None
    return next(row for row in copies if row["label"] == votes[0][0])


def _split(rows: Sequence[Row], seed: int, *, validation: int, test: int) -> dict[str, np.ndarray]:
    """Row numbers of each split. Rows that the publisher set aside as test stay test."""
    random = np.random.default_rng(seed)
    fixed = np.array([row.get("split") == "test" for row in rows])
    free = random.permutation(np.flatnonzero(~fixed))
    parts = {"test": np.flatnonzero(fixed)}
    if not fixed.any():
        parts["test"], free = _take(rows, free, test)
    parts["validation"], parts["train"] = _take(rows, free, min(validation, len(free) // 2))
    # Taking by share leaves the surplus of one class at the front of what remains: shuffle again.
    return {split: random.permutation(parts[split]) for split in SPLITS}


def _pack(
    rows: Sequence[Row],
    parts: dict[str, np.ndarray],
    names: Sequence[str],
    corpus: str,
    examples: int | None,
) -> "DatasetDict":
    """The rows by split; of the training rows ``examples``, stratified. corpus: its name, for the
    error."""
    import datasets  # slow to import

    if examples is not None:
        if not 1 <= examples <= len(parts["train"]):
            raise InvalidValue(
                f"examples is {examples}; {corpus} has 1 to {len(parts['train']):,} training "
                f"examples."
            )
        parts = {**parts, "train": _take(rows, parts["train"], examples)[0]}
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(names))}
    )
    if "rating" in rows[0]:
        features["rating"] = datasets.Value("float64")
    packed = datasets.DatasetDict()
    for split, numbers in parts.items():
        columns = {name: [rows[i][name] for i in numbers] for name in features}
        packed[split] = datasets.Dataset.from_dict(columns, features=features)
    return packed


def _take(rows: Sequence[Row], order: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """``size`` of the row numbers in ``order``, each class by its share, and the others; both in
    the order they came. Shares are rounded by largest remainder."""
    labels = np.array([rows[i]["label"] for i in order])
    classes, counts = np.unique(labels, return_counts=True)
    shares = counts * size / len(order)
    quota = np.floor(shares).astype(int)
    for number in np.argsort(-(shares - quota), kind="stable")[: size - quota.sum()]:
        quota[number] += 1
    taken = np.zeros(len(order), dtype=bool)
    for label, count in zip(classes, quota, strict=True):
        taken[np.flatnonzero(labels == label)[:count]] = True
    return order[taken], order[~taken]


_SENTIMENT = ("negative", "positive")


def _rated(file: str, validation: int = 300, test: int = 800) -> _Corpus:
    """Sentences with ratings; those of all kinds were published together."""
    read = partial(readers.read_ratings, file)
    return _Corpus(_SENTIMENT, read, validation, test, asset="reviews")


_CORPORA: dict[str, _Corpus] = {
    "news": _Corpus(
        ("business", "entertainment", "politics", "sports", "tech"),
        readers.read_news,
        validation=400,
        test=424,
    ),
    "messages": _Corpus(("ham", "spam"), readers.read_messages, validation=500, test=1000),
    "reviews": _rated("movieReviewSnippets", validation=1000, test=2000),
    "products": _rated("amazonReviewSnippets"),
    "tweets": _rated("tweets"),
    "editorials": _rated("nytEditorialSnippets"),
    # SST-2's own test labels are secret: its validation sentences serve as our test.
    "sst2": _Corpus(
        _SENTIMENT, partial(readers.read_hub, "sentence", "validation"), validation=1000
    ),
    "ag-news": _Corpus(
        ("World", "Sports", "Business", "Sci/Tech"),
        partial(readers.read_hub, "text", "test"),
        validation=2000,
    ),
}
