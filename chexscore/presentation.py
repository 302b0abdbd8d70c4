"""Values of a DICOM image as a screen would show them."""

from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_modality_lut, apply_voi
from pydicom.pixels.utils import pixel_array

from chexscore.depth import to_uint8

__all__ = ["present"]

UNORDERED = ("ModalityLUTSequence", "VOILUTSequence", "PixelPaddingValue")
"""What can show a value between two others darker or brighter than both."""

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue; ITU-R BT.601."""

TINY = 1e-6

KEYS_AT_ONCE = 2**16

WORTH_CLIPPING = 0.99
"""Share of the values that is seen above which clipping the others costs more than it changes."""


def present(dataset: pydicom.Dataset, side: int = 0) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """The pixels as a screen would show them.

    Args:
        dataset: of one frame, grey or in colour of 8 bits.
        side: pixels that are enough for the shorter side; 0 keeps all. Where there are twice as many or more,
            means of squares of pixels take their place; not of colour, of more than 16 bits, or where what is
            shown of a value jumps, turns back or depends on others (`UNORDERED`).

    Returns:
        uint8 [H, W], and how wide and high the frame is in them: the last may reach beyond its border.

    Raises:
        Exception: nearly anything, where the file is damaged.
    """
    if dataset.SamplesPerPixel > 1:
        grey = _luma(pixel_array(dataset))
        return grey, grey.shape[::-1]
    pixels = pixel_array(dataset, view_only=True, correct_unused_bits=False)
    low, high = int(pixels.min()), int(pixels.max())
    limit = 2 ** (dataset.BitsStored - dataset.PixelRepresentation)
    if high >= limit or low < -limit:  # something stands in bits that are not in use, as in old overlays
        pixels = pixel_array(dataset)
        low, high = int(pixels.min()), int(pixels.max())
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    height, width = pixels.shape
    if pixels.itemsize > 2:  # noqa: PLR2004, more values than a table should have
        return _grey(pixels, dataset)[0], (width, height)
    # What a value is shown as is worked out once, and not for each of the millions of pixels that have it.
    values = np.arange(low, high + 1).astype(pixels.dtype)
    shown, alone = _grey(values, dataset)
    if not alone and any(keyword in dataset for keyword in UNORDERED):
        values = _values(pixels)
        shown, _ = _grey(values, dataset)
    elif side and min(width, height) >= 2 * side and _is_smooth(shown):
        times = min(width, height) // side
        pixels = _reduce(_clip(pixels, values, shown), low, high, times)
        width, height = width / times, height / times
    unsigned = f"u{pixels.itemsize}"
    table = np.zeros(256**pixels.itemsize, dtype=np.uint8)
    table[values.view(unsigned)] = shown
    return _look_up(table, pixels.view(unsigned)), (width, height)


def _luma(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey = np.empty(colours.shape[:2], dtype=np.uint8)
    for row, of_row in zip(grey, colours, strict=True):  # a whole film of floats is eight times as large
        row[:] = np.rint(of_row @ LUMA)
    return grey


def _is_smooth(shown: NDArray[np.uint8]) -> bool:
    """Whether what values are shown as goes one way by a level at most: means are shown as they would be."""
    steps = np.diff(shown.astype(np.int16))
    return bool(steps.max(initial=0) - steps.min(initial=0) <= 1)


def _clip(pixels: NDArray[Any], values: NDArray[Any], shown: NDArray[np.uint8]) -> NDArray[Any]:
    """The pixels without what nobody sees: letters far beyond a window would outshine their squares."""
    changes = np.flatnonzero(shown[1:] != shown[:-1])
    first, last = (changes[0], changes[-1] + 1) if changes.size else (0, 0)
    return pixels.clip(values[first], values[last]) if last - first < WORTH_CLIPPING * len(values) else pixels


def _reduce(pixels: NDArray[Any], low: int, high: int, times: int) -> NDArray[Any]:
    """The means of squares of `times` x `times` pixels in `low` to `high`, rounded to what one can have."""
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


def _grey(pixels: NDArray[Any], dataset: pydicom.Dataset) -> tuple[NDArray[np.uint8], bool]:
    """What each value is shown as, and whether by itself: else the darkest and brightest of all count too."""
    values = apply_modality_lut(pixels, dataset)
    padding = _padding(pixels, dataset)
    if padding.any() and not padding.all():
        values = np.where(padding, values[~padding].min(), values)
    interest = _voi(values, dataset)
    alone = interest.dtype.kind == "f" and interest.min() >= 0 and interest.max() <= 1
    grey = to_uint8(interest)
    if dataset.PhotometricInterpretation == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE":
        grey = np.asarray(255 - grey, dtype=np.uint8)
    grey[padding] = 0
    return grey, bool(alone)


def _padding(pixels: NDArray[Any], dataset: pydicom.Dataset) -> NDArray[np.bool_]:
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(pixels.shape, dtype=np.bool_)
    limit = dataset.get("PixelPaddingRangeLimit", value)
    return np.asarray((pixels >= min(value, limit)) & (pixels <= max(value, limit)))


def _voi(values: NDArray[Any], dataset: pydicom.Dataset) -> NDArray[Any]:
    """The values of interest as floats in 0..1; without a VOI transform the values themselves."""
    if dataset.get("VOILUTSequence"):
        table = dataset.VOILUTSequence[0]
        return np.asarray(apply_voi(values, dataset) / (2.0 ** table.LUTDescriptor[2] - 1), dtype=np.float32)
    window = _window(dataset)
    if window is None:
        depth = 2**dataset.BitsStored - 1
        return values / np.float32(depth) if depth < 255 and values.dtype == np.uint8 else values  # noqa: PLR2004
    centre, width, function = window
    shown = values.astype(np.float32)
    if function == "LINEAR":  # PS3.3 C.11.2.1.2.1: its middle and its width are those of whole numbers
        centre, width = centre - 0.5, max(width - 1, TINY)
    shown -= centre
    shown /= width
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * shown)))
    shown += 0.5
    return np.clip(shown, 0, 1, out=shown)


def _window(dataset: pydicom.Dataset) -> tuple[float, float, str] | None:
    """Centre, width and function of the first window, if the file has one that means something."""
    try:
        centre, width = (
            float(value[0] if isinstance(value, MultiValue) else value)
            for value in (dataset.WindowCenter, dataset.WindowWidth)
        )
    except (AttributeError, TypeError, ValueError, IndexError):
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    return (centre, width, function) if width >= 1 or (function != "LINEAR" and width > 0) else None
