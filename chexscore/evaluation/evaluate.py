"""Predictions against labels: measures with intervals, for everyone, for subgroups, and for two models."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from chexscore.evaluation.cases import Cases, Protocol, join_cases, read_cases
from chexscore.evaluation.points import DEFAULT, Points
from chexscore.evaluation.results import (
    COMPETITION,
    COMPETITION_FINDINGS,
    HALF,
    UNKNOWN_POINT,
    Counts,
    Evaluation,
    Group,
    Split,
    SubgroupResult,
)
from chexscore.evaluation.subgroups import Subgroup, splits
from chexscore.intervals import FEWEST, Draws, bootstrap, differences, intervals, number
from chexscore.predictions import Prediction, Status, in_utf8
from chexscore.samples import MACRO, MICRO, Sample

__all__ = ["check_images", "evaluate"]

CALIBRATION = "calibration_error"
"""Draws and small groups only ever add to it: an interval from draws, or a difference to a larger group,
would say that a calibrated model is not."""

REST = " minus the rest"
ALL, OTHER = "all", "other"
"""Names of samples; those of subgroups have a = in them."""


def evaluate(
    predictions: str,
    labels: str,
    points: Points,
    protocol: Protocol | None = None,
    *,
    against: str | None = None,
    other_points: Points | None = None,
) -> Evaluation:
    """Measures the scores of one CSV against the labels of another.

    Args:
        predictions: CSV that `predict` wrote.
        labels: CSV of labels; see `chexscore.evaluation.layouts`.
        points: label -> name -> threshold, the default first; 0.5 is measured at too.
        protocol: how; see there.
        against: CSV of predictions of another model for the same images.
        other_points: those of the other model. Where those of one side alone are known for some label, there
            is no difference at the default: 0.5 stands in for it on the other side.

    Raises:
        TableError: a file cannot be used, or they have nothing in common; see `read_cases`.
        UsageError: the protocol asks for a column that is not there.
    """
    protocol = protocol or Protocol()
    cases = read_cases(predictions, labels, protocol, against)
    drawn = _Drawn(cases)
    ours = _by_name(points, cases.names)
    everyone = np.ones(len(cases.labels), dtype=bool)
    drawn.add(ALL, everyone, cases.scores, ours)
    by_column = splits(cases, protocol.subgroups)
    for column, found in by_column:
        for one in found:
            drawn.add(f"{column}={one.value}", one.chosen, cases.scores, ours)
        known = [one for one in found if one.known]
        members = np.any([one.chosen for one in known], axis=0)
        for one in _to_compare(known):
            drawn.add(f"{column}={one.value}{REST}", members & ~one.chosen, cases.scores, ours)
    theirs = _by_name(other_points or {}, cases.names)
    if against is not None and cases.others is not None:
        drawn.add(OTHER, everyone, cases.others, theirs)
    drawn.bootstrap(protocol.resamples)
    difference = drawn.difference(ALL, OTHER, f"all minus {against}") if against is not None else None
    one_sided = any(bool(points.get(name)) != bool((other_points or {}).get(name)) for name in cases.names)
    if difference is not None and one_sided:
        kept = {name: each for name, each in difference.measures.items() if not name.endswith(f"@{DEFAULT}")}
        difference = replace(difference, measures=kept)
    return Evaluation(
        cases=cases,
        protocol=protocol,
        points=ours,
        defaults=tuple(_chosen_for(points.get(name, {})) for name in cases.names),
        everyone=drawn.group(ALL),
        guess=_guess(cases),
        splits=tuple(_split(drawn, column, [one.value for one in found]) for column, found in by_column),
        other=drawn.group(OTHER, against) if against is not None else None,
        other_points=theirs if against is not None else {},
        difference=difference,
    )


def check_images(
    images: Sequence[str], names: Sequence[str], labels: str, protocol: Protocol, against: str | None = None
) -> None:
    """Raises what `evaluate` would raise for these images and labels of a model, before they are scored.

    Raises:
        TableError: as for `evaluate`.
        UsageError: as for `evaluate`.
    """
    rows = [Prediction(in_utf8(image), Status.OK, dict.fromkeys(names, 0.0)) for image in images]
    cases = join_cases(tuple(names), rows, labels, protocol, against, "the images")
    splits(cases, protocol.subgroups)


def _split(drawn: "_Drawn", column: str, values: Sequence[str]) -> Split:
    """The subgroups by a column; means are over the labels that all of them have both classes of.

    A subgroup that lacks most of everyone's labels, or has too few patients for any interval, does not take
    part in that: its own mean stays empty, and those of the others are not over what little it has.
    """
    names = [f"{column}={value}" for value in values]
    complete = {name: drawn.complete(name) for name in names}
    everyone = drawn.complete(ALL)
    over = everyone.copy()
    for name in names:
        if drawn.size(name) >= FEWEST and 2 * (complete[name] & everyone).sum() >= everyone.sum():
            over &= complete[name]
    return Split(
        column,
        drawn.group(ALL, f"{column}: all", over),
        tuple(
            SubgroupResult(value, drawn.group(name, name, kept), drawn.to_the_rest(name, kept))
            for value, name in zip(values, names, strict=True)
            for kept in [drawn.if_complete(name, over)]
        ),
    )


def _to_compare(found: Sequence[Subgroup]) -> Sequence[Subgroup]:
    """Of these values of a column, those to compare with the rest."""
    pair = 2
    return found if len(found) > pair else found[: len(found) - 1]


class _Drawn:
    """Groups of cases, measured on the same draws."""

    def __init__(self, cases: Cases) -> None:
        self._cases = cases
        self._numbers = number(cases.groups)
        self._means: dict[str, Sequence[int]] = {MACRO: range(len(cases.names))}
        if set(COMPETITION_FINDINGS) <= set(cases.names):
            self._means[COMPETITION] = [cases.names.index(name) for name in COMPETITION_FINDINGS]
        self._samples: dict[str, Sample] = {}
        self._counts: dict[str, dict[str, dict[str, Counts]]] = {}
        self._chosen: dict[str, NDArray[np.bool_]] = {}
        self._draws: dict[str, Draws] = {}

    def add(
        self,
        name: str,
        chosen: NDArray[np.bool_],
        scores: NDArray[np.float64],
        points: Mapping[str, Sequence[float]],
    ) -> None:
        self._chosen[name] = chosen
        self._counts[name] = {
            point: _confusion(self._cases.labels[chosen], scores[chosen], self._cases.names, thresholds)
            for point, thresholds in points.items()
        }
        self._samples[name] = Sample(
            self._cases.labels[chosen],
            scores[chosen],
            self._numbers[chosen],
            self._cases.names,
            points,
            self._means,
        )

    def bootstrap(self, resamples: int) -> None:
        found = bootstrap(list(self._samples.values()), resamples=resamples)
        self._draws = dict(zip(self._samples, found, strict=True))

    def complete(self, name: str) -> NDArray[np.bool_]:
        """[L], labels that a sample has both classes of."""
        return self._samples[name].complete["auc"]

    def if_complete(self, name: str, over: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The labels `over` if a sample has both classes of all of them, else none: no mean is over fewer."""
        return over if (self.complete(name) >= over).all() else np.zeros_like(over)

    def size(self, name: str) -> int:
        """How many patients, or what else is drawn, a sample has."""
        return len(np.unique(self._samples[name].groups))

    def group(self, name: str, shown: str = "", over: NDArray[np.bool_] | None = None) -> Group:
        """A sample; its macro mean is over the labels `over`, [L], or over all that have both classes."""
        over = self.complete(name) if over is None else over
        measures = intervals(self._draws[name], over)
        measures[CALIBRATION][:, 1:] = np.nan
        return self._table(shown or name, name, measures, over)

    def difference(self, name: str, other: str, shown: str, over: NDArray[np.bool_] | None = None) -> Group:
        """The first minus the other."""
        over = self.complete(name) & self.complete(other) & (True if over is None else over)
        measures = differences(self._draws[name], self._draws[other], over)
        del measures[CALIBRATION]
        return self._table(shown, name, measures, over)

    def to_the_rest(self, name: str, over: NDArray[np.bool_]) -> Group | None:
        """A subgroup minus the rest, if that was added."""
        rest = name + REST
        if rest not in self._draws:
            return None
        return self.difference(name, rest, rest, self.if_complete(rest, over))

    def _table(
        self,
        name: str,
        counted: str,
        measures: Mapping[str, NDArray[np.float64]],
        over: NDArray[np.bool_],
    ) -> Group:
        labels = self._cases.labels[self._chosen[counted]]
        names, columns = self._cases.names, self._samples[counted].names
        known, positives = (
            dict(zip(columns, _counts(test, columns), strict=True))
            for test in (~np.isnan(labels), labels == 1)
        )
        return Group(
            name,
            columns,
            len(labels),
            known,
            {column: count for column, count in positives.items() if column not in self._means},
            tuple(label for label, kept in zip(names, over, strict=True) if kept),
            measures,
            self._counts[counted],
        )


