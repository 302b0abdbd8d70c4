"""Finding the images below the paths that a user gives."""

import os
import select
import stat
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, Literal

from chexscore import beside
from chexscore.errors import NoImageError, UsageError
from chexscore.formats import SUFFIXES, begins_as_image, is_dicom
from chexscore.messages import in_short
from chexscore.stopping import Stop
from chexscore.tables import UTF16

__all__ = [
    "check_some_are_there",
    "find_images",
    "is_hidden",
    "is_image_by_name",
    "none_found",
    "read_list",
]

POLL_S = 0.2

THUMBNAILS = "@eaDir"
"""Where Synology's network storage keeps small copies of the images beside it."""


def find_images(
    paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    ignored: Callable[[str], object] = str,
    stop: Stop | None = None,
) -> Iterator[str]:
    """Walks files and directories lazily; holds the names of one directory at a time for each level.

    A path that is given itself is always yielded, whatever its name and whether or not it exists: loading it
    tells. In directories, entries come sorted by name and directories are descended into where they stand.
    Symbolic links are followed, but behind them no directory is entered that this walk comes to without them,
    or has been in: neither "today", which points to another day tomorrow, nor a link to a folder above is a
    second name of the images here. What cannot be looked at (a directory that cannot be listed, a link to
    nowhere, a file that vanished or may not be read and could be an image) is yielded itself, so that it
    shows as a failure rather than as nothing.

    Args:
        paths: a file or directory, or several.
        ignored: called with each file in a directory that is not an image, with each hidden entry (see
            `is_hidden`), and DICOM's own table of contents.
        stop: ends the walk.

    Yields:
        The path as given, joined with what was found below it, with "/" between the parts.
    """
    stop = stop or Stop()
    for given in [paths] if isinstance(paths, str | os.PathLike) else paths:
        if stop.asked():
            return
        path = os.fspath(given)
        if os.path.isdir(path):
            yield from _walk(path, ignored, stop)
        else:
            yield _posix(path)


def check_some_are_there(paths: Sequence[str]) -> None:
    """Raises a NoImageError if nothing is at any of these paths."""
    if not any(map(os.path.lexists, paths)):
        raise NoImageError(f"{in_short(paths)}: there is no such file or folder.")


def none_found(paths: object, files_from: str | None) -> NoImageError:
    """The error for a command that finds no image.

    Args:
        paths: what it searched; anything but a sequence if that came from a list.
        files_from: where the list came from, or None.
    """
    where = ""
    if isinstance(paths, Sequence) and not isinstance(paths, str):
        where = f" in {in_short(paths)}"
    elif files_from is not None:
        where = f" in the list {'on standard input' if files_from == '-' else files_from}"
    return NoImageError(f"no image found{where}.")


def read_list(file: BinaryIO, stop: Stop | None = None) -> Iterator[str]:
    """Reads a list of paths as it comes: one a line, or with NUL bytes between them (`find -print0`).

    Empty lines are passed over, and a byte order mark ahead; a path may be any bytes that the separator is
    not, and between NUL bytes blanks alone.

    Args:
        file: a file, or a pipe that may be silent for long.
        stop: ends the list.

    Raises:
        UsageError: it cannot be read; is UTF-16, as PowerShell writes it, where every letter would be a path;
            or an image.
    """
    separator, rest = b"", b""
    for number, chunk in enumerate(_chunks(file, stop or Stop())):
        if number == 0 and chunk.startswith(UTF16):
            raise UsageError(f"{file.name}: the list is UTF-16; save it as UTF-8.")
        if number == 0 and begins_as_image(chunk):
            raise UsageError(f"{file.name}: an image, not a list of them; name it without --files-from.")
        rest += chunk if number else chunk.removeprefix(BOM_UTF8)
        if not separator:
            separator = b"\0" if b"\0" in rest else b"\n" if b"\n" in rest else b""
        if separator:
            *whole, rest = rest.split(separator)
            yield from _decoded(whole, separator)
    yield from _decoded([rest], separator)


def _chunks(file: BinaryIO, stop: Stop) -> Iterator[bytes]:
    """What there is to read, as it comes; a byte order mark in one piece, although its bytes may not be."""
    begin, begun = b"", False
    while _is_ready(file, stop) and (chunk := _read(file)):
        if begun or len(begin + chunk) >= len(BOM_UTF8):
            yield begin + chunk
            begin, begun = b"", True
        else:
            begin += chunk
    if begin:
        yield begin


def _read(file: BinaryIO) -> bytes:
    try:
        return os.read(file.fileno(), 65536)
    except OSError as error:
        raise UsageError(f"{file.name}: the list of images cannot be read: {error.strerror}.") from error


