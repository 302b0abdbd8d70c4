"""What happens within an epoch."""

import math
import time
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from chexscore.errors import ChexscoreError
from training.progress import on_terminal

__all__ = ["Watch"]

LOG_INTERVAL_S = 60.0
"""Between lines within an epoch where there is no terminal."""


class Watch(keras.callbacks.Callback):  # type: ignore[misc]  # Keras carries no types
    """Looks at the steps of an epoch, and keeps the weights that training goes on from.

    At the end of `fit` Keras replaces them by their running average, where there is one.
    """

    async_safe = True  # it only reads; otherwise JAX would wait for each step's end

    def __init__(
        self, name: str, show: Callable[[int, str], None], images: int, report: Callable[[str], None]
    ) -> None:
        super().__init__()
        self.loss = math.nan
        self._name, self._show, self._images, self._report = name, show, images, report
        self._started = self._last = time.monotonic()
        self._weights: list[Any] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Raises a ChexscoreError once the loss is no number."""
        self.loss = float((logs or {})["loss"])
        if not math.isfinite(self.loss):
            raise ChexscoreError(
                f"step {batch + 1}: the loss is {self.loss}; lower learning_rate or set clip_norm, and start "
                "a new run."
            )
        now, steps = time.monotonic(), self.params["steps"]
        rate = (batch + 1) / steps * self._images / (now - self._started)
        words = f"loss {self.loss:.4f}, {rate:.0f} images/s"
        self._show(batch + 1, words)
        if now - self._last > LOG_INTERVAL_S and not on_terminal():
            self._last = now
            self._report(f"{self._name}, step {batch + 1} of {steps}: {words}")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002, Keras's
        """Takes the loss of the epoch, and the weights before Keras replaces them."""
        self.loss = float((logs or {})["loss"])
        self._weights = [ops.convert_to_numpy(variable) for variable in self.model.trainable_variables]

    def put_back(self) -> None:
        """Undoes the replacement."""
        for variable, value in zip(self.model.trainable_variables, self._weights, strict=True):
            variable.assign(value)
