"""The whole line: drawn radiographs -> training -> export -> predict -> eval."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chexscore import Classifier, evaluation, predict, records, runs
from tests.phantoms import write_dataset
from training.config import TrainConfig

SMOKE = Path(__file__).parents[1] / "training" / "configs" / "smoke.toml"
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_dataset(folder, 150, size=64)
    return folder


@pytest.fixture(scope="module")
def run(films: Path) -> Path:
    from training.fit import fit

    config = TrainConfig.from_toml(SMOKE)
    network = config.network.model_copy(update={"width": 8, "l2": 1e-5})
    config = config.model_copy(update={"epochs": 12, "network": network})
    folder = films / "run"
    fit(config, films, folder, report=lambda _: None)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    from export.publish import publish_run

    model = run / "model.onnx"
    assert "differ by" in publish_run(run, model)
    return model


def test_the_planted_findings_are_found_on_patients_never_seen(
    films: Path, run: Path, exported: Path
) -> None:
    classifier = Classifier(exported, device="cpu")
    output = str(run / "out.csv")
    record = runs.run([str(films)], output, classifier)
    assert record.scored == record.found > 200
    result = evaluation.evaluate(output, str(run / "validation.csv"), records.recorded_thresholds(output))
    assert result.without_predictions == 0
    opacity, device, macro, _ = result.rows
    assert min(opacity.auc, device.auc) > 0.9
    assert macro.auc == pytest.approx(classifier.spec.metrics["auc/macro"], abs=1e-6)
    assert opacity.accuracy == pytest.approx(classifier.spec.metrics["accuracy/Opacity"], abs=0.02)


def test_the_file_says_how_it_came_to_be(exported: Path) -> None:
    spec = Classifier(exported, device="cpu").spec
    assert float(spec.provenance["difference_to_keras"]) <= 1e-5
    assert spec.provenance["network"] == "compact"
    assert {"commit", "keras", "tf2onnx", "opset"} <= set(spec.provenance)


def test_another_backend_trains_and_the_export_agrees(tmp_path: Path) -> None:
    """JAX trains, TensorFlow exports: training uses nothing but the Keras 3 API."""
    films = tmp_path / "films"
    write_dataset(films, 12, size=64)
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    fit = [sys.executable, "-m", "training", "fit", SMOKE, "--data", films, "--out", tmp_path / "run"]
    subprocess.run(list(map(str, fit)), env=environment, check=True, cwd=ROOT)
    export = [sys.executable, "-m", "export", tmp_path / "run", "-o", tmp_path / "model.onnx"]
    subprocess.run(list(map(str, export)), env=environment, check=True, cwd=ROOT)
    spec = Classifier(tmp_path / "model.onnx", device="cpu").spec
    assert "on jax" in spec.provenance["keras"]
    assert float(spec.provenance["difference_to_keras"]) <= 1e-5
    assert all(result.scores for result in predict(films / "p0000", tmp_path / "model.onnx"))
