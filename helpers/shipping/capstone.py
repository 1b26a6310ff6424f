"""The capstone: your own text classifier, and a rubric of which a script checks what it can.

A project is a folder as ``train`` leaves it (``model/``, ``metrics.json``), with the card in
``model/README.md``, the texts in ``data/train.csv`` and ``data/test.csv`` (columns ``text`` and
``label``) and a drift reference in ``reference.json``. Points are given only for what was found
and verified; whatever is missing, unreadable or inconsistent with the rest gets none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers import batches, corpora, evaluation
from helpers.corpora.tables import Table, csv_line
from helpers.errors import CourseError, InvalidValue, unknown_name
from helpers.evaluation import metrics
from helpers.shipping import drift, hub, model_card
from helpers.shipping.batch_prediction import label_names
from helpers.tasks.running import load_run

LEAST_TEST_TEXTS = 100
BY_HAND = (
    "Do the labels mean what the card says? Read twenty of them.",
    "Have you read the surest mistakes, and does the card say what they have in common?",
    "Who is affected when the model errs, and did any of them see it?",
    "Would you, today, still choose this model over its best baseline?",
)


@dataclass(frozen=True)
class Criterion:
    """One line of the rubric. found: what was found, or what is missing and the next step."""

    title: str
    points: int
    met: bool
    found: str


@dataclass(frozen=True)
class Report:
    """The rubric with its points; printed, it is a table, followed by what no script can judge."""

    criteria: tuple[Criterion, ...]

    @property
    def points(self) -> int:
        """The sum of points over the criteria that are met."""
        return sum(c.points for c in self.criteria if c.met)

    @property
    def complete(self) -> bool:
        """Is every criterion met?"""
        return all(c.met for c in self.criteria)

    def __str__(self) -> str:
        lines = []
        for c in self.criteria:
            lines.append(f"{c.points if c.met else 0:3d} of {c.points:2d}  {c.title}")
            lines.append(f"           {'' if c.met else '-> '}{c.found}")
        total = sum(c.points for c in self.criteria)
        lines += ["", f"{self.points} of {total} points.", "", "What no script can judge:"]
        return "\n".join([*lines, *(f"  - {question}" for question in BY_HAND)])


def judge(folder: str | Path, *, only: Sequence[str] = ()) -> Report:
    """Check the project in ``folder``; nothing in it is changed.

    only: titles of criteria, to check again what was fixed; none given: the whole rubric.
    Raises InvalidValue: no such folder, an unknown title.
    """
    folder = Path(folder)
    titles = [title for title, _, _ in _RUBRIC]
    if unknown := [title for title in only if title not in titles]:
        raise unknown_name("criterion", unknown[0], titles)
    if not folder.is_dir():
        raise InvalidValue(f"there is no folder {folder}; name the one of your project.")
    project, judged = _Project(folder), []
    for title, points, check in _RUBRIC:
        if only and title not in only:
            continue
        try:
            found, met = check(project), True
        except CourseError as error:
            found, met = str(error), False
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            kind = type(error).__name__
            found, met = f"it has another form than expected ({kind}: {error})", False
        judged.append(Criterion(title, points, met, found))
    return Report(tuple(judged))


def save_splits(folder: str | Path, data: Mapping[str, Any], names: Sequence[str]) -> None:
    """Write ``folder/data/<split>.csv`` with ``text`` and the label's name, for each split of a
    ``corpora.load``. names: of the classes, in the order of their numbers."""
    target = Path(folder) / "data"
    target.mkdir(parents=True, exist_ok=True)
    for split, rows in data.items():
        labels = [names[number] for number in rows["label"]]
        lines = [("text", "label"), *zip(rows["text"], labels, strict=True)]
        (target / f"{split}.csv").write_bytes(b"".join(map(csv_line, lines)))


class _Project:
    """What the criteria look at, read on first use. Raises CourseError for what is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return model_card.read_metrics(self.folder)

    @cached_property
    def model(self) -> tuple[Any, Any, list[str]]:
        model, tokenizer = load_run(self.folder)
        return model, tokenizer, label_names(model, self.folder)

    @cached_property
    def train(self) -> pd.DataFrame:
        return self._texts("train")

    @cached_property
    def test(self) -> pd.DataFrame:
        return self._texts("test")

    def _texts(self, split: str) -> pd.DataFrame:
        path = self.folder / "data" / f"{split}.csv"
        if not path.is_file():
            raise CourseError(f"there is no data/{split}.csv. Write it: capstone.save_splits(...)")
        rows = pd.DataFrame([row.values for row in Table(path)])
        if not {"text", "label"} <= set(rows):
            raise CourseError(f"data/{split}.csv needs rows with the columns text and label.")
        return rows

    def numbers(self, labels: pd.Series) -> np.ndarray:
        """The labels as the model numbers them."""
        names = self.model[2]
        if unknown := sorted(set(labels) - set(names)):
            raise CourseError(
                f"data holds the label {unknown[0]!r}, which the model does not know; it has "
                f"{', '.join(names)}."
            )
        return labels.map(names.index).to_numpy()


def _loads(project: _Project) -> str:
    model, _, names = project.model
    if pickles := hub.pickles(project.folder):
        raise CourseError(f"{pickles[0]} can run code when it is loaded: keep only safetensors.")
    return f"{type(model).__name__}, {len(names)} classes, from safetensors"


def _names(project: _Project) -> str:
    names = project.model[2]
    if any(name.startswith("LABEL_") or name.isdigit() or not name.strip() for name in names):
        raise CourseError(f"the labels are {', '.join(names)}: give them names (id2label).")
    return ", ".join(names)


