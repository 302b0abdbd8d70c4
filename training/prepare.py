"""Images -> one flat uint8 array on disk, decoded once, through chexscore.images."""

import errno
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chexscore.ahead import load_ahead
from chexscore.errors import ImageError, TableError
from chexscore.images import load_image
from chexscore.spec import ImageSpec
from training.progress import bar, on_terminal

__all__ = ["PixelCache", "prepare"]

MISSING_ALLOWED = 0.01
"""Share of the table's images that may be absent: beyond it the data set or --data is the wrong one."""

KEEP_EVERY = 1000
"""Images between two moments that a stop cannot undo."""


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

    The folder holds image.json (the shape and resize rule), pixels.npy, and images.csv: path and note of each
    image that is done, in the order of the array. A note says why an image is left out.

    Args:
        root: folder that the paths are relative to.
        paths: images, in the order of the array.
        image: shape and resize rule.
        folder: created where it is missing.
        workers: threads that decode.
        report: called with lines for the user.

    Raises:
        TableError: the folder holds other images, or the same ones in another shape or by another rule; too
            many of the images are not there; or not one could be read.
        OSError: the disk has no room for the pixels; nothing was decoded.
    """
    rule_file, pixels_file, index_file = (folder / n for n in ("image.json", "pixels.npy", "images.csv"))
    if rule_file.exists():
        if json.loads(rule_file.read_text()) != asdict(image):
            raise TableError(
                f"{folder}: prepared with another image size or resize rule; use another folder."
            )
        notes = _done(index_file, paths)
        if len(notes) == len(paths):
            report(f"prepared before: {_summary(notes)} in {folder}")
            return PixelCache(np.load(pixels_file, mmap_mode="r"), np.array([not note for note in notes]))
        report(f"going on after {len(notes)} of {len(paths)} images in {folder}")
        pixels = np.load(pixels_file, mmap_mode="r+")
    else:
        _check_present(root, paths)
        notes, pixels = [], _reserve(pixels_file, (len(paths), image.height, image.width, 1), report)
        _table([], []).to_csv(index_file, index=False)
        rule_file.write_text(json.dumps(asdict(image)))  # last: a folder without it is begun anew

    left = (str(root / path) for path in paths[len(notes) :])
    with bar("decoding", len(paths), len(notes)) as show:
        for _, result in load_ahead(left, partial(_load, image), workers=workers, ahead=4 * workers):
            if isinstance(result, ImageError):
                report(f"left out: {result}")
                notes.append(result.reason)
            else:
                pixels[len(notes)] = result
                notes.append("")
            show(len(notes), "")
            if len(notes) % KEEP_EVERY == 0 or len(notes) == len(paths):
                pixels.flush()  # before the index, which is what a later call believes
                block = slice((len(notes) - 1) // KEEP_EVERY * KEEP_EVERY, len(notes))
                done = _table(paths[block], notes[block])
                done.to_csv(index_file, index=False, header=False, mode="a", errors="surrogateescape")
                if not on_terminal():
                    report(f"prepared {len(notes)} of {len(paths)}")
    if all(notes):
        raise TableError(f"not one of {len(paths)} images could be read, the first because: {notes[0]}.")
    report(f"prepared {_summary(notes)} in {folder}")
    return PixelCache(pixels, np.array([not note for note in notes]))


def _load(image: ImageSpec, path: str) -> NDArray[np.uint8] | ImageError:
    try:
        return load_image(path, image)
    except ImageError as error:
        return error


def _table(paths: list[str], notes: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"path": paths, "note": notes}, dtype=object)


def _done(index_file: Path, paths: list[str]) -> list[str]:
    """The notes of the images that are done, whole blocks of them; a torn last block is done again."""
    index = pd.read_csv(index_file, dtype=object, keep_default_na=False, encoding_errors="surrogateescape")
    if len(index) < len(paths):
        index = index[: len(index) // KEEP_EVERY * KEEP_EVERY]
        index.to_csv(index_file, index=False, errors="surrogateescape")
    if list(index["path"]) != paths[: len(index)] or len(index) > len(paths):
        raise TableError(f"{index_file.parent}: prepared from another table of images; use another folder.")
    return list(index["note"])


def _check_present(root: Path, paths: list[str]) -> None:
    """Looks before hours of decoding."""
    missing = [path for path in paths if not (root / path).exists()]
    if len(missing) > MISSING_ALLOWED * len(paths):
        raise TableError(
            f"{len(missing)} of {len(paths)} images of the table are not in {root}, "
            f"such as {missing[0]}: more than {MISSING_ALLOWED:.0%}; check --data."
        )


def _reserve(file: Path, shape: tuple[int, ...], report: Callable[[str], None]) -> NDArray[np.uint8]:
    """Makes the array with all its room on disk: a full disk under a mapped file would kill the process."""
    file.parent.mkdir(parents=True, exist_ok=True)
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


def _summary(notes: list[str]) -> str:
    left_out = sum(bool(note) for note in notes)
    return f"{len(notes)} images" + (f" ({left_out} of them unreadable and left out)" if left_out else "")
