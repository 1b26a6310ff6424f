"""An Accelerator for one run, in the precision that suits the machine."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState, PartialState

from helpers import runtime
from helpers.training.config import TrainingConfig

MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


@contextmanager
def own_accelerator(config: TrainingConfig) -> Iterator[Accelerator]:
    """An Accelerator of this run's own. Accelerate keeps its settings in dictionaries of the
    whole process: this run gets new ones, and the caller's are put back afterwards."""
    hardware = runtime.detect(device=config.device, precision=config.precision, seed=config.seed)
    states = [AcceleratorState, GradientState]
    if not _processes_are_connected():
        states.append(PartialState)
    before = [state._shared_state for state in states]
    for state in states:
        state._shared_state = {}
    try:
        yield Accelerator(
            cpu=hardware.device == "cpu",
            mixed_precision=MIXED_PRECISION[hardware.precision],
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
    finally:
        for state, values in zip(states, before, strict=True):
            # Connected processes stay so, and what Accelerate knows of them with it.
            if not (state is PartialState and _processes_are_connected()):
                state._shared_state = values


def _processes_are_connected() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
