"""Figures are read back from what was drawn."""

from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import to_rgb

from helpers import plots


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture
def ax():
    return plt.subplots()[1]


def labels_of(ticks):
    return [tick.get_text() for tick in ticks]


# Okabe & Ito 2008, "Color Universal Design": told apart by people who confuse red and green.
# Without their yellow (240, 228, 66), which is hard to see on white.
OKABE_ITO = {(0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (0, 114, 178), (213, 94, 0)}
OKABE_ITO |= {(204, 121, 167)}


def test_the_style_draws_in_colours_that_the_colour_blind_can_tell_apart():
    with plt.rc_context():
        plots.style()
        lines = plt.subplots()[1].plot(np.eye(7))
    drawn = [tuple(round(255 * part) for part in to_rgb(line.get_color())) for line in lines]
    assert len(set(drawn)) == 7 and set(drawn) == OKABE_ITO


def test_the_style_fits_a_page_and_is_not_smaller_than_matplotlibs_own(tmp_path):
    with plt.rc_context():
        plots.style()
        plt.figure().savefig(tmp_path / "figure.png")
        assert plt.rcParams["font.size"] >= matplotlib.rcParamsDefault["font.size"]
    height, width, _ = plt.imread(tmp_path / "figure.png").shape
    assert 500 <= width <= 700 and height < width


def test_loss_curve_draws_a_sequence(ax):
    assert plots.loss_curve([3.0, 2.0, 1.0], ax) is ax
    (line,) = ax.lines
    assert line.get_xdata().tolist() == [1, 2, 3]
    assert line.get_ydata().tolist() == [3.0, 2.0, 1.0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("optimiser step", "loss (nats)")


def test_loss_curve_draws_a_history_with_its_evaluations(ax):
    history = SimpleNamespace(
        losses=[3.0, 2.0],
        steps=[{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.0}],
        evaluations=[{"step": 20, "loss": 2.5}],
    )
    plots.loss_curve(history, ax, label="small")
    training, validation = ax.lines
    assert training.get_xdata().tolist() == [10, 20]
    assert validation.get_xydata().tolist() == [[20, 2.5]]
    assert training.get_color() == validation.get_color()
    assert labels_of(ax.get_legend().get_texts()) == ["small", "small, validation"]


def test_a_smoothed_loss_looks_back_only(ax):
    plots.loss_curve([1, 3, 5, 7], ax, smooth=2)
    plots.loss_curve([], ax, smooth=5)
    smoothed, empty = ax.lines
    assert smoothed.get_ydata().tolist() == [1, 2, 4, 6] and len(empty.get_ydata()) == 0


def test_confusion_counts_rows_of_true_classes(ax):
    assert plots.confusion([0, 0, 0, 1], [0, 0, 1, 1], ["ham", "spam"], ax) is ax
    assert labels_of(ax.texts) == ["2", "1", "0", "1"]
    assert np.allclose(ax.images[0].get_array(), [[2 / 3, 1 / 3], [0, 1]])
    assert labels_of(ax.get_yticklabels()) == ["ham", "spam"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "true")


def test_confusion_of_a_class_without_examples(ax):
    plots.confusion([0], [0], ["a", "b"], ax)
    assert np.isfinite(ax.images[0].get_array()).all()


def test_intervals_draw_points_and_bounds(ax):
    assert plots.intervals({"a": (0.9, 0.8, 0.95), "b": (0.5, 0.4, 0.7)}, ax) is ax
    points, _caps, (bars,) = ax.containers[0]
    assert points.get_xydata().tolist() == [[0.9, 1], [0.5, 0]]
    drawn = [segment[:, 0] for segment in bars.get_segments()]
    assert np.allclose(drawn, [[0.8, 0.95], [0.4, 0.7]])
    assert labels_of(ax.get_yticklabels()) == ["a", "b"]
    assert "95 %" in ax.get_xlabel()


def test_reliability_averages_each_bin(ax):
    probabilities = np.array([[0.9, 0.1], [0.95, 0.05], [0.4, 0.6], [1.0, 0.0]])
    assert plots.reliability(probabilities, [0, 1, 1, 0], ax) is ax
    _diagonal, model = ax.lines
    assert np.allclose(model.get_xydata(), [[0.6, 1], [0.9, 1], [0.975, 0.5]])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("confidence", "share right")


def test_bars_keep_their_order(ax):
    assert plots.bars({"first": 2.0, "second": 1.0}, ax, xlabel="seconds") is ax
    assert [bar.get_width() for bar in ax.patches] == [2.0, 1.0]
    assert [bar.get_y() for bar in ax.patches] == sorted(b.get_y() for b in ax.patches)[::-1]
    assert ax.get_xlabel() == "seconds"


@pytest.mark.parametrize("draw", [lambda: plots.bars({"a": 1}), lambda: plots.loss_curve([1.0])])
def test_without_axes_a_new_figure_is_made(draw):
    before = len(plt.get_fignums())
    draw()
    assert len(plt.get_fignums()) == before + 1
