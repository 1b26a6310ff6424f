"""A catalogued data set as ``datasets.DatasetDict``: cleaned, without duplicates, split once.

Duplicates go *before* the split, so that no text is in two splits. Two texts are duplicates when
they are equal after folding case and white space; the first one stays. If copies of one text
carry different labels, the label that most of them carry wins and a tie removes the text:
``cleaning_report`` counts these as ``label_conflicts``. Everything depends on the seed and the
files alone: paths are sorted, and no hash order or global random state is used.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers import assets
from helpers.corpora import readers
from helpers.corpora.readers import Contents, Row
from helpers.errors import CourseError, InvalidValue, unknown_name

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

NEUTRAL = 0.5  # a review whose mean rating is no further from 0 than this is neither class
SPLITS = ("train", "validation", "test")
LEAST_OF_A_CLASS = 10  # different texts, in a file of one's own


@dataclass(frozen=True)
class _Corpus:
    """names: the classes, in the order of their numbers. read: folder -> (rows as they lie in
    the files, rows repaired, counts). test, validation: rows; None means the publisher's own
    split or, for test, all rows that are left when ``train`` is given. asset: where the files
    are, if not in the asset of the corpus's own name."""

    names: tuple[str, ...]
    read: Callable[[Path, Sequence[str]], Contents]
    validation: int
    test: int | None = None
    train: int | None = None
    asset: str = ""


def label_names(name: str) -> list[str]:
    """The classes of corpus ``name``, in the order of their numbers."""
    return list(_corpus(name).names)


def raw(name: str) -> list[Row]:
    """The rows as they lie in the files, duplicates, broken and neutral ones included: ``text``,
    ``label`` (class number) and, for reviews, ``rating``."""
    _corpus(name)
    return [dict(row) for row in _read(name, _folder(name))[0]]


def cleaning_report(name: str) -> dict[str, int]:
    """What cleaning did to corpus ``name``, in rows.

    rows_read: rows in the files. not_utf8: files that had to be read as Windows-1252.
    malformed: rows that had swallowed others. repaired: rows got back out of those.
    neutral_removed: ratings too near to 0. duplicates_removed: copies of an earlier row.
    label_conflicts: texts whose copies disagreed. kept: rows that are split. So
    ``kept = rows_read + repaired - neutral_removed - duplicates_removed``.
    """
    _corpus(name)
    return dict(_clean(name, _folder(name))[1])


def load(name: str, *, seed: int = 42, examples: int | None = None) -> "DatasetDict":
    """Corpus ``name`` in the splits ``train``, ``validation`` and ``test``, stratified by label.

    Columns: ``text`` (str), ``label`` (ClassLabel) and, for reviews, ``rating`` (-4 to 4).
    seed: of the split and of the rows' order. examples: keep that many training rows, stratified;
    with one seed a smaller choice is (up to rounding by class) part of a larger one. Validation
    and test are the same for every ``examples``.
    Raises InvalidValue: unknown name, or ``examples`` outside 1 .. number of training rows.
    """
    corpus = _corpus(name)
    rows, _ = _clean(name, _folder(name))
    return _split_and_pack(rows, corpus, name, seed, examples)


