"""Measures of one side of the split, as metrics.json keeps them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chexscore.intervals import bootstrap, intervals, number
from chexscore.samples import PUBLISHED, Sample

__all__ = ["flat", "measure"]


def measure(
    truth: NDArray[np.float32],
    scores: NDArray[np.float32],
    patients: NDArray[np.str_],
    names: Sequence[str],
    thresholds: Sequence[float],
) -> dict[str, Any]:
    """Measures for each label, as macro mean and as micro value.

    Args:
        truth: float32 [N, L], 1, 0 or NaN for unknown.
        scores: float32 [N, L], 0..1.
        patients: [N], drawn with replacement for the intervals.
        names: of the L labels.
        thresholds: of the L labels, by Youden's index.

    Returns:
        images, patients and labels_with_both_classes, which the macro AUC is over; and "auc/Edema" and so on
        -> value, low and high, the ends of its 95 % interval. What the data do not define is left out.
    """
    points = {"default": thresholds, "half": [0.5] * len(names)}
    sample = Sample(truth, scores, number(patients), names, points)
    (draws,) = bootstrap([sample])
    found = intervals(draws)
    both = ((truth == 1).any(axis=0) & (truth == 0).any(axis=0)).sum()
    counts = {
        "images": len(truth),
        "patients": len(np.unique(patients)),
        "labels_with_both_classes": int(both),
    }
    measures = {
        f"{key}/{name}": dict(zip(("value", "low", "high"), map(float, row.round(6)), strict=True))
        for measure, key in PUBLISHED.items()
        for name, row in zip(draws.names, found[measure], strict=True)
    }
    return counts | {
        key: {end: value for end, value in each.items() if math.isfinite(value)}
        for key, each in measures.items()
        if math.isfinite(each["value"])
    }


def flat(measures: Mapping[str, Any]) -> dict[str, float]:
    """The values alone: "auc/Edema" -> value; and the counts."""
    return {key: each["value"] if isinstance(each, dict) else each for key, each in measures.items()}
