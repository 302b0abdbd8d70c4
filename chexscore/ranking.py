"""One label's images in the order of their scores, measured under any weights."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["BINS", "Ranking", "Tally"]

BINS = 10
"""Bins of equal width that the calibration error is taken over."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Tally(NamedTuple):
    """What `Ranking.tally` finds under B sets of weights.

    Attributes:
        positives: [B], total weight.
        negatives: [B], total weight.
        auc: [B], area under the ROC curve; NaN without both classes.
        average_precision: [B], area under the precision-recall steps; NaN without both classes.
        squared_error: [B], sum of (score - label)^2.
        gaps: [B, BINS], sum of label - score over the images whose score lies in the bin.
        true_positives: [B, K], weight of the positives at or above each threshold; NaN where that is NaN.
        false_positives: [B, K], the same of the negatives.
    """

    positives: Floats
    negatives: Floats
    auc: Floats
    average_precision: Floats
    squared_error: Floats
    gaps: Floats
    true_positives: Floats
    false_positives: Floats


class Ranking:
    """The images of one label, sorted once; images whose label is unknown are left out.

    Args:
        labels: [N], 1, 0 or NaN.
        scores: [N], finite; in 0..1 for squared error and gaps to mean anything.
        groups: [N], 0..G-1, the group whose weight counts for an image.
        thresholds: [K], scores at or above one read as positive; NaN for one that the label does not have.
    """

    def __init__(
        self,
        labels: NDArray[np.floating],
        scores: NDArray[np.floating],
        groups: NDArray[np.integer],
        thresholds: Sequence[float] = (),
    ) -> None:
        sides = []
        for label in (1, 0):
            chosen = np.flatnonzero(labels == label)
            chosen = chosen[np.argsort(scores[chosen], kind="stable")]
            sides.append((np.asarray(scores[chosen], dtype=np.float64), groups[chosen]))
        (high, self._positives), (low, self._negatives) = sides
        # For each positive: how many come before it, ties on either side.
        self._positives_below = np.searchsorted(high, high, "left")
        self._negatives_below = np.searchsorted(low, high, "left")
        self._negatives_up_to = np.searchsorted(low, high, "right")
        self._thresholds = np.asarray(thresholds, dtype=np.float64)
        self._cuts = [np.searchsorted(side, self._thresholds) for side in (high, low)]
        edges = np.arange(1, BINS) / BINS
        self._bins = [[0, *np.searchsorted(side, edges), len(side)] for side in (high, low)]
        self._misses = [1 - high, -low]  # label - score

    def areas(self, weights: Integers) -> tuple[Floats, Floats]:
        """AUC and average precision alone, [B] each; see `tally`."""
        drawn, before = self._draw(weights)
        return self._areas(drawn, before)

    def tally(self, weights: Integers) -> Tally:
        """Measures the images, each as often as the weight of its group says.

        The AUC is the Mann-Whitney statistic, ties counting one half (Hanley and McNeil 1982,
        doi:10.1148/radiology.143.1.7063747); average precision the sum over the scores of precision times the
        gain in recall, as scikit-learn defines it: no interpolation, tied images enter together.

        Args:
            weights: int64 [B, G], 0 or more.
        """
        drawn, before = self._draw(weights)
        squared_error = np.zeros(len(weights))
        gaps = np.zeros((len(weights), BINS))
        for side, misses, edges in zip(drawn, self._misses, self._bins, strict=True):
            weighted = side * misses
            squared_error += np.einsum("bi,i->b", weighted, misses)
            for column, (start, end) in enumerate(pairwise(edges)):
                gaps[:, column] += weighted[:, start:end].sum(axis=1)
        totals = [side[:, -1] for side in before]
        true_positives, false_positives = (
            np.where(np.isnan(self._thresholds), np.nan, total[:, None] - side.take(cuts, axis=1))
            for total, side, cuts in zip(totals, before, self._cuts, strict=True)
        )
        positives, negatives = (total.astype(np.float64) for total in totals)
        auc, average_precision = self._areas(drawn, before)
        return Tally(
            positives,
            negatives,
            auc,
            average_precision,
            squared_error,
            gaps,
            true_positives,
            false_positives,
        )

    def _draw(self, weights: Integers) -> tuple[list[Integers], list[Integers]]:
        """For positives and negatives: each image's weight [B, N], and what comes before it [B, N + 1]."""
        drawn = [weights.take(side, axis=1) for side in (self._positives, self._negatives)]
        before = [np.zeros((len(side), side.shape[1] + 1), dtype=np.int64) for side in drawn]
        for side, sums in zip(drawn, before, strict=True):
            np.cumsum(side, axis=1, out=sums[:, 1:])
        return drawn, before

    def _areas(self, drawn: list[Integers], before: list[Integers]) -> tuple[Floats, Floats]:
        weights = drawn[0]
        positives, negatives = (side[:, -1] for side in before)
        beaten = before[1].take(self._negatives_below, axis=1)
        beaten_or_tied = before[1].take(self._negatives_up_to, axis=1)
        true = positives[:, None] - before[0].take(self._positives_below, axis=1)
        called = true + negatives[:, None] - beaten
        precision = true / np.maximum(called, 1)  # 0 of 0 only where the weight is 0 too
        with np.errstate(invalid="ignore", divide="ignore"):
            auc = np.einsum("bi,bi->b", weights, beaten + beaten_or_tied) / 2 / (positives * negatives)
            average_precision = np.einsum("bi,bi->b", weights, precision) / positives
        return auc, np.where(negatives > 0, average_precision, np.nan)
