"""Weights that the reference's own notebook saved with Keras 2."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chexscore import Classifier
from chexscore.errors import ChexscoreError
from tests.trained import shake
from training.config import NetworkConfig
from training.findings import CHEXPERT_FINDINGS

NAMES = {
    "Conv2D": ("kernel", "bias"),
    "Dense": ("kernel", "bias"),
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}


def save_as_keras_2(network: Any, path: Path) -> Path:
    """A group for each layer, named in the attribute layer_names; in it a dataset for each weight."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.3.0"
        file.attrs["layer_names"] = [layer.name.encode() for layer in network.layers]
        for layer in network.layers:
            group = file.create_group(layer.name)
            names = NAMES.get(type(layer).__name__, ())
            group.attrs["weight_names"] = [f"{layer.name}/{name}:0".encode() for name in names]
            for name, values in zip(names, layer.get_weights(), strict=len(names) > 0):
                group.create_dataset(f"{layer.name}/{name}:0", data=values)
    return path


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    from chexscore.spec import ImageSpec
    from training.networks import build

    network = build(NetworkConfig(name="reference", width=2), ImageSpec(512, 512), 13)
    shake(network)
    return network, save_as_keras_2(network, tmp_path_factory.mktemp("old") / "xray-model-weights.h5")


def test_old_weights_score_as_training_s_own_reference_does(
    old: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export.verify import draw
    from export.weights import publish_weights

    monkeypatch.setattr("export.verify.PROOF_IMAGES", 8)  # large ones, which take seconds
    network, file = old
    line = publish_weights(file, tmp_path / "model.onnx", network="reference", labels="chexpert", size=512)
    assert "8 drawn images" in line
    classifier = Classifier(tmp_path / "model.onnx", device="cpu")
    assert classifier.spec.labels == CHEXPERT_FINDINGS
    assert classifier.spec.provenance["weights"] == "xray-model-weights.h5"
    images = draw(classifier.spec.image, 2)
    expected = np.asarray(network.predict_on_batch(images))
    assert np.abs(classifier.score(images) - expected).max() < 1e-5
    assert np.ptp(expected, axis=1).min() > 1e-3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": "A,B"}, "not the weights of the reference network for 512 x 512 pixels and 2 labels"),
        ({"size": 640}, "not the weights of the reference network for 640 x 640"),
        ({"size": 128}, "at least 508 x 508"),
        ({"labels": "A,,B"}, "none may be blank"),
        ({"labels": "A,A"}, "--labels A,A: a label is named twice"),
        ({"network": "compact"}, "no network whose old weights are known"),
    ],
)
def test_weights_of_something_else_are_refused(
    old: tuple[Any, Path], tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    from export.weights import publish_weights

    arguments: dict[str, Any] = {"network": "reference", "labels": "chexpert", "size": 512} | change
    with pytest.raises(ChexscoreError, match=said):
        publish_weights(old[1], tmp_path / "model.onnx", **arguments)
    assert not (tmp_path / "model.onnx").exists()


def test_files_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    import h5py

    from export.weights import publish_weights

    (tmp_path / "text.h5").write_text("no weights")
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        file.create_group("model_weights")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.create_dataset("numbers", data=[1, 2, 3])
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file.create_dataset("kernel", data=np.zeros((5, 5, 1, 0)))
    for name, said in (
        ("none", "no HDF5 file"),
        ("text", "no HDF5 file"),
        ("whole", "a whole model"),
        ("other", "no convolution"),
        ("empty", "no convolution"),
    ):
        with pytest.raises(ChexscoreError, match=said):
            publish_weights(
                tmp_path / f"{name}.h5", tmp_path / "m.onnx", network="reference", labels="A", size=512
            )
