"""Pixels of a DICOM image as a screen would show them."""

from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.utils import pixel_array

from chexscore.grayscale import show

__all__ = ["highest_bit", "present"]

UNORDERED = ("ModalityLUTSequence", "VOILUTSequence", "PixelPaddingValue")
"""What can show a value between two others darker or brighter than both."""

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue; ITU-R BT.601."""

KEYS_AT_ONCE = 2**16

WORTH_CLIPPING = 0.99
"""Share of the values that is seen above which clipping the others costs more than it changes."""

STRAIGHT = 2
"""Grey levels that a table may be off a straight line for means to be shown as the mean of what is shown."""


def present(dataset: pydicom.Dataset, side: int = 0) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """The pixels as a screen would show them.

    Args:
        dataset: of one frame, grey or in colour of 8 bits.
        side: pixels that are enough for the shorter side; 0 keeps all. Where there are twice as many or more,
            means of squares of pixels take their place.

    Returns:
        uint8 [H, W], and how wide and high the frame is in them: the last may reach beyond its border.

    Raises:
        Exception: nearly anything, where the file is damaged.
    """
    colour = dataset.SamplesPerPixel > 1
    pixels = _luma(pixel_array(dataset)) if colour else _stored(dataset)
    height, width = pixels.shape
    times = max(1, min(width, height) // side) if side else 1
    if colour:
        shown = _reduce(pixels, 0, 255, times)
    elif pixels.itemsize > 2:  # noqa: PLR2004, more values than a table should have
        shown = _reduce(show(pixels, dataset)[0], 0, 255, times)
    else:
        shown = _shown_by_value(pixels, dataset, times)
    return shown, (width / times, height / times)


def highest_bit(dataset: pydicom.Dataset) -> int:
    """The number of the highest bit that values stand in, PS3.5 8.1.1; an impossible one counts for none."""
    lowest, said = int(dataset.BitsStored) - 1, dataset.get("HighBit")
    return int(said) if said is not None and lowest < said < dataset.BitsAllocated else lowest


def _luma(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey = np.empty(colours.shape[:2], dtype=np.uint8)
    for row, of_row in zip(grey, colours, strict=True):  # a whole film of floats is eight times as large
        row[:] = np.rint(of_row @ LUMA)
    return grey


def _stored(dataset: pydicom.Dataset) -> NDArray[Any]:
    """The values in their bits; old overlays stand in others.

    Where these are is looked at only where other bits are in use than the lowest: some say it wrongly.
    """
    pixels = pixel_array(dataset, view_only=True, correct_unused_bits=False)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    limit = 2 ** (dataset.BitsStored - dataset.PixelRepresentation)
    if -limit <= pixels.min() and pixels.max() < limit:
        return pixels
    bits = 8 * pixels.itemsize
    return np.asarray(pixels << (bits - 1 - highest_bit(dataset)) >> (bits - dataset.BitsStored))


def _shown_by_value(pixels: NDArray[Any], dataset: pydicom.Dataset, times: int) -> NDArray[np.uint8]:
    """What is shown of pixels, averaged: of means of `times` x `times` of them where that comes to the same.

    What a value is shown as is worked out once, and not for each of the millions of pixels that have it.
    """
    low, high = int(pixels.min()), int(pixels.max())
    values = np.arange(low, high + 1).astype(pixels.dtype)
    shown, alone = show(values, dataset)
    if not alone and any(keyword in dataset for keyword in UNORDERED):
        values = _values(pixels)
        shown, _ = show(values, dataset)
    elif times > 1:
        first, last = _seen(shown)
        if _is_straight(shown[first : last + 1]):
            if last - first < WORTH_CLIPPING * (high - low):  # or letters would outshine their squares
                pixels = pixels.clip(values[first], values[last])
            pixels, times = _reduce(pixels, low, high, times), 1
    unsigned = f"u{pixels.itemsize}"
    table = np.zeros(256**pixels.itemsize, dtype=np.uint8)
    table[values.view(unsigned)] = shown
    return _reduce(_look_up(table, pixels.view(unsigned)), 0, 255, times)


def _seen(shown: NDArray[np.uint8]) -> tuple[int, int]:
    """The first and the last place between which what is shown changes."""
    changes = np.flatnonzero(shown[1:] != shown[:-1])
    return (int(changes[0]), int(changes[-1]) + 1) if changes.size else (0, 0)


def _is_straight(shown: NDArray[np.uint8]) -> bool:
    """Whether a table goes straight from its first entry to its last, by steps of a level at most."""
    line = np.linspace(float(shown[0]), float(shown[-1]), len(shown))
    levels = shown.astype(np.float64)
    return bool(np.abs(np.diff(levels)).max(initial=0) <= 1 and np.abs(levels - line).max() <= STRAIGHT)


def _reduce(pixels: NDArray[Any], low: int, high: int, times: int) -> NDArray[Any]:
    """The means of squares of `times` x `times` pixels in `low` to `high`, rounded to what one can have."""
    if times == 1:
        return pixels
    # The narrowest integers that hold the sums of columns: three times as fast as 32 bits.
    narrow = np.result_type(pixels, *map(np.min_scalar_type, (low * times, high * times)))
    totals = _sums(_sums(pixels, times, narrow).T, times, np.dtype(np.float64)).T
    return np.rint(totals / times**2).astype(pixels.dtype, order="C")


def _sums(rows: NDArray[Any], times: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The sums of each `times` rows, and of the last ones, some once more, where any are left over."""
    whole = len(rows) // times * times
    sums = sum((rows[first:whole:times] for first in range(times)), start=dtype.type(0))
    return sums if whole == len(rows) else np.vstack([sums, rows[-times:].sum(axis=0, dtype=dtype)])


def _values(pixels: NDArray[Any]) -> NDArray[Any]:
    """Each value that a pixel has, once."""
    there = np.zeros(256**pixels.itemsize, dtype=np.bool_)
    there[pixels.view(f"u{pixels.itemsize}")] = True
    return np.flatnonzero(there).astype(f"u{pixels.itemsize}").view(pixels.dtype)


def _look_up(table: NDArray[np.uint8], keys: NDArray[Any]) -> NDArray[np.uint8]:
    """`table[keys]` in parts that a processor's cache holds: NumPy makes 8 bytes of each key first."""
    found = np.empty(keys.size, dtype=np.uint8)
    flat = keys.reshape(-1)
    for start in range(0, keys.size, KEYS_AT_ONCE):
        part = slice(start, start + KEYS_AT_ONCE)
        # No key is out of the table: "raise" would need a buffer, and "clip" takes a third longer.
        np.take(table, flat[part], out=found[part], mode="wrap")
    return found.reshape(keys.shape)
