"""Proof that the ONNX file scores as the Keras network does, through chexscore.Classifier."""

from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from chexscore import Classifier
from chexscore.errors import ModelError
from chexscore.spec import ImageSpec

__all__ = ["BATCH_SIZES", "TOLERANCE", "compare", "radiographs"]

TOLERANCE = 1e-5
"""Largest difference of a score that passes; float32 in another order of summation stays well below."""

BATCH_SIZES = (1, 3)
"""One catches a batch axis that was frozen, the other one that was mixed up."""


def compare(network: keras.Model, model: Path, images: NDArray[np.uint8]) -> float:
    """Scores the images with both, at each of BATCH_SIZES.

    Args:
        network: the Keras network that the file was made from.
        model: the ONNX file.
        images: uint8 [N, H, W, 1], N at least 3.

    Returns:
        The largest absolute difference of a score.

    Raises:
        ModelError: the file cannot be opened as a Classifier, or gives another shape than the network.
    """
    classifier = Classifier(model, device="cpu")
    largest = 0.0
    for size in BATCH_SIZES:
        for start in range(0, len(images) - size + 1, size):
            batch = images[start : start + size]
            ours, theirs = classifier.score(batch), np.asarray(network.predict_on_batch(batch))
            if ours.shape != theirs.shape:
                raise ModelError(f"{model}: scores of shape {ours.shape}, where Keras gives {theirs.shape}.")
            difference = np.abs(ours - theirs).max()
            if not np.isfinite(difference):
                raise ModelError(f"{model}: gives scores that are no numbers.")
            largest = max(largest, float(difference))
    return largest


def radiographs(run: Path, image: ImageSpec) -> tuple[NDArray[np.uint8], str]:
    """The images to compare on: the run's own validation images, or drawn ones where they are gone.

    Returns:
        uint8 [N, H, W, 1], and in words what they are.
    """
    shape = (image.height, image.width, 1)
    try:
        images: NDArray[np.uint8] = np.load(run / "samples.npy")
    except (OSError, ValueError):
        images = np.empty((0,), dtype=np.uint8)
    if images.shape[1:] == shape and len(images) >= max(BATCH_SIZES):
        return images, f"{len(images)} validation images"
    drawn = np.stack([_draw(seed, image) for seed in range(16)])
    return drawn, f"{len(drawn)} drawn images, the run's own are gone"


def _draw(seed: int, image: ImageSpec) -> NDArray[np.uint8]:
    """Two dark lungs in a grey body, with noise: values and edges of the size that radiographs have."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : image.height * 1j, -1 : 1 : image.width * 1j]
    lungs = sum(np.exp(-(((x - side) / 0.3) ** 4) - (y / 0.7) ** 4) for side in (-0.42, 0.42))
    film = 160 - 110 * lungs * random.uniform(0.6, 1.1) + random.normal(0, 12, x.shape)
    return np.asarray(np.clip(film, 0, 255), dtype=np.uint8)[..., np.newaxis]
