"""What torch's allocator really hands out: the reference for every account of memory."""

import numpy as np
from torch import Tensor
from torch.profiler import ProfilerActivity, profile


def allocated(step, model, optimizer) -> int:
    """Bytes at the peak of ``step()`` on the CPU: what the model and its optimiser hold before, and
    the most that the allocator has handed out since. Without gradients from an earlier step."""
    held = [*model.parameters(), *model.buffers()]
    held += [v for state in optimizer.state.values() for v in state.values()]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    before = sum(tensor.nbytes for tensor in held if isinstance(tensor, Tensor))
    return before + int(np.cumsum([size for _, size in changes]).max())
