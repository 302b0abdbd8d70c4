"""Tables of labels as people keep them -> numbers, for training and evaluation alike."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chexscore.errors import TableError

__all__ = ["Policy", "read_table", "to_targets"]

Policy = Literal["negative", "positive", "ignore"]
"""What an uncertain or blank label is taken for; "ignore" leaves it out of losses and measures."""

VALUES: Mapping[Policy, float] = {"negative": 0.0, "positive": 1.0, "ignore": np.nan}


def read_table(source: str) -> pd.DataFrame:
    """Reads a CSV with one line of labels for each image; every cell stays the text that it is.

    Raises:
        TableError: no such file, no CSV in UTF-8, or no rows.
    """
    try:
        table = pd.read_csv(source, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except OSError as error:
        raise TableError(f"{source}: the table of labels cannot be read: {error.strerror}.") from error
    except ValueError as error:  # pandas' parser errors and wrong encodings
        raise TableError(f"{source}: not a CSV in UTF-8: {error}.") from error
    if table.empty:
        raise TableError(f"{source}: the table has no rows.")
    return table


def to_targets(
    table: pd.DataFrame,
    labels: Sequence[str],
    source: str,
    *,
    uncertain: Mapping[str, Policy],
    blank: Mapping[str, Policy],
) -> NDArray[np.float32]:
    """Label columns as numbers.

    Args:
        table: the label columns hold text: 1, 0, -1 (uncertain) or nothing.
        labels: columns to read, in this order.
        source: the file, for errors.
        uncertain: label -> policy for -1; the key "default" serves labels that are not named.
        blank: the same for empty cells.

    Returns:
        float32 [rows, labels], each 0, 1 or NaN for one to leave out.

    Raises:
        TableError: a value that is none of the four; the text names column and line.
    """
    targets = np.empty((len(table), len(labels)), dtype=np.float32)
    for column, label in enumerate(labels):
        text = table[label].str.strip()
        numbers = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float32, copy=True)
        empty = (text == "").to_numpy()
        wrong = ~empty & ~np.isin(numbers, (0, 1, -1))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise TableError(
                f"{source}: column {label}, line {row + 2}: {text.iloc[row]!r} is not 1, 0, -1 or blank."
            )
        numbers[numbers == -1] = VALUES[uncertain.get(label, uncertain["default"])]
        numbers[empty] = VALUES[blank.get(label, blank["default"])]
        targets[:, column] = numbers
    return targets
