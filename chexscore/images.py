"""The one way from an image file to pixels, for training, export and scoring alike.

A change of anything here changes scores: the pixel path is part of what a network was trained on.
"""

import errno
import math
import os
import re
import stat
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from chexscore.depth import to_uint8
from chexscore.errors import (
    ChexscoreError,
    MissingImageError,
    TooLargeImageError,
    UnreadableImageError,
    UnsupportedImageError,
)
from chexscore.formats import is_dicom
from chexscore.spec import ImageSpec, Resize

__all__ = ["FORMATS", "MAX_PIXELS", "READING", "load_image"]

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
"""Pillow's names of the formats that are read, besides DICOM; no other decoder of Pillow is tried."""

MAX_PIXELS = 80_000_000
"""Default of the largest image that is decoded; the largest X-ray detectors give about 20 million."""

READING = 2
"""Increased whenever a change, here or in what reads DICOM, makes other pixels of the same file: then neither
prepared pixels nor the rows of a stopped run are gone on with."""

EXIF_ORIENTATION = 0x0112
"""Tag of the orientation, 1 to 8; Exif 2.32, table 4."""

UPRIGHT, SIDEWAYS = 1, range(5, 9)
"""Orientations: as it is stored; with its rows as columns."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Orientation -> what makes it upright."""

TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_PALETTE, TIFF_SAMPLE_FORMAT = 258, 262, 320, 339
TIFF_TILE_WIDTH, TIFF_TILE_LENGTH, TIFF_TILES = 322, 323, 324
"""Tags; TIFF 6.0, sections 5, 8, 15 and 19."""

WHITE_IS_ZERO = 0
"""Pillow inverts such images of 8 bits only."""

PALETTE_ENTRIES, BYTE = 3 * 256, 2**8

TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How TIFF and BigTIFF begin; Pillow opens many kinds of them, and not all."""

UNSIGNED, SIGNED = 1, 2
WRONG_TIFF = {(32, UNSIGNED): "32-bit unsigned", (8, SIGNED): "8-bit signed"}
"""Bits and sample formats of values that Pillow takes for others."""

CHANNELS_OF_16 = re.compile(";16[LBN]")
TURNED_AROUND = re.compile("F;32BF|I;16BS|I;32BS")
"""Pillow's names of how values are stored: in several channels; in an order that libtiff mends before it."""

MOST_PIXELS_A_BYTE = 8 * 1032
"""Of a PNG: 8 in a byte, which deflate makes of 1/1032 of one at the least (zlib's technical details)."""

IMPOSSIBLE = "no file can have such a name"

OVERSAMPLING = 1.5
"""JPEGs are decoded at 1/2, 1/4 or 1/8 of their size, and squares of a DICOM's pixels are averaged, where
that leaves this many times the target's side: several times faster, and the antialiased resize behind it
still has pixels to average. On 95 original JPEGs the bundled network's pixels differ from those of whole
decoding by .22 levels on average (with twice the side by .13, at its side by .34), and no score for
Pneumonia by more than .012 (.009, .055). As DICOM of 12 bits, without a window and with several, the pixels
differ by .28 to .37 levels and those scores by .032 at most."""


