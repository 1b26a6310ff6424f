"""Controls redraw a plain function and show each figure once; without ipywidgets it still draws."""

import sys

import matplotlib
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from helpers import plots, widgets
from helpers.errors import InvalidValue


@pytest.fixture
def shown(monkeypatch):
    """Everything that was displayed, in order."""
    things = []
    monkeypatch.setattr("IPython.display.display", things.append)
    yield things
    plt.close("all")


def bar(height=2, colour="red"):
    return plots.bars({colour: height})


def test_controls_redraw_the_function(shown):
    widgets.explore(bar, height=(1, 5), colour=["red", "green"])
    *first, panel = shown
    assert [type(figure) for figure in first] == [Figure]
    assert first[0].axes[0].patches[0].get_width() == 2
    slider, menu = panel.kwargs_widgets
    assert (slider.value, menu.value) == (2, "red")
    assert slider.continuous_update is False
    slider.value = 4
    assert len(shown) == 3
    assert shown[-1].axes[0].patches[0].get_width() == 4
    assert plt.get_fignums() == []


def test_an_earlier_figure_is_left_alone(shown):
    mine = plt.figure()
    widgets.draw(bar, height=3)
    assert len(shown) == 1
    assert plt.get_fignums() == [mine.number]


def test_a_function_that_only_prints(shown, capsys):
    widgets.draw(print, sep="")
    assert shown == [] and capsys.readouterr().out == "\n"


def test_without_ipywidgets_it_draws_once_with_a_note(shown, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    widgets.explore(bar, height=(1, 5), colour=["red", "green"])
    assert "ipywidgets is not installed" in capsys.readouterr().out
    (figure,) = shown
    assert figure.axes[0].patches[0].get_width() == 2


def test_an_error_is_shown_instead_of_the_figure(shown, capsys):
    def only_positive(height=1):
        if height < 1:
            raise InvalidValue(f"height is {height}; it must be above 0")
        return bar(height)

    widgets.explore(only_positive, height=(-5, 5))
    *_, panel = shown
    assert len(shown) == 2
    panel.kwargs_widgets[0].value = -2
    assert len(shown) == 2 and "height is -2; it must be above 0" in capsys.readouterr().out


def test_without_ipywidgets_it_starts_at_defaults_or_first_values(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)

    def show(low, menu, tick, text, given=7):
        print(low, menu, tick, text, given)

    widgets.explore(show, low=(1, 5), menu=["a", "b"], tick=True, text="text", given=(0, 9))
    assert capsys.readouterr().out.splitlines()[1] == "1 a True text 7"


def test_arguments_without_a_control_keep_their_default(shown):
    def scaled(height=2, ax=None, factor=10):
        return plots.bars({"x": height * factor}, ax)

    widgets.explore(scaled, height=(1, 5))
    *first, panel = shown
    assert [slider.description for slider in panel.kwargs_widgets] == ["height"]
    assert first[0].axes[0].patches[0].get_width() == 20


def write(text, versions=2, top_p=0.9):
    if not text:
        raise InvalidValue("the text is empty")
    return [f" <{top_p}> {number}" for number in range(versions)]


def test_a_suggestion_is_appended_to_the_text(shown):
    widgets.writing_assistant(write, "It was", versions=(1, 4), top_p=(0.1, 1.0))
    (panel,) = shown
    box, versions, top_p, ask, offers = panel.children
    assert (box.value, versions.value, top_p.value) == ("It was", 2, 0.9)
    assert offers.children == ()
    versions.value = 3
    ask.click()
    suggested = [button.description for button in offers.children]
    assert suggested == [" <0.9> 0", " <0.9> 1", " <0.9> 2"]
    offers.children[1].click()
    assert box.value == "It was <0.9> 1" and offers.children == ()
    assert ask.disabled is False


def test_clicking_again_brings_new_suggestions(shown):
    def drawn(text, seed=2):
        return [f" offer {seed}"]

    widgets.writing_assistant(drawn, "It was", seed=(1, 3))
    *_, ask, offers = shown[0].children
    found = []
    for _ in range(4):
        ask.click()
        found.append(offers.children[0].description)
    assert found == [" offer 2", " offer 3", " offer 1", " offer 2"]


def test_suggestions_with_line_breaks_and_empty_ones(shown):
    widgets.writing_assistant(lambda text: ["\nA new line", ""], "It was.")
    box, ask, offers = shown[0].children
    ask.click()
    line, end = offers.children
    assert (line.description, end.description) == (
        "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS} A new line",
        "(the text ends here)",
    )
    line.click()
    assert box.value == "It was.\nA new line"
    ask.click()
    offers.children[1].click()
    assert box.value == "It was.\nA new line"


def test_an_error_of_the_assistant_is_shown_instead_of_suggestions(shown):
    widgets.writing_assistant(write, "", versions=(1, 4))
    box, _, ask, offers = shown[0].children
    ask.click()
    assert [line.value for line in offers.children] == ["the text is empty"]
    box.value = "It"
    ask.click()
    assert len(offers.children) == 2 and ask.disabled is False


def test_without_ipywidgets_suggestions_are_printed_once(shown, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    widgets.writing_assistant(write, "It was", versions=(1, 4))
    first, *offers = capsys.readouterr().out.splitlines()
    assert "ipywidgets is not installed" in first and "{'versions': 2}" in first
    assert offers == ["1.  <0.9> 0", "2.  <0.9> 1"] and shown == []


def test_a_chat_shows_the_whole_conversation(shown):
    said, forgotten = [], []

    def say(message):
        if not message:
            raise InvalidValue("the message is empty")
        said.append(message)
        return f"{len(said)} <b>\nnext"

    widgets.chat(say, lambda: forgotten.append(True))
    log, line, again = shown[0].children
    box, send = line.children
    box.value = "Who & what?"
    send.click()
    assert said == ["Who & what?"] and box.value == "" and send.disabled is False
    assert "Who &amp; what?" in log.value and "1 &lt;b&gt;<br>next" in log.value
    send.click()
    assert len(said) == 1 and "the message is empty" in log.value
    box.value = "With the Enter key?"
    box._handle_custom_msg({"event": "submit"}, [])  # what the browser sends
    assert said == ["Who & what?", "With the Enter key?"] and box.value == ""
    again.click()
    assert log.value == "" and forgotten == [True]


def test_without_ipywidgets_a_chat_prints_a_note(shown, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    widgets.chat(str.upper)
    assert "ipywidgets is not installed" in capsys.readouterr().out and shown == []
