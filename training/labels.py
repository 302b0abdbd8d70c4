"""Labels as data sets write them -> targets for the loss: 0, 1, or NaN for one to leave out."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chexscore.errors import TableError
from training.config import Policy

__all__ = ["to_targets"]

VALUES: Mapping[Policy, float] = {"zero": 0.0, "one": 1.0, "ignore": np.nan}


def to_targets(
    table: pd.DataFrame, labels: tuple[str, ...], uncertain: Mapping[str, Policy], blank: Mapping[str, Policy]
) -> NDArray[np.float32]:
    """Applies the policies for uncertain (-1) and blank labels.

    Args:
        table: one row an image; the label columns hold text: 1, 0, -1 or nothing.
        labels: columns to read, in this order.
        uncertain: label -> policy for -1; "default" for labels that are not named; else zero (U-Zeros).
        blank: the same for empty cells.

    Returns:
        float32 [rows, labels], each 0, 1 or NaN.

    Raises:
        TableError: a value that is none of the four; the text names column and row.
    """
    targets = np.empty((len(table), len(labels)), dtype=np.float32)
    for column, label in enumerate(labels):
        text = table[label].str.strip()
        numbers = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float32, copy=True)
        wrong = (text != "").to_numpy() & ~np.isin(numbers, (0, 1, -1))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise TableError(f"column {label}, line {row + 2}: {text.iloc[row]!r} is not 1, 0, -1 or blank.")
        numbers[numbers == -1] = _value(uncertain, label)
        numbers[(text == "").to_numpy()] = _value(blank, label)
        targets[:, column] = numbers
    return targets


def _value(policies: Mapping[str, Policy], label: str) -> float:
    return VALUES[policies.get(label, policies.get("default", "zero"))]
