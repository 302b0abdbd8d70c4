"""The model that comes with the package: as small, calibrated and steady as its card says."""

import os

import numpy as np
import pandas as pd
import pytest

from chexscore import Classifier, load_image
from chexscore.classifier import BUNDLED_MODEL

MEGABYTES = 10
TABLE = "tests/bundled.csv"


def test_drawn_films_score_as_recorded() -> None:
    """Recorded by `chexscore predict tests/radiographs -o tests/bundled.csv`, one model at a time."""
    recorded = pd.read_csv(TABLE)
    classifier = Classifier(device="cpu")
    images = np.stack([load_image(path, classifier.spec.image) for path in recorded["path"]])
    expected = recorded[list(classifier.spec.labels)].to_numpy()
    np.testing.assert_allclose(classifier.score(images), expected, atol=1e-4)
    mirrored = np.ascontiguousarray(images[:, :, ::-1])
    np.testing.assert_allclose(classifier.score(mirrored), expected, atol=1e-4)
    darker = images // 2 + 20
    assert classifier.score(darker) == pytest.approx(expected, abs=0.05)


def test_the_bundled_model_is_small_calibrated_and_says_where_its_thresholds_stand() -> None:
    assert os.path.getsize(BUNDLED_MODEL) < MEGABYTES * 1e6
    spec = Classifier(device="cpu").spec
    assert spec.labels == ("Pneumonia", "Bacterial", "Viral")
    assert spec.calibration.startswith("Platt scaling")
    assert float(spec.provenance["fp32_difference_to_keras"]) <= 1e-5
    assert abs(float(spec.provenance["auc_lost"])) <= 1e-4
    assert "+" not in spec.provenance["commit"]
    default = spec.operating_points["Pneumonia"][0]
    assert default.name == "sensitivity 97.5 %"
    assert default.sensitivity >= 0.975
    assert max(spec.metrics[f"ece/{label}"] for label in spec.labels) < 0.05
    assert spec.metrics["ece/Pneumonia"] < spec.metrics["ece_before/Pneumonia"]
    assert spec.metrics["ece/macro"] < spec.metrics["ece_before/macro"]
