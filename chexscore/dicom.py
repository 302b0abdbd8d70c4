"""DICOM files, by pydicom: pixels as a screen would show them, and tags that were asked for."""

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import config
from pydicom.datadict import tag_for_keyword
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from chexscore.errors import TooLargeImageError, UnsupportedImageError, UsageError

__all__ = ["IDENTIFYING", "check_keywords", "is_dicom", "read_dicom", "read_tags"]

IDENTIFYING = frozenset(
    {
        "PatientName",
        "PatientBirthDate",
        "PatientID",
        "OtherPatientIDs",
        "PatientAddress",
        "PatientTelephoneNumbers",
        "PatientMotherBirthName",
        "OtherPatientNames",
    }
)
"""Keywords that name a person; PS3.15 annex E lists them among others to be removed."""

MARK_AT, MARK = 128, b"DICM"
"""PS3.10, 7.1."""

TINY = float(np.finfo(np.float32).tiny)

# pydicom would warn of odd values and quote them: what stands in a header is nobody's business.
config.settings.reading_validation_mode = config.IGNORE


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with these 132 bytes is DICOM."""
    return head[MARK_AT : MARK_AT + len(MARK)] == MARK


def check_keywords(keywords: Sequence[str]) -> None:
    """Raises a UsageError that names the first word that is no keyword of DICOM's dictionary (PS3.6)."""
    for keyword in keywords:
        if tag_for_keyword(keyword) is None:
            raise UsageError(f"{keyword} is no DICOM keyword; StudyInstanceUID would be one.")


def read_tags(path: str, keywords: Sequence[str]) -> dict[str, str]:
    """The values of a file's tags as text, without its pixels; empty for a file that is not DICOM."""
    try:
        with open(path, "rb") as file:
            if not is_dicom(file.read(MARK_AT + len(MARK))):
                return {}
            file.seek(0)
            dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(keywords))
        return {keyword: str(dataset.get(keyword)) for keyword in keywords if keyword in dataset}
    except Exception:  # noqa: BLE001, the row of a file that cannot be read says so without its tags
        return {}


def read_dicom(file: BinaryIO, path: str, max_pixels: int) -> NDArray[np.generic]:
    """Reads the single frame of a DICOM file as a radiologist's screen would show it.

    The modality transform (PS3.3 C.11.1) and the VOI LUT or window (C.11.2) are applied where the file has
    them. What then is not plain 8-bit data is stretched between its smallest and largest value, and
    MONOCHROME1, in which low values are bright (C.7.6.3.1.2), is inverted.

    Args:
        file: open at its start.
        path: named in errors; never read.
        max_pixels: refuse larger frames before they are decoded.

    Returns:
        uint8 or float32 in 0..1, [H, W].

    Raises:
        UnsupportedImageError: no pixels, several frames, or an encoding that no installed decoder reads.
        TooLargeImageError: more than `max_pixels`.
        Exception: whatever pydicom raises for a damaged file.
    """
    dataset = pydicom.dcmread(file)
    if "PixelData" not in dataset:
        raise UnsupportedImageError(path, "a DICOM object without an image")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise UnsupportedImageError(path, "a DICOM image of several frames; export each as a file of its own")
    if dataset.Rows * dataset.Columns > max_pixels:
        raise TooLargeImageError(path, f"{dataset.Columns} x {dataset.Rows} is above {max_pixels:,} pixels")
    try:
        pixels = dataset.pixel_array
    except (NotImplementedError, RuntimeError) as error:  # pydicom: no handler, or none that can decode it
        syntax = dataset.file_meta.TransferSyntaxUID.name
        raise UnsupportedImageError(path, f"no installed decoder reads its pixels ({syntax})") from error
    if dataset.SamplesPerPixel == 3:  # noqa: PLR2004, red, green and blue
        return np.asarray(np.rint(pixels @ np.array([0.299, 0.587, 0.114])), dtype=np.uint8)
    values: NDArray[Any] = apply_voi_lut(apply_modality_lut(pixels, dataset), dataset)
    if values.dtype != np.uint8:
        low, high = float(np.min(values)), float(np.max(values))
        values = ((values - low) / max(high - low, TINY)).astype(np.float32)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        values = (255 if values.dtype == np.uint8 else 1) - values
    return values
