"""Images -> one flat uint8 array on disk, decoded once, through chexscore.images."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chexscore.ahead import load_ahead
from chexscore.errors import ImageError, TableError
from chexscore.images import load_image
from chexscore.spec import ImageSpec

__all__ = ["PixelCache", "prepare"]


@dataclass(frozen=True)
class PixelCache:
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
    """Decodes every image of a data set into `folder`, or opens what an earlier call left there.

    The folder holds pixels.npy, images.csv (path, note; a note says why an image is left out) and image.json
    (the shape and resize rule), which is written last: a folder without it is begun anew.

    Args:
        root: folder that the paths are relative to.
        paths: images, in the order of the array.
        image: shape and resize rule.
        folder: created where it is missing.
        workers: threads that decode.
        report: called with lines for the user.

    Raises:
        TableError: the folder holds other images, or the same ones in another shape or by another rule; or
            not one image could be read.
    """
    pixels_file, images_file, done_file = (
        folder / name for name in ("pixels.npy", "images.csv", "image.json")
    )
    if done_file.exists():
        if json.loads(done_file.read_text()) != asdict(image):
            raise TableError(
                f"{folder}: prepared with another image size or resize rule; use another folder."
            )
        index = pd.read_csv(images_file, dtype=str, keep_default_na=False)
        if list(index["path"]) != paths:
            raise TableError(f"{folder}: prepared from another table of images; use another folder.")
        report(f"prepared before: {len(paths)} images in {folder}")
        return PixelCache(np.load(pixels_file, mmap_mode="r"), (index["note"] == "").to_numpy())

    folder.mkdir(parents=True, exist_ok=True)
    shape = (len(paths), image.height, image.width, 1)
    report(f"preparing {len(paths)} images, {np.prod(shape) / 1e9:.2f} GB, in {folder}")
    pixels = np.lib.format.open_memmap(pixels_file, mode="w+", dtype=np.uint8, shape=shape)
    notes: list[str] = []

    def load(path: str) -> NDArray[np.uint8] | ImageError:
        try:
            return load_image(path, image)
        except ImageError as error:
            return error

    files = (str(root / path) for path in paths)
    for row, (_, result) in enumerate(load_ahead(files, load, workers=workers, ahead=4 * workers)):
        if isinstance(result, ImageError):
            report(f"left out: {result}")
            notes.append(result.reason)
        else:
            pixels[row] = result
            notes.append("")
        if (row + 1) % 1000 == 0:
            report(f"prepared {row + 1} of {len(paths)}")
    pixels.flush()
    if all(notes):
        raise TableError(f"not one of {len(paths)} images could be read, the first because: {notes[0]}.")
    pd.DataFrame({"path": paths, "note": notes}).to_csv(images_file, index=False)
    done_file.write_text(json.dumps(asdict(image)))
    return PixelCache(pixels, np.array([not note for note in notes]))
