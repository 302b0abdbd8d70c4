"""By what a file is known as an image, before anything of it is decoded."""

from typing import BinaryIO

__all__ = ["SUFFIXES", "begins_as_image", "is_dicom"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".tif", ".tiff", ".bmp", ".webp", ".dcm", ".dicom"})
"""Names that make a file in a directory an image, in lower case; DICOM is also known by its content."""

PREAMBLE, MARK = 128, b"DICM"
"""Bytes that stand before DICOM's mark, and the mark; PS3.10, 7.1."""


PNG, JPEG = b"\x89PNG", b"\xff\xd8\xff"
"""How these begin; ISO/IEC 15948, 5.2, and ITU-T T.81, B.1.1.3."""


def begins_as_image(head: bytes) -> bool:
    """Whether the first bytes of a file are those of the images that are met most, and of no text."""
    return head.startswith((PNG, JPEG, bytes(PREAMBLE) + MARK))


def is_dicom(file: BinaryIO) -> bool:
    """Whether a file that is open at its start bears DICOM's mark; leaves it at its start."""
    head = file.read(PREAMBLE + len(MARK))
    file.seek(0)
    return head[PREAMBLE:] == MARK
