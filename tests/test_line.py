"""The whole line: drawn radiographs -> training -> export -> predict -> eval."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chexscore import Classifier, predict, runs
from chexscore.evaluation.cases import Protocol
from chexscore.evaluation.evaluate import evaluate
from chexscore.evaluation.points import points_and_model
from tests.phantoms import write_chexpert, write_dataset

SMOKE = Path(__file__).parents[1] / "training" / "configs" / "smoke.toml"
ROOT = Path(__file__).parents[1]


RECIPE = """
name = "line"
epochs = 7
batch_size = 16
average = 0.25

[data]
layout = "chexpert"
table = "train.csv"
test_list = "valid.csv"
labels = ["Lung Opacity", "Support Devices"]
validation = 0.25
uncertain = {default = "ignore", "Support Devices" = [0.4, 0.6]}
only = {"Frontal/Lateral" = ["Frontal"]}

[image]
height = 64
width = 64

[network]
name = "compact"
width = 8
l2 = 1e-5
standardize = true

[augment]
jpeg_quality = 50
"""


TWO_DEVICES = """
import sys
from pathlib import Path
from training.config import AugmentConfig, NetworkConfig, TrainConfig
from training.fit import fit

recipe, films, out = map(Path, sys.argv[1:])
for devices in ("one", "all"):
    small = NetworkConfig(name="reference", blocks=2, width=4)  # quick to compile, as are these changes
    augment = AugmentConfig(rotation=0, brightness=0, jpeg_quality=50)
    changes = {"devices": devices, "network": small, "augment": augment}
    config = TrainConfig.from_toml(recipe).model_copy(update=changes)
    fit(config, films, out / devices, cache=out / "cache", report=lambda line: print(line))
"""


@pytest.fixture(scope="module", autouse=True)
def two_devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A folder in which JAX trains on one device and on two, beside the other tests of this module."""
    folder = tmp_path_factory.mktemp("jax")
    write_dataset(folder / "films", 12, size=64)
    # Unoptimised code is compiled in half the time, and there is next to nothing to compute.
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    jax = {"KERAS_BACKEND": "jax", "XLA_FLAGS": flags}
    command = list(map(str, (sys.executable, "-c", TWO_DEVICES, SMOKE, folder / "films", folder)))
    out, err = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(
        command, env=os.environ | jax, cwd=ROOT, stdout=out, stderr=err, text=True
    ) as process:
        yield folder, process
        process.kill()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of CheXpert's shape, and its recipe."""
    folder = tmp_path_factory.mktemp("films")
    write_chexpert(folder, 300)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def run(films: Path) -> Path:
    """Prepared, and trained on it; interrupted after the first epoch and called again."""
    from training import cli as training

    def interrupt(line: str) -> None:
        if line.startswith("epoch 1/"):
            raise KeyboardInterrupt

    folder, recipe, cache = films / "run", films / "recipe.toml", films / "cache"
    training.prepare(recipe, films, cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_report", interrupt)
        with pytest.raises(KeyboardInterrupt):
            training.fit(recipe, films, folder, cache=cache)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        training.fit(recipe, films, folder, cache=cache)
    assert "continuing after epoch 1" in said.getvalue()
    assert "unreadable and left out" in said.getvalue()
    assert not (folder / "cache").exists()
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
    record = runs.run([str(films / "train"), str(films / "valid")], output, classifier)
    assert record.scored > 500
    assert record.not_scored == record.failed["unreadable"] > 2
    points, _ = points_and_model(output)
    for side in ("validation", "test"):
        measured = json.loads((run / "metrics.json").read_text())[side]
        result = evaluate(output, str(run / f"{side}.csv"), points, Protocol(resamples=0))
        assert "lines of labels without a prediction" not in result.cases.left_over
        table, point = result.everyone, next(iter(result.points))
        for label in ("Lung Opacity", "Support Devices"):
            assert table.get("auc", label).value > 0.9
            assert measured[f"auc/{label}"]["value"] > 0.9
            if side == "test":  # no policy applies: every cell is known
                assert table.get("auc", label).value == pytest.approx(
                    measured[f"auc/{label}"]["value"], abs=1e-6
                )
                assert table.get(f"accuracy@{point}", label).value == pytest.approx(
                    measured[f"accuracy/{label}"]["value"], abs=0.02
                )


def test_the_file_says_how_it_came_to_be(exported: Path) -> None:
    spec = Classifier(exported, device="cpu").spec
    assert float(spec.provenance["difference_to_keras"]) <= 1e-5
    assert spec.provenance["network"] == "compact"
    assert {"commit", "keras", "tf2onnx", "opset"} <= set(spec.provenance)
    assert spec.provenance["begun_with"] == "random weights"


def test_another_backend_trains_on_two_devices_as_on_one_and_the_export_agrees(
    two_devices: tuple[Path, subprocess.Popen[str]],
) -> None:
    """JAX trains, TensorFlow exports: training uses nothing but the Keras 3 API."""
    from export.publish import publish_run

    folder, process = two_devices
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert said.count("batches shared by 2 devices on 1 hosts") == 1
    # Adam makes steps of one size from gradients that are next to nothing, so weights may differ by more.
    one, both = (np.load(folder / devices / "validation.npz")["scores"] for devices in ("one", "all"))
    np.testing.assert_allclose(one, both, atol=1e-3)
    alone, shared = (pd.read_csv(folder / devices / "history.csv")["loss"] for devices in ("one", "all"))
    np.testing.assert_allclose(alone, shared, rtol=1e-5)

    publish_run(folder / "all", folder / "model.onnx")
    spec = Classifier(folder / "model.onnx", device="cpu").spec
    assert "on jax" in spec.provenance["keras"]
    assert float(spec.provenance["difference_to_keras"]) <= 1e-5
    assert all(result.scores for result in predict(folder / "films" / "p0000", folder / "model.onnx"))
