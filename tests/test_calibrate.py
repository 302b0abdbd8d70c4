"""Calibration and operating points, on numbers alone."""

import numpy as np
import pytest
from numpy.typing import NDArray

from export.calibrate import FOLDS, MIN_PATIENTS, POINTS, calibrate, logit, operating_points, sigmoid


def drawn(count: int, slope: float, intercept: float, seed: int = 0) -> tuple[NDArray[np.float64], ...]:
    """Targets [N, 1] whose chance is the sigmoid of slope * logit + intercept, logits and chances [N, 1]."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (count, 1))
    chances = 1 / (1 + np.exp(-(slope * logits + intercept)))
    return (random.random(chances.shape) < chances).astype(np.float64), logits, chances


def each(count: int, images: int = 1) -> NDArray[np.str_]:
    """Patients of so many images each."""
    return np.array([f"p{row // images}" for row in range(count)])


@pytest.mark.parametrize(("slope", "intercept"), [(0.4, -2.0), (3.0, 1.0)])
def test_slope_and_intercept_are_found(slope: float, intercept: float) -> None:
    targets, logits, chances = drawn(20_000, slope, intercept)
    targets[:100] = np.nan
    platt, _ = calibrate(targets, logits, each(20_000))
    assert platt.slopes[0] == pytest.approx(slope, rel=0.06)
    assert platt.intercepts[0] == pytest.approx(intercept, abs=0.1)
    assert np.abs(platt.scores(logits) - chances).max() < 0.03
    near = logits[logits < 4, np.newaxis]  # float32 could not tell further ones apart
    assert platt.raw(platt.scores(near)) == pytest.approx(near, abs=1e-6)


def test_classes_that_a_threshold_separates_stay_finite() -> None:
    logits = logit(np.linspace(0, 1, 100)[:, np.newaxis])
    platt, _ = calibrate((logits > 0).astype(float), logits, each(100))
    assert not platt.left_out
    assert 1 < platt.slopes[0] < 100
    assert np.isfinite(platt.scores(logits)).all()


def test_labels_that_cannot_be_fitted_stay_as_they_are() -> None:
    few = np.zeros(200)
    few[: MIN_PATIENTS - 1] = 1
    upside_down = (np.arange(200) < 100).astype(float)
    targets = np.stack([few, 1 - few, upside_down, np.full(200, np.nan), np.ones(200)], axis=1)
    logits = np.tile(np.linspace(-4, 4, 200)[:, np.newaxis], 5)
    platt, crossed = calibrate(targets, logits, each(200))
    assert list(platt.left_out.values()) == [
        "only 19 patients with it",
        "only 19 patients without it",
        "its scores do not rise with the finding",
        "only 0 patients with it",
        "only 0 patients without it",
    ]
    for found in (platt, crossed):
        assert (found.slopes == 1).all()
        assert (found.intercepts == 0).all()


@pytest.mark.parametrize("rounding", [0.0, 1e-7])
def test_scores_that_are_all_the_same_are_not_scaled(rounding: float) -> None:
    targets, noise, _ = drawn(200, 0.4, -2)
    platt, crossed = calibrate(targets, rounding * noise - 3, each(200))
    assert platt.left_out == {0: "its scores do not rise with the finding"}
    for found in (platt, crossed):
        assert (found.slopes == 1).all()
        assert (found.intercepts == 0).all()


def test_patients_are_counted_once_and_not_again_within_the_folds() -> None:
    """19 with ten images each are too few, 20 with one image are enough, though each fold is fitted on 16."""
    targets, logits, _ = drawn(2000, 0.3, 0)
    rarely = np.where(np.cumsum(targets) <= MIN_PATIENTS, targets[:, 0], 0)[:, np.newaxis]
    assert rarely.sum() == MIN_PATIENTS
    platt, crossed = calibrate(rarely, logits, each(2000))
    assert not platt.left_out
    assert (crossed.slopes != 1).all()
    assert np.unique(crossed.slopes).size == FOLDS
    often = np.zeros((2000, 1))
    often[: 10 * (MIN_PATIENTS - 1)] = 1
    platt, crossed = calibrate(often, logits, each(2000, 10))
    assert platt.left_out == {0: "only 19 patients with it"}
    assert (crossed.slopes == 1).all()


def test_calibration_helps_patients_that_it_was_not_fitted_on() -> None:
    targets, logits, _ = drawn(3000, 0.4, -2)
    platt, crossed = calibrate(targets, logits, each(3000, 3))
    assert not platt.left_out
    assert np.abs(logits - platt.logits(logits)).mean() > 1
    error = [abs((scores - targets).mean()) for scores in (sigmoid(logits), crossed.scores(logits))]
    assert error[0] > 0.3
    assert error[1] < 0.02


def test_no_patient_takes_part_in_its_own_calibration() -> None:
    targets, logits, _ = drawn(200, 0.4, -2)
    changed = targets.copy()
    changed[:2] = 1 - changed[:2]
    fits = [calibrate(side, logits, each(200, 2))[1] for side in (targets, changed)]
    same = fits[0].slopes == fits[1].slopes
    assert same[:2].all()
    assert not same.all()


def test_what_is_calibrated_already_is_left_alone() -> None:
    targets, logits, _ = drawn(300, 1, 0, seed=3)
    platt, crossed = calibrate(targets, logits, each(300))
    assert platt.left_out == {0: "no gain"}
    assert (platt.slopes[0], platt.intercepts[0]) == (1, 0)
    assert (crossed.scores(logits) == sigmoid(logits)).all()


def test_logits_are_known_as_far_as_float32_can_tell_scores_apart() -> None:
    logits = np.array([-60.0, -20.0, 0.0, 12.0])
    assert logit(sigmoid(logits).astype(np.float32)) == pytest.approx(logits, rel=1e-2)
    assert np.isfinite(logit(np.array([0.0, 1.0], np.float32))).all()


def test_operating_points_are_the_best_there_are() -> None:
    random = np.random.default_rng(5)
    truth = random.integers(0, 2, 120).astype(float)
    scores = np.clip(truth * 0.2 + random.random(120) * 0.7, 0, 1).round(2)  # with ties
    truth[:5] = np.nan
    known, rounded = ~np.isnan(truth), scores.round(6)
    candidates = [*np.unique(rounded), 1.0]

    def measured(threshold: float) -> tuple[float, float]:
        called = rounded[known] >= threshold
        return float(called[truth[known] == 1].mean()), float((~called)[truth[known] == 0].mean())

    points = {point.name: point for point in operating_points(truth, scores)}
    assert tuple(points) == POINTS
    others = operating_points(truth, scores, "best accuracy")
    assert others == (points["best accuracy"], *(points[name] for name in POINTS[:-1]))
    for point in points.values():
        assert measured(point.threshold) == pytest.approx((point.sensitivity, point.specificity), abs=1e-6)
    every = [measured(threshold) for threshold in candidates]
    youden = points["youden"].sensitivity + points["youden"].specificity
    assert youden == pytest.approx(max(sum(pair) for pair in every), abs=1e-5)
    sensitive, specific = points["sensitivity 90 %"], points["specificity 90 %"]
    assert sensitive.sensitivity >= 0.9
    assert sensitive.specificity == pytest.approx(max(b for a, b in every if a >= 0.9), abs=1e-6)
    assert specific.specificity >= 0.9
    assert specific.sensitivity == pytest.approx(max(a for a, b in every if b >= 0.9), abs=1e-6)
    accuracy = [((rounded[known] >= t) == (truth[known] == 1)).mean() for t in candidates]
    best = (rounded[known] >= points["best accuracy"].threshold) == (truth[known] == 1)
    assert best.mean() == max(accuracy)


def test_without_both_classes_there_is_no_operating_point() -> None:
    for truth in (np.ones(9), np.zeros(9), np.full(9, np.nan)):
        assert operating_points(truth, np.linspace(0, 1, 9)) == ()
    certain = operating_points(np.array([0.0, 0.0, 1.0]), np.array([1.0, 1.0, 1.0]))
    assert [point.name for point in certain] == [
        "youden",
        "sensitivity 90 %",
        "sensitivity 95 %",
        "sensitivity 97.5 %",
        "best accuracy",
    ]
