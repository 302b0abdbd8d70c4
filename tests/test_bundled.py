"""The model that comes with the package: as small, calibrated and steady as its card says."""

import io
import itertools
import os
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest

from chexscore import Classifier, find_images, load_image, predict
from chexscore.classifier import BUNDLED_MODEL
from chexscore.predictions import Columns, write_csv
from chexscore.scoring import Loaded, load, open_classifier

MEGABYTES = 10
TABLE = "tests/bundled.csv"


def test_drawn_films_score_as_recorded() -> None:
    """Recorded by `chexscore predict tests/radiographs -o tests/bundled.csv`, one model at a time."""
    recorded = pd.read_csv(TABLE)
    classifier = Classifier(device="cpu")
    images = np.stack([load_image(path, classifier.spec.image) for path in recorded["path"]])
    expected = recorded[list(classifier.spec.labels)].to_numpy()
    np.testing.assert_allclose(classifier.score(images), expected, atol=1e-4)
    darker = images // 2 + 20
    assert classifier.score(darker) == pytest.approx(expected, abs=0.05)


def test_no_setting_for_speed_moves_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch size, workers, and the order in which decoders finish; bytes stay for one batch size."""
    paths = list(find_images("tests/radiographs")) * 2
    classifier = open_classifier(device="cpu")
    delays = itertools.cycle((0, 0.04, 0, 0, 0.02))

    def dawdle(*arguments: Any, **settings: Any) -> Loaded:
        time.sleep(next(delays))
        return load(*arguments, **settings)

    monkeypatch.setattr("chexscore.scoring.load", dawdle)
    expected = classifier.score(np.stack([load_image(path, classifier.spec.image) for path in paths]))
    for batch_size in (1, 3, 8):
        tables = set()
        for workers in (1, 5):
            found = list(predict(paths, classifier, batch_size=batch_size, workers=workers))
            assert [prediction.path for prediction in found] == paths
            scores = [list(prediction.scores.values()) for prediction in found]
            np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)
            table = io.StringIO()
            write_csv(table, found, Columns(classifier.spec.labels))
            tables.add(table.getvalue())
        assert len(tables) == 1


def test_the_bundled_model_is_small_calibrated_and_says_where_its_thresholds_stand() -> None:
    assert os.path.getsize(BUNDLED_MODEL) < MEGABYTES * 1e6
    spec = Classifier(device="cpu").spec
    assert spec.labels == ("Pneumonia", "Bacterial", "Viral")
    assert spec.calibration.startswith("Platt scaling")
    assert float(spec.provenance["fp32_difference_to_keras"]) <= 1e-5
    assert abs(float(spec.provenance["auc_lost"])) <= 1e-4
    assert "+" not in spec.provenance["commit"]
    default = spec.operating_points["Pneumonia"][0]
    assert default.name == "sensitivity 95 %"
    assert default.sensitivity >= 0.95
    assert max(spec.metrics[f"ece/{label}"] for label in spec.labels) < 0.05
    assert spec.metrics["ece/Pneumonia"] < spec.metrics["ece_before/Pneumonia"]
    assert spec.metrics["ece/macro"] < spec.metrics["ece_before/macro"]
