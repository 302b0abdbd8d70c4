"""Kinds of TIFF, BMP and PNG that other programs write, and Pillow shows wrongly or not at all."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from numpy.typing import NDArray

from chexscore import load_image
from chexscore.depth import to_uint8
from chexscore.errors import TooLargeImageError, UnreadableImageError, UnsupportedImageError
from chexscore.spec import ImageSpec
from tests.test_images import FILM, write_png


def write_tiff(path: Path, order: str, pixels: bytes, **tags: list[int]) -> str:
    """Of one strip, as wide and high as FILM; the tags of TIFF 6.0 by name, each of 16-bit numbers."""
    numbers = {
        "bits": 258, "compression": 259, "photometric": 262, "samples": 277, "planar": 284, "palette": 320,
        "tile_width": 322, "tile_length": 323, "extra": 338, "kind": 339,
    }  # fmt: skip
    height, width = FILM.shape
    found = {256: [width], 257: [height], 278: [height], 262: [1]} | {numbers[tag]: tags[tag] for tag in tags}
    planes = found[277][0] if found.get(284) == [2] else 1
    length = len(pixels) // planes
    places, lengths = (324, 325) if 322 in found else (273, 279)  # of tiles, or of strips
    lists = {places: [8 + length * plane for plane in range(planes)], lengths: [length] * planes}
    words, behind = b"", 8 + len(pixels) + 2 + 12 * (len(found) + 2) + 4
    entries = b""
    for tag, values in sorted({**found, **lists}.items()):
        kind, letter = (4, "I") if tag in lists else (3, "H")
        packed = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(packed) > 4:
            packed, words = struct.pack(f"{order}I", behind + len(words)), words + packed
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(pixels))
    count = struct.pack(f"{order}H", len(found) + 2)
    path.write_bytes(head + pixels + count + entries + bytes(4) + words)
    return str(path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "scale"), [("f4", 1 / 255), ("i2", 100), ("i4", 1000), ("u2", 257)])
def test_a_tiff_of_either_order_of_bytes_is_shown_right_or_refused(
    tmp_path: Path, order: str, kind: str, scale: float
) -> None:
    values = (FILM.astype(float) * scale - 10000 * (kind[0] == "i")).astype(order + kind)
    tags = {"bits": [8 * values.itemsize], "kind": [{"f": 3, "i": 2, "u": 1}[kind[0]]]}
    plain = write_tiff(tmp_path / "plain.tif", order, values.tobytes(), **tags)
    assert np.abs(load_image(plain)[..., 0].astype(int) - to_uint8(values.astype(kind))).max() <= 1
    small = write_tiff(
        tmp_path / "small.tif", order, zlib.compress(values.tobytes()), compression=[8], **tags
    )
    if order == ">" and kind != "u2":
        with pytest.raises(UnsupportedImageError, match="store it in little-endian ones"):
            load_image(small)
    else:
        np.testing.assert_array_equal(load_image(small), load_image(plain))


RGB = np.stack([FILM, FILM // 2, FILM // 3])


@pytest.mark.parametrize(
    ("said", "pixels", "tags"),
    [
        (
            "16 bits a channel",
            RGB * np.uint16(257),
            {"bits": [16] * 3, "photometric": [2], "samples": [3], "planar": [2]},
        ),
        ("8-bit signed values", FILM.astype(np.int8), {"bits": [8], "kind": [2]}),
        ("32-bit unsigned values", FILM.astype(np.uint32), {"bits": [32]}),
        ("of a kind that is not read", FILM.astype(np.float64), {"bits": [64], "kind": [3]}),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_that_would_be_shown_wrongly_is_unsupported(
    tmp_path: Path, order: str, said: str, pixels: NDArray[Any], tags: dict[str, list[int]]
) -> None:
    whole = pixels.astype(order + pixels.dtype.str[1:]).tobytes()
    said = said if order == "<" or "32-bit" not in said else "of a kind that is not read"
    with pytest.raises(UnsupportedImageError, match=said):
        load_image(write_tiff(tmp_path / "x.tif", order, whole, **tags))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_big_tiff_of_a_kind_that_is_not_read_is_unsupported(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    for mark, order in ((b"II", "<"), (b"MM", ">")):
        path.write_bytes(mark + struct.pack(f"{order}HHHQQQ", 43, 8, 0, 16, 0, 0))  # of no tags
        with pytest.raises(UnsupportedImageError, match="of a kind that is not read"):
            load_image(path)


def test_a_tiff_of_tiles_is_no_larger_than_they_are(tmp_path: Path) -> None:
    tags = {"bits": [8], "tile_width": [64], "tile_length": [64]}
    path = write_tiff(tmp_path / "x.tif", "<", FILM.tobytes(), **tags)
    np.testing.assert_array_equal(load_image(path)[..., 0], FILM)
    path = write_tiff(tmp_path / "x.tif", "<", FILM.tobytes(), **(tags | {"tile_length": [40000]}))
    with pytest.raises(TooLargeImageError, match="tiles are above"):
        load_image(path, max_pixels=2_000_000)


def test_a_tiff_of_a_palette_of_bytes_or_with_alpha_is_shown(tmp_path: Path) -> None:
    ramp = list(range(256)) * 3
    for scale in (1, 257):
        tags = {"bits": [8], "photometric": [3], "palette": [scale * value for value in ramp]}
        path = write_tiff(tmp_path / "p.tif", "<", FILM.tobytes(), **tags)
        assert np.abs(load_image(path)[..., 0].astype(int) - FILM).max() <= 1
    both = np.stack([FILM, np.full_like(FILM, 255)], axis=-1).tobytes()
    with_alpha = {"bits": [8, 8], "samples": [2], "extra": [2]}
    path = write_tiff(tmp_path / "pa.tif", "<", both, **with_alpha, photometric=[3], palette=ramp)
    assert np.abs(load_image(path)[..., 0].astype(int) - FILM).max() <= 1
    path = write_tiff(tmp_path / "la.tif", "<", both, **with_alpha)
    np.testing.assert_array_equal(load_image(path)[..., 0], FILM)


@pytest.mark.skipif(int(PIL.__version__.partition(".")[0]) < 13, reason="Pillow before 13 does not open it")
def test_grey_that_was_multiplied_with_its_alpha_is_shown(tmp_path: Path) -> None:
    both = np.stack([FILM, np.full_like(FILM, 255)], axis=-1).tobytes()
    path = write_tiff(tmp_path / "x.tif", "<", both, bits=[8, 8], samples=[2], extra=[1])
    np.testing.assert_array_equal(load_image(path)[..., 0], FILM)


def test_a_bmp_of_fewer_bits_is_shown_and_an_odd_one_is_unsupported(tmp_path: Path) -> None:
    height, width = FILM.shape
    grey = FILM.astype(np.uint16) >> 3
    pixels = (grey << 11 | grey << 6 | grey)[::-1].astype("<u2").tobytes()
    for mask, shown in ((0xF800, True), (0xFF00, False)):
        masks = struct.pack("<III", mask, 0x07E0, 0x001F)
        head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 16, 3, len(pixels), 0, 0, 0, 0) + masks
        path = tmp_path / "x.bmp"
        path.write_bytes(
            struct.pack("<2sIHHI", b"BM", 14 + len(head) + len(pixels), 0, 0, 14 + len(head)) + head + pixels
        )
        if shown:
            assert np.abs(load_image(path)[..., 0].astype(int) - FILM).max() <= 8
        else:
            with pytest.raises(UnsupportedImageError, match="a BMP of a kind that is not read"):
                load_image(path)


def test_a_png_that_holds_less_than_it_says_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    write_png(path, struct.pack(">IIBBBBB", 1, 79_000_000, 1, 0, 0, 0, 0), bytes(8))
    with pytest.raises(UnreadableImageError, match="larger than what it holds can be"):
        load_image(path)
    rows = (1 + 1000) * 8000
    write_png(path, struct.pack(">IIBBBBB", 8000, 8000, 1, 0, 0, 0, 0), bytes(rows))  # black, and sound
    assert not load_image(path, ImageSpec(8, 8)).any()
