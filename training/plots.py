"""The pictures in the run folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from chexscore import metrics
from chexscore.report.curves import roc as roc_curve

__all__ = ["curves", "frequencies", "roc", "samples"]

Array = NDArray[np.float32]

mpl.use("Agg")  # files, never windows
POSITIVE, NEGATIVE, UNKNOWN = "#c44e52", "#4c72b0", "#bbbbbb"


def frequencies(file: Path, names: Sequence[str], truth: Mapping[str, Array]) -> None:
    """How often each finding occurs: bars for each side; `truth` is side -> float32 [N, L], NaN unknown."""
    figure = Figure(figsize=(8, 1.4 + 0.34 * len(names) * len(truth)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(truth)
    for offset, (side, labels) in enumerate(truth.items()):
        known = (~np.isnan(labels)).sum(axis=0)
        shares = 100 * np.nansum(labels, axis=0) / np.maximum(known, 1)
        places = np.arange(len(names)) + offset * height
        bars = axes.barh(places, shares, height, label=f"{side}: {len(labels)} images")
        texts = [
            f" {share:.1f} % of {n}" if n else " none known" for share, n in zip(shares, known, strict=True)
        ]
        axes.bar_label(bars, texts)
    axes.set_yticks(np.arange(len(names)) + height * (len(truth) - 1) / 2, names)
    axes.invert_yaxis()
    axes.margins(x=0.25, y=0.02)
    axes.set_xlabel("positive, % of the images whose label is known")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(truth), frameon=False)
    figure.savefig(file, dpi=110)


def curves(file: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Loss, AUC and learning rate over the epochs; rows of history.csv."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    loss, auc, rate = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in history]
    for axes, title, keys in (
        (loss, "training loss", {"loss": ""}),
        (auc, "validation AUC", {"auc_macro": "macro", "auc_micro": "micro"}),
        (rate, "learning rate", {"learning_rate": ""}),
    ):
        for key, label in keys.items():
            axes.plot(epochs, [row[key] for row in history], marker=".", label=label)
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    auc.legend(frameon=False)
    rate.set_yscale("log")
    figure.savefig(file, dpi=110)


def roc(file: Path, names: Sequence[str], truth: Array, scores: Array) -> None:
    """ROC curves of the validation patients, a panel for each label; both [N, L]."""
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.1 * columns, 3.3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for column, (axes, name) in enumerate(zip(panels, names, strict=False)):
        known = ~np.isnan(truth[:, column])
        labels, each = truth[known, column], scores[known, column]
        auc = metrics.auroc(labels, each)
        axes.plot([0, 1], [0, 1], color=UNKNOWN, linewidth=1)
        if np.isfinite(auc):
            axes.plot(*roc_curve(labels, each), color=NEGATIVE)
        text = (
            f"AUC {auc:.3f}, {int(labels.sum())} of {len(labels)}" if np.isfinite(auc) else "one class only"
        )
        axes.set_title(f"{name}\n{text}", fontsize=9)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axes.set_xlabel("1 - specificity", fontsize=8)
        axes.set_ylabel("sensitivity", fontsize=8)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    figure.savefig(file, dpi=110)


def samples(file: Path, names: Sequence[str], pixels: NDArray[np.uint8], truth: Array, scores: Array) -> None:
    """A sheet of validation X-rays [N, H, W, 1] with their scores as bars, coloured by the true findings."""
    columns = min(4, len(pixels))
    rows = -(-len(pixels) // columns)
    figure = Figure(figsize=(3.2 * columns, rows * (2.6 + 0.16 * len(names))), layout="constrained")
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[2.4, 0.2 + 0.16 * len(names)] * rows)
    for index in range(len(pixels)):
        row, column = divmod(index, columns)
        picture = figure.add_subplot(grid[2 * row, column])
        picture.imshow(pixels[index, ..., 0], cmap="gray", vmin=0, vmax=255)
        picture.set_axis_off()
        _bars(figure.add_subplot(grid[2 * row + 1, column]), names, truth[index], scores[index])
    figure.suptitle("bars: scores; red: finding present, blue: absent, grey: not known", fontsize=10)
    figure.savefig(file, dpi=90)


def _bars(axes: Axes, names: Sequence[str], truth: Array, scores: Array) -> None:
    colours = [UNKNOWN if np.isnan(t) else POSITIVE if t else NEGATIVE for t in truth]
    places = np.arange(len(names))
    axes.barh(places, scores, color=colours)
    axes.set(xlim=(0, 1), xticks=(0, 1))
    axes.set_yticks(places, names, fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.invert_yaxis()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
