"""The training loop, its settings, and what it needs: optimizer steps, checkpoints, validation."""

from helpers.training.config import History, TrainingConfig
from helpers.training.lamb import Lamb
from helpers.training.loop import fit
from helpers.training.steps import move

__all__ = ["History", "Lamb", "TrainingConfig", "fit", "move"]
