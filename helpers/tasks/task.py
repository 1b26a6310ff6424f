"""What a task is: data, a way to encode them, a head for the model, and a judge.

``running`` trains and evaluates anything that offers these four; ``hardware.task_plan`` plans it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import models
from helpers.batches import Batches
from helpers.errors import CourseError, InvalidValue
from helpers.files import sha256_of

Splits = Mapping[str, Any]  # something for each of train, validation and test
_ENDINGS = {
    "classifier": "ForSequenceClassification",
    "tokens": "ForTokenClassification",
    "questions": "ForQuestionAnswering",
}


@dataclass(frozen=True)
class Defaults:
    """What a task takes where ``RunSettings`` leaves the choice to it.

    epochs: passes over the training examples. learning_rate: peak of the schedule.
    max_length: tokens per input, special ones included; longer inputs are cut.
    batch_size: examples per optimiser step. examples: training examples (None: all).
    dropout: None keeps the model's own. A number sets it everywhere but in attention, where each
        process would draw its own masks, so that the loss curve would depend on how many processes
        share a batch; there it is 0.
    consistency, metric: as in ``TrainingConfig``.
    lora_learning_rate: the peak for an adapter; None: this task trains all weights.
    """

    epochs: float
    learning_rate: float
    max_length: int
    batch_size: int = 32
    examples: int | None = None
    dropout: float | None = None
    consistency: float = 0.0
    metric: str = "loss"
    lora_learning_rate: float | None = None


@dataclass(frozen=True)
class Head:
    """What sits on top of the pretrained body.

    kind: "classifier" (one class per text), "tokens" (one per token) or "questions" (where an
    answer starts and ends). labels: the classes in the order of their numbers; none for questions.
    """

    kind: str
    labels: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """Logits per text or token: one per label; for questions start and end."""
        return len(self.labels) or 2

    def build(self, model: str, *, seed: int, dropout: float | None = None) -> Any:
        """Model ``model`` under a fresh head drawn from ``seed``; dropout as in ``Defaults``."""
        if self.kind == "questions":
            return models.load_question_answerer(model, seed=seed, dropout=dropout)
        load = models.load_token_classifier if self.kind == "tokens" else models.load_classifier
        settings = {"dropout": dropout, "attention_dropout": None if dropout is None else 0.0}
        return load(model, labels=self.labels, seed=seed, **settings)

    def check(self, model: Any, task: str) -> None:
        """Raises InvalidValue unless ``model`` has this head, with the same labels."""
        found = [name for _, name in sorted(model.config.id2label.items())]
        fits = type(model).__name__.endswith(_ENDINGS[self.kind])
        if not fits or (self.labels and found != list(self.labels)):
            wanted = f" with the labels {', '.join(self.labels)}" if self.labels else ""
            raise InvalidValue(
                f"the model is a {type(model).__name__} with the labels {', '.join(found)}, but "
                f"task {task!r} needs a model {_ENDINGS[self.kind]}{wanted}. Name the task that "
                f"the model was trained for."
            )


class Task(ABC):
    """name: as in the command line and metrics.json. unit: what one example is, in the plural.
    path: the file, where the data are your own."""

    name: str
    unit: str
    defaults: Defaults
    path: Path | None = None

    @property
    @abstractmethod
    def head(self) -> Head:
        """The head that this task trains."""

    @abstractmethod
    def load(self, examples: int | None = None) -> Splits:
        """The rows of the splits train, validation and test; they are the same in every run.

        examples: training rows to keep (None: the task's default). Raises InvalidValue if there
        are not that many.
        """

    @abstractmethod
    def encode(self, tokenizer: Any, rows: Any, *, training: bool = False) -> Batches:
        """The rows as ``training.fit`` and ``evaluation.predict`` take them, inputs cut at
        ``tokenizer.model_max_length``. training: also thin out or add what only training needs."""

    @abstractmethod
    def judge(self, model: Any, encoded: Splits, data: Splits) -> dict[str, Any]:
        """``test``: the model's scores; ``baseline``: {name: scores} of the baselines, fitted on
        the same training rows. encoded: validation and test; data: all that ``load`` returned."""

    def training_batches(self, tokenizer: Any, examples: int | None = None) -> Batches:
        """The training rows, loaded and encoded."""
        return self.encode(tokenizer, self.load(examples)["train"], training=True)

    def describe(self, data: Splits) -> str:
        """The data in words."""
        return ", ".join(f"{len(rows):,} {split}" for split, rows in data.items()) + f" {self.unit}"

    def origin(self) -> dict[str, Any]:
        """What metrics.json has to remember of your own file, so that it can be judged again."""
        return {"file": self.path.name, "sha256": sha256_of(self.path)} if self.path else {}

    def as_trained(self, record: Mapping[str, Any]) -> "Task":
        """This task as the run with the metrics ``record`` had it. Raises CourseError if that run
        had another file."""
        if self.path and "sha256" in record and record["sha256"] != sha256_of(self.path):
            raise CourseError(
                f"{self.path.name} is not the file that the model was trained on, or it has "
                f"changed since: its test {self.unit} may be ones that the model learned from. "
                f"Evaluate on the file as it was, or train again."
            )
        return self
