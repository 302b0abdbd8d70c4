"""Measures under resampling equal those of scikit-learn on rows that are really repeated."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sklearn

from chexscore.intervals import bootstrap, compare, estimate, interval, number
from chexscore.samples import Sample

NAMES = ("Common", "Rare", "Unknown at times", "Never")
THRESHOLDS = (0.5, 0.3, 0.7, 0.5)

Floats = NDArray[np.float64]


def data(seed: int, images: int = 300, patients: int = 90) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Ties, unknown labels, a label without positives, patients with several images."""
    random = np.random.default_rng(seed)
    labels = (random.random((images, 4)) < (0.4, 0.05, 0.3, 0)).astype(float)
    scores = (1 / (1 + np.exp(-random.normal(labels)))).round(2)
    labels[random.random(images) < 0.3, 2] = np.nan
    return labels, scores, random.integers(patients, size=images)


def plain(labels: Floats, scores: Floats, threshold: float) -> dict[str, float]:
    """The measures of one label by scikit-learn."""
    known = ~np.isnan(labels)
    labels, scores = labels[known], scores[known]
    called = (scores >= threshold).astype(int)
    bins = np.minimum((scores * 10 + 1e-9).astype(int), 9)
    found = {
        "prevalence": labels.mean(),
        "brier": np.mean((labels - scores) ** 2),
        "accuracy": sklearn.accuracy_score(labels, called),
        "calibration_error": sum(
            (bins == number).mean() * abs(labels[bins == number].mean() - scores[bins == number].mean())
            for number in np.unique(bins)
        ),
    }
    if labels.any():
        found["sensitivity"] = sklearn.recall_score(labels, called)
    if not labels.all():
        found["specificity"] = sklearn.recall_score(1 - labels, 1 - called)
    if labels.any() and not labels.all():
        found |= {
            "auc": sklearn.roc_auc_score(labels, scores),
            "average_precision": sklearn.average_precision_score(labels, scores),
            "ppv": sklearn.precision_score(labels, called, zero_division=np.nan),
            "npv": sklearn.precision_score(1 - labels, 1 - called, zero_division=np.nan),
            "f1": sklearn.f1_score(labels, called),
        }
    return found


@pytest.mark.parametrize("seed", range(2))
def test_resamples_are_those_of_a_plain_loop_over_scikit_learn(seed: int) -> None:
    labels, scores, patients = data(seed)
    groups = number(patients)
    sample = Sample(labels, scores, groups, NAMES, {"": THRESHOLDS}, {"macro": range(4), "two": (0, 1)})
    (measured,) = bootstrap([sample], resamples=10, seed=seed)
    random = np.random.default_rng(seed)
    size = groups.max() + 1
    for draw in range(11):
        drawn = random.integers(size, size=size) if draw else np.arange(size)
        rows = np.concatenate([np.flatnonzero(groups == group) for group in drawn])
        each = [plain(labels[rows, column], scores[rows, column], THRESHOLDS[column]) for column in range(4)]
        called = (scores >= THRESHOLDS)[rows].ravel()
        micro = plain(labels[rows].ravel(), scores[rows].ravel(), 0.5)
        at_own_thresholds = plain(labels[rows].ravel(), called.astype(float), 0.5)
        for measure, values in measured.items():
            expected = [one.get(measure, math.nan) for one in each]
            known = [value for value in expected if not math.isnan(value)]
            means = [np.mean(known), np.nanmean(expected[:2])]
            areas = ("auc", "average_precision", "brier", "calibration_error", "prevalence")
            pooled = (micro if measure in areas else at_own_thresholds)[measure]
            assert values[draw] == pytest.approx([*expected, *means, pooled], abs=1e-12, nan_ok=True), measure


def test_estimate_names_measures_and_takes_percentiles() -> None:
    labels, scores, patients = data(7)
    found = estimate(
        labels, scores, [f"p{patient}" for patient in patients], NAMES, THRESHOLDS, resamples=200
    )
    (measured,) = bootstrap(
        [Sample(labels, scores, number([f"p{patient}" for patient in patients]), NAMES, {"": THRESHOLDS})],
        resamples=200,
    )
    auc = measured["auc"][:, 0]
    assert found["auc/Common"] == (auc[0], *np.percentile(auc[1:], [2.5, 97.5]))
    assert found["auc/Common"].low < found["auc/Common"].value < found["auc/Common"].high
    for measure in ("auc", "average_precision", "accuracy"):
        for name in ("Common", "macro", "micro"):
            assert 0 < found[f"{measure}/{name}"].low <= found[f"{measure}/{name}"].high < 1
    assert all(math.isnan(part) for part in found["auc/Never"])


