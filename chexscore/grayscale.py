"""The grayscale transformations of DICOM: modality, values of interest, polarity; PS3.3 C.11."""

import math
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.multival import MultiValue

from chexscore.depth import to_uint8

__all__ = ["show"]

WORD = 2**16

NEGATIVES = 2**15
"""First of the unsigned words that are negative numbers where these are meant."""


def show(values: NDArray[Any], dataset: pydicom.Dataset) -> tuple[NDArray[np.uint8], bool]:
    """What each stored value is shown as.

    Args:
        values: integers of any shape, as `dataset` stores them.
        dataset: whose transformations are applied.

    Returns:
        uint8 of the same shape; and whether each value is shown as it is whatever the others are: else the
        darkest and the brightest of all count, too.

    Raises:
        ValueError: a lookup table that is not complete, or numbers that make no values.
        Exception: nearly anything, for other attributes that are damaged.
    """
    padding = _padding(values, dataset)
    with np.errstate(all="ignore"):  # what overflows is no number below, or 0 or 1 in a sigmoid; nor is 0 / 0
        modality = _modality(values, dataset)
        if padding.any() and not padding.all():
            modality = np.where(padding, modality[~padding].min(), modality)
        interest = _voi(modality, dataset)
        exact = interest.dtype.kind != "f"
        low, high = interest.min(), interest.max()
        alone = not exact and low >= 0 and high <= 1
        if not exact and not alone:
            interest = (interest - low) / (high - low if values.min() < values.max() else 1)
    if not exact and not (np.isfinite(modality).all() and np.isfinite(interest).all()):
        raise ValueError("numbers in the header make no values")
    grey = to_uint8(interest)
    if dataset.PhotometricInterpretation == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE":
        grey = np.asarray(255 - grey, dtype=np.uint8)
    grey[padding] = 0
    return grey, bool(alone)


def _padding(values: NDArray[Any], dataset: pydicom.Dataset) -> NDArray[np.bool_]:
    """Which values fill up the frame around what was exposed; C.7.5.1.1.2."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if value is None:
        return np.zeros(values.shape, dtype=np.bool_)
    first, last = value, value if limit is None else limit
    if dataset.BitsAllocated == 16:  # noqa: PLR2004, where some write -2000 as 63536, or the other way round
        below = NEGATIVES if dataset.PixelRepresentation else 0
        stored = [(int(end) + below) % WORD - below for end in (first, last)]
        if (stored[0] <= stored[1]) == (first <= last):
            first, last = stored
    return np.asarray((values >= min(first, last)) & (values <= max(first, last)))


def _modality(values: NDArray[Any], dataset: pydicom.Dataset) -> NDArray[Any]:
    """What the modality means by its values; C.11.1."""
    table = _table(dataset, "ModalityLUTSequence")
    if table is not None:
        return _looked_up(values, table, dataset, signed=dataset.PixelRepresentation == 1)
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    # A slope of 0 would make one value of all: DCMTK takes it for none, too.
    if not slope or intercept is None or (slope, intercept) == (1, 0):
        return values  # integers, whose depth `to_uint8` knows
    return values * float(slope) + float(intercept)


def _voi(values: NDArray[Any], dataset: pydicom.Dataset) -> NDArray[Any]:
    """The values of interest as floats in 0..1, C.11.2; themselves where nothing tells which these are."""
    table = _table(dataset, "VOILUTSequence")
    if table is not None:
        entries = _looked_up(values, table, dataset, signed=_goes_below_0(dataset))
        return np.asarray(entries / (2.0 ** table.LUTDescriptor[2] - 1), dtype=np.float32)
    window = _window(dataset)
    if window is None:
        return _whole(values, dataset)
    centre, width, function = window
    if function == "LINEAR":  # C.11.2.1.2.1: its middle and its width are those of whole numbers
        centre, width = centre - 0.5, width - 1
    if not width:
        return np.asarray(values > centre, dtype=np.float32)
    shown = values.astype(np.float32)
    shown -= centre
    shown /= width
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * shown)))
    shown += 0.5
    return np.clip(shown, 0, 1, out=shown)


def _whole(values: NDArray[Any], dataset: pydicom.Dataset) -> NDArray[Any]:
    """All values that the stored bits can have, as floats in 0..1.

    The values as they are behind a table; and of 16 bits or more, which are often fewer.
    """
    if dataset.BitsStored >= 16 or _table(dataset, "ModalityLUTSequence") is not None:  # noqa: PLR2004
        return values
    low, high = sorted(_modality(_ends(dataset), dataset))
    return np.asarray((values - low) / (high - low), dtype=np.float32) if high > low else values


def _window(dataset: pydicom.Dataset) -> tuple[float, float, str] | None:
    """Centre, width and function of the first window, if the file has one that means something."""
    try:
        centre, width = (
            float(value[0] if isinstance(value, MultiValue) else value)
            for value in (dataset.WindowCenter, dataset.WindowWidth)
        )
    except (AttributeError, TypeError, ValueError, IndexError):
        return None
    if not (math.isfinite(centre) and math.isfinite(width)):
        return None
    function = str(dataset.get("VOILUTFunction")).upper()
    function = function if function in ("LINEAR_EXACT", "SIGMOID") else "LINEAR"
    return (centre, width, function) if width >= 1 or (function != "LINEAR" and width > 0) else None


def _table(dataset: pydicom.Dataset, keyword: str) -> pydicom.Dataset | None:
    """The first lookup table of a sequence, if there is one."""
    items = dataset.get(keyword)
    return items[0] if items and "LUTData" in items[0] else None


def _looked_up(
    values: NDArray[Any], table: pydicom.Dataset, dataset: pydicom.Dataset, *, signed: bool
) -> NDArray[np.uint16]:
    """The entries of values in a lookup table, C.11.1.1 and C.11.2.1.1; a fraction that of the number below.

    pydicom's own functions keep places in the table in the type of its entries, or in that of the pixels.
    """
    count, first, bits = (int(value) for value in table.LUTDescriptor)
    count = count % WORD or WORD
    first -= WORD if signed and first >= NEGATIVES else 0
    data = table.LUTData
    _, little = dataset.original_encoding
    if not isinstance(data, bytes):
        data, little = np.asarray(data).astype("<u2").tobytes(), True
    # Entries of 8 bits are stored two to a word, or each in a word of its own.
    kind = np.uint8 if bits == 8 and len(data) < 2 * count else np.uint16  # noqa: PLR2004
    entries = np.frombuffer(data, np.dtype(kind).newbyteorder("<" if little else ">"))
    if len(entries) < count or not 8 <= bits <= 16:  # noqa: PLR2004
        raise ValueError("a lookup table that lacks entries, or whose entries have another depth")
    places = np.clip(values - float(first), 0, count - 1).astype(np.intp)
    return np.asarray(entries.astype(np.uint16)[places])


def _goes_below_0(dataset: pydicom.Dataset) -> bool:
    """Whether a VOI LUT may be given negative values, so that its first one is signed, too."""
    return bool(_modality(_ends(dataset), dataset).min() < 0)


def _ends(dataset: pydicom.Dataset) -> NDArray[np.int64]:
    """The lowest and the highest value that can be stored."""
    values = 2 ** int(dataset.BitsStored)
    return np.array([0, values - 1]) - (values // 2 if dataset.PixelRepresentation else 0)
