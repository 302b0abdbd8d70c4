"""What networks are made of, and the loss."""

from pathlib import Path

import numpy as np
import pytest

from chexscore.errors import UsageError
from chexscore.spec import ImageSpec
from training.config import NetworkConfig

pytestmark = pytest.mark.usefixtures("draws")


def test_the_reference_has_the_reference_s_parameters() -> None:
    from training.networks import build

    network = build(NetworkConfig(name="reference"), ImageSpec(512, 512), 13)
    assert network.count_params() == 44_790_413
    assert network.output_shape == (None, 13)
    kinds = [type(layer).__name__ for layer in network.layers]
    block = ["Conv2D", "BatchNormalization", "MaxPooling2D", "Dropout"]
    head = ["Flatten", *["Dense", "BatchNormalization", "Dropout"] * 2, "Dense"]
    assert kinds == ["InputLayer", "Rescaling", *block * 7, *head]
    with pytest.raises(UsageError, match="at least 508 x 508"):
        build(NetworkConfig(name="reference"), ImageSpec(507, 600), 13)


def test_the_reference_with_fewer_blocks_takes_smaller_images() -> None:
    from training.networks import build

    config = NetworkConfig(name="reference", blocks=4, width=2)
    assert build(config, ImageSpec(76, 76), 1).output_shape == (None, 1)
    with pytest.raises(UsageError, match="blocks = 4 needs images of at least 76 x 76"):
        build(config, ImageSpec(75, 76), 1)


def test_efficientnet_begins_with_weights_from_a_file_or_says_what_is_missing(tmp_path: Path) -> None:
    import keras

    from training.networks import build

    config, image, file = NetworkConfig(name="efficientnet"), ImageSpec(40, 56), tmp_path / "b0.weights.h5"
    network = build(config, image, 14)
    assert network.output_shape == (None, 14)
    missing = config.model_copy(update={"imagenet": "weights.h5"}).located(tmp_path)
    with pytest.raises(UsageError, match=r"weights\.h5: no such file; .* or leave imagenet"):
        build(missing, image, 14)
    keras.Model(network.input, network.get_layer("top_activation").output).save_weights(file)
    found = build(config.model_copy(update={"imagenet": str(file)}), image, 14)
    np.testing.assert_array_equal(found.get_layer("stem_conv").kernel, network.get_layer("stem_conv").kernel)


def test_mixed_precision_keeps_weights_and_scores_in_float32() -> None:
    from training.networks import build

    network = build(NetworkConfig(name="compact", width=4), ImageSpec(32, 32), 2, precision="mixed_bfloat16")
    convolution = next(layer for layer in network.layers if "conv" in layer.name)
    assert convolution.compute_dtype == "bfloat16"
    assert {weight.dtype for weight in network.weights} == {"float32"}
    assert network.output.dtype == "float32"


def test_unknown_labels_take_no_part_in_the_loss() -> None:
    from training.batches import IGNORED
    from training.loss import MaskedCrossentropy, positive_weights

    truth = np.array([[1, 0, IGNORED], [IGNORED, IGNORED, IGNORED]], dtype=np.float32)
    scores = np.array([[0.5, 0.25, 0.999], [0.1, 0.2, 0.3]], dtype=np.float32)
    first = -(np.log(0.5) + np.log(0.75)) / 2
    assert float(MaskedCrossentropy()(truth, scores)) == pytest.approx(first / 2, abs=1e-6)
    weights = positive_weights(np.array([[1, 0, 1], [0, 0, np.nan], [0, 0, 0], [0, 1, 0.5]]))
    assert weights.tolist() == [3, 3, 1]
    weighted = -(3 * np.log(0.5) + np.log(0.75)) / 2
    assert float(MaskedCrossentropy(weights)(truth, scores)) == pytest.approx(weighted / 2, abs=1e-6)
    smoothed = -(3 * 0.7 * np.log(0.6) + 0.3 * np.log(0.4))
    part, score = np.array([[0.7]], dtype=np.float32), np.array([[0.6]], dtype=np.float32)
    assert float(MaskedCrossentropy(weights[:1])(part, score)) == pytest.approx(smoothed, abs=1e-6)


def test_a_network_that_standardizes_scores_alike_at_any_exposure() -> None:
    from training.networks import build

    network = build(NetworkConfig(name="compact", width=4, standardize=True), ImageSpec(32, 32), 1)
    image = np.random.default_rng(0).integers(40, 120, (1, 32, 32, 1)).astype(np.float32)
    np.testing.assert_allclose(
        network.predict_on_batch(image), network.predict_on_batch(2 * image + 10), atol=1e-3
    )


def test_a_mirrored_network_scores_an_image_and_its_mirror_image_together() -> None:
    from training.networks import build

    config, image = NetworkConfig(name="compact", width=4), ImageSpec(32, 32)
    network, mirrored = build(config, image, 2), build(config, image, 2, mirrored=True)
    mirrored.set_weights(network.get_weights())
    films = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1)).astype(np.float32)
    logits = [
        np.log(scores / (1 - scores)) for scores in map(network.predict_on_batch, (films, films[:, :, ::-1]))
    ]
    assert np.abs(logits[0] - logits[1]).max() > 1e-3
    scores = 1 / (1 + np.exp(-np.mean(logits, axis=0)))
    np.testing.assert_allclose(mirrored.predict_on_batch(films), scores, atol=1e-5)
