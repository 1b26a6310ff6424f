"""Where a run computes: the device, the precision, and the processes that share the work."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from helpers import runtime
from helpers.errors import CourseError, InvalidValue
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
        use_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true")
        found = runtime.detect(
            device="cpu" if use_cpu else config.device,
            precision=config.precision,
            seed=config.seed,
        )
        started = int(os.environ.get("WORLD_SIZE", "1"))
        connected = distributed.is_available() and distributed.is_initialized()
        if started == 1 and not connected:
            return cls(torch.device(found.device), found.precision)
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if found.device == "cuda" and here > torch.cuda.device_count():
            raise InvalidValue(
                f"{here} processes were started for {torch.cuda.device_count()} GPU(s); start one "
                f"per GPU, or set CUDA_VISIBLE_DEVICES= to train on the CPU."
            )
        from accelerate import PartialState  # knows the launchers, backends and devices

        state = PartialState(cpu=found.device != "cuda")  # torch connects no processes on MPS
        if state.num_processes < started:
            raise CourseError(
                f"{started} processes were started, but this one knows of {state.num_processes}. "
                f"Start them with torchrun, and look for an error above."
            )
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
        if self.world == 1:
            return values
        lists: list[Any] = [None] * self.world
        distributed.all_gather_object(lists, values)
        return [value for part in lists for value in part]