def _counts(test: NDArray[np.bool_], columns: tuple[str, ...]) -> list[int]:
    """For each column how many pass: of a mean the cases with any known label, of all together the labels."""
    count = test.shape[1]
    anyone = int(test.any(axis=1).sum())
    means = len(columns) - count - 1
    return [*map(int, test.sum(axis=0)), *[anyone] * means, int(test.sum())]


def _confusion(
    labels: NDArray[np.float64],
    scores: NDArray[np.float64],
    names: Sequence[str],
    thresholds: Sequence[float],
) -> dict[str, Counts]:
    """Column -> its counts at a point, of the labels that have it and of these together."""
    found: dict[str, Counts] = {}
    for column, (name, threshold) in enumerate(zip(names, thresholds, strict=True)):
        if not math.isnan(threshold):
            positive, negative = labels[:, column] == 1, labels[:, column] == 0
            called = scores[:, column] >= threshold
            cells = (positive & called, negative & called, positive & ~called, negative & ~called)
            found[name] = Counts(*(int(cell.sum()) for cell in cells))
    return found | {MICRO: Counts(*map(sum, zip(*found.values(), strict=True)))}


def _by_name(points: Points, names: Sequence[str]) -> dict[str, list[float]]:
    """Name of a point -> threshold for each label; each label's own default comes first, 0.5 last."""
    default = [next(iter(points.get(name, {}).values()), 0.5) for name in names]
    order = dict.fromkeys(point for name in names for point in points.get(name, {}))
    order.pop(DEFAULT, None)
    found = {point: [points.get(name, {}).get(point, math.nan) for name in names] for point in order}
    return {DEFAULT: default} | found | {HALF: [0.5] * len(names)}


def _chosen_for(points: Mapping[str, float]) -> str:
    """What the first of a label's points, its default, was chosen for."""
    default = next(iter(points.values()), None)
    same = (name for name, threshold in points.items() if threshold == default and name != DEFAULT)
    return next(same, DEFAULT if points else UNKNOWN_POINT)


def _guess(cases: Cases) -> Group:
    """What is reached by giving every case the share of positives of each label; it has no point but 0.5."""
    known = ~np.isnan(cases.labels)
    with np.errstate(invalid="ignore"):
        share = np.where(known, cases.labels, 0).sum(axis=0) / known.sum(axis=0)
    drawn = _Drawn(cases)
    everyone = np.ones(len(cases.labels), dtype=bool)
    drawn.add("guess", everyone, np.broadcast_to(share, cases.labels.shape), {HALF: [0.5] * len(share)})
    drawn.bootstrap(0)
    return drawn.group("guess")
