"""Measures of one side of the split, as metrics.json keeps them."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from chexscore.intervals import estimate

__all__ = ["flat", "measure"]

KEPT = ("auc", "average_precision", "accuracy")
"""Of what `chexscore.intervals.estimate` measures."""


def measure(
    truth: NDArray[np.float32],
    scores: NDArray[np.float32],
    patients: NDArray[np.str_],
    names: Sequence[str],
    thresholds: Sequence[float],
) -> dict[str, dict[str, float]]:
    """Measures for each label, as macro mean and as micro value.

    Args:
        truth: float32 [N, L], 1, 0 or NaN for unknown.
        scores: float32 [N, L], 0..1.
        patients: [N], drawn with replacement for the intervals.
        names: of the L labels.
        thresholds: of the L labels, for accuracy.

    Returns:
        "auc/Edema" and so on -> value, low and high, the ends of its 95 % interval; what the data do not
        define is left out.
    """
    found = estimate(truth, scores, patients, names, thresholds)
    return {
        key: {name: round(number, 6) for name, number in interval._asdict().items() if math.isfinite(number)}
        for key, interval in found.items()
        if key.partition("/")[0] in KEPT and math.isfinite(interval.value)
    }


def flat(measures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The values alone: "auc/Edema" -> value."""
    return {key: interval["value"] for key, interval in measures.items()}
