"""DICOM files, by pydicom: pixels as a screen would show them."""

import logging
import os
import struct
import warnings

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import config
from pydicom.datadict import tag_for_keyword
from pydicom.encaps import generate_frames
from pydicom.filereader import read_file_meta_info
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
    RLELossless,
)

from chexscore.errors import (
    ChexscoreError,
    ImageError,
    TooLargeImageError,
    UnreadableImageError,
    UnsupportedImageError,
)
from chexscore.isolation import LostCallError, call
from chexscore.presentation import highest_bit, present

__all__ = ["is_plain", "read_dicom"]

LARGE = 2**20
"""Bytes of an element that is read when it is asked for."""

GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
COLOUR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"})
KNOWN_PALETTES = frozenset({"PALETTE COLOR"})
"""PhotometricInterpretation, PS3.3 C.7.6.3.1.2."""

PLAIN = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian})
"""Transfer syntaxes that no decoder is needed for; PS3.5 annex A."""

FRAME_HEADERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""Second bytes of the markers that tell a picture's size; ITU-T T.81 table B.1, JPEG-LS T.87 table C.1."""

JPEG_START, JPEG2000_START = b"\xff\xd8", b"\xff\x4f\xff\x51"
"""SOI; and SOC with SIZ, ITU-T T.800 table A.2. The latter may stand in a file of its own (JP2)."""

# pydicom tells of odd values, and quotes them: what stands in a header must not reach anybody's log.
config.settings.reading_validation_mode = config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module="pydicom")


def read_dicom(path: str, max_pixels: int, side: int = 0) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """Reads the single frame of a DICOM file, bright where a screen would show it bright.

    The modality transform (PS3.3 C.11.1) is applied, then the first VOI LUT or window (C.11.2), whose range
    becomes 0..255. Of a file with neither all values that its stored bits can have become 0..255; 16 bits in
    16 are scaled by `chexscore.depth.to_uint8`, as a PNG of the same values would be. MONOCHROME1 and
    PresentationLUTShape INVERSE (C.7.6.3.1.2, C.11.6) are inverted; padding (C.7.5.1.1.2) is black. What is
    compressed is decoded in a process of its own.

    Args:
        path: the file.
        max_pixels: refuse larger frames before they are decoded.
        side: pixels that are enough for the shorter side; 0 keeps all. Where there are many more, means of
            them are shown in their place, see `chexscore.presentation.present`.

    Returns:
        uint8 [H, W], and how wide and high the frame is in these pixels: not W and H where they are means.

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
            return _read(path, max_pixels, side)
        return call(_read, os.path.abspath(path), max_pixels, side)
    except LostCallError as error:
        raise UnreadableImageError(path, f"damaged: the decoder of its pixels {error}") from error
    except ImageError as error:
        raise type(error)(path, error.reason) from error
    except (ChexscoreError, OSError, MemoryError):
        raise
    except Exception as error:  # damaged headers make pydicom raise nearly anything
        raise UnreadableImageError(path, _why(error)) from error


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


def _read(path: str, max_pixels: int, side: int) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """Does what `read_dicom` says; raises nothing that other processes do not understand."""
    try:
        # What is deferred is not read of a film that is refused. pydicom would open a buffered file again, by
        # its name, which another film may have by then.
        with open(path, "rb", buffering=0) as file:
            dataset = pydicom.dcmread(file, defer_size=LARGE)
            _check(dataset, path, max_pixels)
            return present(dataset, side)
    except (ImageError, OSError, MemoryError):
        raise
    except Exception as error:  # so do damaged pixels their decoders
        raise UnreadableImageError(path, _why(error)) from error


def _why(error: Exception) -> str:
    """What is wrong with a file: its header may be quoted in the words of an error, so they are not told."""
    keyword = error.name if isinstance(error, AttributeError) else None
    if keyword and tag_for_keyword(keyword) is not None:
        return f"its header lacks {keyword}"
    return f"damaged or truncated: {type(error).__name__}"


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
    colour = dataset.SamplesPerPixel > 1
    if meaning not in (COLOUR if colour else GREY) or (colour and deep):
        known = meaning if meaning in KNOWN_PALETTES | COLOUR else "unknown"  # never words from the header
        raise UnsupportedImageError(path, f"pixels of the kind {known}{' of more than 8 bits' * deep}")
    syntax = dataset.file_meta.TransferSyntaxUID
    # The decoders for JPEG Extended are there, but read its 8-bit form only.
    if not _has_decoder(syntax) or (syntax == JPEGExtended12Bit and dataset.BitsAllocated > 8):  # noqa: PLR2004
        known = syntax.name if syntax.name != str(syntax) else "unknown"
        raise UnsupportedImageError(path, f"no installed decoder reads its pixels (encoding: {known})")
    if syntax not in PLAIN | {RLELossless}:
        if highest_bit(dataset) != dataset.BitsStored - 1:  # decoders differ there
            raise UnsupportedImageError(path, "compressed, and not in the lowest bits; store it plain")
        rows, columns = _code_size(next(generate_frames(dataset.PixelData, number_of_frames=1)))
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
    except NotImplementedError:  # pydicom's answer for a syntax that it does not know
        return False