def _is_ready(file: BinaryIO, stop: Stop) -> bool:
    """Waits until there is something to read, or the end; false if the stop came first."""
    while not stop.asked():
        if os.name == "nt" or select.select([file], [], [], POLL_S)[0]:  # Windows selects sockets alone
            return True
    return False


def _decoded(paths: list[bytes], separator: bytes) -> Iterator[str]:
    if separator == b"\0":
        yield from map(os.fsdecode, filter(None, paths))
        return
    for path in paths:
        line = path.removesuffix(b"\r")
        if line.strip():
            yield os.fsdecode(line)


def _walk(top: str, ignored: Callable[[str], object], stop: Stop) -> Iterator[str]:
    visited: set[tuple[int, int]] = set()
    # A directory, whether a link led there, and what is left of it; trees can be deeper than Python's stack.
    levels: list[tuple[str, bool, Iterator[tuple[str, bool]]]] = []
    entering: str | None = top
    linked = False
    while (entering is not None or levels) and not stop.asked():
        if entering is not None:
            entries = _enter(entering, visited)
            if entries is None:
                yield _posix(entering)
            else:
                levels.append((entering, linked, entries))
            entering = None
            continue
        directory, linked, rest = levels[-1]
        entry = next(rest, None)
        if entry is None:
            levels.pop()
            continue
        name, is_file = entry
        path = os.path.join(directory, name)
        match _kind(path, name, is_file, visited, top, linked):
            case "directory":
                entering, linked = path, linked or os.path.islink(path)
            case "image":
                yield _posix(path)
            case "ignored":
                ignored(path)


def _enter(directory: str, visited: set[tuple[int, int]]) -> Iterator[tuple[str, bool]] | None:
    """The names in a directory, sorted, and whether each is a plain file; None if it cannot be listed."""
    names, others = [], set()  # names alone: entries of a large directory would take many megabytes
    try:
        status = os.stat(directory)
        with os.scandir(directory) as entries:
            for entry in entries:
                names.append(entry.name)
                if not _is_plain(entry):
                    others.add(entry.name)
    except OSError:
        return None
    visited.add((status.st_dev, status.st_ino))
    names.sort()
    return ((name, name not in others) for name in names)


def _is_plain(entry: os.DirEntry[str]) -> bool:
    """Whether it is a plain file; some file systems' directories do not say, and ask the entry itself."""
    try:
        return entry.is_file(follow_symlinks=False)
    except OSError:  # of this entry alone
        return False


def _kind(  # noqa: PLR0911, one line for each kind of thing
    path: str,
    name: str,
    is_file: bool,  # noqa: FBT001, as the directory says
    visited: set[tuple[int, int]],
    top: str,
    linked: bool,  # noqa: FBT001, whether a link led to its directory
) -> Literal["directory", "image", "ignored", "visited"]:
    suffix, by_name = os.path.splitext(name)[1].lower(), is_image_by_name(name)
    if is_hidden(name):
        return "ignored"
    try:
        status = os.stat(path)
    except OSError:  # gone, a link to nowhere, a dead mount: anything but a file of another kind may matter
        return "ignored" if is_file and not _may_be_image(suffix) else "image"
    if stat.S_ISDIR(status.st_mode):
        if linked or os.path.islink(path):
            been = (status.st_dev, status.st_ino) in visited
            return "visited" if been or _is_walked(os.path.realpath(path), top) else "directory"
        return "directory"
    if by_name is not None:
        return "image" if by_name else "ignored"
    if not stat.S_ISREG(status.st_mode):
        return "ignored"
    try:
        with open(path, "rb") as file:
            return "image" if is_dicom(file) else "ignored"
    except OSError:
        return "image" if _may_be_image(suffix) else "ignored"


def _is_walked(directory: str, top: str) -> bool:
    """Whether a walk of `top` comes to a directory below it without links."""
    inside = os.path.join(os.path.realpath(top), "")
    if not directory.startswith(inside):
        return False
    above, names = inside, directory.removeprefix(inside).split(os.sep)
    for name in names:
        if is_hidden(name) or not os.access(above, os.R_OK | os.X_OK):
            return False
        above = os.path.join(above, name)
    return True


def is_hidden(name: str) -> bool:
    """Whether this is what rsync, file managers and storages leave lying about."""
    return name.startswith(".") or name == THUMBNAILS


def is_image_by_name(name: str) -> bool | None:
    """Whether a file in a directory counts as an image; None where its content has to tell."""
    if is_hidden(name):
        return False
    if os.path.splitext(name)[1].lower() in SUFFIXES:
        return True
    return False if name == "DICOMDIR" or name.endswith(beside.SUFFIXES) else None


def _may_be_image(suffix: str) -> bool:
    """By its name alone; DICOM files are often called by a UID, whose last number looks like a suffix."""
    return suffix in SUFFIXES or suffix[1:].isdigit() or not suffix


def _posix(path: str) -> str:
    return path.replace(os.sep, "/")
