"""Where a cluster's images and outputs are: paths that every node sees, or URIs of object stores.

A URI is `scheme://bucket/key` of a file system that pyarrow has: s3, gs, abfss, hdfs, file, and those of
fsspec as fsspec+scheme. Whatever else a store needs to be told (keys, region, endpoint) comes from its own
environment variables, and never stands in a row.
"""

import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, partial

import pyarrow as pa
from pyarrow import fs

from chexscore.ahead import work_ahead
from chexscore.discovery import find_images, is_hidden, is_image_by_name
from chexscore.errors import (
    ChexscoreError,
    MissingImageError,
    OutputError,
    UnreadableImageError,
    UsageError,
    first_line,
)
from chexscore.fingerprints import Fingerprint, leads_to_itself
from chexscore.formats import is_dicom
from chexscore.outputs import replacing
from chexscore.stopping import Stop

__all__ = ["Folder", "fetched", "find", "is_there", "is_uri"]

HEAD = 132
"""Bytes that tell DICOM."""

ASKED_AT_ONCE = 32
"""Questions to a store at a time: each takes milliseconds, of which ten million one by one would be days."""


def is_uri(path: str) -> bool:
    """Whether a path names a place in an object store."""
    return re.match(r"[a-z][a-z0-9+]*://", path, re.IGNORECASE) is not None


def find(
    paths: Iterable[str], ignored: Callable[[str], object] = str, stop: Stop | None = None
) -> Iterator[str]:
    """Does for URIs what `find_images` does for paths, in the same order; takes both."""
    stop = stop or Stop()
    for path, is_folder in work_ahead(paths, _is_folder, workers=ASKED_AT_ONCE, ahead=4 * ASKED_AT_ONCE):
        if stop.asked():
            return
        if is_folder:
            yield from _walk(*_locate(path), path.rstrip("/"), ignored, stop)
        elif is_uri(path):
            yield path
        else:
            yield from find_images([path], ignored, stop)


def is_there(path: str, *, unclear: bool) -> bool:
    """Whether something is at a path or URI that was found; `unclear` where that cannot be told.

    A folder comes here only if it could not be listed.
    """
    if not is_uri(path) and (Fingerprint.of(path) is not None or leads_to_itself(path)):
        return True  # pyarrow sees no name that is no UTF-8
    try:
        system, place = _locate(path)
        kind = system.get_file_info(place).type
    except Exception:  # noqa: BLE001, file systems of fsspec raise what they like
        return unclear
    return unclear if kind == fs.FileType.Directory else bool(kind != fs.FileType.NotFound)


def _is_folder(uri: str) -> bool:
    """Whether a URI is that of a folder; a store is not asked of what an image is called."""
    if not is_uri(uri) or is_image_by_name(os.path.basename(uri)):
        return False
    with suppress(Exception):  # the row of the URI will say why
        system, place = _locate(uri)
        return bool(system.get_file_info(place).type == fs.FileType.Directory)
    return False


def _walk(
    system: fs.FileSystem, place: str, uri: str, ignored: Callable[[str], object], stop: Stop
) -> Iterator[str]:
    """Holds the names of one folder for each level, as the walk over directories does."""
    try:
        entries = sorted(system.get_file_info(fs.FileSelector(place)), key=lambda entry: entry.base_name)
    except Exception:  # noqa: BLE001, as in `is_there`; and for names that are no UTF-8: a row for the folder
        yield uri
        return
    is_image = partial(_is_image, system)
    for entry, yes in work_ahead(entries, is_image, workers=ASKED_AT_ONCE, ahead=4 * ASKED_AT_ONCE):
        path = f"{uri}/{entry.base_name}"
        if stop.asked():
            return
        if is_hidden(entry.base_name):
            ignored(path)
        elif entry.type == fs.FileType.Directory:
            yield from _walk(system, entry.path, path, ignored, stop)
        elif yes:
            yield path
        else:
            ignored(path)


def _is_image(system: fs.FileSystem, entry: fs.FileInfo) -> bool:
    by_name = is_image_by_name(entry.base_name)
    if by_name is not None or entry.type == fs.FileType.Directory:
        return bool(by_name)
    try:
        with system.open_input_file(entry.path) as file:
            return is_dicom(io.BytesIO(file.read(HEAD)))
    except Exception:  # noqa: BLE001, as in `is_there`
        return False


