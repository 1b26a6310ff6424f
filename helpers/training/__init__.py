"""The training loop, its settings, and what it needs: optimizer steps, checkpoints, validation."""

from helpers.training.config import History, TrainingConfig
from helpers.training.loop import fit

__all__ = ["History", "TrainingConfig", "fit"]
