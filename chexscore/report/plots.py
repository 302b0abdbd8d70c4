"""The pictures of a report, as SVG, drawn by matplotlib."""

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from chexscore.intervals import FEWEST, Interval
from chexscore.report.curves import Curve, precision_recall, reliability, roc

__all__ = ["calibration_plot", "forest_plot", "histogram", "precision_recall_plot", "roc_plot"]

Floats = NDArray[np.floating]

POSITIVE, NEGATIVE, GREY = "#d55e00", "#0072b2", "#777777"
"""Told apart in print and by colour-blind eyes (Okabe and Ito 2008)."""

MARKERS = "osD^vPX*<>"
MOST_VERTICES = 400
"""Of a curve: more than a page can show."""

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Arial", "Helvetica", "DejaVu Sans", "sans-serif"],
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "chexscore",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.linewidth": 0.8,
    "text.parse_math": False,
}

SIDE = 3.2
"""Of a square plot, in inches."""


@mpl.rc_context(STYLE)
def roc_plot(labels: Floats, scores: Floats, points: Mapping[str, float]) -> str:
    """SVG of the ROC curve with the operating points; labels and scores [N], both classes there."""
    figure, axes = _square("1 - specificity", "sensitivity")
    _line(axes, roc(labels, scores))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    for (name, threshold), marker in zip(points.items(), cycle(MARKERS), strict=False):
        called = scores >= threshold
        axes.plot(
            called[labels == 0].mean(),
            called[labels == 1].mean(),
            marker,
            color=POSITIVE,
            markersize=5,
            label=name,
            clip_on=False,
        )
    axes.legend(loc="lower right")
    return _svg(figure)


@mpl.rc_context(STYLE)
def precision_recall_plot(labels: Floats, scores: Floats) -> str:
    """SVG of the precision-recall curve above what a guess reaches; labels and scores [N]."""
    figure, axes = _square("recall (sensitivity)", "precision (PPV)")
    _line(axes, precision_recall(labels, scores), steps=True)
    axes.axhline(float(labels.mean()), color=GREY, linewidth=0.8, linestyle=":", label="guess")
    axes.legend(loc="best")
    return _svg(figure)


@mpl.rc_context(STYLE)
def calibration_plot(labels: Floats, scores: Floats) -> str:
    """SVG of the share of positives by score, with the interval of each bin, grey where it has few cases.

    Labels and scores are [N]; the larger a dot, the more cases.
    """
    figure, axes = _square("mean score", "share of positives")
    score, share, count, low, high = reliability(labels, scores)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    enough = count >= FEWEST
    colors = list(np.where(enough, NEGATIVE, GREY))
    axes.plot(score[enough], share[enough], color=NEGATIVE, linewidth=1)
    axes.vlines(score, low, high, colors=colors, linewidth=1)
    sizes = 8 + 90 * count / count.max()
    axes.scatter(score, share, s=sizes, color=colors, clip_on=False, linewidths=0)
    return _svg(figure)


@mpl.rc_context(STYLE)
def histogram(labels: Floats, scores: Floats, points: Mapping[str, float]) -> str:
    """SVG of the scores of either class, each summing to one, with the operating points; [N] both."""
    figure, axes = _square("score", "share of the class")
    axes.set_autoscaley_on(True)
    edges = np.linspace(0, 1, 21)
    for label, color, name in ((0, NEGATIVE, "negative"), (1, POSITIVE, "positive")):
        chosen = scores[labels == label]
        weights = np.full(len(chosen), 1 / max(len(chosen), 1))
        axes.hist(chosen, bins=list(edges), weights=weights, color=color, alpha=0.55, label=name)
    for threshold in points.values():
        axes.axvline(threshold, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_ylim(0, None)
    axes.legend(loc="upper center", ncols=2, bbox_to_anchor=(0.5, 1.12))
    return _svg(figure)


@mpl.rc_context(STYLE)
def forest_plot(rows: Sequence[tuple[str, Interval]], reference: float | None = None) -> str:
    """SVG of AUCs with their intervals, a line each, and a dotted line at `reference`.

    One without an interval has a hollow dot and, where others have one, says that too few patients are there.
    """
    figure = Figure(figsize=(5.2, 0.6 + 0.24 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    known = [(row, found) for row, (_, found) in enumerate(rows) if not np.isnan(found.value)]
    unsure = [found.value for _, found in known if np.isnan(found.low)]
    for row, found in known:
        alone = bool(np.isnan(found.low))
        axes.plot([found.low, found.high], [row, row], color=NEGATIVE, linewidth=1.5)
        axes.plot(found.value, row, "o", color=NEGATIVE, markersize=5, fillstyle="none" if alone else "full")
        if alone and len(unsure) < len(known):
            axes.annotate(
                "too few",
                (found.value, row),
                (-6, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                color=GREY,
                fontsize=8,
            )
    if reference is not None and not np.isnan(reference):
        axes.axvline(reference, color=GREY, linewidth=0.8, linestyle=":")
    left = [value - 0.1 for value in unsure]
    ends = [end for _, found in known for end in found if not np.isnan(end)]
    axes.set_xlim(min([0.5, *ends, *left]) - 0.01, 1.005)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("AUC, 95 % interval")
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    return _svg(figure)


def _square(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(SIDE, SIDE), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _line(axes: Axes, curve: Curve, *, steps: bool = False) -> None:
    """Draws a curve with no more vertices than can be seen: one of those in the same place."""
    places = np.column_stack([curve.x, curve.y]) * MOST_VERTICES
    moved = (np.diff(places.round(), axis=0) != 0).any(axis=1)
    chosen = np.unique([0, *np.flatnonzero(moved) + 1, len(curve.x) - 1])
    axes.plot(
        curve.x[chosen],
        curve.y[chosen],
        color=NEGATIVE,
        linewidth=1.5,
        drawstyle="steps-pre" if steps else "default",
        clip_on=False,
    )


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
