"""Tasks to fine-tune on: each is data, an encoding, a head and a judge; one ``train`` and one
``evaluate`` serve them all."""

from helpers.tasks.running import TASKS, RunSettings, evaluate, get, train
from helpers.tasks.task import Defaults, Head, Task

__all__ = ["TASKS", "Defaults", "Head", "RunSettings", "Task", "evaluate", "get", "train"]
