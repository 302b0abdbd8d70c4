"""Proof that an ONNX file scores as its network does, through chexscore.Classifier."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from chexscore import Classifier
from chexscore.errors import ModelError
from chexscore.sessions import open_session
from chexscore.spec import INPUT_NAME, OUTPUT_NAME, ImageSpec

__all__ = [
    "BATCH_SIZES",
    "LOGIT_TOLERANCE",
    "PROOF_IMAGES",
    "TOLERANCE",
    "Proof",
    "Samples",
    "compare",
    "compare_logits",
    "draw",
    "draw_samples",
    "score",
]

TOLERANCE = 1e-5
"""Largest difference of a score that passes; float32 in another order of summation stays well below."""

LOGIT_TOLERANCE = 1e-4
"""Largest difference of a logit that passes, as a share of the logit where that is above 1. Scores near 0 and
1 hardly change with their logits, so that a comparison of scores alone sees nothing there."""

BATCH_SIZES = (1, 3, 8)
"""The first catches a batch axis that was frozen, the others one that was mixed up. All images go through in
batches of the last, PROOF_IMAGES of them in the others too."""

PROOF_IMAGES = 64


@dataclass(frozen=True)
class Samples:
    """Images to compare on, at least PROOF_IMAGES.

    Attributes:
        images: uint8 [S, H, W, 1].
        rows: intp [S], which validation image each is; -1 for one without validation scores.
        what: in words.
    """

    images: NDArray[np.uint8]
    rows: NDArray[np.intp]
    what: str


@dataclass(frozen=True)
class Proof:
    """What a comparison found.

    Attributes:
        difference: the largest absolute difference of a score.
        scores: float32 [S, L], the file's.
        what: the images and batch sizes, in words.
    """

    difference: float
    scores: NDArray[np.float32]
    what: str

    def __str__(self) -> str:
        return f"the scores of {self.what} differ by {self.difference:.1e} at most"


def compare(expected: NDArray[np.floating], model: Path, images: NDArray[np.uint8], what: str) -> Proof:
    """Scores the samples with the file, at each of BATCH_SIZES.

    Args:
        expected: [S, L], the network's own scores of the images.
        model: the ONNX file.
        images: uint8 [S, H, W, 1].
        what: the images, in words.

    Raises:
        ModelError: the file cannot be opened as a Classifier, gives another shape than the network, or scores
            that are no numbers.
    """
    classifier = Classifier(model, device="cpu")
    largest = 0.0
    for size in BATCH_SIZES:
        rows = np.arange(len(images)) if size == BATCH_SIZES[-1] else _some(len(images))
        scores = score(classifier, images[rows], size)
        if scores.shape != expected[rows].shape:
            raise ModelError(
                f"{model}: scores of shape {scores.shape}, the network gives {expected[rows].shape}."
            )
        difference = float(np.abs(scores - expected[rows]).max())
        if not np.isfinite(difference):
            raise ModelError(f"{model}: gives scores that are no numbers.")
        largest = max(largest, difference)
    *small, large = BATCH_SIZES
    some = "all" if len(images) <= PROOF_IMAGES else f"{PROOF_IMAGES}"
    batches = f"in batches of {large}, {some} of them also of {' and '.join(map(str, small))}"
    return Proof(largest, scores, f"{what} {batches}")


def compare_logits(
    expected: NDArray[np.floating], model: onnx.ModelProto, images: NDArray[np.uint8]
) -> float:
    """Compares what stands in front of a graph's last node, on PROOF_IMAGES of the images.

    Args:
        expected: [S, L], the network's own logits of the images.
        model: from `image` to `scores`, by a sigmoid at the end.
        images: uint8 [S, H, W, 1].

    Returns:
        The largest difference, of logits above 1 as a share of them; NaN if something is no number, and
        infinity for another shape.
    """
    front = onnx.ModelProto()
    front.CopyFrom(model)
    last = next(node for node in front.graph.node if OUTPUT_NAME in node.output)
    front.graph.output[0].name = last.input[0]
    session, _ = open_session(front.SerializeToString(), "cpu")
    rows = _some(len(images))
    found = np.concatenate(
        [session.run(None, {INPUT_NAME: part})[0] for part in _batches(images[rows], BATCH_SIZES[-1])]
    )
    if found.shape != expected[rows].shape:
        return math.inf
    return float((np.abs(found - expected[rows]) / np.maximum(1, np.abs(expected[rows]))).max())


def score(classifier: Classifier, images: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """Scores [S, L] of images [S, H, W, 1], `size` at a time."""
    return np.concatenate([classifier.score(part) for part in _batches(images, size)])


def draw_samples(image: ImageSpec) -> Samples:
    """Drawn films, for a network without validation images."""
    return Samples(
        draw(image, PROOF_IMAGES), np.full(PROOF_IMAGES, -1, np.intp), f"{PROOF_IMAGES} drawn images"
    )


def draw(image: ImageSpec, count: int) -> NDArray[np.uint8]:
    """Films [count, H, W, 1]: dark lungs in a grey body, with noise; values and edges as of radiographs."""
    y, x = np.mgrid[-1 : 1 : image.height * 1j, -1 : 1 : image.width * 1j]
    lungs = sum(np.exp(-(((x - side) / 0.3) ** 4) - (y / 0.7) ** 4) for side in (-0.42, 0.42))
    films = np.empty((count, image.height, image.width, 1), np.uint8)
    for seed in range(count):
        random = np.random.default_rng(seed)
        film = 160 - 110 * lungs * random.uniform(0.6, 1.1) + random.normal(0, 12, x.shape)
        films[seed, ..., 0] = np.clip(film, 0, 255)
    return films


def _some(count: int) -> NDArray[np.intp]:
    """At most PROOF_IMAGES of so many images, evenly spread."""
    return np.linspace(0, count - 1, min(count, PROOF_IMAGES)).astype(np.intp)


def _batches(images: NDArray[np.uint8], size: int) -> Iterator[NDArray[np.uint8]]:
    return (images[start : start + size] for start in range(0, len(images), size))
