"""DICOM files, by pydicom: pixels as a screen would show them."""

import logging
import os
import struct
import warnings
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import config
from pydicom.encaps import generate_frames
from pydicom.filereader import read_file_meta_info
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut, apply_voi
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
    RLELossless,
)

from chexscore.depth import to_uint8
from chexscore.errors import (
    ChexscoreError,
    ImageError,
    TooLargeImageError,
    UnreadableImageError,
    UnsupportedImageError,
)
from chexscore.isolation import LostCallError, call

__all__ = ["is_plain", "read_dicom"]

GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
COLOUR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"})
KNOWN_PALETTES = frozenset({"PALETTE COLOR"})
"""PhotometricInterpretation, PS3.3 C.7.6.3.1.2."""

UNORDERED = ("ModalityLUTSequence", "VOILUTSequence", "PixelPaddingValue")
"""What can show a value between two others darker or brighter than both."""

PLAIN = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian})
"""Transfer syntaxes that no decoder is needed for; PS3.5 annex A."""

FRAME_HEADERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""Second bytes of the markers that tell a picture's size; ITU-T T.81 table B.1, JPEG-LS T.87 table C.1."""

JPEG_START, JPEG2000_START = b"\xff\xd8", b"\xff\x4f\xff\x51"
"""SOI; and SOC with SIZ, ITU-T T.800 table A.2. The latter may stand in a file of its own (JP2)."""

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue; ITU-R BT.601."""

TINY = 1e-6

KEYS_AT_ONCE = 2**16

# pydicom tells of odd values, and quotes them: what stands in a header must not reach anybody's log.
config.settings.reading_validation_mode = config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module="pydicom")


def read_dicom(path: str, max_pixels: int) -> NDArray[np.uint8]:
    """Reads the single frame of a DICOM file, bright where a screen would show it bright.

    The modality transform (PS3.3 C.11.1) is applied, then the first VOI LUT or window (C.11.2), whose range
    becomes 0..255. A file with neither is scaled by `chexscore.depth.to_uint8`, as a PNG of the same values
    would be. MONOCHROME1 and PresentationLUTShape INVERSE (C.7.6.3.1.2, C.11.6) are inverted; padding
    (C.7.5.1.1.2) is black. Compressed files are decoded in a process of their own.

    Args:
        path: the file.
        max_pixels: refuse larger frames before they are decoded.

    Returns:
        uint8 [H, W].

    Raises:
        UnsupportedImageError: no image, several frames, palette or deep colour, or an encoding that no
            installed decoder reads.
        UnreadableImageError: the file is damaged, or its header promises other pixels than are there.
        TooLargeImageError: more than `max_pixels`.
        OSError: the file cannot be read.
        ChexscoreError: no process can be started.
    """
    try:
        if is_plain(path):
            return _read(path, max_pixels)
        return call(_read, os.path.abspath(path), max_pixels)
    except LostCallError as error:
        raise UnreadableImageError(path, f"damaged: the decoder of its pixels {error}") from error
    except ImageError as error:
        raise type(error)(path, error.reason) from error
    except (ChexscoreError, OSError, MemoryError):
        raise
    except Exception as error:  # its words may quote the header, so only its kind is told
        raise UnreadableImageError(path, f"damaged or truncated: {type(error).__name__}") from error


def is_plain(path: str) -> bool:
    """Whether no decoder is needed for a file.

    Raises:
        UnsupportedImageError: it is deflated; nothing was inflated.
    """
    syntax = read_file_meta_info(path).TransferSyntaxUID
    if syntax == DeflatedExplicitVRLittleEndian:
        raise UnsupportedImageError(
            path, "deflated DICOM, which could inflate without bounds; store it plain"
        )
    return syntax in PLAIN


def _read(path: str, max_pixels: int) -> NDArray[np.uint8]:
    """Does what `read_dicom` says; raises nothing that other processes do not understand."""
    try:
        dataset = pydicom.dcmread(path)
        _check(dataset, path, max_pixels)
        return _screen(dataset)
    except (ImageError, OSError, MemoryError):
        raise
    except Exception as error:  # as above
        raise UnreadableImageError(path, f"damaged or truncated: {type(error).__name__}") from error


def _screen(dataset: pydicom.Dataset) -> NDArray[np.uint8]:
    """The pixels as a screen would show them."""
    if dataset.SamplesPerPixel > 1:
        colours = pixel_array(dataset)
        grey = np.empty(colours.shape[:2], dtype=np.uint8)
        for row, of_row in zip(grey, colours, strict=True):  # a whole film of floats is eight times as large
            row[:] = np.rint(of_row @ LUMA)
        return grey
    pixels = pixel_array(dataset, view_only=True, correct_unused_bits=False)
    low, high = int(pixels.min()), int(pixels.max())
    limit = 2 ** (dataset.BitsStored - dataset.PixelRepresentation)
    if high >= limit or low < -limit:  # something stands in bits that are not in use, as in old overlays
        pixels = pixel_array(dataset)
        low, high = int(pixels.min()), int(pixels.max())
    if pixels.itemsize > 2:  # noqa: PLR2004, more values than a table should have
        return _grey(pixels, dataset)
    # What a value is shown as is worked out once, and not for each of the millions of pixels that have it.
    unsigned = f"u{pixels.itemsize}"
    ordered = not any(keyword in dataset for keyword in UNORDERED)
    values = np.arange(low, high + 1).astype(pixels.dtype) if ordered else _values(pixels)
    shown = np.zeros(256**pixels.itemsize, dtype=np.uint8)
    shown[values.view(unsigned)] = _grey(values, dataset)
    return _look_up(shown, pixels.view(unsigned))


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


def _grey(pixels: NDArray[Any], dataset: pydicom.Dataset) -> NDArray[np.uint8]:
    """What each of the values is shown as, which depends on the darkest and the brightest of them."""
    values = apply_modality_lut(pixels, dataset)
    padding = _padding(pixels, dataset)
    if padding.any() and not padding.all():
        values = np.where(padding, values[~padding].min(), values)
    grey = to_uint8(_voi(values, dataset))
    if dataset.PhotometricInterpretation == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE":
        grey = np.asarray(255 - grey, dtype=np.uint8)
    grey[padding] = 0
    return grey


def _check_that_pixels_are_there(dataset: pydicom.Dataset, path: str) -> None:
    if "Rows" not in dataset and "Image Storage" in _kind(dataset):  # pydicom drops what ends too early
        raise UnreadableImageError(path, "nothing describes its pixels; the file may be cut off")
    if "Rows" not in dataset or "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise UnsupportedImageError(path, "a DICOM object without an image of whole numbers")
    if "PixelData" not in dataset:
        raise UnreadableImageError(path, "its pixels are missing; the file may be cut off")


def _kind(dataset: pydicom.Dataset) -> str:
    """The name of its SOP class, PS3.6 annex A, as the header of the file tells it."""
    return UID(str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))).name


def _check(dataset: pydicom.Dataset, path: str, max_pixels: int) -> None:
    """Refuses what cannot be read, before anything is decoded."""
    _check_that_pixels_are_there(dataset, path)
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise UnsupportedImageError(path, "a DICOM image of several frames; export each as a file of its own")
    if dataset.Rows * dataset.Columns > max_pixels:
        raise TooLargeImageError(path, f"{dataset.Columns} x {dataset.Rows} is above {max_pixels:,} pixels")
    meaning = str(dataset.PhotometricInterpretation)
    deep = dataset.BitsStored > 8  # noqa: PLR2004, one byte
    if meaning not in GREY and (meaning not in COLOUR or deep):
        known = meaning if meaning in KNOWN_PALETTES | COLOUR else "unknown"  # never words from the header
        raise UnsupportedImageError(path, f"pixels of the kind {known}{' of more than 8 bits' * deep}")
    syntax = dataset.file_meta.TransferSyntaxUID
    # The decoders for JPEG Extended are there, but read its 8-bit form only.
    if not _has_decoder(syntax) or (syntax == JPEGExtended12Bit and dataset.BitsAllocated > 8):  # noqa: PLR2004
        known = syntax.name if syntax.name != str(syntax) else "unknown"
        raise UnsupportedImageError(path, f"no installed decoder reads its pixels (encoding: {known})")
    if syntax not in PLAIN | {RLELossless}:
        rows, columns = _code_size(next(generate_frames(dataset.PixelData, number_of_frames=1)))
        if rows * columns > max_pixels:
            raise TooLargeImageError(path, f"its pixels are {columns} x {rows}, above {max_pixels:,}")
        if (rows, columns) != (dataset.Rows, dataset.Columns):
            said = f"{dataset.Columns} x {dataset.Rows} in its header, {columns} x {rows} in its pixels"
            raise UnreadableImageError(path, f"damaged: {said}")


def _code_size(code: bytes) -> tuple[int, int]:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 stream says itself; its decoder follows them."""
    if not code.startswith(JPEG_START):
        _, found, sizes = code.partition(JPEG2000_START)
        if not found:
            raise ValueError("no stream that is known")
        right, bottom, left, top = struct.unpack_from(">4I", sizes, 4)
        return bottom - top, right - left
    place = len(JPEG_START)
    while True:
        mark, kind, length, _, rows, columns = struct.unpack_from(">BBHBHH", code, place)
        if mark != 0xFF:  # noqa: PLR2004, every marker begins so
            raise ValueError("no marker where one has to be")
        if kind in FRAME_HEADERS:
            return rows, columns
        place += 1 if kind == mark else 2 + length  # markers may be filled up with more of their first byte


def _has_decoder(syntax: UID) -> bool:
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


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
