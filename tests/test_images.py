import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from chexscore import load_image
from chexscore.errors import (
    ImageError,
    MissingImageError,
    TooLargeImageError,
    UnreadableImageError,
    UnsupportedImageError,
)
from chexscore.images import to_uint8
from chexscore.spec import ImageSpec, Resize
from tests.phantoms import draw

FILM = draw(1, size=64, opacity=True)


def save(path: Path, picture: Image.Image, **options: object) -> str:
    picture.save(path, **options)  # type: ignore[arg-type]
    return str(path)


def save_dicom(path: Path, pixels: NDArray[np.generic], **tags: object) -> str:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    bits = pixels.dtype.itemsize * 8
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = 0
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return str(path)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp"])
def test_lossless_formats_give_the_pixels_that_were_saved(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    loaded = load_image(save(tmp_path / f"film.{suffix}", Image.fromarray(FILM), **options))
    assert loaded.dtype == np.uint8
    assert loaded.shape == (64, 64, 1)
    np.testing.assert_array_equal(loaded[..., 0], FILM)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_grey_stored_in_other_modes_is_the_same_grey(tmp_path: Path, mode: str) -> None:
    if mode == "P":  # a palette that counts backwards: indices are not grey values
        picture = Image.fromarray(255 - FILM)
        picture.putpalette([255 - value // 3 for value in range(768)])
    else:
        picture = Image.fromarray(FILM).convert(mode)
    loaded = load_image(save(tmp_path / "film.png", picture))
    np.testing.assert_array_equal(loaded[..., 0], FILM)


def test_colour_becomes_luma(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 4), (255, 0, 0))
    assert load_image(save(tmp_path / "red.png", picture)).max() == 76  # 0.299 of 255


def test_cmyk_and_one_bit(tmp_path: Path) -> None:
    black = Image.new("CMYK", (4, 4), (0, 0, 0, 255))
    assert load_image(save(tmp_path / "black.tif", black)).max() == 0
    half = Image.fromarray(np.tile(np.array([[0, 255]], dtype=np.uint8), (4, 2))).convert("1")
    assert set(load_image(save(tmp_path / "half.png", half)).ravel()) == {0, 255}


@pytest.mark.parametrize(("bits", "white"), [(8, 255), (10, 1023), (12, 4095), (14, 16383), (16, 65535)])
def test_sixteen_bit_files_are_scaled_by_the_depth_they_use(tmp_path: Path, bits: int, white: int) -> None:
    deep = np.rint(FILM / FILM.max() * white).astype(np.uint16)
    loaded = load_image(save(tmp_path / f"{bits}.png", Image.fromarray(deep)))[..., 0]
    expected = FILM / FILM.max() * 255
    assert np.abs(loaded - expected).max() <= 1, "the high byte alone, or the low one, is another picture"


def test_floats_and_signed_values_are_scaled() -> None:
    np.testing.assert_array_equal(to_uint8(np.array([0.0, 0.5, 1.0])), [0, 128, 255])
    np.testing.assert_array_equal(to_uint8(np.array([-1000, 0, 1000])), [0, 128, 255])
    np.testing.assert_array_equal(to_uint8(np.array([np.nan, 0.0, 2.0, np.inf])), [0, 0, 255, 255])
    np.testing.assert_array_equal(to_uint8(np.array([np.nan, np.nan])), [0, 0])
    np.testing.assert_array_equal(to_uint8(np.array([-5.0, -5.0])), [0, 0])


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    sideways = Image.fromarray(np.rot90(FILM))
    loaded = load_image(save(tmp_path / "turned.png", sideways, exif=exif))
    np.testing.assert_array_equal(loaded[..., 0], FILM)


def test_a_large_jpeg_reduced_while_decoding_looks_as_one_reduced_afterwards(tmp_path: Path) -> None:
    large = Image.fromarray(draw(3, size=1600))
    path = save(tmp_path / "large.jpg", large, quality=95)
    expected = np.asarray(large.resize((100, 100), Image.Resampling.BILINEAR), dtype=float)
    loaded = load_image(path, ImageSpec(100, 100))[..., 0]
    assert np.abs(loaded - expected).mean() < 1


def test_resize_rules(tmp_path: Path) -> None:
    wide = np.zeros((40, 80), dtype=np.uint8)
    wide[:, 20:60] = 200  # the middle square is grey, both sides are black
    path = save(tmp_path / "wide.png", Image.fromarray(wide))
    stretched, cropped, padded = (load_image(path, ImageSpec(20, 20, rule))[..., 0] for rule in Resize)
    assert stretched[10, 2] == 0
    assert stretched[10, 10] == 200
    assert (cropped[:, 1:-1] == 200).all()
    assert (padded[:5] == 0).all()
    assert padded[10, 10] == 200


def test_dicom_is_known_by_content_and_monochrome1_is_inverted(tmp_path: Path) -> None:
    plain = load_image(save_dicom(tmp_path / "1.2.840.1", FILM))
    np.testing.assert_array_equal(plain[..., 0], FILM)
    inverted = save_dicom(tmp_path / "i.dcm", 255 - FILM, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(load_image(inverted)[..., 0], FILM)


def test_dicom_window_and_rescale_are_applied(tmp_path: Path) -> None:
    deep = (FILM.astype(np.uint16) + 100) * 16
    path = save_dicom(
        tmp_path / "w.dcm",
        deep,
        BitsStored=16,
        RescaleSlope="1",
        RescaleIntercept="-1600",
        WindowCenter="2048",
        WindowWidth="1024",
    )
    loaded = load_image(path)[..., 0].astype(int)
    expected = np.clip((FILM.astype(float) * 16 - 1536) / 1024, 0, 1) * 255
    assert np.abs(loaded - expected).max() <= 2


def test_dicom_without_one_readable_frame_is_unsupported(tmp_path: Path) -> None:
    frames = np.stack([FILM, FILM])
    path = save_dicom(tmp_path / "f.dcm", frames.reshape(128, 64), Rows=64, NumberOfFrames=2)
    with pytest.raises(UnsupportedImageError, match="several frames"):
        load_image(path)
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.save_as(tmp_path / "n.dcm")
    with pytest.raises(UnsupportedImageError, match="without an image"):
        load_image(tmp_path / "n.dcm")


def test_several_pages_are_unsupported(tmp_path: Path) -> None:
    page = Image.fromarray(FILM)
    path = save(tmp_path / "pages.tif", page, save_all=True, append_images=[page])
    with pytest.raises(UnsupportedImageError, match="several frames or pages"):
        load_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp", "dcm"])
def test_every_truncation_is_an_image_error_or_an_image(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"whole.{suffix}"
    if suffix == "dcm":
        save_dicom(path, FILM)
    else:
        save(path, Image.fromarray(FILM))
    whole = path.read_bytes()
    failures = 0
    for length in range(0, len(whole) - 1, max(1, len(whole) // 60)):
        path.write_bytes(whole[:length])
        try:
            load_image(path)
        except ImageError:
            failures += 1
    assert failures > 50


def test_each_kind_of_bad_file_has_its_reason(tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.png", tmp_path / "text.png"
    empty.touch()
    text.write_text("not an image at all")
    os.mkfifo(tmp_path / "pipe.png")
    for path, kind, said in (
        (empty, UnreadableImageError, "the file is empty"),
        (text, UnreadableImageError, "not an image of a known format"),
        (tmp_path, UnreadableImageError, "a directory"),
        (tmp_path / "pipe.png", UnreadableImageError, "not a regular file"),
        (tmp_path / "gone.png", MissingImageError, "no such file"),
        (text / "below.png", MissingImageError, "no such file"),
    ):
        with pytest.raises(kind, match=said) as caught:
            load_image(path)
        assert str(caught.value) == f"{path}: {caught.value.reason}"


def test_more_pixels_than_the_limit_are_not_decoded(tmp_path: Path) -> None:
    for path in (
        save(tmp_path / "large.png", Image.fromarray(FILM)),
        save_dicom(tmp_path / "large.dcm", FILM),
    ):
        with pytest.raises(TooLargeImageError, match="above 1,000 pixels"):
            load_image(path, max_pixels=1000)


def test_a_decompression_bomb_is_too_large(tmp_path: Path) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(TooLargeImageError):
        load_image(tmp_path / "bomb.png")
