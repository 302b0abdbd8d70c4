"""Measures of scores against labels, for training and evaluation alike.

Labels are floats: 1 positive, 0 negative, NaN unknown; unknown ones are left out. A measure that its data do
not define (an AUC with one class, say) is NaN, never an exception.
"""

import math

import numpy as np
from numpy.typing import NDArray

from chexscore.ranking import Ranking

__all__ = [
    "auroc",
    "auroc_macro",
    "auroc_micro",
    "mean_of_known",
    "youden_threshold",
]

Array = NDArray[np.floating]


def auroc(labels: Array, scores: Array) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties counting one half.

    Args:
        labels: [N], 0, 1 or NaN.
        scores: [N], any range.

    Returns:
        0..1, or NaN without both a positive and a negative.
    """
    everyone = Ranking(labels, scores, np.zeros(labels.size, dtype=np.int64))
    return float(everyone.areas(np.ones((1, 1), dtype=np.int64))[0][0])


def auroc_macro(labels: Array, scores: Array) -> float:
    """Mean over the labels of their AUROC; labels without both classes are left out. Both [N, L]."""
    each = [auroc(labels[:, column], scores[:, column]) for column in range(labels.shape[1])]
    return mean_of_known(each)


def auroc_micro(labels: Array, scores: Array) -> float:
    """AUROC of all labels of all images thrown together. Both [N, L]."""
    return auroc(labels.ravel(), scores.ravel())


def youden_threshold(labels: Array, scores: Array) -> float:
    """The threshold with the largest sensitivity + specificity - 1 (Youden 1950); both arguments [N].

    Returns:
        The middle between the lowest score that reads as positive and the highest that does not, in 0..1
        for scores in 0..1; of equally good thresholds the lowest; 0.5 without both classes.
    """
    labels, scores = _known(labels, scores)
    positives = labels.sum()
    negatives = labels.size - positives
    if not positives or not negatives:
        return 0.5
    values, inverse = np.unique(scores, return_inverse=True)
    gain = np.bincount(inverse, weights=np.where(labels == 1, 1 / positives, -1 / negatives))
    # At values[i] everything from i up reads as positive: J is what those gain together.
    best = int(np.argmax(np.cumsum(gain[::-1])[::-1].round(12)))
    return float(values[0] if best == 0 else (values[best - 1] + values[best]) / 2)


def mean_of_known(values: list[float]) -> float:
    """Mean of the values that are not NaN; NaN where there is none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _known(labels: Array, scores: Array) -> tuple[Array, Array]:
    known = ~np.isnan(labels)
    return labels[known], scores[known]
