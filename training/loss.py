"""The loss: binary cross-entropy over the labels that are known."""

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from training.batches import IGNORED

__all__ = ["MaskedCrossentropy", "positive_weights"]


class MaskedCrossentropy(keras.losses.Loss):  # type: ignore[misc]  # Keras carries no types
    """Mean over an image's known labels of the binary cross-entropy; [N, L] each in 0..1, or IGNORED.

    Args:
        weights: float32 [L], what a positive counts beside a negative; None for the same.
    """

    def __init__(self, weights: NDArray[np.float32] | None = None) -> None:
        super().__init__(name="masked_crossentropy", dtype="float32")
        self.weights = weights

    def call(self, truth: Any, scores: Any) -> Any:
        """One value an image, [N]; 0 for an image without a known label."""
        known = ops.cast(ops.not_equal(truth, IGNORED), scores.dtype)
        truth = ops.cast(truth, scores.dtype) * known
        weights = 1.0 if self.weights is None else self.weights
        # Of a truth between 0 and 1 only its positive part weighs more, which moves where the loss is least.
        total = truth * weights + (1 - truth)
        each = ops.binary_crossentropy(truth * weights / total, scores) * total * known
        return ops.sum(each, axis=-1) / ops.maximum(ops.sum(known, axis=-1), 1)


def positive_weights(targets: NDArray[np.float32]) -> NDArray[np.float32]:
    """Negatives for each positive of a label, so that both count the same; 1 without both.

    Args:
        targets: float32 [N, L], NaN where unknown; values between 0 and 1 count in parts.

    Returns:
        float32 [L].
    """
    positives, negatives = np.nansum(targets, axis=0), np.nansum(1 - targets, axis=0)
    both = (positives > 0) & (negatives > 0)
    return np.where(both, negatives / np.where(both, positives, 1), 1).astype(np.float32)
