"""The curves behind the areas: ROC, precision-recall, calibration."""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chexscore.intervals import LEVEL
from chexscore.ranking import BINS

__all__ = ["Curve", "Reliability", "precision_recall", "reliability", "roc"]

Floats = NDArray[np.floating]


class Curve(NamedTuple):
    """A point for each distinct score, from the highest down, behind one for a threshold above all scores.

    Attributes:
        x: [T + 1], 1 - specificity for ROC, recall for precision-recall.
        y: [T + 1], sensitivity for ROC, precision for precision-recall.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]


class Reliability(NamedTuple):
    """Scores in bins of equal width, those that are not empty.

    Attributes:
        score: [bins], mean score.
        share: [bins], share of positives.
        cases: [bins], how many.
        low: [bins], lower end of the 95 % interval of that share, as if each case were a patient of its own.
        high: [bins], its upper end.
    """

    score: NDArray[np.float64]
    share: NDArray[np.float64]
    cases: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def roc(labels: Floats, scores: Floats) -> Curve:
    """The ROC curve.

    Args:
        labels: [N], 1 or 0, both there.
        scores: [N].
    """
    true, false = _called(labels, scores)
    return Curve(np.append(0, false / false[-1]), np.append(0, true / true[-1]))


def precision_recall(labels: Floats, scores: Floats) -> Curve:
    """The precision-recall curve; average precision is the area under its steps.

    Args:
        labels: [N], 1 or 0, at least one 1.
        scores: [N].
    """
    true, false = _called(labels, scores)
    return Curve(np.append(0, true / true[-1]), np.append(1, true / (true + false)))


def reliability(labels: Floats, scores: Floats) -> Reliability:
    """How often labels are positive where scores are about as high; labels and scores [N] in 0..1.

    Intervals are Wilson's (1927, doi:10.1080/01621459.1927.10502953).
    """
    bins = np.searchsorted(np.arange(1, BINS) / BINS, scores, side="right")
    count = np.bincount(bins, minlength=BINS)
    there = count > 0
    sums = (np.bincount(bins, weights=values, minlength=BINS) for values in (scores, labels))
    score, share = (total[there] / count[there] for total in sums)
    cases, z = count[there], NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle = (share + z**2 / (2 * cases)) / (1 + z**2 / cases)
    reach = z * np.sqrt(share * (1 - share) / cases + (z / (2 * cases)) ** 2) / (1 + z**2 / cases)
    return Reliability(score, share, cases, middle - reach, middle + reach)


def _called(labels: Floats, scores: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[T] each: true and false positives at each distinct score as threshold, from the highest down."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    true = np.cumsum(labels[order])[last]
    return true, 1 + last - true
