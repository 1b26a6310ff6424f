"""What a training takes, planned and measured: memory, time, cost, and which GPU it fits on."""

from helpers.hardware import gpus, measure
from helpers.hardware.plan_report import render
from helpers.hardware.planner import Plan, StepSettings, build_model, flops, plan
from helpers.hardware.published import HEADS, MODELS, model_config
from helpers.hardware.task_plan import TaskPlan, TaskSettings, plan_task

__all__ = [
    "HEADS",
    "MODELS",
    "Plan",
    "StepSettings",
    "TaskPlan",
    "TaskSettings",
    "build_model",
    "flops",
    "gpus",
    "measure",
    "model_config",
    "plan",
    "plan_task",
    "render",
]
