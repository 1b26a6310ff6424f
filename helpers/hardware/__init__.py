"""What a training takes, planned and measured: memory, time, cost, and which GPU it fits on."""

from helpers.hardware.planner import (
    HEADS,
    MODELS,
    Plan,
    StepSettings,
    build_model,
    flops,
    model_config,
    plan,
)

__all__ = [
    "HEADS", "MODELS", "Plan", "StepSettings", "build_model", "flops", "model_config", "plan",
]  # fmt: skip
