import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn
from sklearn.calibration import calibration_curve

from chexscore.report.curves import precision_recall, reliability, roc


@pytest.mark.parametrize("seed", range(6))
def test_curves_are_those_of_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = (random.random(150) < 0.3).astype(float)
    scores = (1 / (1 + np.exp(-random.normal(labels)))).round(seed % 3 + 1)  # with ties
    false, true, _ = sklearn.roc_curve(labels, scores, drop_intermediate=False)
    found = roc(labels, scores)
    assert found.x == pytest.approx(false, abs=1e-12)
    assert found.y == pytest.approx(true, abs=1e-12)
    precision, recall, _ = sklearn.precision_recall_curve(labels, scores)
    found = precision_recall(labels, scores)
    assert found.x == pytest.approx(recall[::-1], abs=1e-12)
    assert found.y == pytest.approx(precision[::-1], abs=1e-12)
    scores = np.minimum(scores + 1e-9, 1)  # scikit-learn puts a score on an edge into the bin below
    bins = reliability(labels, scores)
    share, score = calibration_curve(labels, scores, n_bins=10)
    assert bins.share == pytest.approx(share, abs=1e-12)
    assert bins.score == pytest.approx(score, abs=1e-12)
    assert bins.cases.sum() == 150
    exact = stats.binomtest(round(bins.share[0] * bins.cases[0]), int(bins.cases[0])).proportion_ci(
        method="wilson"
    )
    assert (bins.low[0], bins.high[0]) == pytest.approx((exact.low, exact.high))
