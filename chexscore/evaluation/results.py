"""What an evaluation finds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chexscore.evaluation.cases import Cases, Protocol
from chexscore.evaluation.points import DEFAULT
from chexscore.intervals import Interval
from chexscore.samples import MICRO

__all__ = [
    "COMPETITION",
    "COMPETITION_FINDINGS",
    "HALF",
    "UNKNOWN_POINT",
    "Comparison",
    "Counts",
    "Evaluation",
    "Group",
    "Split",
    "SubgroupResult",
]

COMPETITION = "CheXpert 5"
"""Name of the mean over CheXpert's competition findings."""

COMPETITION_FINDINGS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
"""What CheXpert's leaderboard takes the mean AUC of (Irvin et al. 2019, doi:10.1609/aaai.v33i01.3301590)."""

HALF = "0.5"
"""The operating point that every label has, for comparison with figures that were measured there."""

UNKNOWN_POINT = "not known"
"""In place of the default point of a label that no model or record tells one of."""


@dataclass(frozen=True)
class Group:
    """Measures of some cases, or differences of measures; then the counts are those of the first.

    Attributes:
        name: "all", "Sex=F", the file of another model, or "Sex=F minus the rest".
        columns: what is measured: the labels, "macro", perhaps "CheXpert 5", and "micro".
        cases: how many.
        known: column -> cases with a known label; for "micro" labels that are known.
        positives: column, but the means -> how many of these are positive.
        over: labels that the macro mean is over: those with both classes.
        measures: measure -> [columns, 3], value, low and high; NaN where not defined.
        counts: operating point -> column, but the means -> what is called rightly and wrongly there; a label
            without that point is not in it.
    """

    name: str
    columns: tuple[str, ...]
    cases: int
    known: Mapping[str, int]
    positives: Mapping[str, int]
    over: tuple[str, ...]
    measures: Mapping[str, NDArray[np.float64]]
    counts: Mapping[str, Mapping[str, "Counts"]]

    def get(self, measure: str, column: str) -> Interval:
        """One cell of the table."""
        return Interval(*map(float, self.measures[measure][self.columns.index(column)]))


@dataclass(frozen=True)
class SubgroupResult:
    """One subgroup.

    Attributes:
        value: what its cases have in the column.
        group: its measures.
        to_the_rest: the same minus those of the other cases that have a value, draw by draw. Of two values
            only the first has it, because the second has its mirror; a single value has none.
    """

    value: str
    group: Group
    to_the_rest: Group | None

    def compared(self, measure: str, column: str) -> Interval:
        """The difference to the rest; NaN where there is none, and for all labels together.

        What these gain or lose depends on which labels are frequent in the subgroup.
        """
        if self.to_the_rest is None or column == MICRO:
            return Interval(math.nan, math.nan, math.nan)
        return self.to_the_rest.get(measure, column)


@dataclass(frozen=True)
class Split:
    """The subgroups by one column, whose means are over the same labels, so that they can be compared.

    Attributes:
        column: of the labels.
        everyone: measures of all cases, with means over those labels.
        subgroups: in the order of the edges, else sorted. Where one is too small to have intervals or lacks
            most labels, its means are empty if it lacks one of those that they are over.
    """

    column: str
    everyone: Group
    subgroups: tuple[SubgroupResult, ...]


class Counts(NamedTuple):
    """Of one label, or of all together, at an operating point."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int


class Comparison(NamedTuple):
    """A subgroup against the rest by one measure of one column, where that has an interval."""

    subgroup: SubgroupResult
    measure: str
    column: str
    difference: Interval


@dataclass(frozen=True)
class Evaluation:
    """All that was found.

    Attributes:
        cases: what was evaluated.
        protocol: how.
        points: name of an operating point -> threshold for each label of the cases, NaN where it has none;
            the first is "default", of each label its own, and the last 0.5.
        defaults: for each label what its default was chosen for, such as "youden"; "default" if that is not
            known, and UNKNOWN_POINT where 0.5 stands in for it.
        everyone: measures of all cases.
        guess: the same of a constant guess: for each label the share of positives among these very cases.
        splits: subgroups, by column, in the order asked for.
        other: measures of the other model, or None.
        other_points: as `points`, of the other model.
        difference: everyone's minus the other's, draw by draw, or None.
    """

    cases: Cases
    protocol: Protocol
    points: dict[str, list[float]]
    defaults: tuple[str, ...]
    everyone: Group
    guess: Group
    splits: tuple[Split, ...] = ()
    other: Group | None = None
    other_points: dict[str, list[float]] = field(default_factory=dict)
    difference: Group | None = None

    @property
    def compared(self) -> tuple[str, ...]:
        """What subgroups are compared by: the AUC, and two measures at the default point."""
        return "auc", f"sensitivity@{DEFAULT}", f"specificity@{DEFAULT}"

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """All of them, marked or not."""
        found = [
            Comparison(one, measure, column, one.compared(measure, column))
            for split in self.splits
            for one in split.subgroups
            for measure in self.compared
            for column in one.group.columns
        ]
        return [one for one in found if not math.isnan(one.difference.low)]
