"""Prepared pixels and targets -> shuffled batches for Keras."""

import keras
import numpy as np
from numpy.typing import NDArray

from training.devices import Devices

__all__ = ["IGNORED", "Batches", "steps_per_epoch"]

IGNORED = -1.0
"""Stands for an unknown label in what Keras gets, because NaN times zero is not zero."""


class Batches(keras.utils.PyDataset):  # type: ignore[misc]  # Keras carries no types
    """The batches of an epoch: uint8 [B, H, W, 1] and float32 [B, L] with IGNORED for unknown labels.

    The rows that would make a last, smaller batch are left to other epochs: backends compile for each shape.
    Where several hosts train together, each gets its own share of every batch.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        targets: NDArray[np.float32],
        order: NDArray[np.intp],
        batch_size: int,
        workers: int,
        devices: Devices,
    ) -> None:
        super().__init__(workers=workers, max_queue_size=8)
        self.pixels, self.order, self.batch_size, self.devices = pixels, order, batch_size, devices
        self.targets = np.nan_to_num(targets, nan=IGNORED)

    @property
    def images(self) -> int:
        """Of the epoch."""
        return min(len(self) * self.batch_size, len(self.order))

    def __len__(self) -> int:
        return steps_per_epoch(len(self.order), self.batch_size)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        rows = np.sort(self.order[index * self.batch_size : (index + 1) * self.batch_size])
        rows = np.array_split(rows, self.devices.hosts)[self.devices.host]
        return self.pixels[rows], self.targets[rows]


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Full batches of an epoch, at least one."""
    return max(1, images // batch_size)
