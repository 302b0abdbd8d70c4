"""How figures read, on the terminal and on the page alike."""

import math

from chexscore.evaluation.results import Evaluation
from chexscore.intervals import Interval

__all__ = ["POINT_MEASURES", "between", "chance", "change", "change_between", "number"]

POINT_MEASURES = {
    "sensitivity": ("Sensitivity", "sens."),
    "specificity": ("Specificity", "spec."),
    "ppv": ("PPV", "PPV"),
    "npv": ("NPV", "NPV"),
    "accuracy": ("Accuracy", "acc."),
    "f1": ("F1", "F1"),
}
"""Measure at an operating point -> its heading, and a short one."""


def number(value: float) -> str:
    """Three decimals, or nothing for NaN."""
    return "" if math.isnan(value) else f"{value:.3f}"


def between(found: Interval, to: str = " to ") -> str:
    """The bounds of a measure, or nothing."""
    return "" if math.isnan(found.low) else f"{found.low:.3f}{to}{found.high:.3f}"


def change(found: Interval) -> str:
    """A difference with its sign, or nothing."""
    return "" if math.isnan(found.value) else f"{found.value:+.3f}"


def change_between(found: Interval) -> str:
    """The bounds of a difference, or nothing."""
    return "" if math.isnan(found.low) else f"{found.low:+.3f} to {found.high:+.3f}"


def chance(evaluation: Evaluation) -> str:
    """How many comparisons of subgroups were made, how many are marked, and how many chance alone marks."""
    made = len(evaluation.comparisons)
    marked = sum(one.difference.excludes_zero for one in evaluation.comparisons)
    return (
        f"{made} comparisons with the rest were made and {marked} are marked (the interval excludes zero); "
        f"chance alone marks 1 in 20, here about {made / 20:.0f}."
    )
