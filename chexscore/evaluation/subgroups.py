"""Subgroups of cases by a column of the labels: as it stands, "Sex", or with edges, "Age:40,60"."""

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chexscore.errors import UsageError
from chexscore.evaluation.cases import Cases
from chexscore.evaluation.layouts import find_column
from chexscore.labels import stripped

__all__ = ["MOST_VALUES", "Subgroup", "split", "splits"]

MOST_VALUES = 20
"""A column with more values than this is no subgroup but a number or a name."""

NUMBER = re.compile(r"([<>≤≥]?)[=~\s]*(-?\d+(?:\.\d+)?)\s*(\+?)\s*([A-Za-z]*)")
"""With what people write around one: "90+", "> 89", "60 years", "<=1"."""

DICOM_AGE = re.compile(r"\d{1,3}[DWM]")
"""DICOM's Age String, as NIH writes ages, but for zeros in front, and years: PS3.5, table 6.2-1."""

PART_OF_A_YEAR = re.compile(r"h(?:ou)?rs?|days?|w(?:ee)?ks?|mos?|mths?|months?", re.IGNORECASE)
AMBIGUOUS = frozenset("dwm")
"""Units that may be others, too: m is months, metres or millions."""

YEARS = ("", "y")
"""How units of years begin, if they are named at all."""
IN_A_YEAR = {"h": 365.25 * 24, "d": 365.25, "w": 365.25 / 7, "m": 12.0}

DIGITS = ".15g"
"""Of edges, as many as floats are sure to keep: dates are numbers, too."""

NO_NUMBER = "unknown"
"""The subgroup of what is no number, where edges are given."""


class Subgroup(NamedTuple):
    """Some of the cases.

    Attributes:
        value: what they have, such as "40 to 59".
        chosen: [N], which they are.
        known: whether they have that for sure; they are compared with no others if nothing is known.
    """

    value: str
    chosen: NDArray[np.bool_]
    known: bool = True


def splits(cases: Cases, subgroups: Sequence[str]) -> list[tuple[str, list[Subgroup]]]:
    """Splits cases by several columns.

    Raises:
        UsageError: as for `split`, or the same column twice.
    """
    columns = list(cases.table.cells.columns)
    for place, subgroup in enumerate(subgroups):
        column, _ = _parse(subgroup, columns)
        if column in [_parse(earlier, columns)[0] for earlier in subgroups[:place]]:
            raise UsageError(f"--subgroup {subgroup}: {column} is asked for twice; leave one out.")
    return [split(cases, subgroup) for subgroup in subgroups]


def split(cases: Cases, subgroup: str) -> tuple[str, list[Subgroup]]:
    """Splits cases by a column of the labels.

    Cases without a value are in no subgroup; a study whose views have different ones is in "several".

    Args:
        cases: N of them.
        subgroup: a column, or a column, a colon and edges: "Age:40,60" gives under 40, 40 to 59 (below 60),
            and 60 and over; "058Y" and "90+" are 58 and 90 or more, "006M" and "6 months" half a year, and
            what is no number, or may be on both sides of an edge, makes the group "unknown".

    Returns:
        The column, and its subgroups: in the order of the edges, else sorted.

    Raises:
        UsageError: no such column, no values, too many, or with edges none that is a number.
    """
    cells = cases.table.cells
    column, edges = _parse(subgroup, list(cells.columns))
    text = np.array(list(stripped(cells[column])), dtype=object)[cases.lines]
    if not any(text):
        raise UsageError(f"--subgroup {subgroup}: {column} is blank for all that is evaluated.")
    if edges:
        names = _names(edges)
        text = _binned(text, edges, names, subgroup)
        names = [*names, NO_NUMBER]
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
    found = [
        Subgroup(name, values == name, known=not edges or name != NO_NUMBER)
        for name in dict.fromkeys((*names, "several"))
    ]
    return column, [one for one in found if one.chosen.any()]


def _parse(subgroup: str, columns: Sequence[str]) -> tuple[str, list[float]]:
    match = re.fullmatch(r"(.+):(\s*-?[\d.]+(?:\s*,\s*-?[\d.]+)*\s*)", subgroup)
    wanted, numbers = (match[1], match[2]) if match and subgroup not in columns else (subgroup, "")
    column = find_column(columns, wanted)
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
        f"{low:{DIGITS}} to {high - 1:{DIGITS}}" if whole else f"{low:{DIGITS}} to below {high:{DIGITS}}"
        for low, high in pairwise(edges)
    ]
    return [f"under {edges[0]:{DIGITS}}", *between, f"{edges[-1]:{DIGITS}} and over"]


def _binned(
    text: NDArray[np.object_], edges: list[float], names: list[str], subgroup: str
) -> NDArray[np.object_]:
    cells = set(text) - {""}
    in_years = any((found := NUMBER.fullmatch(cell)) and found[4][:1].lower() in YEARS for cell in cells)
    bounds = {cell: _bounds(cell, in_years=in_years) for cell in cells}
    if not any(bounds.values()):
        raise UsageError(f"--subgroup {subgroup}: {max(text)!r} is no number.")
    bins = {"": ""}
    for cell, each in bounds.items():
        reached = {bisect_right(edges, bound) for bound in each}
        bins[cell] = names[reached.pop()] if len(reached) == 1 else NO_NUMBER
    return np.array([bins[cell] for cell in text], dtype=object)


def _bounds(cell: str, *, in_years: bool) -> tuple[float, ...]:
    """The least and the largest number that a cell can mean; none if it is no number.

    Hours to months that are written out are parts of a year only where other cells are years; there other
    units say nothing.
    """
    found = NUMBER.fullmatch(cell)
    if found is None:
        return ()
    sign, digits, plus, unit = found.groups()
    number = float(digits)
    if DICOM_AGE.fullmatch(cell) or (in_years and PART_OF_A_YEAR.fullmatch(unit)):
        number /= IN_A_YEAR[unit[0].lower()]
    elif unit.lower() in AMBIGUOUS or (in_years and unit[:1].lower() not in YEARS):
        return ()
    if sign in ("<", "≤"):
        return -math.inf, number if sign == "≤" or "=" in cell else math.nextafter(number, -math.inf)
    return number, math.inf if sign or plus else number