def load_csv(
    path: str | Path,
    *,
    text_column: str = "text",
    label_column: str = "label",
    seed: int = 42,
    examples: int | None = None,
) -> tuple["DatasetDict", list[str], dict[str, int]]:
    """A table of one's own (``readers.read_table``), cleaned and split like the course's
    corpora: the data, the names of the classes in order, and what cleaning did, in rows (see
    ``cleaning_report``; ``empty``: rows without a text or a label).

    A fifth of the texts is for testing and a tenth for validation, stratified.
    Raises InvalidValue: a column that is not there, ``examples`` out of range; CourseError: no
    table in UTF-8, fewer than two classes, or too few different texts of a class to split.
    """
    path = Path(path)
    names, read, empty = readers.read_table(path, text_column, label_column)
    rows, report = _without_duplicates(read)
    counts = Counter(row["label"] for row in rows)
    scarce = [name for number, name in enumerate(names) if counts[number] < LEAST_OF_A_CLASS]
    if scarce:
        raise CourseError(
            f"{path.name} has fewer than {LEAST_OF_A_CLASS} different texts of {len(scarce)} of "
            f"the {len(names)} classes in column {label_column!r} "
            f"({', '.join(map(repr, scarce[:5]))}{', ...' if len(scarce) > 5 else ''}); each "
            f"needs as many to be split into training, validation and test. Collect more of "
            f"them, leave a class out, or sort grades into a few classes first."
        )
    corpus = _Corpus(names, lambda *_: (read, read, {}), len(rows) // 10, test=len(rows) // 5)
    data = _split_and_pack(rows, corpus, path.name, seed, examples)
    return data, list(names), {"empty": empty, **report}


def _split_and_pack(
    rows: Sequence[Row], corpus: "_Corpus", name: str, seed: int, examples: int | None
) -> "DatasetDict":
    import datasets

    chosen = _split(rows, corpus, seed)
    if examples is not None:
        chosen["train"] = _keep(rows, chosen["train"], examples, name)
    parts = {split: [rows[i] for i in chosen[split]] for split in SPLITS}
    _assert_disjoint(parts)
    features = {
        "text": datasets.Value("string"),
        "label": datasets.ClassLabel(names=list(corpus.names)),
    }
    if "rating" in rows[0]:
        features["rating"] = datasets.Value("float64")
    return datasets.DatasetDict(
        {split: _dataset(part, datasets.Features(features)) for split, part in parts.items()}
    )


def fold(text: str) -> str:
    """``text`` as it is compared for duplicates: without case, every run of white space one
    space."""
    return " ".join(text.casefold().split())


def _folder(name: str) -> Path:
    return assets.fetch(_corpus(name).asset or name)


def _corpus(name: str) -> _Corpus:
    if name not in _CORPORA:
        raise unknown_name("corpus", name, _CORPORA)
    return _CORPORA[name]


# -- cleaning and splitting ------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _read(name: str, folder: Path) -> Contents:
    corpus = _corpus(name)
    return corpus.read(folder, corpus.names)


@lru_cache(maxsize=8)
def _clean(name: str, folder: Path) -> tuple[list[Row], dict[str, int]]:
    read, rows, counts = _read(name, folder)
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
    return kept, before | report | counts


def _without_duplicates(rows: Sequence[Row]) -> tuple[list[Row], dict[str, int]]:
    copies: dict[str, list[Row]] = {}
    for row in rows:
        copies.setdefault(fold(row["text"]), []).append(row)
    kept = [row for folded, same in copies.items() if folded and (row := _decide(same))]
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


def _split(rows: Sequence[Row], corpus: _Corpus, seed: int) -> dict[str, np.ndarray]:
    """Row numbers of each split. Rows that the publisher set aside as test stay test."""
    random = np.random.default_rng(seed)
    fixed = np.array([row.get("split") == "test" for row in rows])
    free = random.permutation(np.flatnonzero(~fixed))
    if fixed.any():
        test = np.flatnonzero(fixed)
    else:
        size = corpus.test or len(rows) - corpus.train - corpus.validation
        test, free = _take(rows, free, size)
    validation, train = _take(rows, free, min(corpus.validation, len(free) // 2))
    # Taking by share leaves the surplus of one class at the front of what remains: shuffle again.
    parts = {"train": train, "validation": validation, "test": test}
    return {split: random.permutation(part) for split, part in parts.items()}


def _keep(rows: Sequence[Row], train: np.ndarray, examples: int, name: str) -> np.ndarray:
    if not 1 <= examples <= len(train):
        raise InvalidValue(
            f"examples is {examples}; {name} has 1 to {len(train):,} training examples."
        )
    return _take(rows, train, examples)[0]


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


def _assert_disjoint(parts: dict[str, list[Row]]) -> None:
    texts = [fold(row["text"]) for rows in parts.values() for row in rows]
    assert len(set(texts)) == len(texts), "a text stands in two splits"


def _dataset(rows: Iterable[Row], features: Any) -> "Dataset":
    import datasets

    rows = list(rows)
    columns = {name: [row[name] for row in rows] for name in features}
    return datasets.Dataset.from_dict(columns, features=features)


def _rated(file: str) -> _Corpus:
    """Sentences of another kind with ratings, published with the reviews."""
    read = readers.read_ratings(file)
    return _Corpus(("negative", "positive"), read, validation=300, test=800, asset="reviews")


_CORPORA: dict[str, _Corpus] = {
    "news": _Corpus(
        ("business", "entertainment", "politics", "sports", "tech"),
        readers.read_news,
        validation=400,
        train=1300,
    ),
    "messages": _Corpus(("ham", "spam"), readers.read_messages, validation=500, test=1000),
    "reviews": _Corpus(
        ("negative", "positive"),
        readers.read_ratings("movieReviewSnippets"),
        validation=1000,
        test=2000,
    ),
    "products": _rated("amazonReviewSnippets"),
    "tweets": _rated("tweets"),
    "editorials": _rated("nytEditorialSnippets"),
    # SST-2's own test labels are secret: its validation sentences serve as our test.
    "sst2": _Corpus(
        ("negative", "positive"),
        readers.read_hub("sentence", {"train": "train", "validation": "test"}),
        validation=1000,
    ),
    "ag-news": _Corpus(
        ("World", "Sports", "Business", "Sci/Tech"),
        readers.read_hub("text", {"train": "train", "test": "test"}),
        validation=2000,
    ),
}
