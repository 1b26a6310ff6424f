"""Interactive controls over plain functions: thin, and never the only way to see something."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def explore(function: Callable[..., Any], **controls: Any) -> None:
    """Show controls, and redraw ``function(**values)`` whenever one of them is moved.

    Args:
        function: draws a figure (and may return its axes), or prints.
        controls: for each argument ``(low, high)`` or ``(low, high, step)`` for a slider, a
            list for a menu, True or False for a box, or text. An argument's default in the
            function is where its control begins.

    Without ipywidgets it says so and draws once, at the values where the controls would begin.
    """
    try:
        import ipywidgets
    except ImportError:
        values = {name: start_value(function, name, control) for name, control in controls.items()}
        print(f"ipywidgets is not installed, so this is drawn once, with {values}.")
        draw(function, **values)
        return
    from IPython.display import display

    drawing = functools.wraps(function)(_drawing(function))
    # Only what has a control: ipywidgets would look for one for every other argument too.
    drawing.__signature__ = inspect.Signature(
        [inspect.Parameter(name, _KEYWORD, default=_default(function, name)) for name in controls]
    )
    panel = ipywidgets.interactive(drawing, **controls)
    for control in panel.kwargs_widgets:
        if hasattr(control, "continuous_update"):
            control.continuous_update = False
    display(panel)


def start_value(function: Callable[..., Any], name: str, control: Any) -> Any:
    """Where the control of one argument begins: its default, else the middle or first choice."""
    default = _default(function, name)
    if default is not inspect.Parameter.empty:
        return default
    if isinstance(control, tuple):
        low, high, *step = control
        if all(isinstance(part, int) for part in control):
            return (low + high) // 2
        middle = (low + high) / 2
        return low + round((middle - low) / step[0]) * step[0] if step else middle
    if isinstance(control, Mapping):
        return next(iter(control.values()))
    if isinstance(control, list):
        return control[0]
    return control


def draw(function: Callable[..., Any], **values: Any) -> None:
    """Call ``function`` and show each figure it drew exactly once, whatever the backend."""
    from IPython.display import display

    before = set(plt.get_fignums())
    result = function(**values)
    figures = [plt.figure(number) for number in plt.get_fignums() if number not in before]
    drawn = getattr(result, "figure", result)
    if isinstance(drawn, Figure) and drawn not in figures:
        figures.append(drawn)
    for figure in figures:
        display(figure)
        plt.close(figure)


def _default(function: Callable[..., Any], name: str) -> Any:
    parameter = inspect.signature(function).parameters.get(name)
    return inspect.Parameter.empty if parameter is None else parameter.default


def _drawing(function: Callable[..., Any]) -> Callable[..., None]:
    def drawing(**values: Any) -> None:
        draw(function, **values)

    return drawing
