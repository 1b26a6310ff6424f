"""The course's figures: functions that take data and an optional ``ax``, and return the ``ax``.

None of them calls ``show()``, so the caller can add to a figure or put several side by side.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from sklearn.metrics import confusion_matrix

from helpers.evaluation.calibration import calibration_bins

# The palette of Okabe and Ito, which people with any colour vision can tell apart, without its
# yellow, which is hard to see on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def style() -> None:
    """Use the course's style for all figures from here on: readable sizes, clear colours."""
    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 3.6),
            "figure.dpi": 90,
            "savefig.dpi": 90,
            "figure.constrained_layout.use": True,
            "font.size": 11,
            "axes.titlesize": 12,
            "axes.labelsize": 11,
            "legend.fontsize": 10,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#dddddd",
            "axes.prop_cycle": plt.cycler(color=PALETTE),
            "figure.facecolor": "white",
        }
    )


def loss_curve(
    history: Any, ax: Axes | None = None, *, smooth: int = 1, label: str | None = None
) -> Axes:
    """Loss against optimiser step, with the evaluations of a ``History`` as points in the colour of
    its line.

    history: a ``training.History``, or a sequence of losses (nats), one per step.
    smooth: each point is the mean of this many steps, up to and including its own.
    label: the name of the line in the legend.
    """
    ax = _axes(ax)
    losses = pd.Series(getattr(history, "losses", history), dtype=float)  # (steps,)
    steps = [row["step"] for row in getattr(history, "steps", [])] or range(1, len(losses) + 1)
    means = losses.rolling(smooth, min_periods=1).mean()
    (line,) = ax.plot(steps, means, label=label or "training")
    evaluations = getattr(history, "evaluations", [])
    if evaluations:
        ax.plot(
            [row["step"] for row in evaluations],
            [row["loss"] for row in evaluations],
            "o--",
            color=line.get_color(),
            label=f"{label}, validation" if label else "validation",
        )
    if label or evaluations:
        ax.legend()
    ax.set(xlabel="optimiser step", ylabel="loss (nats)")
    return ax


def confusion(
    labels: Sequence[int], predicted: Sequence[int], names: Sequence[str], ax: Axes | None = None
) -> Axes:
    """How often each true class (row) was predicted as each class (column). The shade of a cell is
    its share of the row."""
    ax = _axes(ax)
    counts = confusion_matrix(labels, predicted, labels=range(len(names)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(counts.shape):
        colour = "white" if shares[row, column] > 0.5 else "black"
        ax.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
    ax.set(xlabel="predicted", ylabel="true")
    ax.set_xticks(range(len(names)), names, rotation=30 if len(names) > 3 else 0)
    ax.set_yticks(range(len(names)), names)
    ax.grid(False)
    return ax


def intervals(
    values: Mapping[str, tuple[float, float, float]], ax: Axes | None = None, *, xlabel: str = ""
) -> Axes:
    """A point with its interval for each name. values: ``{name: (value, low, high)}``, the first at
    the top."""
    ax = _axes(ax)
    rows = np.arange(len(values))[::-1]
    points, lows, highs = np.asarray(list(values.values()), dtype=float).reshape(-1, 3).T
    ax.errorbar(points, rows, xerr=[points - lows, highs - points], fmt="o", capsize=4)
    ax.set_yticks(rows, list(values))
    ax.set_ylim(-0.5, len(values) - 0.5)
    ax.set_xlabel(xlabel or "score with its 95 % interval")
    ax.grid(axis="y", visible=False)
    return ax


def reliability(
    probabilities: np.ndarray, labels: Sequence[int], ax: Axes | None = None, *, bins: int = 10
) -> Axes:
    """How often the model is right (y) when it is this confident (x). A calibrated model lies on
    the diagonal. The area of each disc shows the share of examples in its bin.

    probabilities: (N, C); each row sums to 1. labels: (N,), the true classes.
    bins: the number of confidence bins of equal width; empty ones are left out.
    """
    ax = _axes(ax)
    found = calibration_bins(probabilities, labels, bins)
    filled = found["count"] > 0
    ax.plot([0, 1], [0, 1], "--", color="#777777", label="calibrated")
    sure, right = found["confidence"][filled], found["accuracy"][filled]
    (line,) = ax.plot(sure, right, "o-", markersize=4, label="model")
    area = 900 * found["count"][filled] / found["count"].sum()
    ax.scatter(sure, right, s=area, color=line.get_color(), alpha=0.35)
    ax.set(xlabel="confidence", ylabel="share right", xlim=(0, 1.02), ylim=(0, 1.02))
    ax.legend()
    return ax


def bars(values: Mapping[str, float], ax: Axes | None = None, *, xlabel: str = "") -> Axes:
    """Horizontal bars in the given order, the first at the top, each with its value."""
    ax = _axes(ax)
    rows = np.arange(len(values))[::-1]
    drawn = ax.barh(rows, list(values.values()))
    ax.bar_label(drawn, fmt="%.3g", padding=3)
    ax.margins(x=0.12)
    ax.set_yticks(rows, list(values))
    ax.set_xlabel(xlabel or "value")
    ax.grid(axis="y", visible=False)
    return ax


def _axes(ax: Axes | None) -> Axes:
    return plt.subplots()[1] if ax is None else ax
