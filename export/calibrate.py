"""Validation scores -> scores that are probabilities, and the thresholds that a user can choose from."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chexscore.spec import OperatingPoint

__all__ = [
    "MIN_CASES",
    "Platt",
    "calibrate",
    "calibration_error",
    "cross_calibrated",
    "fit",
    "logit",
    "operating_points",
]

Array = NDArray[np.floating]

MIN_CASES = 20
"""Positives and negatives that a label needs to be calibrated: ten for each of the two parameters that are
fitted (Peduzzi et al. 1996, doi:10.1016/S0895-4356(96)00236-3)."""

GOAL = 0.9
"""Of the operating points at a given sensitivity or specificity."""

FOLDS = 5
BINS = 10
CLIP = 1e-7
"""float32 cannot tell scores apart that are closer to 1."""


@dataclass(frozen=True)
class Platt:
    """Platt scaling: a label's score is the sigmoid of slope * logit + intercept.

    Attributes:
        slopes: [L], above 0, so that no image overtakes another; 1 where nothing was fitted.
        intercepts: [L], 0 where nothing was fitted.
        left_out: label's column -> why nothing was fitted.
    """

    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]
    left_out: dict[int, str]

    @classmethod
    def none(cls, labels: int, reason: str) -> "Platt":
        """Leaves every score as it is."""
        return cls((1.0,) * labels, (0.0,) * labels, dict.fromkeys(range(labels), reason))

    def scores(self, logits: Array) -> NDArray[np.float64]:
        """Calibrated scores [N, L] in 0..1 of logits [N, L]."""
        return _sigmoid(np.asarray(logits, np.float64) * self.slopes + self.intercepts)


def fit(targets: Array, scores: Array) -> Platt:
    """Fits slope and intercept of each label by maximum likelihood, where it has MIN_CASES of both kinds.

    With Platt's own targets, (P + 1) / (P + 2) for the P positives and 1 / (N + 2) for the N negatives, which
    keep the fit finite where a threshold separates the classes (Platt 1999, "Probabilistic outputs for
    support vector machines", section 2.2).

    Args:
        targets: [N, L], 0, 1 or NaN for unknown.
        scores: [N, L], sigmoid outputs in 0..1.
    """
    slopes, intercepts, left_out = [], [], {}
    for column in range(targets.shape[1]):
        known = ~np.isnan(targets[:, column])
        truth, logits = targets[known, column] == 1, logit(scores[known, column])
        fewest = int(min(truth.sum(), (~truth).sum()))
        slope, intercept = 1.0, 0.0
        if fewest < MIN_CASES:
            left_out[column] = f"only {fewest} {'positives' if fewest == truth.sum() else 'negatives'}"
        else:
            slope, intercept = _fit_one(truth, logits)
            if not slope > 0 or not np.isfinite((slope, intercept)).all():
                slope, intercept = 1.0, 0.0
                left_out[column] = "its scores do not rise with the finding"
        slopes.append(float(slope))
        intercepts.append(float(intercept))
    return Platt(tuple(slopes), tuple(intercepts), left_out)


def calibrate(targets: Array, scores: Array, patients: NDArray[np.str_]) -> tuple[Platt, NDArray[np.float64]]:
    """Fits a calibration, and keeps it for the labels where it helps patients that it was not fitted on.

    What helps is a higher likelihood: a label that is calibrated already would only get the noise of the fit.

    Args:
        targets: [N, L], 0, 1 or NaN for unknown.
        scores: [N, L], sigmoid outputs in 0..1.
        patients: str [N], the patient of each image.

    Returns:
        The calibration fitted on all patients, and for an honest measure the scores [N, L] that each patient
        has from one fitted on others.
    """
    platt, held_out = fit(targets, scores), cross_calibrated(targets, scores, patients)
    slopes, intercepts, left_out = list(platt.slopes), list(platt.intercepts), dict(platt.left_out)
    for column in range(targets.shape[1]):
        truth = targets[:, column]
        if column not in left_out and _loss(truth, held_out[:, column]) >= _loss(truth, scores[:, column]):
            left_out[column] = "no gain"
        if column in left_out:
            slopes[column], intercepts[column] = 1.0, 0.0
            held_out[:, column] = scores[:, column]
    return Platt(tuple(slopes), tuple(intercepts), left_out), held_out


def cross_calibrated(targets: Array, scores: Array, patients: NDArray[np.str_]) -> NDArray[np.float64]:
    """Scores [N, L] that each patient would have had from a calibration fitted on other patients alone."""
    everyone, row = np.unique(patients, return_inverse=True)
    fold = (np.random.default_rng(0).permutation(everyone.size) % FOLDS)[row]
    calibrated = np.array(scores, np.float64)
    for held_out in (fold == number for number in range(FOLDS)):
        calibrated[held_out] = fit(targets[~held_out], scores[~held_out]).scores(logit(scores[held_out]))
    return calibrated


def calibration_error(truth: Array, scores: Array) -> float:
    """Expected calibration error: mean distance of score and share of positives, over ten bins of scores.

    Bins of equal width, as in `chexscore eval` (Guo et al. 2017, arXiv:1706.04599, section 2).

    Args:
        truth: [N], 0, 1 or NaN for unknown.
        scores: [N] in 0..1.

    Returns:
        0..1, or NaN without a known label.
    """
    known = ~np.isnan(truth)
    bins = np.searchsorted(np.arange(1, BINS) / BINS, scores[known], side="right")
    gaps = np.bincount(bins, weights=truth[known] - scores[known], minlength=BINS)
    return float(np.abs(gaps).sum() / known.sum()) if known.any() else float("nan")


def operating_points(truth: Array, scores: Array) -> tuple[OperatingPoint, ...]:
    """The thresholds to choose from, Youden's first; none without both classes.

    Scores count as they stand in a CSV, with six decimals; a threshold stands in the middle between two.

    Args:
        truth: [N], 0, 1 or NaN for unknown.
        scores: [N] in 0..1.
    """
    known = ~np.isnan(truth)
    positive, rounded = truth[known] == 1, np.asarray(scores, np.float64)[known].round(6)
    hits, alarms = np.sort(rounded[positive]), np.sort(rounded[~positive])
    if not hits.size or not alarms.size:
        return ()
    values = np.unique(rounded)
    thresholds = np.concatenate([values[:1], (values[:-1] + values[1:]) / 2, (values[-1:] + 1) / 2]).round(7)
    sensitivity = 1 - np.searchsorted(hits, thresholds) / hits.size
    specificity = np.searchsorted(alarms, thresholds) / alarms.size
    right = sensitivity * hits.size + specificity * alarms.size

    def chosen() -> Iterator[tuple[str, int]]:
        yield "youden", int(np.argmax((sensitivity + specificity).round(12)))
        yield "sensitivity 90 %", int(np.flatnonzero(sensitivity >= GOAL)[-1])
        if (specificity >= GOAL).any():  # not where negatives have a score of 1
            yield "specificity 90 %", int(np.flatnonzero(specificity >= GOAL)[0])
        yield "best accuracy", int(np.argmax(right.round(6)))

    return tuple(
        OperatingPoint(
            name, float(thresholds[i]), round(float(sensitivity[i]), 6), round(float(specificity[i]), 6)
        )
        for name, i in chosen()
    )


def logit(scores: Array) -> NDArray[np.float64]:
    """The inverse of the sigmoid, within what float32 can tell apart."""
    scores = np.clip(np.asarray(scores, np.float64), CLIP, 1 - CLIP)
    return np.log(scores) - np.log1p(-scores)


def _loss(truth: Array, scores: Array) -> float:
    """Mean negative log likelihood of the known labels."""
    known, logits = ~np.isnan(truth), logit(scores)
    return float(np.mean(np.logaddexp(0, logits[known]) - truth[known] * logits[known]))


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0, -logits))


def _fit_one(truth: NDArray[np.bool_], logits: NDArray[np.float64]) -> tuple[float, float]:
    """Newton's method on the log likelihood, which is concave, halving a step that would not raise it."""
    goal = np.where(truth, (truth.sum() + 1) / (truth.sum() + 2), 1 / ((~truth).sum() + 2))
    inputs = np.stack([logits, np.ones_like(logits)])

    def loss(parameters: NDArray[np.float64]) -> float:
        predicted = parameters @ inputs
        return float(np.mean(np.logaddexp(0, predicted) - goal * predicted))

    parameters = np.array([1.0, 0.0])
    for _ in range(100):
        scores = _sigmoid(parameters @ inputs)
        gradient = inputs @ (scores - goal) / goal.size
        curvature = (inputs * scores * (1 - scores)) @ inputs.T / goal.size
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), gradient)
        while loss(parameters - step) > loss(parameters) and np.abs(step).max() > CLIP:
            step /= 2
        parameters = parameters - step
        if np.abs(step).max() < CLIP:
            break
    return float(parameters[0]), float(parameters[1])
