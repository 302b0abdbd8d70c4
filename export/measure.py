"""What a file's scores are worth on the validation patients, in its ModelSpec."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chexscore.intervals import bootstrap, number
from chexscore.samples import PUBLISHED, Sample
from chexscore.spec import ModelSpec
from export.calibrate import POINTS, Platt, operating_points, sigmoid
from export.run import Validation

__all__ = ["FITTED", "describe_calibration", "measured"]

FITTED = "calibration_"
"""How the names of the numbers begin that a calibration has; they stay whatever precision a file is in."""


def describe_calibration(spec: ModelSpec, platt: Platt, validation: Validation) -> ModelSpec:
    """The spec with how its scores are calibrated."""
    left_out = ", ".join(f"{spec.labels[column]} ({reason})" for column, reason in platt.left_out.items())
    fitted = {
        f"{FITTED}{name}/{label}": float(values[column])
        for name, values in (("slope", platt.slopes), ("intercept", platt.intercepts))
        for column, label in enumerate(spec.labels)
        if column not in platt.left_out
    }
    if not fitted:
        return replace(spec, calibration=f"none: {left_out}")
    text = f"Platt scaling of each label's logit, fitted on {validation}"
    text += f"; left as they are: {left_out}" if left_out else ""
    return replace(spec, calibration=text, metrics={**spec.metrics, **fitted})


def measured(
    spec: ModelSpec,
    validation: Validation,
    raw: NDArray[np.floating],
    platt: Platt,
    crossed: Platt,
    defaults: Mapping[str, str],
) -> ModelSpec:
    """The spec with operating points, and measures in place of those that it had.

    Args:
        spec: of the file.
        validation: labels and patients of M images.
        raw: [M, L], what the file would give without its calibration, as logits.
        platt: the calibration in the file.
        crossed: for each of the M images one that was fitted on other patients, to measure the calibration
            error by.
        defaults: label -> its default operating point, where it is not the first of POINTS.
    """
    truth, scores = validation.targets, platt.scores(raw)
    points = {
        label: chosen
        for column, label in enumerate(spec.labels)
        if (chosen := operating_points(truth[:, column], scores[:, column], defaults.get(label, POINTS[0])))
    }
    thresholds = tuple(points[label][0].threshold if label in points else 0.5 for label in spec.labels)
    found = _values(
        spec, validation, scores, PUBLISHED, {"default": thresholds, "half": [0.5] * truth.shape[1]}
    )
    for name, each in (("ece_before", sigmoid(raw)), ("ece", crossed.scores(raw))):
        found |= _values(spec, validation, each, {"calibration_error": name})
    counts = {
        "images": len(truth),
        "patients": np.unique(validation.patients).size,
        "labels_with_both_classes": sum(f"auc/{label}" in found for label in spec.labels),
    }
    fitted = {name: value for name, value in spec.metrics.items() if name.startswith(FITTED)}
    return replace(spec, thresholds=thresholds, operating_points=points, metrics=counts | found | fitted)


def _values(
    spec: ModelSpec,
    validation: Validation,
    scores: NDArray[np.floating],
    kept: dict[str, str],
    points: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Measure and label, "auc/Edema", or macro or micro -> value; what is not defined is left out."""
    sample = Sample(validation.targets, scores, number(validation.patients), spec.labels, points)
    (once,) = bootstrap([sample], resamples=0)
    return {
        f"{name}/{label}": round(float(value), 6)
        for measure, name in kept.items()
        for label, value in zip(once.names, once.columns(measure)[0][0], strict=True)
        if math.isfinite(value)
    }
