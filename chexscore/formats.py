"""By what a file is known as an image, before anything of it is decoded."""

from typing import BinaryIO

__all__ = ["SUFFIXES", "is_dicom"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".tif", ".tiff", ".bmp", ".webp", ".dcm", ".dicom"})
"""Names that make a file in a directory an image, in lower case; DICOM is also known by its content."""

PREAMBLE, MARK = 128, b"DICM"
"""Bytes that stand before DICOM's mark, and the mark; PS3.10, 7.1."""


def is_dicom(file: BinaryIO) -> bool:
    """Whether a file that is open at its start bears DICOM's mark; leaves it at its start."""
    head = file.read(PREAMBLE + len(MARK))
    file.seek(0)
    return head[PREAMBLE:] == MARK
