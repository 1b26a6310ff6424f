"""Facts out of texts: entities, relations and questions, on the annotated news openings or, for
questions, on a SQuAD file of your own."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from helpers import batches, evaluation
from helpers.corpora import annotations
from helpers.corpora.annotations import ENTITY_LABELS
from helpers.errors import InvalidValue
from helpers.evaluation import squad
from helpers.tasks import cloze, squad_files
from helpers.tasks import entities as tok
from helpers.tasks import questions as qa
from helpers.tasks import relations as rel
from helpers.tasks.task import Defaults, Head, Splits, Task

CLOZE_QUESTIONS = 1500
QUESTION_STRIDE = 40


class _OnOpenings(Task):
    unit = "openings"

    def load(self, examples: int | None = None) -> dict[str, list]:
        return _keep({split: annotations.load(split) for split in annotations.SPLITS}, examples)


class Entities(_OnOpenings):
    """A BIO tag for every word."""

    name = "entities"
    defaults = Defaults(epochs=4, learning_rate=3e-4, batch_size=2, max_length=256)
    head = Head("tokens", tuple(tok.tag_names(ENTITY_LABELS)))

    def encode(self, tokenizer: Any, rows: Any, *, training: bool = False) -> tok.EncodedTokens:
        sentences = tok.from_openings(rows, ENTITY_LABELS)
        return tok.encode(
            tokenizer, sentences, ENTITY_LABELS, max_length=tokenizer.model_max_length
        )

    def judge(self, model: Any, encoded: Splits, data: Splits) -> dict[str, Any]:
        train, test = (tok.from_openings(data[part], ENTITY_LABELS) for part in ("train", "test"))
        gazetteer = tok.Gazetteer(train)
        listed = [gazetteer.tag(sentence.words) for sentence in test]
        score = partial(self._score, [sentence.tags for sentence in test])
        return {
            "test": score(tok.predict_tags(model, encoded["test"], test)),
            "baseline": {"gazetteer": score(listed)},
        }

    @staticmethod
    def _score(gold: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> dict[str, Any]:
        scores = tok.strict_scores(gold, found)
        return {"f1": scores.pop("f1"), "f1_interval": tok.bootstrap_f1(gold, found), **scores}


class Relations(_OnOpenings):
    """The relation of every pair of entities in a sentence, or none."""

    name = "relations"
    defaults = Defaults(epochs=5, learning_rate=1e-4, batch_size=8, max_length=96)
    head = Head("classifier", rel.NAMES)

    def encode(self, tokenizer: Any, rows: Any, *, training: bool = False) -> batches.EncodedTexts:
        """For training, only twice as many pairs without a relation as with one."""
        pairs = rel.from_openings(rows)
        if training:
            pairs = rel.thin_out(pairs)
        return rel.encode(tokenizer, pairs, max_length=tokenizer.model_max_length)

    def judge(self, model: Any, encoded: Splits, data: Splits) -> dict[str, Any]:
        train, test = rel.from_openings(data["train"]), rel.from_openings(data["test"])
        score = partial(self._score, np.array([pair.label for pair in test]))
        return {
            "test": score(evaluation.predict(model, encoded["test"]).classes),
            "baseline": {
                "tfidf_logreg": score(rel.tfidf_baseline(train, test)),
                "types": score(rel.TypesBaseline(train).predict(test)),
            },
        }

    @staticmethod
    def _score(labels: np.ndarray, found: np.ndarray) -> dict[str, Any]:
        drawn = partial(rel.macro_f1, strict=False)
        return {
            "macro_f1": rel.macro_f1(labels, found),
            "macro_f1_interval": evaluation.bootstrap_interval(labels, found, drawn, resamples=500),
            "per_class": {
                name: rel.scores_of(labels, found, number)
                for number, name in enumerate(rel.NAMES)
                if number
            },
        }


class Questions(Task):
    """The span of a text that answers a question, or none.

    path: a JSON file in SQuAD form in place of the annotated openings; 70 % of its documents are
    for training, 10 % for validation, 20 % for testing.
    """

    name, unit = "questions", "questions"
    defaults = Defaults(epochs=3, learning_rate=3e-4, batch_size=16, max_length=96)
    head = Head("questions")

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

    def load(self, examples: int | None = None) -> dict[str, list]:
        if self.path is None:
            return _keep(qa.load(), examples)
        return _keep(squad_files.split_by_document(squad_files.read_squad(self.path)), examples)

    def encode(self, tokenizer: Any, rows: Any, *, training: bool = False) -> qa.Windows:
        """Short windows. For training, cloze questions made from the other news articles are
        added, because the annotated ones alone are too few, and only a third of the windows
        without an answer is kept."""
        if training:
            held_out = [*annotations.load("validation"), *annotations.load("test")]
            texts = cloze.article_texts(without=held_out)
            rows = [*rows, *cloze.cloze_questions(texts, CLOZE_QUESTIONS)]
        limit = tokenizer.model_max_length
        windows = qa.encode(tokenizer, rows, max_length=limit, stride=QUESTION_STRIDE)
        return windows.thin_out() if training else windows

    def judge(self, model: Any, encoded: Splits, data: Splits) -> dict[str, Any]:
        validation, test = data["validation"], data["test"]
        predicted = qa.predict(model, encoded["validation"], validation)
        threshold = qa.choose_threshold(predicted, validation)
        answered = qa.answer_texts(qa.predict(model, encoded["test"], test), threshold)
        window = [squad.sliding_window_answer(e.question, e.context) for e in test]
        return {
            "threshold": threshold,
            "test": self._score(test, answered),
            "baseline": {
                "sliding_window": self._score(test, window),
                "silent": self._score(test, [""] * len(test)),
            },
        }

    @staticmethod
    def _score(examples: Sequence[qa.Example], texts: Sequence[str]) -> dict[str, Any]:
        scores = qa.score(examples, texts)
        documents = [example.document for example in examples]
        result: dict[str, Any] = {}
        for name in ("f1", "exact_match"):
            result[name] = scores.pop(name)
            result[f"{name}_interval"] = qa.bootstrap_mean(scores.pop(f"each_{name}"), documents)
        return result | scores


def _keep(data: dict[str, list], examples: int | None) -> dict[str, list]:
    """All splits; of the training one the first ``examples``."""
    count = len(data["train"])
    if examples is not None and not 1 <= examples <= count:
        raise InvalidValue(f"examples is {examples}; there are 1 to {count:,} training examples.")
    return data | {"train": data["train"][:examples]}


TASKS: dict[str, Task] = {task.name: task for task in (Entities(), Relations(), Questions())}
