"""Images -> one flat uint8 array on disk, decoded once, through chexscore.images."""

import errno
import io
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chexscore.ahead import work_ahead
from chexscore.beside import LOCK, beside
from chexscore.errors import ImageError, MissingImageError, TableError, UnreadableImageError, UsageError
from chexscore.images import READING, load_image
from chexscore.outputs import replacing
from chexscore.spec import ImageSpec
from training.folders import alone, check_free
from training.progress import bar, on_terminal

__all__ = ["PixelCache", "prepare"]

MISSING_ALLOWED = 0.01
"""Share of the table's images that may be absent: beyond it the data set or --data is the wrong one."""

KEEP_EVERY = 1000
"""Images between two moments that a stop cannot undo."""

LOOKED_AT, ALIKE = 20, 4.0
"""Prepared images, at most, that are compared with their files when a folder is opened again, and the grey
levels by which each may differ on average: by decoders of other versions it does by a fraction of one."""

SHOW_EVERY = 20
"""Images between two looks at the bar: each costs as much as a tenth of an image."""


Pixels = np.memmap[tuple[int, ...], np.dtype[np.uint8]]


class PixelCache(NamedTuple):
    """The pixels of a data set.

    Attributes:
        pixels: uint8 [N, H, W, 1], mapped from disk; rows of unreadable images are black.
        usable: bool [N], false where the image could not be read.
    """

    pixels: NDArray[np.uint8]
    usable: NDArray[np.bool_]


def prepare(
    root: Path, paths: list[str], image: ImageSpec, folder: Path, workers: int, report: Callable[[str], None]
) -> PixelCache:
    """Decodes every image of a data set into `folder`, goes on where a stop left it, or opens a finished one.

    The folder holds image.json (shape, resize rule, `chexscore.images.READING`), pixels.npy, and images.csv:
    path and note of each image that is done, in the order of the array. A note says why one is left out.

    Args:
        root: folder that the paths are relative to.
        paths: images, in the order of the array.
        image: shape and resize rule.
        folder: created where it is missing.
        workers: threads that decode.
        report: called with lines for the user.

    Raises:
        UsageError: another process prepares the folder, it holds something else, or it cannot be made.
        TableError: the folder holds other images, or the same ones in another shape, by another rule or
            reading; too many of the images are not there; one cannot be read for now; or not one could be.
        OSError: the disk has no room for the pixels; nothing was decoded.
    """
    rule_file, pixels_file, index_file = (folder / n for n in ("image.json", "pixels.npy", "images.csv"))
    pixels, notes = _done(folder, paths, image, "r")
    if pixels is not None:
        _look_again(root, paths, image, pixels, notes, folder)
    if pixels is not None and len(notes) == len(paths):
        return _finish(pixels, notes, f"prepared before: {{}} in {folder}", report)
    missing = _missing(root, paths)
    with alone(pixels_file):
        pixels, notes = _done(folder, paths, image, "r+")  # by now
        if pixels is None:
            pixels = _reserve(pixels_file, (len(paths), image.height, image.width, 1), report)
        else:
            report(f"going on after {len(notes)} of {len(paths)} images in {folder}")
        with replacing(str(index_file)) as file:
            _table(paths[: len(notes)], notes).to_csv(file, index=False, errors="surrogateescape")
        # Last: a folder without it is begun anew.
        with replacing(str(rule_file)) as file:
            file.write(json.dumps({**asdict(image), "reading": READING}).encode())

        left = (str(root / path) for path in paths[len(notes) :])
        loaded = work_ahead(left, partial(_load, image), workers=workers, ahead=4 * workers)
        with bar("decoding", len(paths), len(notes)) as show:
            for _, result in loaded:
                if isinstance(result, ImageError):
                    _check_lasting(result, missing)
                    report(f"left out: {result}")
                    notes.append(result.reason)
                else:
                    pixels[len(notes)] = result
                    notes.append("")
                if len(notes) % SHOW_EVERY == 0:
                    show(len(notes), "")
                if len(notes) % KEEP_EVERY == 0 or len(notes) == len(paths):
                    pixels.flush()  # before the index, which is what a later call believes
                    block = slice((len(notes) - 1) // KEEP_EVERY * KEEP_EVERY, len(notes))
                    done = _table(paths[block], notes[block])
                    done.to_csv(index_file, index=False, header=False, mode="a", errors="surrogateescape")
                    if not on_terminal():
                        report(f"prepared {len(notes)} of {len(paths)}")
    return _finish(pixels, notes, f"prepared {{}} in {folder}", report)


def _check_lasting(error: ImageError, missing: set[str]) -> None:
    """Raises a TableError if a share or memory failed, not the image, which would be left out for good."""
    if isinstance(error, MissingImageError) and error.path not in missing:
        raise TableError(f"{error.path} was there a while ago; when it is back, the same command goes on.")
    cause = error.__cause__
    share = isinstance(cause, OSError) and cause.errno not in (None, errno.EACCES, errno.EPERM)
    memory = isinstance(cause, MemoryError) or str(cause).startswith("out of memory")  # as Pillow may say
    if isinstance(error, UnreadableImageError) and (share or memory):
        raise TableError(f"{error}; the same command goes on when it can be read, or when the file is gone.")


def _look_again(
    root: Path, paths: list[str], image: ImageSpec, pixels: Pixels, notes: list[str], folder: Path
) -> None:
    """Looks at a few of the images: other ones may have these paths, below another root or by now.

    What is not there any more, or cannot be read now, is taken to be what was prepared.
    """
    usable = np.array([row for row, note in enumerate(notes) if not note], dtype=int)
    spread = np.linspace(0, len(usable) - 1, min(LOOKED_AT, len(usable))).round().astype(int)
    for row in usable[spread]:
        now = _load(image, str(root / paths[row]))
        if not isinstance(now, ImageError) and np.abs(pixels[row] - now.astype(float)).mean() > ALIKE:
            raise TableError(
                f"{folder}: prepared from other images: {root / paths[row]} is not what it was; use another "
                "folder."
            )


def _load(image: ImageSpec, path: str) -> NDArray[np.uint8] | ImageError:
    try:
        return load_image(path, image)
    except ImageError as error:
        return error


def _table(paths: list[str], notes: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"path": paths, "note": notes}, dtype=object)


