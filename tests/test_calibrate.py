"""Calibration and operating points, on numbers alone."""

import numpy as np
import pytest
from numpy.typing import NDArray

from export.calibrate import (
    MIN_CASES,
    calibrate,
    calibration_error,
    cross_calibrated,
    fit,
    logit,
    operating_points,
)


def drawn(count: int, slope: float, intercept: float, seed: int = 0) -> tuple[NDArray[np.float64], ...]:
    """Targets [N, 1] whose chance is the sigmoid of slope * logit + intercept, and scores [N, 1]."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (count, 1))
    chances = 1 / (1 + np.exp(-(slope * logits + intercept)))
    return (random.random(chances.shape) < chances).astype(np.float64), 1 / (1 + np.exp(-logits)), chances


@pytest.mark.parametrize(("slope", "intercept"), [(0.4, -2.0), (3.0, 1.0)])
def test_slope_and_intercept_are_found(slope: float, intercept: float) -> None:
    targets, scores, chances = drawn(20_000, slope, intercept)
    targets[:100] = np.nan
    platt = fit(targets, scores)
    assert platt.slopes[0] == pytest.approx(slope, rel=0.06)
    assert platt.intercepts[0] == pytest.approx(intercept, abs=0.1)
    assert np.abs(platt.scores(logit(scores)) - chances).max() < 0.03


def test_classes_that_a_threshold_separates_stay_finite() -> None:
    scores = np.linspace(0, 1, 100)[:, np.newaxis]
    platt = fit((scores > 0.5).astype(float), scores)
    assert not platt.left_out
    assert 1 < platt.slopes[0] < 100
    assert np.isfinite(platt.scores(logit(scores))).all()


def test_labels_that_cannot_be_fitted_stay_as_they_are() -> None:
    few = np.zeros(200)
    few[: MIN_CASES - 1] = 1
    upside_down = (np.arange(200) < 100).astype(float)
    targets = np.stack([few, 1 - few, upside_down, np.full(200, np.nan), np.ones(200)], axis=1)
    scores = np.tile(np.linspace(0.01, 0.99, 200)[:, np.newaxis], 5)
    platt = fit(targets, scores)
    assert list(platt.left_out.values()) == [
        "only 19 positives",
        "only 19 negatives",
        "its scores do not rise with the finding",
        "only 0 positives",
        "only 0 negatives",
    ]
    assert platt.slopes == (1.0,) * 5
    assert platt.intercepts == (0.0,) * 5


def test_calibration_helps_patients_that_it_was_not_fitted_on() -> None:
    targets, scores, _ = drawn(3000, 0.4, -2)
    patients = np.array([f"p{row // 3}" for row in range(3000)])
    platt, held_out = calibrate(targets, scores, patients)
    before = calibration_error(targets[:, 0], scores[:, 0])
    after = calibration_error(targets[:, 0], held_out[:, 0])
    assert not platt.left_out
    assert before == pytest.approx(0.35, abs=0.05)
    assert after < 0.03


def test_no_patient_takes_part_in_its_own_calibration() -> None:
    targets, scores, _ = drawn(200, 0.4, -2)
    patients = np.array([f"p{row // 2}" for row in range(200)])
    changed = targets.copy()
    changed[:2] = 1 - changed[:2]
    same = cross_calibrated(targets, scores, patients) == cross_calibrated(changed, scores, patients)
    assert same[:2].all()
    assert not same.all()


def test_what_is_calibrated_already_is_left_alone() -> None:
    targets, scores, chances = drawn(300, 1, 0, seed=3)
    assert np.allclose(scores, chances)
    platt, held_out = calibrate(targets, scores, np.arange(300).astype(str))
    assert platt.left_out == {0: "no gain"}
    assert (platt.slopes, platt.intercepts) == ((1.0,), (0.0,))
    assert (held_out == scores).all()


def test_calibration_error_is_the_mean_gap() -> None:
    truth = np.array([0.0, 1.0] * 50)
    assert calibration_error(truth, np.full(100, 0.5)) == pytest.approx(0)
    assert calibration_error(truth, np.full(100, 0.8)) == pytest.approx(0.3)
    halves = np.repeat([0.0, 1.0], 50)
    assert calibration_error(halves, np.repeat([0.1, 0.7], 50)) == pytest.approx(0.2)
    assert np.isnan(calibration_error(np.full(3, np.nan), np.zeros(3)))


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
    assert [point.name for point in certain] == ["youden", "sensitivity 90 %", "best accuracy"]
