"""Validation scores -> scores that are probabilities, and the thresholds that a user can choose from."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from chexscore.spec import OperatingPoint

__all__ = ["FOLDS", "MIN_PATIENTS", "POINTS", "Platt", "calibrate", "logit", "operating_points", "sigmoid"]

Array = NDArray[np.floating]
Floats = NDArray[np.float64]

MIN_PATIENTS = 20
"""With a finding, and without it, that a label needs to be calibrated: ten for each of the two parameters
that are fitted (Peduzzi et al. 1996, doi:10.1016/S0895-4356(96)00236-3)."""

GOALS = {"sensitivity 90 %": 0.9, "sensitivity 95 %": 0.95, "sensitivity 97.5 %": 0.975}
SPECIFIC = 0.9
POINTS = ("youden", *GOALS, "specificity 90 %", "best accuracy")
"""The operating points, the default first unless another one is asked for."""

FOLDS = 5
SMALLEST, LARGEST = 1e-30, 1 - 2.0**-24
"""Scores beyond which a logit is not known: float32 has no other one between the latter and 1."""

STEP = 1e-7
"""Of the fit, that counts as none."""

FLAT = 1e-5
"""Range of a label's logits that may be nothing but float32's rounding: no slope can be fitted to it."""


@dataclass(frozen=True)
class Platt:
    """Platt scaling: a label's score is the sigmoid of slope * logit + intercept.

    Attributes:
        slopes: float64 [L], or [N, L] with its own for each image; above 0, so that no image overtakes
            another, 1 where nothing was fitted.
        intercepts: the same, 0 where nothing was fitted.
        left_out: label's column -> why nothing was fitted.
    """

    slopes: Floats
    intercepts: Floats
    left_out: dict[int, str] = field(default_factory=dict)

    @classmethod
    def none(cls, labels: int) -> "Platt":
        """Leaves every score as it is."""
        return cls(np.ones(labels), np.zeros(labels))

    def logits(self, raw: Array) -> Floats:
        """Calibrated logits [N, L] of the network's own."""
        return np.asarray(raw, np.float64) * self.slopes + self.intercepts

    def scores(self, raw: Array) -> Floats:
        """Calibrated scores [N, L] of the network's own logits."""
        return sigmoid(self.logits(raw))

    def raw(self, scores: Array) -> Floats:
        """The network's own logits [N, L] behind calibrated scores."""
        return (logit(scores) - self.intercepts) / self.slopes

    def of(self, rows: NDArray[np.intp]) -> "Platt":
        """That of some images alone, where each has its own."""
        return Platt(self.slopes[rows], self.intercepts[rows], self.left_out)


def calibrate(targets: Array, raw: Array, patients: NDArray[np.str_]) -> tuple[Platt, Platt]:
    """Fits slope and intercept of each label by maximum likelihood, where that helps other patients.

    Left as they are: labels with fewer than MIN_PATIENTS patients that have an image with the finding, or
    without; those whose scores do not rise with it, in a fit on all patients or without one of FOLDS parts of
    them; and those whose likelihood for the part left out does not gain, so that one which is calibrated
    already does not get the noise of a fit.

    Args:
        targets: [N, L], 0, 1 or NaN for unknown.
        raw: [N, L], the network's logits.
        patients: str [N], the patient of each image.

    Returns:
        The calibration fitted on all patients, and for an honest measure the one that gives each of the N
        images what was fitted without its patient's part. Both leave out the same labels.
    """
    everyone, patient = np.unique(patients, return_inverse=True)
    fold = (np.random.default_rng(0).permutation(everyone.size) % FOLDS)[patient]
    count, labels = targets.shape
    final, crossed = Platt.none(labels), Platt(np.ones((count, labels)), np.zeros((count, labels)))
    for column in range(labels):
        truth, logits = targets[:, column], np.asarray(raw[:, column], np.float64)
        if few := _too_few(truth, patient):
            final.left_out[column] = few
            continue
        known = ~np.isnan(truth)
        chosen = [known & (fold != part) for part in range(FOLDS)] + [known]
        fits = np.array([_fit(truth[rows] == 1, logits[rows]) for rows in chosen])
        held_out = logits * fits[fold, 0] + fits[fold, 1]
        if not (np.isfinite(fits).all() and (fits[:, 0] > 0).all()):
            final.left_out[column] = "its scores do not rise with the finding"
        elif _loss(truth, held_out) >= _loss(truth, logits):
            final.left_out[column] = "no gain"
        else:
            final.slopes[column], final.intercepts[column] = fits[-1]
            crossed.slopes[:, column], crossed.intercepts[:, column] = fits[fold].T
    return final, crossed


