"""Subgroups of cases by a column of the labels: as it stands, "Sex", or with edges, "Age:40,60"."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from chexscore.errors import UsageError
from chexscore.evaluation.cases import Cases
from chexscore.labels import stripped

__all__ = ["MOST_VALUES", "Subgroup", "split"]

MOST_VALUES = 20
"""A column with more values than this is no subgroup but a number or a name."""

NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)[A-Za-z]?")

Subgroup = tuple[str, NDArray[np.bool_]]
"""What the cases of a subgroup have, such as "40 to 59", and [N], which cases they are."""


def split(cases: Cases, subgroup: str) -> tuple[str, list[Subgroup]]:
    """Splits cases by a column of the labels.

    Cases without a value are in no subgroup; a study whose views have different ones is in "several".

    Args:
        cases: N of them.
        subgroup: a column, or a column, a colon and edges: "Age:40,60" gives under 40, 40 to 59 (below 60),
            and 60 and over. Of a number with a unit, as NIH's "058Y", the number counts.

    Returns:
        The column, and its subgroups: in the order of the edges, else sorted.

    Raises:
        UsageError: no such column, too many values, or with edges a value that is no number.
    """
    cells = cases.table.cells
    column, edges = _parse(subgroup, list(cells.columns))
    text = np.array(list(stripped(cells[column])), dtype=object)[cases.lines]
    if edges:
        names = _names(edges)
        text = _binned(text, edges, names, subgroup)
    else:
        names = sorted(set(text) - {""})
    values = np.full(len(cases.labels), "", dtype=object)
    there = text != ""
    case, text = cases.case[there], text[there]
    values[case] = text
    values[case[values[case] != text]] = "several"
    if len(names) > MOST_VALUES:
        raise UsageError(
            f"--subgroup {subgroup}: {column} has {len(names)} values; give edges, such as {column}:40,60."
        )
    found = [(name, values == name) for name in (*names, "several")]
    return column, [(name, chosen) for name, chosen in found if chosen.any()]


def _parse(subgroup: str, columns: Sequence[str]) -> tuple[str, list[float]]:
    match = re.fullmatch(r"(.+):(\s*-?[\d.]+(?:\s*,\s*-?[\d.]+)*\s*)", subgroup)
    wanted, numbers = (match[1], match[2]) if match and subgroup not in columns else (subgroup, "")
    column = next((name for name in columns if name.lower() == wanted.lower()), None)
    if column is None:
        raise UsageError(
            f"--subgroup {subgroup}: the labels have no column {wanted} among {', '.join(columns)}."
        )
    try:
        edges = [float(number) for number in numbers.split(",")] if numbers else []
    except ValueError as error:
        raise UsageError(f"--subgroup {subgroup}: its edges are no numbers.") from error
    if edges != sorted(set(edges)):
        raise UsageError(f"--subgroup {subgroup}: its edges must rise.")
    return column, edges


def _names(edges: list[float]) -> list[str]:
    whole = all(edge.is_integer() for edge in edges)
    between = [
        f"{low:g} to {high - 1:g}" if whole else f"{low:g} to below {high:g}" for low, high in pairwise(edges)
    ]
    return [f"under {edges[0]:g}", *between, f"{edges[-1]:g} and over"]


def _binned(
    text: NDArray[np.object_], edges: list[float], names: list[str], subgroup: str
) -> NDArray[np.object_]:
    numbers = [NUMBER.fullmatch(cell) for cell in text]
    wrong = [cell for cell, number in zip(text, numbers, strict=True) if cell and number is None]
    if wrong:
        raise UsageError(f"--subgroup {subgroup}: {wrong[0]!r} is no number.")
    bins = [names[bisect_right(edges, float(number[1]))] if number else "" for number in numbers]
    return np.array(bins, dtype=object)
