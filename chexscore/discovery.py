"""Finding the images below the paths that a user gives."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

__all__ = ["SUFFIXES", "find_images", "read_list"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".dcm", ".dicom"})
"""Names that make a file in a directory an image, in lower case; DICOM is also known by its content."""


def find_images(
    paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    ignored: Callable[[str], object] = str,
) -> Iterator[str]:
    """Walks files and directories lazily; holds the names of one directory at a time for each level.

    A path that is given itself is always yielded, whatever its name and whether or not it exists: loading it
    tells. In directories, entries come sorted by name and directories are descended into where they stand.
    Symbolic links are followed, except into a directory that is being walked already. A directory that cannot
    be listed is yielded itself, so that it shows as a failure rather than as nothing.

    Args:
        paths: a file or directory, or several.
        ignored: called with each file in a directory that is not an image, and with each hidden entry (a
            name that begins with a dot: what rsync and file managers leave lying about), and DICOM's own
            table of contents.

    Yields:
        The path as given, joined with what was found below it, with "/" between the parts.
    """
    for given in [paths] if isinstance(paths, str | os.PathLike) else paths:
        path = os.fspath(given)
        if os.path.isdir(path):
            yield from _walk(path, frozenset(), ignored)
        else:
            yield _posix(path)


def read_list(file: BinaryIO) -> Iterator[str]:
    """Reads a list of paths as it comes: one a line, or with NUL bytes between them (`find -print0`).

    Empty lines are passed over; a path may be any bytes that the separator is not.
    """
    separator, rest = b"", b""
    while chunk := file.read1(65536) if hasattr(file, "read1") else file.read(65536):
        rest += chunk
        if not separator:
            separator = b"\0" if b"\0" in rest else b"\n" if b"\n" in rest else b""
        if separator:
            *whole, rest = rest.split(separator)
            yield from (os.fsdecode(path.rstrip(b"\r")) for path in whole if path.strip())
    if rest.strip():
        yield os.fsdecode(rest.rstrip(b"\r"))


def _walk(
    directory: str, above: frozenset[tuple[int, int]], ignored: Callable[[str], object]
) -> Iterator[str]:
    try:
        status = os.stat(directory)
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError:
        yield _posix(directory)
        return
    identity = (status.st_dev, status.st_ino)
    if identity in above:  # a link that leads back up
        return
    for name in names:
        path = os.path.join(directory, name)
        if name.startswith(".") or name == "DICOMDIR":
            ignored(path)
        elif os.path.isdir(path):
            yield from _walk(path, above | {identity}, ignored)
        elif os.path.splitext(name)[1].lower() in SUFFIXES or _is_dicom(path):
            yield _posix(path)
        else:
            ignored(path)


def _is_dicom(path: str) -> bool:
    """Whether the file has DICOM's mark behind its preamble of 128 bytes (PS3.10, 7.1)."""
    if not os.path.isfile(path):  # a pipe would be waited for
        return False
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _posix(path: str) -> str:
    return path.replace(os.sep, "/")
