"""All labels of some images, measured together under any weights."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from chexscore.ranking import Ranking, Tally

__all__ = ["MACRO", "MICRO", "PUBLISHED", "Sample"]

SUMS = ("positives", "negatives", "squared_error", "gaps", "true_positives", "false_positives")
"""What adds up over labels; areas do not."""

MACRO, MICRO = "macro", "micro"

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
        support: measure -> [L + 1], the labels and "micro": how many groups it rests on. For sensitivity and
            F1 those with a positive, for specificity with a negative, for areas the fewer of both, for PPV
            and NPV those with a case on that side of the threshold, else those with a known label.
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
        points = points or {}
        self._points = tuple(points)
        self.means = {MACRO: range(count)} if means is None else means
        self.names = (*names, *self.means, MICRO)
        self.groups = groups
        self.size = labels.size
        self._rankings = [
            Ranking(
                labels[:, column],
                scores[:, column],
                groups,
                [thresholds[column] for thresholds in points.values()],
            )
            for column in range(count)
        ]
        self._together = Ranking(labels.ravel(), scores.ravel(), np.repeat(groups, count))
        self.support = _support(labels, scores, groups, points)

    def measure(self, weights: Integers) -> dict[str, Floats]:
        """The measures under B sets of weights of the groups.

        Args:
            weights: int64 [B, G], how often each group is there.

        Returns:
            Measure -> [B, L + 1], the labels and "micro", NaN where it is not defined; at an operating point
            it is called "sensitivity@youden" and so on. Where one class is missing, only prevalence, Brier
            score, calibration error, accuracy, and sensitivity or specificity, whose class is there, are
            defined.
        """
        tallies = [ranking.tally(weights) for ranking in self._rankings]
        areas = self._together.areas(weights)
        sums = {name: np.sum([getattr(tally, name) for tally in tallies], axis=0) for name in SUMS}
        together = Tally(auc=areas[0], average_precision=areas[1], **sums)
        each = [_measures(tally, self._points) for tally in (*tallies, together)]
        return {measure: np.stack([values[measure] for values in each], axis=1) for measure in each[0]}


def _support(
    labels: NDArray[np.floating],
    scores: NDArray[np.floating],
    groups: Integers,
    points: Mapping[str, Sequence[float]],
) -> dict[str, Integers]:
    """Measure -> [L + 1], how many groups it rests on; see `Sample`."""

    def count(chosen: NDArray[np.bool_]) -> Integers:
        """[N, L] -> [L + 1], groups with a case that is chosen; last, with one for any label."""
        columns = (*chosen.T, chosen.any(axis=1))
        return np.array([np.count_nonzero(np.bincount(groups[column])) for column in columns])

    known = ~np.isnan(labels)
    everyone, positive, negative = count(known), count(labels == 1), count(labels == 0)
    either = np.minimum(positive, negative)
    result = {
        "auc": either,
        "average_precision": either,
        "prevalence": everyone,
        "brier": everyone,
        "calibration_error": everyone,
    }
    for point, thresholds in points.items():
        called = scores >= np.asarray(thresholds)
        at_point = {
            "sensitivity": positive,
            "specificity": negative,
            "ppv": count(known & called),
            "npv": count(known & ~called),
            "accuracy": everyone,
            "f1": positive,
        }
        result |= {_at(measure, point): values for measure, values in at_point.items()}
    return result


def _measures(tally: Tally, points: Sequence[str]) -> dict[str, Floats]:
    """Measure -> [B]."""
    positives, negatives = tally.positives, tally.negatives
    known = positives + negatives
    both = np.where((positives > 0) & (negatives > 0), 1.0, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        measures = {
            "auc": tally.auc,
            "average_precision": tally.average_precision,
            "prevalence": positives / known,
            "brier": tally.squared_error / known,
            "calibration_error": np.abs(tally.gaps).sum(axis=1) / known,
        }
        for index, point in enumerate(points):
            true, false = tally.true_positives[:, index], tally.false_positives[:, index]
            rejected, missed = negatives - false, positives - true
            at_point = {
                "sensitivity": true / positives,
                "specificity": rejected / negatives,
                "ppv": both * true / (true + false),
                "npv": both * rejected / (rejected + missed),
                "accuracy": (true + rejected) / known,
                "f1": both * 2 * true / (2 * true + false + missed),
            }
            measures |= {_at(measure, point): values for measure, values in at_point.items()}
    return measures


def _at(measure: str, point: str) -> str:
    return f"{measure}@{point}" if point else measure
