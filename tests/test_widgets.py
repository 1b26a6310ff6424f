"""Controls redraw a plain function, each figure once; without ipywidgets it still draws."""

import sys

import matplotlib
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from helpers import plots, widgets


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, in order."""
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


def test_a_figure_of_before_is_left_alone(shown):
    mine = plt.figure()
    widgets.draw(bar, height=3)
    assert len(shown) == 1
    assert plt.get_fignums() == [mine.number]


def test_a_function_that_only_prints(shown, capsys):
    widgets.draw(print, sep="")
    assert shown == [] and capsys.readouterr().out == "\n"


def test_without_ipywidgets_it_draws_once_and_says_so(shown, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    widgets.explore(bar, height=(1, 5), colour=["red", "green"])
    assert "ipywidgets is not installed" in capsys.readouterr().out
    (figure,) = shown
    assert figure.axes[0].patches[0].get_width() == 2


def no_default(x):
    return x


@pytest.mark.parametrize(
    ("control", "value"),
    [
        ((1, 5), 3),
        ((0.0, 1.0), 0.5),
        ((0.0, 1.0, 0.2), 0.4),
        (["a", "b"], "a"),
        ({"first": 1, "second": 2}, 1),
        (True, True),
        ("text", "text"),
    ],
)
def test_where_a_control_begins(control, value):
    assert widgets.start_value(no_default, "x", control) == pytest.approx(value)


def test_arguments_without_a_control_keep_their_default(shown):
    def scaled(height=2, ax=None, factor=10):
        return plots.bars({"x": height * factor}, ax)

    widgets.explore(scaled, height=(1, 5))
    *first, panel = shown
    assert [slider.description for slider in panel.kwargs_widgets] == ["height"]
    assert first[0].axes[0].patches[0].get_width() == 20
