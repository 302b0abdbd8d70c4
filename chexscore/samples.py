"""All labels of some images, measured together under any weights."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from chexscore.ranking import Ranking, Tally

__all__ = ["MACRO", "MICRO", "Sample", "mean_of_known"]

SUMS = ("positives", "negatives", "squared_error", "gaps", "true_positives", "false_positives")
"""What adds up over labels; areas do not."""

MACRO, MICRO = "macro", "micro"

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
        names: what `measure` gives a column each: the labels, the means, and "micro", all labels of all
            images together.
        groups: as given.
        size: images times labels.
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
        self._means = {MACRO: range(count)} if means is None else means
        self.names = (*names, *self._means, MICRO)
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

    def measure(self, weights: Integers) -> dict[str, Floats]:
        """The measures under B sets of weights of the groups.

        Args:
            weights: int64 [B, G], how often each group is there.

        Returns:
            Measure -> [B, columns of `names`], NaN where it is not defined; at an operating point it is
            called "sensitivity@youden" and so on. Where one class is missing, only prevalence, Brier score,
            calibration error, accuracy, and sensitivity or specificity, whose class is there, are defined.
        """
        tallies = [ranking.tally(weights) for ranking in self._rankings]
        areas = self._together.areas(weights)
        sums = {name: np.sum([getattr(tally, name) for tally in tallies], axis=0) for name in SUMS}
        together = Tally(auc=areas[0], average_precision=areas[1], **sums)
        each = [_measures(tally, self._points) for tally in tallies]
        micro = _measures(together, self._points)
        result = {}
        for measure, pooled in micro.items():
            columns = np.stack([values[measure] for values in each], axis=1)
            means = [mean_of_known(columns[:, list(chosen)]) for chosen in self._means.values()]
            result[measure] = np.column_stack([columns, *means, pooled])
        return result


def mean_of_known(columns: Floats) -> Floats:
    """[B, L] -> [B], the mean of what is not NaN; NaN where nothing is."""
    known = ~np.isnan(columns)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, columns, 0).sum(axis=1) / known.sum(axis=1))


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
            suffix = f"@{point}" if point else ""
            measures |= {f"{measure}{suffix}": values for measure, values in at_point.items()}
    return measures
