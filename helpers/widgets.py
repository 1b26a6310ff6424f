"""Interactive controls over plain functions: thin, and never the only way to see something."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from helpers.errors import CourseError

_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def explore(function: Callable[..., Any], **controls: Any) -> None:
    """Show controls, and redraw ``function(**values)`` whenever one of them is moved.

    Args:
        function: draws a figure (and may return its axes), or prints. A CourseError it raises is
            shown in place of the figure.
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
    drawing.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, _KEYWORD, default=_default(function, name)) for name in controls]
    )
    panel = ipywidgets.interactive(drawing, **controls)
    for control in panel.kwargs_widgets:
        if hasattr(control, "continuous_update"):
            control.continuous_update = False
    display(panel)


def writing_assistant(write: Callable[..., Sequence[str]], text: str = "", **controls: Any) -> None:
    """A text to write on, and a button for offers of how it might go on; each offer is a button
    that appends it.

    write: called as ``write(text, **values)``; returns the offers. A CourseError it raises is
    shown in their place, and an offer without a character as "(the text ends here)".
    controls: as in ``explore``, one for each further argument of ``write``. One named ``seed``
    moves on by itself, so that pressing again brings other offers.

    Without ipywidgets it says so and prints the offers for ``text`` once.
    """
    try:
        import ipywidgets
    except ImportError:
        values = {name: start_value(write, name, control) for name, control in controls.items()}
        print(f"ipywidgets is not installed, so these are the offers for {text!r} with {values}:")
        print(
            *(f"{number}. {offer}" for number, offer in enumerate(write(text, **values), 1)),
            sep="\n",
        )
        return
    from IPython.display import display

    wide = ipywidgets.Layout(width="98%", height="auto")
    box = ipywidgets.Textarea(text, rows=4, layout=wide)
    starts = [inspect.Parameter(name, _KEYWORD, default=_default(write, name)) for name in controls]

    def settings(**values: Any) -> None:
        """Only there for ipywidgets to make its controls for."""

    settings.__signature__ = inspect.Signature(starts)  # type: ignore[attr-defined]
    panel = ipywidgets.interactive(settings, **controls)
    ask = ipywidgets.Button(description="Go on", button_style="primary")
    offers = ipywidgets.VBox()

    knobs = dict(zip(controls, panel.kwargs_widgets, strict=True))

    def button(part: str) -> Any:
        # A description shows on one line, whatever it holds; the text keeps its line breaks.
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
    """A conversation: a line to type in, and all that was said above it. Enter sends as well.

    say: the answer to a message, shown as ``str``; a CourseError it raises is shown in its place.
    forget: called when the button of that name empties the conversation.

    Without ipywidgets it says so and does nothing else: call ``say`` yourself.
    """
    try:
        import ipywidgets
    except ImportError:
        print("ipywidgets is not installed; call the chat's own function instead.")
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
        try:
            draw(function, **values)
        except CourseError as error:
            print(error)

    return drawing


def _busy(button: Any, action: Callable[[Any], None]) -> Callable[[Any], None]:
    """``action`` for a click, with the button switched off while it runs."""

    def run(clicked: Any) -> None:
        button.disabled = True
        try:
            action(clicked)
        finally:
            button.disabled = False

    return run
