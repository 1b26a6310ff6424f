"""Interactive controls for plain functions.

They are optional: without ipywidgets, the functions can be called directly.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from helpers.errors import CourseError


def explore(function: Callable[..., Any], **controls: Any) -> None:
    """Show controls, and call ``function(**values)`` again whenever one of them changes.

    Args:
        function: draws a figure (and may return its axes), or prints. If it raises a CourseError,
            the message is shown instead of the figure.
        controls: one per argument: ``(low, high)`` or ``(low, high, step)`` for a slider, a list
            for a menu, True or False for a checkbox, or text. A control starts at the default value
            of its argument.

    Without ipywidgets, it prints a note and draws once, with the values at which the controls would
    start.
    """
    try:
        import ipywidgets
    except ImportError:
        values = {name: start_value(function, name, control) for name, control in controls.items()}
        print(f"ipywidgets is not installed, so this is drawn only once, with {values}.")
        draw(function, **values)
        return
    from IPython.display import display

    drawing = functools.wraps(function)(_drawing(function))
    drawing.__signature__ = _signature(function, controls)  # type: ignore[attr-defined]
    panel = ipywidgets.interactive(drawing, **controls)
    for control in panel.kwargs_widgets:
        if hasattr(control, "continuous_update"):
            control.continuous_update = False  # redraw when the slider is released, not on the way
    display(panel)


def writing_assistant(write: Callable[..., Sequence[str]], text: str = "", **controls: Any) -> None:
    """A text box and a button that suggests continuations. Clicking a suggestion appends it.

    write: called as ``write(text, **values)``; returns the suggestions. If it raises a CourseError,
    the message is shown instead. An empty suggestion is shown as "(the text ends here)".
    controls: as in ``explore``, one for each other argument of ``write``. A control named ``seed``
    moves on after each click, so that the next one brings new suggestions.

    Without ipywidgets, it prints a note and the suggestions for ``text``.
    """
    try:
        import ipywidgets
    except ImportError:
        values = {name: start_value(write, name, control) for name, control in controls.items()}
        print(f"ipywidgets is not installed; suggestions for {text!r} with {values}:")
        print(
            *(f"{number}. {offer}" for number, offer in enumerate(write(text, **values), 1)),
            sep="\n",
        )
        return
    from IPython.display import display

    wide = ipywidgets.Layout(width="98%", height="auto")
    box = ipywidgets.Textarea(text, rows=4, layout=wide)

    def settings(**values: Any) -> None:
        """Does nothing: ipywidgets makes the controls from its signature."""

    settings.__signature__ = _signature(write, controls)  # type: ignore[attr-defined]
    panel = ipywidgets.interactive(settings, **controls)
    ask = ipywidgets.Button(description="Go on", button_style="primary")
    offers = ipywidgets.VBox()

    knobs = dict(zip(controls, panel.kwargs_widgets, strict=True))

    def button(part: str) -> Any:
        # A button has a single line, so line breaks are shown as arrows; the text keeps them.
        shown = part.replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS} ")
        made = ipywidgets.Button(
            description=shown if part.strip() else "(the text ends here)", layout=wide
        )

        def append(_: Any) -> None:
            box.value += part
            offers.children = ()

        made.on_click(append)
        return made

    def offer(_: Any) -> None:
        try:
            found = write(box.value, **{name: knob.value for name, knob in knobs.items()})
        except CourseError as error:
            offers.children = [ipywidgets.HTML(escape(str(error)))]
            return
        offers.children = [button(part) for part in found]
        if "seed" in knobs:
            seed = knobs["seed"]
            seed.value = seed.min if seed.value >= seed.max else seed.value + 1

    ask.on_click(_busy(ask, offer))
    display(ipywidgets.VBox([box, *panel.kwargs_widgets, ask, offers]))


def chat(say: Callable[[str], Any], forget: Callable[[], None] | None = None) -> None:
    """A conversation, with a line for the next message below it. The Enter key sends, too.

    say: called with a message; returns the answer, which is shown as ``str``. If it raises a
    CourseError, the message of the error is shown instead.
    forget: called when "Forget all" clears the conversation.

    Without ipywidgets, it only prints a note.
    """
    try:
        import ipywidgets
    except ImportError:
        print("ipywidgets is not installed; call the function that answers yourself.")
        return
    from IPython.display import display

    log = ipywidgets.HTML()
    box = ipywidgets.Text(placeholder="your message", layout=ipywidgets.Layout(width="80%"))
    send = ipywidgets.Button(description="Send", button_style="primary")
    again = ipywidgets.Button(description="Forget all")

    def show(who: str, what: Any) -> None:
        log.value += f"<p><b>{who}:</b> {escape(str(what)).replace(chr(10), '<br>')}</p>"

    def answer(_: Any) -> None:
        message = box.value
        try:
            reply = say(message)
        except CourseError as error:
            show("Note", error)
            return
        box.value = ""
        show("You", message)
        show("Model", reply)

    def start_over(_: Any) -> None:
        log.value = ""
        if forget is not None:
            forget()

    respond = _busy(send, answer)

    def on_enter(_: Any, content: dict[str, Any], __: Any) -> None:
        if content.get("event") == "submit" and not send.disabled:
            respond(send)

    send.on_click(respond)
    box.on_msg(on_enter)
    again.on_click(start_over)
    display(ipywidgets.VBox([log, ipywidgets.HBox([box, send]), again]))


def start_value(function: Callable[..., Any], name: str, control: Any) -> Any:
    """The value at which a control starts: the default of its argument, or else the middle of a
    slider or the first choice of a menu."""
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
    """Call ``function`` and show each figure that it draws exactly once, with any backend."""
    from IPython.display import display

    before = set(plt.get_fignums())
    result = function(**values)
    figures = [plt.figure(number) for number in plt.get_fignums() if number not in before]
    drawn = getattr(result, "figure", result)
    if isinstance(drawn, Figure) and drawn not in figures:
        figures.append(drawn)
    for figure in figures:
        display(figure)
        plt.close(figure)  # or the inline backend would show it a second time


def _default(function: Callable[..., Any], name: str) -> Any:
    parameter = inspect.signature(function).parameters.get(name)
    return inspect.Parameter.empty if parameter is None else parameter.default


def _signature(function: Callable[..., Any], names: Iterable[str]) -> inspect.Signature:
    """The signature from which ipywidgets makes its controls: it makes one for every argument, so
    only those that should have one are listed."""
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature(
        [inspect.Parameter(name, kind, default=_default(function, name)) for name in names]
    )


def _drawing(function: Callable[..., Any]) -> Callable[..., None]:
    def drawing(**values: Any) -> None:
        try:
            draw(function, **values)
        except CourseError as error:
            print(error)

    return drawing


def _busy(button: Any, action: Callable[[Any], None]) -> Callable[[Any], None]:
    """``action`` as a handler for clicks that disables the button while it runs."""

    def run(clicked: Any) -> None:
        button.disabled = True
        try:
            action(clicked)
        finally:
            button.disabled = False

    return run