def test_the_same_seed_draws_the_same_whatever_comes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, scores, patients = data(1)
    first = estimate(labels, scores, patients, NAMES, resamples=50)
    monkeypatch.setattr("chexscore.intervals.CELLS", 5000)
    assert str(estimate(labels, scores, patients, NAMES, resamples=50)) == str(first)
    assert str(estimate(labels, scores, patients, NAMES, resamples=50, seed=1)) != str(first)


def test_patients_not_images_decide_how_wide_an_interval_is() -> None:
    labels, scores, patients = data(2, images=100)
    nine = [np.repeat(array, 9, axis=0) for array in (labels, scores)]
    once = estimate(labels, scores, patients, NAMES, resamples=100)["auc/Common"]
    nine_times = estimate(nine[0], nine[1], np.repeat(patients, 9), NAMES, resamples=100)["auc/Common"]
    assert nine_times == pytest.approx(once)
    images_alone = estimate(nine[0], nine[1], range(900), NAMES, resamples=100)["auc/Common"]
    assert images_alone.high - images_alone.low < 0.5 * (once.high - once.low)


def test_an_interval_is_left_open_where_draws_lack_a_class_or_do_not_vary() -> None:
    values = np.repeat(np.linspace(0, 1, 101)[:, None], 3, axis=1)
    values[1:7, 0] = np.nan  # 6 of 100
    values[1:6, 1] = np.nan  # 5 of 100
    values[:, 2] = 1  # always
    assert np.isnan(interval(values)).tolist() == [[False, True, True], [False] * 3, [False, True, True]]
    labels = np.zeros((40, 1))
    labels[0] = 1  # a single positive patient
    found = estimate(labels, np.linspace(1, 0, 40)[:, None], range(40), ["Rare"], resamples=200)
    assert found["auc/Rare"].value == 1
    assert math.isnan(found["auc/Rare"].low)


def test_differences_are_paired() -> None:
    labels, scores, patients = data(3)
    worse = np.clip(scores + np.random.default_rng(0).normal(0, 0.05, scores.shape), 0, 1)
    same = compare(labels, scores, scores, patients, NAMES, resamples=50)["auc/macro"]
    assert same.value == 0
    assert not same.excludes_zero
    found = compare(labels, scores, worse, patients, NAMES, resamples=200)["auc/macro"]
    first, second = (estimate(labels, each, patients, NAMES)["auc/macro"] for each in (scores, worse))
    assert found.value == pytest.approx(first.value - second.value)
    assert found.high - found.low < 0.5 * (first.high - first.low)


def test_intervals_cover_the_truth() -> None:
    """100 sets of 80 patients with 1 to 3 images; tests/bench/intervals.py has 500 larger ones."""
    covered = sum(covers(seed, patients=80, resamples=200) for seed in range(100))
    assert 88 <= covered <= 100


def covers(seed: int, *, patients: int, resamples: int) -> bool:
    """Whether the interval of one simulated set has the AUC that the simulation was made with.

    Scores are Phi(N(d * label, 1)), half of the variance common to a patient's images: AUC = Phi(d / sqrt 2).
    """
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(patients), random.integers(1, 4, patients))
    ill = random.random(patients) < 0.4
    common, own = random.normal(size=patients), random.normal(size=groups.size)
    raw = 1.0 * ill[groups] + (common[groups] + own) / math.sqrt(2)
    scores = 1 / (1 + np.exp(-raw))
    labels = ill[groups].astype(float)
    found = estimate(labels[:, None], scores[:, None], groups, ["Ill"], resamples=resamples, seed=seed)
    truth = 0.5 * (1 + math.erf(1.0 / 2))
    return found["auc/Ill"].low <= truth <= found["auc/Ill"].high