def _done(
    folder: Path, paths: list[str], image: ImageSpec, mode: Literal["r", "r+"]
) -> tuple[Pixels | None, list[str]]:
    """The array, None if there is none yet, and the notes of the images that are done.

    Those are whole blocks; a torn last block is done again.
    """
    rule_file, pixels_file = folder / "image.json", folder / "pixels.npy"
    ours = os.path.exists(beside(str(pixels_file), LOCK))  # which a stop leaves before any other file
    if not rule_file.exists():
        if not ours:
            check_free(folder, ("images.csv", "pixels.npy"))
        return None, []
    foreign = UsageError(f"{folder} holds something else in image.json or images.csv; give another folder.")
    try:
        rule, index = json.loads(rule_file.read_bytes()), _read_index(folder / "images.csv")
    except (OSError, ValueError) as error:
        damaged = TableError(f"{folder}: damaged: {error}; delete it to prepare again.")
        raise (damaged if ours else foreign) from error
    if not isinstance(rule, dict) or list(index) != ["path", "note"]:
        raise foreign
    if rule.pop("reading", 0) != READING:
        raise TableError(f"{folder}: prepared by a chexscore that read images otherwise; use another folder.")
    if rule != asdict(image):
        raise TableError(f"{folder}: prepared with another image size or resize rule; use another folder.")
    pixels = _open(pixels_file, (len(paths), image.height, image.width, 1), mode)
    done = len(index) if len(index) == len(paths) else len(index) // KEEP_EVERY * KEEP_EVERY
    if list(index["path"][:done]) != paths[:done]:
        raise TableError(f"{folder}: prepared from another table of images; use another folder.")
    return pixels, list(index["note"][:done])


def _read_index(file: Path) -> pd.DataFrame:
    """The lines that are whole; a stop may have torn the last one."""
    content = file.read_bytes()
    whole = io.BytesIO(content[: content.rfind(b"\n") + 1])
    return pd.read_csv(whole, dtype=object, keep_default_na=False, encoding_errors="surrogateescape")


def _missing(root: Path, paths: list[str]) -> set[str]:
    """The files that are not there; looks before hours of decoding."""
    missing = [path for path in paths if not os.path.exists(root / path)]  # Path's fails for a long name
    if len(missing) > MISSING_ALLOWED * len(paths):
        raise TableError(
            f"{len(missing)} of {len(paths)} images of the table are not in {root}, "
            f"such as {missing[0]}: more than {MISSING_ALLOWED:.0%}; check --data."
        )
    return {str(root / path) for path in missing}


def _open(file: Path, shape: tuple[int, ...], mode: Literal["r", "r+"]) -> Pixels:
    try:
        pixels: Pixels = np.load(file, mmap_mode=mode)
    except (OSError, ValueError, EOFError) as error:
        raise TableError(f"{file}: damaged: {error}; delete {file.parent} to prepare again.") from error
    if pixels.shape != shape:
        raise TableError(f"{file.parent}: prepared from another table of images; use another folder.")
    return pixels


def _finish(
    pixels: NDArray[np.uint8], notes: list[str], words: str, report: Callable[[str], None]
) -> PixelCache:
    left_out = sum(bool(note) for note in notes)
    if left_out == len(notes):
        raise TableError(f"not one of {len(notes)} images could be read, the first because: {notes[0]}.")
    some = f" ({left_out} of them unreadable and left out; a new folder tries them again)" if left_out else ""
    report(words.format(f"{len(notes)} images{some}"))
    return PixelCache(pixels, np.array([not note for note in notes]))


def _reserve(file: Path, shape: tuple[int, ...], report: Callable[[str], None]) -> Pixels:
    """Makes the array with all its room on disk: a full disk under a mapped file would kill the process."""
    needed, free = math.prod(shape), shutil.disk_usage(file.parent).free
    report(
        f"{shape[0]} images need {needed / 1e9:.2f} GB in {file.parent}, where {free / 1e9:.2f} GB are free"
    )
    if needed > free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
    pixels = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
    return pixels
