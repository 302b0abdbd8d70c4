"""Pixel values of any depth -> 0..255."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["to_uint8"]


def to_uint8(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Brings pixel values of any depth to 0..255.

    Integers from 0 up are divided by the full scale of the narrowest depth of 8, 10, 12, 14 or 16 bits that
    holds the image's largest value, because 12-bit radiographs are commonly stored in 16-bit files. Floats
    in 0..1 are scaled by 255. Anything else is stretched from its smallest to its largest finite value; NaN
    counts as the smallest, and a constant image becomes black.

    Args:
        values: any numeric dtype, any shape.

    Returns:
        uint8 of the same shape.
    """
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    exact = np.issubdtype(values.dtype, np.integer)
    known = values if exact else values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    darkest, brightest = low, high
    if exact and low >= 0 and high < 2**16:
        bits = next(depth for depth in (8, 10, 12, 14, 16) if high < 2**depth)
        low, high = 0.0, float(2**bits - 1)
    elif not exact and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    # In place from here on: a radiograph has millions of pixels, and many are decoded at a time.
    scaled = values.astype(np.float32)
    if not exact:
        np.nan_to_num(scaled, copy=False, nan=darkest, posinf=brightest, neginf=darkest)
    scaled -= low
    scaled *= 255 / (high - low) if high > low else 0.0
    return np.rint(scaled, out=scaled).astype(np.uint8)