def _score(project: _Project) -> str:
    test = project.metrics["test"]
    accuracy, interval = test.get("accuracy"), test.get("accuracy_interval")
    if not _is_sound(test):
        raise CourseError(
            f"metrics.json has accuracy {accuracy} with interval {interval}; it must be a number "
            f"between two others (evaluation.bootstrap_interval)."
        )
    return f"accuracy {accuracy:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _is_sound(scores: Mapping[str, Any]) -> bool:
    """Is there an accuracy within its interval?"""
    try:
        low, high = scores["accuracy_interval"]
        return 0 <= low <= scores["accuracy"] <= high <= 1
    except (KeyError, ValueError):
        return False


def _baselines(project: _Project) -> str:
    found = project.metrics.get("baseline") or {}
    accuracies = {name: each["accuracy"] for name, each in found.items() if _is_sound(each)}
    if "majority" not in accuracies or len(accuracies) < 2:
        raise CourseError(
            "two baselines with intervals are needed, the majority class and one that learns "
            f"(TF-IDF + logistic regression); found: {', '.join(accuracies) or 'none'}."
        )
    train, test = (project.numbers(rows["label"]) for rows in (project.train, project.test))
    recomputed = float(np.mean(evaluation.majority_baseline(train, test) == test))
    if abs(recomputed - accuracies["majority"]) > 1e-6:
        raise CourseError(
            f"the majority class scores {recomputed:.4f} on data/test.csv, and metrics.json says "
            f"{accuracies['majority']:.4f}: the two are not of the same texts."
        )
    return ", ".join(f"{name} {accuracy:.3f}" for name, accuracy in accuracies.items())


def _recorded(project: _Project) -> str:
    wanted = {"seed": int, "precision": str, "examples": int, "model": str}
    held = project.metrics
    if missing := [key for key, kind in wanted.items() if not isinstance(held.get(key), kind)]:
        raise CourseError(f"metrics.json does not record {', '.join(missing)}.")
    return ", ".join(f"{key} {held[key]}" for key in wanted)


def _kept(project: _Project) -> str:
    train, test, stated = len(project.train), len(project.test), project.metrics.get("examples")
    if train != stated:
        raise CourseError(
            f"data/train.csv has {train:,} texts, and metrics.json says that {stated} were used."
        )
    if test < LEAST_TEST_TEXTS:
        raise CourseError(
            f"{test} test texts: with fewer than {LEAST_TEST_TEXTS} the interval is too wide to "
            f"tell you anything."
        )
    return f"{train:,} training and {test:,} test texts"


def _held_out(project: _Project) -> str:
    train, test = (rows["text"].map(corpora.fold) for rows in (project.train, project.test))
    shared, twice = set(test) & set(train), test.duplicated().sum()
    if shared or twice:
        example = f" ({min(shared)[:40]!r})" if shared else ""
        raise CourseError(
            f"{len(shared)} test texts are also training texts{example}, and {twice} occur twice "
            f"in the test. Remove duplicates before splitting."
        )
    return "no test text is also a training text, or occurs twice"


def _agrees(project: _Project) -> str:
    model, tokenizer, _ = project.model
    texts, labels = project.test["text"].tolist(), project.numbers(project.test["label"])
    encoded = batches.encode(tokenizer, texts, max_length=tokenizer.model_max_length)
    predicted = evaluation.predict(model, encoded).classes
    stated = project.metrics["test"]
    allowed = max(0.002, 2 / len(texts))  # another processor may flip a label or two
    for key in ("accuracy", "macro_f1"):
        found = metrics.score(labels, predicted, key)
        if not isinstance(stated.get(key), float) or abs(found - stated[key]) > allowed:
            raise CourseError(
                f"on data/test.csv the model's {key} is {found:.4f}, and metrics.json says "
                f"{stated.get(key)}. Evaluate the model that you ship, on the texts that you keep."
            )
    return f"accuracy and macro F1 of {len(texts):,} texts recomputed: equal"


def _card(project: _Project) -> str:
    path = project.folder / "model" / "README.md"
    if not path.is_file():
        raise CourseError("there is no model/README.md. Write it: python -m helpers card DIR ...")
    if faults := model_card.find_faults(path.read_text(encoding="utf-8"), project.metrics):
        raise CourseError(f"{'; '.join(faults)}.")
    return f"all of {', '.join(model_card.SECTIONS)}; scores as in metrics.json"


def _bias(project: _Project) -> str:
    sound = [
        what
        for what, found in (project.metrics.get("bias") or {}).items()
        if found and all({"value", "interval"} <= set(measure) for measure in found.values())
    ]
    if not sound:
        raise CourseError(
            "no bias was measured, with intervals. Compare groups that your texts mention "
            "(lesson 16) and record it: model_card.record_bias(...)"
        )
    return "; ".join(sound)


def _reference(project: _Project) -> str:
    path = project.folder / "reference.json"
    if not path.is_file():
        raise CourseError("there is no reference.json: drift.Reference.build(...).save(...)")
    reference = drift.Reference.load(path)
    if reference.texts < drift.LEAST:
        raise CourseError(f"reference.json has {reference.texts} texts; it needs {drift.LEAST}.")
    return f"{reference.texts:,} held-out texts"


_RUBRIC: tuple[tuple[str, int, Callable[[_Project], str]], ...] = (
    ("the model loads", 10, _loads),
    ("its labels have names", 5, _names),
    ("a test score with its interval", 10, _score),
    ("two baselines on the same texts", 10, _baselines),
    ("what it takes to do it again is recorded", 5, _recorded),
    ("the texts are kept", 5, _kept),
    ("training and test are apart", 15, _held_out),
    ("the scores are those of this model on these texts", 15, _agrees),
    ("the card is complete, and agrees", 15, _card),
    ("bias was measured", 5, _bias),
    ("there is something to compare later texts with", 5, _reference),
)
