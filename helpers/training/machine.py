"""Where a run computes: the device, the precision, and the processes that share the work."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from helpers import runtime
from helpers.training.config import TrainingConfig

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Machine:
    """precision: "fp32", "bf16" or "fp16". rank: this process's number, from 0 to world - 1."""

    device: torch.device
    precision: str
    rank: int = 0
    world: int = 1

    @classmethod
    def of(cls, config: TrainingConfig) -> "Machine":
        """What ``config`` asks for, or what suits this machine; processes that ``torchrun`` or
        ``accelerate launch`` started are connected.

        No ``Accelerator`` here: its precision and device hold for the whole Python process, and
        one notebook trains in several. PyTorch's autocast, scaler and DDP are a few lines, and a
        reader sees what they do.
        """
        found = runtime.detect(device=config.device, precision=config.precision, seed=config.seed)
        started = int(os.environ.get("WORLD_SIZE", "1")) > 1
        if not (distributed.is_initialized() or started):
            return cls(torch.device(found.device), found.precision)
        from accelerate import PartialState  # knows the launchers, backends and devices

        use_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true")
        state = PartialState(cpu=use_cpu or found.device == "cpu")
        return cls(state.device, found.precision, state.process_index, state.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that writes files and talks to the person."""
        return self.rank == 0

    def autocast(self) -> torch.autocast:
        """Inside it, matrix products run in ``precision``; the weights themselves stay float32."""
        dtype = DTYPES.get(self.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def sum(self, value: Tensor) -> Tensor:
        """``value`` summed over all processes, in place."""
        if self.world > 1:
            distributed.all_reduce(value)
        return value

    def gather(self, values: list[Any]) -> list[Any]:
        """The lists of all processes, one after another, on every process."""
        lists: list[Any] = [None] * self.world
        if self.world == 1:
            return values
        distributed.all_gather_object(lists, values)
        return [value for part in lists for value in part]

    def from_main(self, value: Any) -> Any:
        """What the main process passed, on every process."""
        box = [value]
        if self.world > 1:
            distributed.broadcast_object_list(box)
        return box[0]