def load_image(
    path: str | os.PathLike[str], image: ImageSpec | None = None, *, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Reads one radiograph from a PNG, JPEG, TIFF, BMP, WebP or DICOM file.

    Colour becomes luma (ITU-R BT.601), transparency is dropped, EXIF orientation is applied. Pixels of more
    than 8 bits are scaled by `chexscore.depth.to_uint8`. DICOM is read by `chexscore.dicom.read_dicom`. What
    is stored with white as its lowest value (MONOCHROME1, TIFF's WhiteIsZero) is inverted.

    Args:
        path: the file; its content, not its name, decides how it is read.
        image: the shape to bring it to and how; None keeps the shape of the file.
        max_pixels: larger images are refused undecoded.

    Returns:
        uint8 [H, W, 1], 0 black to 255 white; H and W are those of `image` where it is given.

    Raises:
        MissingImageError: nothing is at that path.
        UnreadableImageError: the file is empty, damaged, truncated, not an image or not ours to read.
        UnsupportedImageError: several frames or pages, colour or transparency of 16 bits, TIFF of 32 unsigned
            or 8 signed or compressed big-endian bits, TIFF or BMP of another kind that is not read, or DICOM
            that `read_dicom` does not support.
        TooLargeImageError: more than `max_pixels`, in a tile, too, or more than Pillow opens.
        ChexscoreError: pydicom or a decoder that it uses is installed and broken.
    """
    path = os.fspath(path)
    try:
        pixels = _open(path, image, max_pixels)
    except ChexscoreError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingImageError(path, "there is no such file (any more)") from error
    except PermissionError as error:
        raise UnreadableImageError(path, "no permission to read this file") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise MissingImageError(path, IMPOSSIBLE) from error
        if str(error).startswith("Unsupported BMP"):
            raise UnsupportedImageError(
                path, "a BMP of a kind that is not read; store it in 8 bits"
            ) from error
        # A decoder has no number.
        why = f"cannot be read: {error.strerror}" if error.errno else _damaged(error)
        raise UnreadableImageError(path, why) from error
    except MemoryError as error:
        raise UnreadableImageError(path, "not enough memory to decode it") from error
    except Exception as error:  # damaged files make decoders raise nearly anything
        raise UnreadableImageError(path, _damaged(error)) from error
    return np.asarray(pixels, dtype=np.uint8)[..., np.newaxis]


def _open(path: str, image: ImageSpec | None, max_pixels: int) -> Image.Image:
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:
        raise MissingImageError(path, IMPOSSIBLE) from error
    if stat.S_ISDIR(mode):
        raise UnreadableImageError(path, "a directory that cannot be listed")
    if not stat.S_ISREG(mode):  # opening a pipe would wait for its writer
        raise UnreadableImageError(path, "not a regular file")
    with open(path, "rb") as file:
        return _read(file, path, image, max_pixels)


def _read(file: BinaryIO, path: str, image: ImageSpec | None, max_pixels: int) -> Image.Image:
    held = os.fstat(file.fileno()).st_size
    if not held:
        raise UnreadableImageError(path, "the file is empty")
    if is_dicom(file):
        pixels, size = _read_dicom(path, image, max_pixels)
        return _resize(Image.fromarray(pixels), size, image)
    try:
        with Image.open(file, formats=FORMATS) as picture:
            if picture.format == "PNG" and picture.width * picture.height > MOST_PIXELS_A_BYTE * held:
                raise UnreadableImageError(path, "damaged: larger than what it holds can be")
            return _resize(*_grey(picture, path, image, max_pixels), image, _orientation(picture))
    except UnidentifiedImageError as error:
        file.seek(0)
        if file.read(4) in TIFF_MARKS:
            raise UnsupportedImageError(
                path, "a TIFF of a kind that is not read, or cut off; store it in 8 or 16 bits of grey"
            ) from error
        raise UnreadableImageError(path, "not an image of a known format, or damaged at its start") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeImageError(path, "more pixels than Pillow agrees to decode") from error


def _read_dicom(
    path: str, image: ImageSpec | None, max_pixels: int
) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    try:
        from chexscore.dicom import read_dicom  # noqa: PLC0415, pydicom costs start-up time
    except Exception as error:  # no fault of the file
        raise ChexscoreError(f"this installation cannot read DICOM files: {_reason(error)}.") from error
    return read_dicom(path, max_pixels, _enough(image))


def _grey(
    picture: Image.Image, path: str, image: ImageSpec | None, max_pixels: int
) -> tuple[Image.Image, tuple[float, float]]:
    """The picture as it is stored, in 8 bits of grey, and how wide and high it is in its pixels.

    Those of a JPEG may be larger than the file's, and the last of them reach beyond its border.
    """
    _check(picture, path, max_pixels)
    draft = None
    if picture.format == "JPEG":
        side = _enough(image)
        draft = picture.draft("L", (side, side) if side else None)
    tags = _tiff_tags(picture)
    picture.load()
    if _is_deep(picture):
        values = to_uint8(np.asarray(picture))
        grey = Image.fromarray(255 - values if tags.get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO else values)
    else:
        palette = tags.get(TIFF_PALETTE, ())
        if picture.mode in ("P", "PA") and palette and max(palette) < BYTE:  # as some write it, of bytes
            picture.putpalette(bytes(palette[:PALETTE_ENTRIES]), "RGB;L")
        if picture.mode in ("P", "PA", "CMYK", "LAB", "HSV"):
            picture = picture.convert("RGB")
        grey = (picture.convert("LA") if picture.mode == "La" else picture).convert("L")
    return grey, draft[1][2:] if draft else grey.size


def _check(picture: Image.Image, path: str, max_pixels: int) -> None:
    """Refuses what is too large or of several pages, and what Pillow would make another picture of."""
    pixels, tags = picture.width * picture.height, _tiff_tags(picture)
    if pixels > max_pixels:
        raise TooLargeImageError(path, f"{picture.width} x {picture.height} is above {max_pixels:,} pixels")
    if TIFF_TILES in tags and tags.get(TIFF_TILE_WIDTH, 0) * tags.get(TIFF_TILE_LENGTH, 0) > max_pixels:
        raise TooLargeImageError(path, f"a TIFF whose tiles are above {max_pixels:,} pixels")
    if getattr(picture, "is_animated", False):  # counting the pages of a TIFF may take a minute
        raise UnsupportedImageError(path, "several frames or pages; store each as a file of its own")
    stored = "".join(map(str, getattr(picture, "tile", ())))
    bits, (kind, *_) = tags.get(TIFF_BITS, (1,)), tags.get(TIFF_SAMPLE_FORMAT, (UNSIGNED,))
    if not _is_deep(picture) and (CHANNELS_OF_16.search(stored) or 2 ** max(bits) > BYTE):
        # Pillow would keep the high byte of each channel.
        raise UnsupportedImageError(path, "colour or transparency of 16 bits a channel; store it in grey")
    if (bits[0], kind) in WRONG_TIFF:
        what = WRONG_TIFF[bits[0], kind]
        raise UnsupportedImageError(path, f"a TIFF of {what} values; store it in 16 bits")
    if "libtiff" in stored and TURNED_AROUND.search(stored):
        raise UnsupportedImageError(
            path, "a compressed TIFF of big-endian values; store it in little-endian ones"
        )


def _is_deep(picture: Image.Image) -> bool:
    """Whether its values are numbers of more than 8 bits."""
    return picture.mode.startswith(("I", "F"))


def _tiff_tags(picture: Image.Image) -> Any:
    return getattr(picture, "tag_v2", {})


def _enough(image: ImageSpec | None) -> int:
    """Pixels that are enough for the shorter side of a picture; 0 where its own size is asked for."""
    return math.ceil(OVERSAMPLING * max(image.height, image.width)) if image else 0


def _orientation(picture: Image.Image) -> int:
    """That of a loaded picture: loading turns a TIFF by itself."""
    try:
        return int(picture.getexif().get(EXIF_ORIENTATION, UPRIGHT))
    except Exception:  # noqa: BLE001, a broken Exif block must not cost a sound image
        return UPRIGHT


def _resize(
    grey: Image.Image, size: tuple[float, float], image: ImageSpec | None, orientation: int = UPRIGHT
) -> Image.Image:
    """Brings a picture to the shape that is asked for, and turns it upright.

    By Pillow's antialiased bilinear filter: a triangle as wide as the reduction. `ImageOps.fit` and `pad` do
    the same, but know no size of parts of a pixel, and leave nothing of what gets thinner than one.
    """
    if image is None:
        return _turned(grey, orientation)
    width, height = size
    sideways = orientation in SIDEWAYS
    across, down = (image.height, image.width) if sideways else (image.width, image.height)
    part = (0.0, 0.0, width, height)
    if image.resize is Resize.CROP:
        wide, high = min(width, height * across / down), min(height, width * down / across)
        left, top = (width - wide) / 2, (height - high) / 2
        part = (left, top, left + wide, top + high)
    elif image.resize is Resize.PAD:
        wide, high = round(width / height * down), round(height / width * across)
        across, down = max(1, min(across, wide)), max(1, min(down, high))
    small = _turned(grey.resize((across, down), Image.Resampling.BILINEAR, part), orientation)
    if small.size == (image.width, image.height):
        return small
    padded = Image.new("L", (image.width, image.height))
    padded.paste(small, (round((image.width - small.width) / 2), round((image.height - small.height) / 2)))
    return padded


def _turned(picture: Image.Image, orientation: int) -> Image.Image:
    return picture.transpose(TURNS[orientation]) if orientation in TURNS else picture


def _damaged(error: Exception) -> str:
    return f"damaged or truncated: {_reason(error)}"


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
