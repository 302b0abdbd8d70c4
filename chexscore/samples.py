"""All labels of some images, measured together under any weights."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from chexscore.ranking import Ranking

__all__ = ["MACRO", "MICRO", "PUBLISHED", "Sample"]

SUMS = ("positives", "negatives", "squared_error", "gaps")
"""What adds up over labels; areas do not."""

MACRO, MICRO = "macro", "micro"

ALONE = ("auc", "average_precision", "prevalence", "brier", "calibration_error")
AT_POINT = ("sensitivity", "specificity", "ppv", "npv", "accuracy", "f1")

RESTS_ON = {
    "auc": "both",
    "average_precision": "both",
    "sensitivity": "positive",
    "f1": "positive",
    "specificity": "negative",
    "ppv": "called",
    "npv": "not called",
}
"""Measure -> the cases whose groups are its support; of the others all with a known label."""

PUBLISHED = {
    "auc": "auc",
    "average_precision": "average_precision",
    "prevalence": "prevalence",
    "accuracy@default": "accuracy",
    "accuracy@half": "accuracy_at_0.5",
}
"""Of what a Sample with the points "default" and "half" measures, what training and export publish, and under
which name. Accuracy is that at the default threshold; that at 0.5 is what frequencies of rare findings have
to be compared with: 1 - prevalence."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Sample:
    """Images with labels and scores, sorted once, to be measured under any weights of their groups.

    Args:
        labels: [N, L], 1, 0 or NaN.
        scores: [N, L], 0..1.
        groups: [N], 0..G-1; see `number`.
        names: of the L labels.
        points: name of an operating point -> its threshold for each label, NaN where a label has none.
        means: name -> columns of the labels to take the mean over.

    Attributes:
        names: of the columns: the labels, the means, and "micro", all labels of all images together.
        means: as given; without, the macro mean over all labels.
        groups: as given.
        size: images times labels.
        support: measure -> [C], how many groups it rests on. For sensitivity and F1 those with a positive,
            for specificity with a negative, for areas the fewer of both, for PPV and NPV those with a case
            on that side of the threshold, else those with a known label; for means of any label that is
            complete, for "micro" of any.
        complete: measure -> [L], whether a mean is over the label: if it has both classes and, for measures
            at an operating point, a threshold there.
        pooled: measure -> [L], whether "micro" is over the label: at an operating point if it has a
            threshold there.
    """

    def __init__(
        self,
        labels: NDArray[np.floating],
        scores: NDArray[np.floating],
        groups: Integers,
        names: Sequence[str],
        points: Mapping[str, Sequence[float]] | None = None,
        means: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        count = labels.shape[1]
        self._points = {name: np.asarray(each, dtype=np.float64) for name, each in (points or {}).items()}
        self.means = {MACRO: range(count)} if means is None else means
        self.names = (*names, *self.means, MICRO)
        self.groups = groups
        self.size = labels.size
        self._rankings = [
            Ranking(
                labels[:, column],
                scores[:, column],
                groups,
                [thresholds[column] for thresholds in self._points.values()],
            )
            for column in range(count)
        ]
        self._together = Ranking(labels.ravel(), scores.ravel(), np.repeat(groups, count))
        both = (labels == 1).any(axis=0) & (labels == 0).any(axis=0)
        self.pooled: dict[str, NDArray[np.bool_]] = dict.fromkeys(ALONE, np.ones(count, dtype=bool))
        for point, thresholds in self._points.items():
            self.pooled |= {_at(measure, point): ~np.isnan(thresholds) for measure in AT_POINT}
        self.complete: dict[str, NDArray[np.bool_]] = {
            measure: both & there for measure, there in self.pooled.items()
        }
        self.support: dict[str, Integers] = {}
        counted: dict[tuple[str, str], Integers] = {}
        for measure, complete in self.complete.items():
            name, _, point = measure.partition("@")
            cases = RESTS_ON.get(name, "known"), point
            if cases not in counted:
                within = ([column for column in chosen if complete[column]] for chosen in self.means.values())
                counted[cases] = _support(
                    _cases(labels, scores, cases[0], self._points.get(point, np.zeros(count))),
                    groups,
                    [*([column] for column in range(count)), *within, list(range(count))],
                )
            self.support[measure] = counted[cases]

    def measure(self, weights: Integers) -> dict[str, Floats]:
        """The measures under B sets of weights of the groups.

        Args:
            weights: int64 [B, G], how often each group is there.

        Returns:
            Measure -> [B, L + 1], the labels and "micro", NaN where it is not defined; at an operating point
            it is called "sensitivity@youden" and so on, and "micro" is over the labels that have that point.
            Where one class is missing, only prevalence, Brier score, calibration error, accuracy, and
            sensitivity or specificity, whose class is there, are defined.
        """
        tallies = [ranking.tally(weights) for ranking in self._rankings]
        auc, average_precision = self._together.areas(weights)
        sums = [[getattr(tally, name) for name in SUMS] for tally in tallies]
        each = [
            _areas(tally.auc, tally.average_precision, *own) for tally, own in zip(tallies, sums, strict=True)
        ]
        each.append(_areas(auc, average_precision, *(sum(parts) for parts in zip(*sums, strict=True))))
        for index, (point, thresholds) in enumerate(self._points.items()):
            counts = np.array(
                [
                    (
                        one.positives,
                        one.negatives,
                        one.true_positives[:, index],
                        one.false_positives[:, index],
                    )
                    for one in tallies
                ]
            )
            pooled = counts[~np.isnan(thresholds)].sum(axis=0)
            for measures, count in zip(each, (*counts, pooled), strict=True):
                measures |= {_at(measure, point): values for measure, values in _at_point(*count).items()}
        return {measure: np.stack([values[measure] for values in each], axis=1) for measure in each[0]}


def _support(cases: Sequence[NDArray[np.bool_]], groups: Integers, columns: Sequence[list[int]]) -> Integers:
    """[C], the groups that the cases of each of C sets of labels are of; of several such cases the fewest."""
    counts = [
        [np.count_nonzero(np.bincount(groups[chosen[:, column].any(axis=1)])) for column in columns]
        for chosen in cases
    ]
    fewest: Integers = np.array(counts, dtype=np.int64).min(axis=0)
    return fewest


def _cases(
    labels: NDArray[np.floating], scores: NDArray[np.floating], which: str, thresholds: Floats
) -> tuple[NDArray[np.bool_], ...]:
    """Those of each label, [N, L], that have a threshold; see RESTS_ON. Of "both" first one class."""
    there = ~np.isnan(thresholds)
    positive, negative = (labels == 1) & there, (labels == 0) & there
    if which == "both":
        return positive, negative
    if which in ("called", "not called"):
        return ((positive | negative) & ((scores >= thresholds) == (which == "called")),)
    return ({"positive": positive, "negative": negative, "known": positive | negative}[which],)


def _areas(
    auc: Floats,
    average_precision: Floats,
    positives: Floats,
    negatives: Floats,
    squared_error: Floats,
    gaps: Floats,
) -> dict[str, Floats]:
    """Measure -> [B]."""
    known = positives + negatives
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "auc": auc,
            "average_precision": average_precision,
            "prevalence": positives / known,
            "brier": squared_error / known,
            "calibration_error": np.abs(gaps).sum(axis=1) / known,
        }


def _at_point(positives: Floats, negatives: Floats, true: Floats, false: Floats) -> dict[str, Floats]:
    """Measure -> [B]; true and false are positives and negatives at or above the threshold."""
    rejected, missed = negatives - false, positives - true
    both = np.where((positives > 0) & (negatives > 0), 1.0, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "sensitivity": true / positives,
            "specificity": rejected / negatives,
            "ppv": both * true / (true + false),
            "npv": both * rejected / (rejected + missed),
            "accuracy": (true + rejected) / (positives + negatives),
            "f1": both * 2 * true / (2 * true + false + missed),
        }


def _at(measure: str, point: str) -> str:
    return f"{measure}@{point}" if point else measure
