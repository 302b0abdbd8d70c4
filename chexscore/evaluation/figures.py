"""How figures read, on the terminal and on the page alike."""

import math

from chexscore.evaluation.results import COMPETITION, COMPETITION_FINDINGS, Evaluation, Group, Split
from chexscore.intervals import Interval
from chexscore.messages import counted
from chexscore.samples import MICRO

__all__ = [
    "POINT_MEASURES",
    "between",
    "chance",
    "change",
    "change_between",
    "lacking_for_competition",
    "left_out_of_means",
    "mean_of",
    "named",
    "number",
    "positives",
    "score",
    "without_mean",
]

POINT_MEASURES = {
    "sensitivity": ("Sensitivity", "sens."),
    "specificity": ("Specificity", "spec."),
    "ppv": ("PPV", "PPV"),
    "npv": ("NPV", "NPV"),
    "accuracy": ("Accuracy", "acc."),
    "f1": ("F1", "F1"),
}
"""Measure at an operating point -> its heading, and a short one."""


def named(measure: str) -> str:
    """A measure as a heading."""
    name, _, point = measure.partition("@")
    return f"{POINT_MEASURES[name][0]} at {point}" if point else name.upper()


def number(value: float) -> str:
    """Three decimals, or nothing for NaN."""
    return "" if math.isnan(value) else f"{value:.3f}"


def score(value: float) -> str:
    """A score or threshold: three digits that tell something, because those of rare findings are small."""
    return "" if math.isnan(value) else f"{value:#.3g}"


def between(found: Interval, to: str = " to ") -> str:
    """The bounds of a measure, or nothing."""
    return "" if math.isnan(found.low) else f"{found.low:.3f}{to}{found.high:.3f}"


def change(found: Interval) -> str:
    """A difference with its sign, or nothing."""
    return "" if math.isnan(found.value) else f"{found.value:+.3f}"


def change_between(found: Interval) -> str:
    """The bounds of a difference, or nothing."""
    return "" if math.isnan(found.low) else f"{found.low:+.3f} to {found.high:+.3f}"


def positives(group: Group, column: str) -> str:
    """How many cases are positive; nothing for a mean."""
    return f"{group.positives[column]:,}" if column in group.positives else ""


def chance(evaluation: Evaluation) -> str:
    """How many comparisons of subgroups were made, how many are marked, and how many chance alone marks."""
    made = len(evaluation.comparisons)
    marked = sum(one.difference.excludes_zero for one in evaluation.comparisons)
    if not made:
        return f"No comparison with the rest has an interval: {_why_none(evaluation)}."
    are = "is" if marked == 1 else "are"
    return (
        f"Of {counted(made, 'comparisons')} with the rest {marked} {are} marked, because the interval "
        f"excludes zero; chance alone marks 1 in 20, here about {made / 20:.0f}."
    )


def _why_none(evaluation: Evaluation) -> str:
    if all(one.to_the_rest is None for split in evaluation.splits for one in split.subgroups):
        return "no subgroup has a rest to be compared with"
    if not evaluation.protocol.resamples:
        return "--resamples 0 asks for none"
    return "too few patients have a class that it needs"


def left_out_of_means(evaluation: Evaluation, split: Split | None = None) -> str:
    """Which labels a macro mean is not over, and why; or nothing.

    Args:
        evaluation: what was found.
        split: subgroups, for what their means lack besides; without, of everyone.
    """
    over = evaluation.everyone.over
    before, kept = (evaluation.cases.names, over) if split is None else (over, split.everyone.over)
    lacking = [label for label in before if label not in kept]
    if not lacking:
        return ""
    where = "one class only" if split is None else "one class only in a subgroup"
    return f"{len(kept)} of {len(before)} labels, without {', '.join(lacking)} ({where})"


def lacking_for_competition(evaluation: Evaluation) -> str:
    """Why there is no mean over CheXpert's findings although all of these are there; or nothing."""
    if COMPETITION not in evaluation.everyone.columns:
        return ""
    lacking = [label for label in COMPETITION_FINDINGS if label not in evaluation.everyone.over]
    return f"{', '.join(lacking)} (one class only)" if lacking else ""


def mean_of(evaluation: Evaluation, split: Split) -> str:
    """How many labels the macro means of subgroups are over."""
    return f"{len(split.everyone.over)} of {len(evaluation.cases.names)} labels"


def without_mean(evaluation: Evaluation, split: Split) -> str:
    """Which subgroups have no macro mean, because they are too small or lack labels; or nothing."""
    lacking = [one.group for one in split.subgroups if not one.group.over and split.everyone.over]
    return "; ".join(
        f"{group.name} (too few patients or labels: both classes for {_complete(group)} of "
        f"{len(evaluation.cases.names)} labels)"
        for group in lacking
    )


def _complete(group: Group) -> int:
    labels = [label for label in group.positives if label != MICRO]
    return sum(0 < group.positives[label] < group.known[label] for label in labels)