@contextmanager
def fetched(path: str, base: str) -> Iterator[str]:
    """A local file with what is at a path or URI, there for as long as the context.

    Args:
        path: as it was given.
        base: the directory that a relative path was given in.

    Raises:
        MissingImageError: nothing is at that URI.
        UnreadableImageError: the store does not give it.
    """
    if not is_uri(path):
        yield os.path.join(base, path)
        return
    with tempfile.NamedTemporaryFile(prefix="chexscore-") as local:
        try:
            system, place = _locate(path)
            with system.open_input_stream(place) as stream:
                shutil.copyfileobj(stream, local)
            local.flush()
        except FileNotFoundError as error:
            raise MissingImageError(path, "there is no such file (any more)") from error
        except Exception as error:  # as in `is_there`; one image ends no run
            raise UnreadableImageError(path, f"cannot be read: {_line(error)}") from error
        yield local.name


class Folder:
    """A folder that a run writes, and its nodes read.

    Args:
        name: path or URI; a path is made absolute, because the nodes stand elsewhere.

    Attributes:
        name: as it was given.
        is_local: whether it is a path.

    Raises:
        UsageError: a URI whose file system cannot be opened.
    """

    def __init__(self, name: str) -> None:
        self.name, self.is_local = name.rstrip("/") or name, not is_uri(name)
        self.place = os.path.abspath(name) if self.is_local else name.rstrip("/")
        try:
            self._at("")
        except Exception as error:  # as in `is_there`
            raise UsageError(f"{name} cannot be opened: {_line(error)}.") from error

    def _at(self, name: str) -> tuple[fs.FileSystem, str]:
        return _locate(f"{self.place}/{name}".rstrip("/"))

    @contextmanager
    def _guarded(self, name: str, what: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, ChexscoreError):
            raise
        except Exception as error:  # as in `is_there`
            raise OutputError(f"{self.name}/{name} cannot be {what}: {_line(error)}.") from error

    def names(self) -> list[str]:
        """What is in it and in its folders, sorted; nothing if it is not there."""
        with self._guarded("", "listed"):
            system, place = self._at("")
            if self.is_local:
                walk = os.walk(place, onerror=_raise_unless_gone)
                found = ((os.path.relpath(folder, place), names) for folder, _, names in walk)
                return sorted(
                    os.path.normpath(os.path.join(folder, name)) for folder, names in found for name in names
                )
            selector = fs.FileSelector(place, allow_not_found=True, recursive=True)
            paths = [entry.path for entry in system.get_file_info(selector) if entry.is_file]
            return sorted(path.removeprefix(place).lstrip("/") for path in paths)

    def read(self, name: str) -> pa.Buffer:
        """The content of a file; a FileNotFoundError if there is none."""
        with self._guarded(name, "read"):
            system, path = self._at(name)
            with system.open_input_stream(path) as file:
                return pa.py_buffer(file.read())

    def write(self, name: str, content: bytes) -> None:
        """Puts a whole file there in one step, safe on disk; an object appears whole by itself."""
        with self._guarded(name, "written"):
            system, path = self._at(name)
            if self.is_local:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with replacing(path) as file:
                    file.write(content)
            else:
                system.create_dir(os.path.dirname(path), recursive=True)
                with system.open_output_stream(path) as stream:
                    stream.write(content)

    def delete(self, name: str) -> None:
        """Takes a file away that may not be there."""
        with self._guarded(name, "deleted"):
            system, path = self._at(name)
            try:
                system.delete_file(path)
            except FileNotFoundError:
                return


def _locate(path: str) -> tuple[fs.FileSystem, str]:
    """A file system and the path in it; names may hold what URIs have to escape."""
    if not is_uri(path):
        return fs.LocalFileSystem(), path
    scheme, _, rest = path.partition("://")
    bucket, _, key = rest.partition("/")
    system, root = _open(f"{scheme}://{bucket}/")
    return system, f"{root.rstrip('/')}/{key}"


@lru_cache
def _open(uri: str) -> tuple[fs.FileSystem, str]:
    system, root = fs.FileSystem.from_uri(uri)
    return system, root


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _line(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or first_line(error)).rstrip(".")
