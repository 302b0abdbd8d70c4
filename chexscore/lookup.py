"""Millions of pixels of few different values -> the grey levels that these are shown as."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["look_up", "present"]

PIXELS_AT_ONCE = 2**16
"""What a processor's cache holds with all that is made of them on the way."""


def present(pixels: NDArray[Any]) -> NDArray[Any]:
    """Each value that a pixel of 8 or 16 bits has, once, ascending."""
    there = np.zeros(256**pixels.itemsize, dtype=np.bool_)
    there[_keys(pixels)] = True
    return np.sort(np.flatnonzero(there).astype(f"u{pixels.itemsize}").view(pixels.dtype))


def look_up(pixels: NDArray[Any], values: NDArray[Any], levels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The grey level of each pixel, rounded; ties go to even ones.

    Args:
        pixels: integers of 8 or 16 bits, any shape.
        values: the same dtype, [V]; all that a pixel has, each once, ascending.
        levels: 0..255, [V]; what each of the values is shown as.

    Returns:
        uint8 of the shape of the pixels.
    """
    shown = np.rint(levels).astype(np.uint8)
    # Most windows are a line from black to white: computed, it takes half as long as looked up. Near ties the
    # last digits of float32 decide, so the line is taken only if it gives every value what the table would.
    if (line := _line(values, levels)) and np.array_equal(_in_parts(line, values), shown):
        return _in_parts(line, pixels)
    table = np.zeros(256**pixels.itemsize, dtype=np.uint8)
    table[_keys(values)] = shown
    # No key is out of the table: "raise" would need a buffer, and "clip" takes a third longer.
    return _in_parts(partial(np.take, table, mode="wrap"), _keys(pixels))


def _keys(pixels: NDArray[Any]) -> NDArray[Any]:
    """The same bits as numbers from 0."""
    return pixels.view(f"u{pixels.itemsize}")


def _line(values: NDArray[Any], levels: NDArray[np.float32]) -> Callable[..., object] | None:
    """Computes levels as if they were on a line between the darkest and the brightest."""
    between = np.flatnonzero((levels > levels.min()) & (levels < levels.max()))
    if between.size < 2:  # noqa: PLR2004, a line has two points
        return None
    first, last = between[0], between[-1]
    slope = (float(levels[last]) - float(levels[first])) / (float(values[last]) - float(values[first]))
    start = float(levels[first]) - slope * float(values[first])
    # The last of the darkest and the first of the brightest stand for all that are as dark or as bright.
    ends = values[max(first - 1, 0)], values[min(last + 1, len(values) - 1)]
    if not all(-0.5 < start + slope * float(end) < 255.5 for end in ends):  # noqa: PLR2004, 0 to 255 when rounded
        return None
    within = np.empty(PIXELS_AT_ONCE, dtype=values.dtype)
    computed = np.empty(PIXELS_AT_ONCE, dtype=np.float32)

    def compute(part: NDArray[Any], out: NDArray[np.uint8]) -> None:
        inside, level = within[: part.size], computed[: part.size]
        np.clip(part, *ends, out=inside)
        np.copyto(level, inside)
        level *= slope
        level += start
        np.rint(level, out=level)
        np.copyto(out, level, casting="unsafe")

    return compute


def _in_parts(work: Callable[..., object], pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """`work` on as many pixels at once as a cache holds, with a place for what comes out."""
    found = np.empty(pixels.size, dtype=np.uint8)
    flat = pixels.reshape(-1)
    for start in range(0, pixels.size, PIXELS_AT_ONCE):
        part = slice(start, start + PIXELS_AT_ONCE)
        work(flat[part], out=found[part])
    return found.reshape(pixels.shape)
