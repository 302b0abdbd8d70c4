"""Prepared pixels and targets -> shuffled batches for Keras."""

import keras
import numpy as np
from numpy.typing import NDArray

from training.config import TrainConfig

__all__ = ["IGNORED", "Batches", "steps_per_epoch"]

IGNORED = -1.0
"""Stands for an unknown label in what Keras gets, because NaN times zero is not zero."""


class Batches(keras.utils.PyDataset):  # type: ignore[misc]  # Keras carries no types
    """Shuffled batches: uint8 [B, H, W, 1] and float32 [B, L] with IGNORED for unknown labels.

    The rows that would make a last, smaller batch are left to other epochs: backends compile for each shape.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        targets: NDArray[np.float32],
        rows: NDArray[np.intp],
        config: TrainConfig,
        *,
        seed: int,
        workers: int,
    ) -> None:
        super().__init__(workers=workers, max_queue_size=8)
        self.pixels, self.batch_size = pixels, config.batch_size
        self.targets = np.nan_to_num(targets, nan=IGNORED)
        self.rows = np.random.default_rng(seed).permutation(rows)

    def __len__(self) -> int:
        return steps_per_epoch(len(self.rows), self.batch_size)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        rows = np.sort(self.rows[index * self.batch_size : (index + 1) * self.batch_size])
        return self.pixels[rows], self.targets[rows]


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Full batches of an epoch, at least one."""
    return max(1, images // batch_size)
