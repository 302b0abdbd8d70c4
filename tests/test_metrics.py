import math

import numpy as np
import pytest
from sklearn import metrics as sklearn

from chexscore import metrics
from chexscore.ranking import Ranking


@pytest.mark.parametrize("seed", range(20))
def test_areas_are_those_of_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = (random.random(200) < (0.02, 0.3, 0.9)[seed % 3]).astype(float)
    labels[:2] = 0, 1
    scores = random.normal(labels).round(seed % 4)  # rounded, so that there are ties
    labels[random.random(200) < 0.2 * (seed % 2)] = np.nan
    known = ~np.isnan(labels)
    labels_, scores_ = labels[known], scores[known]
    assert metrics.auroc(labels, scores) == pytest.approx(sklearn.roc_auc_score(labels_, scores_), abs=1e-12)
    _, precision = Ranking(labels, scores, np.zeros(200, dtype=int)).areas(np.ones((1, 1), dtype=int))
    assert precision == pytest.approx(sklearn.average_precision_score(labels_, scores_), abs=1e-12)


def test_unknown_labels_are_left_out() -> None:
    labels, scores = np.array([1, 0, np.nan, 1, 0]), np.array([0.9, 0.8, 0.1, 0.7, 0.2])
    assert metrics.auroc(labels, scores) == 0.75


def test_what_is_not_defined_is_nan() -> None:
    ones = np.ones(3)
    assert math.isnan(metrics.auroc(ones, ones))
    assert math.isnan(metrics.auroc(np.zeros(3), ones))
    assert math.isnan(metrics.auroc(np.full(3, np.nan), ones))
    for labels in (ones, np.zeros(3), np.full(3, np.nan), np.empty(0)):
        ranking = Ranking(labels, ones[: labels.size], np.zeros(labels.size, dtype=int))
        assert np.isnan(ranking.areas(np.ones((1, 1), dtype=int))).all()
    assert math.isnan(metrics.mean_of_known([math.nan]))


def test_macro_is_the_mean_of_defined_labels_and_micro_pools_them() -> None:
    labels = np.array([[1, 1, 0], [0, 1, 1], [1, 1, 0], [0, 1, np.nan]])
    scores = np.array([[0.9, 0.5, 0.3], [0.1, 0.6, 0.4], [0.2, 0.7, 0.6], [0.3, 0.8, 0.9]])
    each = [metrics.auroc(labels[:, column], scores[:, column]) for column in (0, 2)]
    assert metrics.auroc_macro(labels, scores) == pytest.approx(sum(each) / 2)
    known = ~np.isnan(labels)
    assert metrics.auroc_micro(labels, scores) == pytest.approx(
        sklearn.roc_auc_score(labels[known], scores[known])
    )


@pytest.mark.parametrize("seed", range(10))
def test_youden_threshold_is_the_best_of_all(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, 100).astype(float)
    scores = (1 / (1 + np.exp(-random.normal(2 * labels - 1)))).round(2)
    false_positives, true_positives, _ = sklearn.roc_curve(labels, scores)
    chosen = scores >= metrics.youden_threshold(labels, scores)
    sensitivity, specificity = chosen[labels == 1].mean(), 1 - chosen[labels == 0].mean()
    assert sensitivity + specificity - 1 == pytest.approx((true_positives - false_positives).max())


def test_youden_threshold_lies_between_the_classes() -> None:
    assert metrics.youden_threshold(np.array([0, 0, 1, 1.0]), np.array([0.1, 0.2, 0.6, 0.9])) == 0.4
    assert metrics.youden_threshold(np.array([1, 1.0]), np.array([0.1, 0.2])) == 0.5
