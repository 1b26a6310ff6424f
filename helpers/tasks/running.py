"""What every training run from the command line shares: its options, the order of its stages,
and what it writes: ``out/model`` and then ``out/metrics.json``, each whole or not at all."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from helpers import models, runtime, training
from helpers.batches import Batches
from helpers.errors import CourseError, InvalidValue
from helpers.files import model_folder, write_text


def say_nothing(line: str) -> None:
    """The default of ``RunOptions.say``."""


@dataclass(frozen=True)
class RunOptions:
    """What one run is told; None leaves a setting to the task.

    out: folder for ``model/``, ``metrics.json`` and, with ``checkpoint_every``, ``checkpoints/``.
    model: name or folder of the pretrained encoder. examples: training examples (texts, openings
        or questions). batch_size: examples of one optimiser step over all processes.
    max_steps, checkpoint_every: steps. resume: go on from the last checkpoint.
    say: called with one line at each stage.
    """

    out: Path
    model: str | None = None
    examples: int | None = None
    epochs: float | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    seed: int = 42
    max_steps: int | None = None
    checkpoint_every: int | None = None
    resume: bool = False
    progress: bool = True
    say: Callable[[str], None] = say_nothing

    def training_config(
        self, *, epochs: float, learning_rate: float, batch_size: int, **settings: Any
    ) -> training.TrainingConfig:
        """The configuration of ``fit``: the task's own settings unless the options name others.
        Raises InvalidValue for one out of its range."""
        keep = self.checkpoint_every or self.resume
        return training.TrainingConfig(
            epochs=epochs if self.epochs is None else self.epochs,
            learning_rate=learning_rate if self.learning_rate is None else self.learning_rate,
            batch_size=batch_size if self.batch_size is None else self.batch_size,
            seed=self.seed,
            max_steps=self.max_steps,
            checkpoint_every=self.checkpoint_every,
            checkpoint_folder=Path(self.out) / "checkpoints" if keep else None,
            resume=self.resume,
            progress=self.progress,
            **settings,
        )

    def model_name(self) -> str:
        """The model asked for, or the profile's encoder."""
        return self.model or models.default_model(runtime.detect().profile)


def finished_run(options: RunOptions) -> dict[str, Any] | None:
    """The metrics of a finished run that is to be resumed, else None. Raises InvalidValue if
    ``out`` is a file, CourseError if it holds a run that is not to be resumed."""
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise InvalidValue(f"--out {out} is a file; name a folder that is new or empty.")
    if not options.resume and any(
        (out / part).exists() for part in ("metrics.json", "checkpoints")
    ):
        raise CourseError(
            f"{out} already holds a run, and nothing of it is overwritten. Continue it with "
            f"--resume, name another folder with --out, or remove this one first."
        )
    finished = out / "metrics.json"
    if options.resume and finished.exists():
        options.say(f"{out} holds a finished run; nothing is left to resume.")
        return json.loads(finished.read_text(encoding="utf-8"))
    return None


def run(
    options: RunOptions,
    config: training.TrainingConfig,
    *,
    task: str,
    what: str,
    model: Any,
    tokenizer: Any,
    train: Batches,
    validation: Batches,
    judge: Callable[[Any], dict[str, Any]],
    finish: Callable[[Any], Any] = lambda model: model,
    note: str = "",
) -> dict[str, Any] | None:
    """Train, judge and save. Under ``torchrun`` or ``accelerate launch`` every process trains,
    and only the main one judges, writes and returns the metrics (the others return None).

    what: the data in words. judge: the trained model -> what is added to the metrics (``test``,
    ``baseline`` and others). finish: what is done to the model before it is judged and saved.
    note: stands behind the number of parameters in what is said.
    """
    detected, name = runtime.detect(seed=options.seed), options.model_name()
    millions = models.count_parameters(model) / 1e6
    options.say(
        f"{task}: {what}; {name}, {millions:.1f} M parameters{note}; "
        f"{detected.device}, {detected.precision} ({detected.precision_reason})"
    )
    history = training.fit(model, train, validation, config)
    for event in history.events:
        options.say(event)
    if not PartialState().is_main_process:
        return None
    model = finish(model)
    options.say("judging on the test set, and fitting the baselines on the same training set")
    metrics = {
        "task": task,
        "model": name,
        "seed": options.seed,
        "device": detected.device,
        "precision": detected.precision,
        "processes": history.processes,
        **judge(model),
        "train_seconds": history.seconds,
        "examples_per_second": history.examples_per_second,
        "losses": history.losses,
        "evaluations": history.evaluations,
    }
    out = Path(options.out)
    models.save_trained(model, tokenizer, out / "model")
    write_text(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    return metrics


def recorded(folder: Path, key: str, default: Any = None) -> Any:
    """What the metrics.json of a run's folder says under ``key``; ``default`` without one."""
    path = Path(folder) / "metrics.json"
    return (
        json.loads(path.read_text(encoding="utf-8")).get(key, default) if path.exists() else default
    )


def load_run(folder: Path) -> tuple[Any, Any]:
    """The model and tokenizer in ``folder/model``, or in ``folder`` itself."""
    return models.load_trained(model_folder(folder))
