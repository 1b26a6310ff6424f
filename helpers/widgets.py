"""Interactive controls for plain functions.

They are optional: without ipywidgets, the functions can be called directly.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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

    Without ipywidgets, it prints a note and draws once.
    """

    def redraw(**values: Any) -> None:
        try:
            draw(function, **values)
        except CourseError as error:
            print(error)

    try:
        panel = _panel(function, controls, redraw)
    except ImportError:
        values = _start_values(function, controls)
        print(f"ipywidgets is not installed, so this is drawn only once, with {values}.")
        redraw(**values)
        return
    from IPython.display import display

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
        values = _start_values(write, controls)
        print(f"ipywidgets is not installed; suggestions for {text!r} with {values}:")
        for number, offer in enumerate(write(text, **values), 1):
            print(f"{number}. {offer}")
        return
    from IPython.display import display

    wide = ipywidgets.Layout(width="98%", height="auto")
    box = ipywidgets.Textarea(text, rows=4, layout=wide)
    panel = _panel(write, controls, lambda **values: None)
    knobs = dict(zip(controls, panel.kwargs_widgets, strict=True))
    ask = ipywidgets.Button(description="Go on", button_style="primary")
    offers = ipywidgets.VBox()

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

    def suggest(_: Any) -> None:
        with _disabled(ask):
            try:
                found = write(box.value, **{name: knob.value for name, knob in knobs.items()})
            except CourseError as error:
                offers.children = [ipywidgets.HTML(escape(str(error)))]
                return
            offers.children = [button(part) for part in found]
            if "seed" in knobs:
                seed = knobs["seed"]
                seed.value = seed.min if seed.value >= seed.max else seed.value + 1

    ask.on_click(suggest)
    display(ipywidgets.VBox([box, *panel.kwargs_widgets, ask, offers]))


def chat(say: Callable[[str], Any], forget: Callable[[], None] = lambda: None) -> None:
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
        with _disabled(send):
            try:
                reply = say(message)
            except CourseError as error:
                show("Note", error)
                return
        box.value = ""
        show("You", message)
        show("Model", reply)

    def on_enter(_: Any, content: dict[str, Any], __: Any) -> None:
        if content.get("event") == "submit" and not send.disabled:
            answer(send)

    def start_over(_: Any) -> None:
        log.value = ""
        forget()

    send.on_click(answer)
    box.on_msg(on_enter)
    again.on_click(start_over)
    display(ipywidgets.VBox([log, ipywidgets.HBox([box, send]), again]))


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


def _panel(function: Callable[..., Any], controls: dict[str, Any], run: Callable[..., None]) -> Any:
    """Controls for some arguments of ``function``, each change of which calls ``run(**values)``."""
    import ipywidgets

    def changed(**values: Any) -> None:
        run(**values)

    # ipywidgets makes a control for every argument, so only those that should have one are listed.
    arguments = inspect.signature(function).parameters
    listed = [arguments[name].replace(kind=inspect.Parameter.KEYWORD_ONLY) for name in controls]
    changed.__signature__ = inspect.Signature(listed)  # type: ignore[attr-defined]
    return ipywidgets.interactive(changed, **controls)


def _start_values(function: Callable[..., Any], controls: dict[str, Any]) -> dict[str, Any]:
    """The default of each argument, or else the first value of its control."""
    values = {}
    for name, control in controls.items():
        default = inspect.signature(function).parameters[name].default
        first = control[0] if isinstance(control, tuple | list) else control
        values[name] = first if default is inspect.Parameter.empty else default
    return values


@contextmanager
def _disabled(button: Any) -> Iterator[None]:
    """The button can't be clicked meanwhile."""
    button.disabled = True
    try:
        yield
    finally:
        button.disabled = False
