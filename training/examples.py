"""What a recipe learns from and is measured on: its table, labels, split and pixels."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chexscore.errors import TableError
from training import labels
from training.config import TrainConfig
from training.prepare import prepare
from training.splits import SIDES, Side, check, divide

__all__ = ["Examples", "load"]

EVEN = 0.5
"""Between the targets of images with a finding and without it."""


class Examples(NamedTuple):
    """N images with L labels.

    Attributes:
        table: a row for each image, with the columns path and patient and those of the labels.
        sides: [N], of SIDES.
        rows: side -> the rows of its readable images.
        pixels: uint8 [N, H, W, 1].
        targets: float32 [N, L], for the loss: by the recipe's policies; NaN where unknown.
        truth: float32 [N, L], for the measures: 0, 1, or NaN where unknown.
    """

    table: pd.DataFrame
    sides: NDArray[np.str_]
    rows: dict[Side, NDArray[np.intp]]
    pixels: NDArray[np.uint8]
    targets: NDArray[np.float32]
    truth: NDArray[np.float32]


def load(
    config: TrainConfig,
    root: Path,
    cache: Path,
    workers: int,
    report: Callable[[str], None],
    runs: Sequence[Path] = (),
) -> Examples:
    """Reads the data set of a recipe, and decodes its images where that is not done yet.

    Args:
        config: the recipe.
        root: folder of the data set.
        cache: folder of the prepared pixels.
        workers: threads that decode images.
        report: called with lines for the user.
        runs: run folders that must hold the same split, or none, which is seen to before images are decoded.

    Raises:
        UsageError: another process prepares the images.
        TableError: the data set cannot be used, a run has another split, no image is left for training or
            validation, or no label has both classes to train on.
    """
    table, sides = divide(root, config.data)
    for run in runs:
        check(table, sides, run)
    targets, truth = labels.learned(table, config.data, config.seed), labels.measured(table, config.data)
    if len(_lacking(config, targets[sides == "training"])) == len(config.data.labels):
        raise TableError(f"{root / config.data.table}: no label has images with and without it to train on.")
    pixels, usable = prepare(root, list(table["path"]), config.image.spec, cache, workers, report)
    rows = {side: np.flatnonzero((sides == side) & usable) for side in SIDES}
    for side in SIDES[:2]:
        if not len(rows[side]):
            raise TableError(f"{root / config.data.table}: no readable image is left for {side}.")
    report(", ".join(f"{len(each)} images for {side}" for side, each in rows.items() if len(each)))
    for side, values in (("training", targets[rows["training"]]), ("validation", truth[rows["validation"]])):
        if lacking := _lacking(config, values):
            report(f"{side} has no images with, or none without: {', '.join(lacking)}")
    return Examples(table, sides, rows, pixels, targets, truth)


def _lacking(config: TrainConfig, values: NDArray[np.float32]) -> list[str]:
    """The labels that have not both, images with the finding and images without it; of values [N, L]."""
    return [
        label
        for label, column in zip(config.data.labels, values.T, strict=True)
        if not ((column > EVEN).any() and (column < EVEN).any())
    ]
