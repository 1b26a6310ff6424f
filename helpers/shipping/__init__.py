"""After training: a model card, the Hub, a demo page, labels for a file, drift, the capstone."""

from importlib import import_module
from types import ModuleType

__all__ = [
    "batch_prediction",
    "capstone",
    "demo",
    "drift",
    "hub",
    "model_card",
]


def __getattr__(name: str) -> ModuleType:
    """``shipping.hub`` and so on, imported on first use: a push needs neither torch nor Gradio."""
    if name in __all__:
        return import_module(f"helpers.shipping.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
