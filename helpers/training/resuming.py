"""What of a run goes into its checkpoints, and how a run is taken up again."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from helpers.batches import Batches
from helpers.models import lora
from helpers.training import checkpoints
from helpers.training.config import History, TrainingConfig


@dataclass
class Progress:
    """What changes while a run goes on, beside weights, moments and random states.

    steps: done so far; with the seed they are the position in the data and in the schedule.
    accumulation: the configured one, or more after memory ran out. best: the best weights so
    far. seconds, training_seconds, examples: what the speed is computed from.
    stopped: whether the run has ended before its last step.
    """

    history: History
    accumulation: int
    steps: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    training_seconds: float = 0.0
    examples: int = 0
    stopped: bool = False


class RunCheckpoints:
    """The checkpoints of one run; does nothing without a checkpoint_folder. ``last`` is the
    newest one that this run has written or started from."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        data: dict[str, Batches | None],
        config: TrainingConfig,
    ) -> None:
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self.config, self.folder, self.last = config, config.checkpoint_folder, None
        if self.folder is None:
            return
        shapes = {name: list(p.shape) for name, p in model.named_parameters()}
        trainable = [name for name, p in model.named_parameters() if p.requires_grad]
        self.fingerprint = {
            **config.decisive_settings(),
            "precision": accelerator.mixed_precision,
            "model": checkpoints.fingerprint(shapes, trainable),
            "lora": lora.settings(model),
            **{name: checkpoints.data_fingerprint(examples) for name, examples in data.items()},
        }

    def restore(self, progress: Progress) -> tuple[Progress, list[str]]:
        """Where the run stands, from the newest sound checkpoint if it is to be resumed, and a
        line about each damaged one. The main process chooses, so that all take the same.

        Raises InvalidValue: another run's checkpoints; some are there, but resume is False.
        """
        if self.folder is None:
            return progress, []
        if not self.config.resume:
            checkpoints.require_empty(self.folder)
            return progress, []
        main = self.accelerator.is_main_process
        found = [checkpoints.find_newest(self.folder) if main else None]
        path, damaged = broadcast_object_list(found)[0]
        if path is not None:
            progress = self._load(path)
        start = f"resumed after step {progress.steps}." if path else "no checkpoint to resume."
        progress.history.events += [*damaged, start]
        return progress, damaged

    def save_if_due(self, progress: Progress) -> None:
        """Every ``checkpoint_every`` steps the main process writes a checkpoint."""
        every = self.config.checkpoint_every
        if every is None or progress.steps % every or not self.accelerator.is_main_process:
            return
        tensors, generators = checkpoints.random_state()
        scaler = self.accelerator.scaler
        state: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "generators": generators,
            "scaler": scaler.state_dict() if scaler else None,
            "progress": {
                **{k: v for k, v in vars(progress).items() if k != "best"},
                "history": progress.history.to_dict(),
            },
        }
        self.last = checkpoints.save(
            self.folder,
            progress.steps,
            {
                "model.safetensors": checkpoints.model_tensors(self.model),
                "optimizer.safetensors": checkpoints.optimizer_tensors(self.optimizer),
                "random.safetensors": tensors,
                "best.safetensors": progress.best,
            },
            state,
        )

    def _load(self, path: Path) -> Progress:
        state = checkpoints.load_state(path)
        checkpoints.require_same(state["fingerprint"], self.fingerprint, path)
        checkpoints.restore_model(self.model, checkpoints.load_tensors(path, "model.safetensors"))
        moments = checkpoints.load_tensors(path, "optimizer.safetensors")
        checkpoints.restore_optimizer(self.optimizer, moments)
        generators = checkpoints.load_tensors(path, "random.safetensors")
        checkpoints.restore_random_state(generators, state["generators"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.last = path
        values = state["progress"]
        processes = {"processes": self.accelerator.num_processes}
        history = History.from_dict(values.pop("history") | processes)
        best = checkpoints.load_tensors(path, "best.safetensors")
        return Progress(history=history, best=best, **values)