def _too_few(truth: Array, patient: NDArray[np.intp]) -> str:
    """Which kind of patients is too rare, in words; empty if none is."""
    for value, kind in ((1, "with"), (0, "without")):
        if (count := np.unique(patient[truth == value]).size) < MIN_PATIENTS:
            return f"only {count} patients {kind} it"
    return ""


def operating_points(truth: Array, scores: Array, default: str = POINTS[0]) -> tuple[OperatingPoint, ...]:
    """The thresholds to choose from, the default one first; none without both classes.

    Scores count as they stand in a CSV, with six decimals; a threshold stands in the middle between two.

    Args:
        truth: [N], 0, 1 or NaN for unknown.
        scores: [N] in 0..1.
        default: one of POINTS.
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

    chosen = {
        "youden": int(np.argmax((sensitivity + specificity).round(12))),
        "best accuracy": int(np.argmax(right.round(6))),
    }
    for name, goal in GOALS.items():
        chosen[name] = int(np.flatnonzero(sensitivity >= goal)[-1])
    if (specificity >= SPECIFIC).any():  # not where negatives have a score of 1
        chosen["specificity 90 %"] = int(np.flatnonzero(specificity >= SPECIFIC)[0])
    return tuple(
        OperatingPoint(
            name, float(thresholds[i]), round(float(sensitivity[i]), 6), round(float(specificity[i]), 6)
        )
        for name, i in sorted(chosen.items(), key=lambda point: (point[0] != default, POINTS.index(point[0])))
    )


def logit(scores: Array) -> Floats:
    """The inverse of the sigmoid, within what float32 can tell apart."""
    scores = np.clip(np.asarray(scores, np.float64), SMALLEST, LARGEST)
    return np.log(scores) - np.log1p(-scores)


def sigmoid(logits: Array) -> Floats:
    """Scores in 0..1."""
    return np.exp(-np.logaddexp(0, -np.asarray(logits, np.float64)))


def _loss(truth: Array, logits: Array) -> float:
    """Mean negative log likelihood of the known labels."""
    known = ~np.isnan(truth)
    return float(np.mean(np.logaddexp(0, logits[known]) - truth[known] * logits[known]))


def _fit(truth: NDArray[np.bool_], logits: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and intercept, by Newton's method on the log likelihood, which is concave.

    With Platt's own targets, (P + 1) / (P + 2) for the P positives and 1 / (N + 2) for the N negatives, which
    keep the fit finite where a threshold separates the classes (Platt 1999, "Probabilistic outputs for
    support vector machines", section 2.2). A step that would not raise the likelihood is halved.

    Returns:
        A slope of 0 where all logits are the same: any other would fit as well, with its own intercept.
    """
    if np.ptp(logits) < FLAT:
        return 0.0, 0.0
    goal = np.where(truth, (truth.sum() + 1) / (truth.sum() + 2), 1 / ((~truth).sum() + 2))
    inputs = np.stack([logits, np.ones_like(logits)])

    def loss(parameters: NDArray[np.float64]) -> float:
        predicted = parameters @ inputs
        return float(np.mean(np.logaddexp(0, predicted) - goal * predicted))

    parameters = np.array([1.0, 0.0])
    for _ in range(100):
        scores = sigmoid(parameters @ inputs)
        gradient = inputs @ (scores - goal) / goal.size
        curvature = (inputs * scores * (1 - scores)) @ inputs.T / goal.size
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), gradient)
        while loss(parameters - step) > loss(parameters) and np.abs(step).max() > STEP:
            step /= 2
        parameters = parameters - step
        if np.abs(step).max() < STEP:
            break
    return float(parameters[0]), float(parameters[1])
