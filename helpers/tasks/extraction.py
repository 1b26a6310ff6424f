"""Training and judging what reads facts out of texts: entities, relations, questions. From names
to numbers, as ``classification`` does it for labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from helpers import batches, evaluation, models
from helpers.corpora import annotations
from helpers.corpora.annotations import ENTITY_LABELS
from helpers.errors import InvalidValue, unknown_name
from helpers.evaluation import squad
from helpers.evaluation.metrics import bootstrap_interval
from helpers.tasks import cloze, squad_files
from helpers.tasks import entities as tok
from helpers.tasks import questions as qa
from helpers.tasks import relations as rel
from helpers.tasks.running import RunOptions, finished_run, load_run, recorded, run


@dataclass(frozen=True)
class ExtractionTask:
    """epochs, learning_rate (peak), batch_size: of the training. max_length: word pieces of one
    input. unit: what one training example is."""

    epochs: int
    learning_rate: float
    batch_size: int
    max_length: int
    unit: str


TASKS = {
    "entities": ExtractionTask(4, 3e-4, 2, 256, "openings"),
    "relations": ExtractionTask(5, 1e-4, 8, 96, "openings"),
    "questions": ExtractionTask(3, 3e-4, 16, 96, "questions"),
}


CLOZE_QUESTIONS = 1500
QUESTION_STRIDE = 40


def get_task(name: str) -> ExtractionTask:
    """The settings of task ``name``; raises InvalidValue with the nearest names if unknown."""
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]


def train_task(
    name: str, options: RunOptions, *, file: Path | None = None
) -> dict[str, Any] | None:
    """Fine-tune on "entities", "relations" or "questions", judge on the test documents beside
    the task's baselines, save the model and its metrics, and return these (None on all but the
    main process).

    file: for "questions", a JSON file in SQuAD form in place of the course's own; its documents
    are split 70 : 10 : 20.
    Raises InvalidValue (an option out of range, a faulty file), CourseError (``out`` holds a run;
    training failed).
    """
    task, kind = get_task(name), _KINDS[name]
    config = options.training_config(
        epochs=task.epochs, learning_rate=task.learning_rate, batch_size=task.batch_size
    )
    if (done := finished_run(options)) is not None:
        return done
    data = _load(name, options.examples, file)
    tokenizer = models.load_tokenizer(options.model_name())
    tokenizer.model_max_length = min(task.max_length, tokenizer.model_max_length)

    def judge(model: Any) -> dict[str, Any]:
        return {
            "examples": len(data["train"]),
            "max_length": tokenizer.model_max_length,
            "file": file and file.name,
            **kind.judge(model, tokenizer, data),
        }

    sizes = ", ".join(f"{len(part):,} {split}" for split, part in data.items())
    return run(
        options,
        config,
        task=name,
        what=f"{sizes} {task.unit}",
        model=kind.model(options.model_name(), options.seed),
        tokenizer=tokenizer,
        train=kind.encode(tokenizer, data["train"], True),
        validation=kind.encode(tokenizer, data["validation"], False),
        judge=judge,
    )


def training_batches(name: str, tokenizer: Any, *, examples: int | None = None) -> batches.Batches:
    """The training examples of task ``name`` as it trains on them, cut at the tokenizer's
    ``model_max_length``. examples: how many openings or questions; None: all."""
    return _KINDS[name].encode(tokenizer, _load(name, examples)["train"], True)


def _load(name: str, examples: int | None, file: Path | None = None) -> dict[str, list]:
    """All splits; of the training one the first ``examples``."""
    task, data = get_task(name), _KINDS[name].load(file)
    if examples is not None:
        if not 1 <= examples <= len(data["train"]):
            raise InvalidValue(
                f"examples is {examples}; there are 1 to {len(data['train']):,} training "
                f"{task.unit}."
            )
        data["train"] = data["train"][:examples]
    return data


def evaluate_saved(folder: Path, name: str, *, file: Path | None = None) -> dict[str, Any]:
    """Scores of a saved model on task ``name``'s test documents, beside the baselines.

    Raises CourseError if the folder holds no model, InvalidValue if it is one for another task.
    """
    get_task(name)
    kind = _KINDS[name]
    model, tokenizer = load_run(folder)
    if not type(model).__name__.endswith(kind.head):
        raise InvalidValue(
            f"the model in {folder} is a {type(model).__name__}; task {name!r} needs one that "
            f"ends in {kind.head}. Name the task that the model was trained for."
        )
    data = kind.load(file)
    examples = recorded(folder, "examples", len(data["train"]))
    data["train"] = data["train"][:examples]
    scores = kind.judge(model, tokenizer, data)
    return {"task": name, "model": str(folder), "examples": examples, **scores}


class _Entities:
    head = "ForTokenClassification"

    @staticmethod
    def load(file: Path | None) -> dict[str, list]:
        _no_file(file, "entities")
        return {split: annotations.load(split) for split in annotations.SPLITS}

    @staticmethod
    def model(name: str, seed: int) -> Any:
        return models.load_token_classifier(name, labels=tok.tag_names(ENTITY_LABELS), seed=seed)

    @staticmethod
    def encode(tokenizer: Any, openings: Sequence, training: bool) -> tok.EncodedTokens:
        sentences = tok.from_openings(openings, ENTITY_LABELS)
        return tok.encode(tokenizer, sentences, ENTITY_LABELS, max_length=512)

    @classmethod
    def judge(cls, model: Any, tokenizer: Any, data: dict[str, list]) -> dict[str, Any]:
        sentences = tok.from_openings(data["test"], ENTITY_LABELS)
        gold = [list(sentence.tags) for sentence in sentences]
        found = tok.predict_tags(model, cls.encode(tokenizer, data["test"], False), sentences)
        gazetteer = tok.Gazetteer(tok.from_openings(data["train"], ENTITY_LABELS))
        listed = [gazetteer.tag(sentence.words) for sentence in sentences]
        return {
            "test": cls._scores(gold, found),
            "baseline": {"gazetteer": cls._scores(gold, listed)},
        }

    @staticmethod
    def _scores(gold: list[list[str]], found: list[list[str]]) -> dict[str, Any]:
        scores = tok.strict_scores(gold, found)
        return {"f1": scores.pop("f1"), "f1_interval": tok.bootstrap_f1(gold, found), **scores}


class _Relations:
    head = "ForSequenceClassification"

    @staticmethod
    def load(file: Path | None) -> dict[str, list]:
        _no_file(file, "relations")
        return {split: annotations.load(split) for split in annotations.SPLITS}

    @staticmethod
    def model(name: str, seed: int) -> Any:
        return models.load_classifier(name, labels=rel.NAMES, seed=seed)

    @staticmethod
    def encode(tokenizer: Any, openings: Sequence, training: bool) -> batches.EncodedTexts:
        pairs = rel.from_openings(openings)
        return rel.encode(tokenizer, rel.thin_out(pairs) if training else pairs)

    @classmethod
    def judge(cls, model: Any, tokenizer: Any, data: dict[str, list]) -> dict[str, Any]:
        train, test = rel.from_openings(data["train"]), rel.from_openings(data["test"])
        labels = np.array([pair.label for pair in test])
        found = evaluation.predict(model, rel.encode(tokenizer, test)).classes
        return {
            "test": cls._scores(labels, found),
            "baseline": {
                "tfidf_logreg": cls._scores(labels, rel.tfidf_baseline(train, test)),
                "types": cls._scores(labels, rel.TypesBaseline(train).predict(test)),
            },
        }

    @staticmethod
    def _scores(labels: np.ndarray, found: np.ndarray) -> dict[str, Any]:
        return {
            "macro_f1": rel.macro_f1(labels, found),
            "macro_f1_interval": bootstrap_interval(
                labels, found, partial(rel.macro_f1, strict=False), resamples=500
            ),
            "per_class": {
                name: rel.scores_of(labels, found, number)
                for number, name in enumerate(rel.NAMES)
                if number
            },
        }


class _Questions:
    head = "ForQuestionAnswering"

    @staticmethod
    def load(file: Path | None) -> dict[str, list]:
        if file is not None:
            return squad_files.split_by_document(squad_files.read_squad(file))
        return {split: qa.from_openings(annotations.load(split)) for split in annotations.SPLITS}

    @staticmethod
    def model(name: str, seed: int) -> Any:
        return models.load_question_answerer(name, seed=seed)

    @staticmethod
    def encode(tokenizer: Any, examples: Sequence, training: bool) -> qa.Windows:
        """Short windows; for training with cloze questions made from the news articles beside the
        annotated ones, which alone are too few, and with a third of the windows without answer.
        """
        if training:
            held_out = [*annotations.load("validation"), *annotations.load("test")]
            texts = cloze.article_texts(without=held_out)
            examples = [*examples, *cloze.cloze_questions(texts, CLOZE_QUESTIONS)]
        limit = tokenizer.model_max_length
        windows = qa.encode(tokenizer, examples, max_length=limit, stride=QUESTION_STRIDE)
        return windows.thin_out() if training else windows

    @classmethod
    def judge(cls, model: Any, tokenizer: Any, data: dict[str, list]) -> dict[str, Any]:
        predicted = {
            split: qa.predict(model, cls.encode(tokenizer, data[split], False), data[split])
            for split in ("validation", "test")
        }
        threshold = qa.choose_threshold(predicted["validation"], data["validation"])
        test = data["test"]
        window = [squad.sliding_window_answer(e.question, e.context) for e in test]
        return {
            "threshold": threshold,
            "test": cls._scores(test, qa.answer_texts(predicted["test"], threshold)),
            "baseline": {
                "sliding_window": cls._scores(test, window),
                "silent": cls._scores(test, [""] * len(test)),
            },
        }

    @staticmethod
    def _scores(examples: Sequence[qa.Example], texts: Sequence[str]) -> dict[str, Any]:
        scores = qa.score(examples, texts)
        documents = [example.document for example in examples]
        result = {}
        for name in ("f1", "exact_match"):
            values = scores.pop(f"each_{name}")
            result |= {
                name: scores.pop(name),
                f"{name}_interval": qa.bootstrap_mean(values, documents),
            }
        return result | scores


_KINDS = {"entities": _Entities, "relations": _Relations, "questions": _Questions}


def _no_file(file: Path | None, name: str) -> None:
    if file is not None:
        raise InvalidValue(
            f"{file} was given, but task {name!r} has only the course's own data. A JSON file in "
            f"SQuAD form trains questions; a CSV file trains a classifier of texts."
        )
