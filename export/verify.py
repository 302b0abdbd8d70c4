"""Proof that an ONNX file scores as its network does, through chexscore.Classifier."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chexscore import Classifier, metrics
from chexscore.errors import ModelError
from chexscore.spec import ImageSpec

__all__ = ["BATCH_SIZES", "TOLERANCE", "Proof", "Samples", "compare", "draw_samples"]

TOLERANCE = 1e-5
"""Largest difference of a score that passes; float32 in another order of summation stays well below."""

BATCH_SIZES = (1, 3, 8)
"""The first catches a batch axis that was frozen, the others one that was mixed up. All images go through in
batches of the last, PROOF_IMAGES of them in the others too."""

PROOF_IMAGES = 64


@dataclass(frozen=True)
class Samples:
    """Images to compare on.

    Attributes:
        images: uint8 [S, H, W, 1].
        truth: float32 [S, L], 0, 1 or NaN for unknown; None where it is not known at all.
        what: in words.
    """

    images: NDArray[np.uint8]
    truth: NDArray[np.float32] | None
    what: str


@dataclass(frozen=True)
class Proof:
    """What a comparison found.

    Attributes:
        difference: the largest absolute difference of a score.
        auc_expected: macro AUC of the network's scores; NaN where the truth is not known.
        auc: that of the file's scores.
        what: the images and batch sizes, in words.
    """

    difference: float
    auc_expected: float
    auc: float
    what: str

    def __str__(self) -> str:
        return f"the scores of {self.what} differ by {self.difference:.1e} at most"

    @property
    def loss(self) -> float:
        """Macro AUC that the file has lost; NaN where the truth is not known."""
        return self.auc_expected - self.auc


def compare(expected: NDArray[np.floating], model: Path, samples: Samples) -> Proof:
    """Scores the samples with the file, at each of BATCH_SIZES.

    Args:
        expected: [S, L], the network's own scores of the samples.
        model: the ONNX file.
        samples: the images, and what is known of them.

    Raises:
        ModelError: the file cannot be opened as a Classifier, gives another shape than the network, or scores
            that are no numbers.
    """
    classifier = Classifier(model, device="cpu")
    step = max(1, len(samples.images) // PROOF_IMAGES)
    some = np.arange(0, len(samples.images), step)[:PROOF_IMAGES]
    largest = 0.0
    for size in BATCH_SIZES:
        rows = np.arange(len(samples.images)) if size == BATCH_SIZES[-1] else some
        scores = score(classifier, samples.images[rows], size)
        if scores.shape != expected[rows].shape:
            raise ModelError(
                f"{model}: scores of shape {scores.shape}, the network gives {expected[rows].shape}."
            )
        difference = float(np.abs(scores - expected[rows]).max())
        if not np.isfinite(difference):
            raise ModelError(f"{model}: gives scores that are no numbers.")
        largest = max(largest, difference)
    before, after = (
        metrics.auroc_macro(samples.truth, side) if samples.truth is not None else np.nan
        for side in (expected, scores)
    )
    sizes = ", ".join(map(str, BATCH_SIZES))
    return Proof(largest, before, after, f"{samples.what} at batch sizes {sizes}")


def score(classifier: Classifier, images: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """Scores [S, L] of images [S, H, W, 1], `size` at a time."""
    starts = range(0, len(images), size)
    return np.concatenate([classifier.score(images[start : start + size]) for start in starts])


def draw_samples(image: ImageSpec) -> Samples:
    """Drawn films, for a network without validation images."""
    y, x = np.mgrid[-1 : 1 : image.height * 1j, -1 : 1 : image.width * 1j]
    lungs = sum(np.exp(-(((x - side) / 0.3) ** 4) - (y / 0.7) ** 4) for side in (-0.42, 0.42))
    images = np.stack([_draw(seed, lungs) for seed in range(16)])
    return Samples(images, None, f"{len(images)} drawn images")


def _draw(seed: int, lungs: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Two dark lungs in a grey body, with noise: values and edges of the size that radiographs have."""
    random = np.random.default_rng(seed)
    film = 160 - 110 * lungs * random.uniform(0.6, 1.1) + random.normal(0, 12, lungs.shape)
    return np.asarray(np.clip(film, 0, 255), dtype=np.uint8)[..., np.newaxis]
