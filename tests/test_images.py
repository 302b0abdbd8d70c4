import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from chexscore import load_image
from chexscore.depth import to_uint8
from chexscore.dicom import LARGE
from chexscore.errors import (
    ChexscoreError,
    ImageError,
    MissingImageError,
    TooLargeImageError,
    UnreadableImageError,
    UnsupportedImageError,
)
from chexscore.grayscale import show
from chexscore.presentation import present
from chexscore.spec import ImageSpec, Resize
from chexscore.tags import read_tags
from tests.phantoms import draw

FILM = draw(1, size=64, opacity=True)


def save(path: Path, picture: Image.Image, **options: object) -> str:
    picture.save(path, **options)  # type: ignore[arg-type]
    return str(path)


def save_dicom(path: Path, pixels: NDArray[np.generic], **tags: object) -> str:
    path.parent.mkdir(exist_ok=True)
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


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize(
    ("orientation", "stored"), [(6, np.rot90(FILM)), (3, np.rot90(FILM, 2)), (2, FILM[:, ::-1])]
)
def test_exif_orientation_is_applied_once(
    tmp_path: Path, suffix: str, orientation: int, stored: NDArray[np.uint8]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {"quality": 100} if suffix == "jpg" else {}
    loaded = load_image(save(tmp_path / f"turned.{suffix}", Image.fromarray(stored), exif=exif, **options))
    assert np.abs(loaded[..., 0].astype(int) - FILM).max() <= (8 if suffix == "jpg" else 0)


def test_sixteen_bit_colour_is_refused_rather_than_darkened(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    size, depth, colour = 4, 16, 2
    rows = b"".join(b"\0" + np.full((size, 3), 4000, ">u2").tobytes() for _ in range(size))
    write_png(path, struct.pack(">IIBBBBB", size, size, depth, colour, 0, 0, 0), rows)
    with pytest.raises(UnsupportedImageError, match="16 bits a channel"):
        load_image(path)


def test_tiff_with_white_as_zero_is_inverted(tmp_path: Path) -> None:
    negative = 255 - FILM.astype(np.uint16)
    for stored in (FILM, negative * 257, (negative / 255).astype(np.float32)):  # Pillow inverts 8 bits itself
        path = save(tmp_path / f"{stored.dtype}.tif", Image.fromarray(stored), tiffinfo={262: 0})
        assert np.abs(load_image(path)[..., 0].astype(int) - FILM).max() <= 1


@pytest.fixture(scope="module")
def large_film() -> NDArray[np.uint8]:
    return draw(3, size=807)


@pytest.mark.parametrize("rule", Resize)
@pytest.mark.parametrize("beyond", [0, 1, 7])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_large_jpeg_reduced_while_decoding_looks_as_one_reduced_afterwards(
    tmp_path: Path, large_film: NDArray[np.uint8], rule: Resize, beyond: int, orientation: int
) -> None:
    """At an eighth of its size the last pixels of most JPEGs reach beyond its border, by 7/8 at the most."""
    film = large_film[: 800 + beyond, : 640 + beyond]
    stored = np.rot90(film, {1: 0, 3: 2, 6: 1, 8: 3}[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "large.jpg", Image.fromarray(stored), quality=95, exif=exif)
    lossless = save(tmp_path / "large.png", Image.open(path))  # its decoded pixels, and no orientation
    image = ImageSpec(50, 45, rule)
    loaded, whole = (load_image(each, image).astype(int) for each in (path, turned(lossless, orientation)))
    assert (loaded != whole).any(), "nothing was reduced"
    assert np.abs(loaded - whole).max() <= 8
    assert np.abs(loaded - whole).mean() < 0.47


def turned(path: str, orientation: int) -> str:
    """The same file, upright."""
    times = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    return save(Path(path), Image.fromarray(np.rot90(np.asarray(Image.open(path)), times)))


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


@pytest.mark.parametrize(("height", "width"), [(40, 80), (301, 200), (64, 64), (97, 61)])
def test_crop_and_pad_are_those_of_pillow(tmp_path: Path, height: int, width: int) -> None:
    picture = Image.fromarray(draw(4, size=320)[:height, :width])
    path, filtered = save(tmp_path / "x.png", picture), Image.Resampling.BILINEAR
    for side in range(2, 120):  # for each, a part of a pixel more or less than the whole picture is cropped
        cropped = load_image(path, ImageSpec(50, side, Resize.CROP))[..., 0]
        np.testing.assert_array_equal(cropped, np.asarray(ImageOps.fit(picture, (side, 50), filtered)))
        padded = load_image(path, ImageSpec(50, side, Resize.PAD))[..., 0]
        np.testing.assert_array_equal(padded, np.asarray(ImageOps.pad(picture, (side, 50), filtered)))


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1)])
def test_the_thinnest_image_still_is_one(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = save(tmp_path / "x.png", Image.fromarray(np.full(shape, 200, np.uint8)))
    assert load_image(path, ImageSpec(10, 10, Resize.PAD)).max() == 200


def test_enough_pixels_are_left_for_the_longer_side_of_the_target(
    tmp_path: Path, large_film: NDArray[np.uint8]
) -> None:
    film = Image.fromarray(large_film[:800, :800])
    image = ImageSpec(20, 500)
    jpeg, png = save(tmp_path / "x.jpg", film, quality=95), tmp_path / "x.png"
    expected = load_image(save(png, Image.open(jpeg)), image)
    np.testing.assert_array_equal(load_image(jpeg, image), expected)


def test_a_broken_exif_block_costs_no_sound_image(tmp_path: Path) -> None:
    """One that says how the image is turned, and has words for a number: it could not be written again."""
    exif = Image.Exif()
    exif[0x0112], exif[0x0132] = 3, "2026:01:01"
    block = exif.tobytes().replace(b"\x01\x32\x00\x02", b"\x01\x08\x00\x02")
    path = save(tmp_path / "x.jpg", Image.fromarray(FILM), quality=100, exif=block)
    assert np.abs(load_image(path)[..., 0].astype(int) - np.rot90(FILM, 2)).max() <= 8


DEEP = FILM.astype(np.uint16) * 16  # 12 bits
NEGATIVE = {"PhotometricInterpretation": "MONOCHROME1"}


def dicom_difference(path: str, expected: NDArray[np.generic]) -> float:
    return float(np.abs(load_image(path)[..., 0].astype(float) - expected).max())


def test_dicom_is_known_by_content(tmp_path: Path) -> None:
    assert dicom_difference(save_dicom(tmp_path / "1.2.840.1", FILM), FILM) == 0


def test_dicom_without_a_window_looks_as_a_png_of_the_same_values(tmp_path: Path) -> None:
    pixels = 1000 + DEEP // 4
    png = load_image(save(tmp_path / "deep.png", Image.fromarray(pixels)))[..., 0]
    assert dicom_difference(save_dicom(tmp_path / "deep.dcm", pixels, BitsStored=12, HighBit=11), png) == 0


@pytest.mark.parametrize("tags", [NEGATIVE, {"PresentationLUTShape": "INVERSE"}])
def test_dicom_that_stores_negatives_is_inverted(tmp_path: Path, tags: dict[str, str]) -> None:
    assert dicom_difference(save_dicom(tmp_path / "8.dcm", 255 - FILM, **tags), FILM) == 0
    assert dicom_difference(save_dicom(tmp_path / "12.dcm", 4080 - DEEP, BitsStored=12, **tags), FILM) <= 2


WINDOW = np.clip((FILM.astype(float) * 16 - 1536) / 1024, 0, 1) * 255
"""Of the values 16 * FILM the window from 1536 to 2560."""


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": "2048", "WindowWidth": "1024"},
        {"WindowCenter": ["2048", "9"], "WindowWidth": ["1024", "9"]},
        {"WindowCenter": "2048", "WindowWidth": "1024", "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": "1048", "WindowWidth": "1024", "RescaleSlope": "1", "RescaleIntercept": "-1000"},
        {"WindowCenter": "4096", "WindowWidth": "2048", "RescaleSlope": "2", "RescaleIntercept": "0"},
    ],
)
def test_dicom_window_and_rescale_are_applied(tmp_path: Path, tags: dict[str, str]) -> None:
    assert dicom_difference(save_dicom(tmp_path / "w.dcm", DEEP, **tags), WINDOW) <= 1


def test_dicom_window_keeps_its_range_although_no_pixel_reaches_its_ends(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "w.dcm", DEEP, WindowCenter="2048", WindowWidth="8192")
    assert dicom_difference(path, (FILM.astype(float) * 16 + 2048) / 8192 * 255) <= 1
    useless = save_dicom(tmp_path / "u.dcm", DEEP, BitsStored=12, WindowCenter="2048", WindowWidth="0")
    assert dicom_difference(useless, FILM) <= 1


def lut(values: NDArray[np.uint16], bits: int) -> list[Dataset]:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [len(values), 0, bits], values.tobytes()
    return [table]


HILLS = (2000 + 1900 * np.sin(np.arange(4096) / 50)).astype(np.uint16)
"""A table whose darkest and brightest entries are not at its ends."""


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"RescaleSlope": "-0.5", "RescaleIntercept": "-1000"},
        {"WindowCenter": "2048", "WindowWidth": "1024", "VOILUTFunction": "SIGMOID"},
        {"PixelRepresentation": 1, "RescaleSlope": "1", "RescaleIntercept": "7.5", **NEGATIVE},
        {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 200, "RescaleSlope": "3", "RescaleIntercept": "1"},
        {"ModalityLUTSequence": lut(HILLS, 16)},
        {"VOILUTSequence": lut(HILLS, 10)},
        {"BitsStored": 11, "HighBit": 10},  # half of them have something in a bit beside it
    ],
)
def test_each_value_of_a_dicom_is_shown_as_if_each_pixel_were_looked_at(
    tmp_path: Path, tags: dict[str, object]
) -> None:
    """Every third value is there, so that the extremes of a table may lie between two that are."""
    pixels = np.random.default_rng(0).permutation(np.arange(100, 4000, 3, dtype=np.uint16)).reshape(26, 50)
    path = save_dicom(tmp_path / "x.dcm", pixels, **tags)
    dataset = pydicom.dcmread(path)
    assert dicom_difference(path, show(dataset.pixel_array, dataset)[0]) == 0


@pytest.mark.parametrize("tags", [{}, NEGATIVE, {"PresentationLUTShape": "INVERSE"}])
def test_dicom_padding_is_black_and_does_not_flatten_the_rest(tmp_path: Path, tags: dict[str, str]) -> None:
    pixels = 4080 - DEEP if tags else DEEP.copy()
    pixels[:8] = 65535
    path = save_dicom(tmp_path / "p.dcm", pixels, PixelPaddingValue=65535, **tags)
    expected = FILM.copy()
    expected[:8] = 0
    assert dicom_difference(path, expected) <= (2 if tags else 1)
    assert not load_image(path)[:8].any()


def test_dicom_padding_below_all_values_does_not_flatten_the_rest(tmp_path: Path) -> None:
    lowest = DEEP.astype(np.int16)
    lowest[:8] = -32768
    signed = {"PixelRepresentation": 1, "PixelPaddingValue": -32768}
    expected = FILM.copy()
    expected[:8] = 0
    path = save_dicom(tmp_path / "s.dcm", lowest.view(np.uint16), **signed)
    assert dicom_difference(path, expected) <= 1
    dataset = pydicom.dcmread(path)
    dataset.add_new("PixelPaddingValue", "US", 32768)  # the same bits, as some write them
    dataset.save_as(path)
    assert dicom_difference(path, expected) <= 1


def test_a_dicom_that_is_replaced_while_it_is_read_keeps_its_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = np.tile(DEEP, (13, 13))
    assert large.nbytes > LARGE
    path = save_dicom(tmp_path / "x.dcm", large)
    expected = load_image(path)

    def replace_first(dataset: pydicom.Dataset, side: int) -> object:
        os.replace(save_dicom(tmp_path / "y.dcm", 4000 - large), path)
        return present(dataset, side)

    monkeypatch.setattr("chexscore.dicom.present", replace_first)
    np.testing.assert_array_equal(load_image(path), expected)


@pytest.mark.parametrize("tags", [{}, NEGATIVE])
def test_dicom_of_32_bits_looks_as_one_of_16(tmp_path: Path, tags: dict[str, str]) -> None:
    window = {"WindowCenter": "2000", "WindowWidth": "3000", **tags}
    narrow = load_image(save_dicom(tmp_path / "16.dcm", DEEP, **window))
    wide = load_image(save_dicom(tmp_path / "32.dcm", DEEP.astype(np.uint32), **window))
    assert len(np.unique(narrow)) > 100
    np.testing.assert_array_equal(wide, narrow)


def test_dicom_of_few_bits_uses_the_whole_range(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "6.dcm", FILM // 4, BitsStored=6, HighBit=5)
    assert dicom_difference(path, np.rint((FILM // 4) / 63 * 255)) == 0


def test_dicom_in_colour(tmp_path: Path) -> None:
    red = np.zeros((4, 4, 3), dtype=np.uint8)
    red[..., 0] = 255
    colour = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB"}
    assert dicom_difference(save_dicom(tmp_path / "red.dcm", red, **colour), np.full((4, 4), 76)) == 0
    mixed = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    luma = np.rint(mixed @ [0.299, 0.587, 0.114])
    assert dicom_difference(save_dicom(tmp_path / "mixed.dcm", mixed, **colour), luma) == 0
    for name, pixels, tags in (
        ("deep", red.astype(np.uint16), colour),
        ("palette", FILM, {"PhotometricInterpretation": "PALETTE COLOR"}),
    ):
        with pytest.raises(UnsupportedImageError, match="pixels of the kind"):
            load_image(save_dicom(tmp_path / f"{name}.dcm", pixels, **tags))


def test_grey_of_three_samples_and_more_than_8_bits_is_refused(tmp_path: Path) -> None:
    deep = np.stack([DEEP] * 3, axis=-1)
    tags = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "BitsStored": 12, "HighBit": 11}
    with pytest.raises(UnsupportedImageError, match="more than 8 bits"):
        load_image(save_dicom(tmp_path / "x.dcm", deep, **tags))


def test_nothing_of_a_dicom_header_reaches_a_message(tmp_path: Path) -> None:
    for number, tags in enumerate(
        (
            {"PhotometricInterpretation": "99999999"},
            {"NumberOfFrames": "99999999"},
            {"WindowCenter": "99999999", "WindowWidth": "9"},
            {"RescaleSlope": "99999999", "RescaleIntercept": "0"},
            {"SpecificCharacterSet": "ISO_IR 6", "PatientName": "someone"},
        )
    ):
        path = Path(save_dicom(tmp_path / f"{number}.dcm", FILM, **tags))
        content = path.read_bytes()
        (place,) = (word for word in (b"99999999", b"ISO_IR 6") if word in content)
        path.write_bytes(content.replace(place, b"DOE^JANE"))
    code = f"""
import logging
from chexscore import ChexscoreError, find_images, load_image
logging.basicConfig(level=logging.DEBUG)
for path in find_images({str(tmp_path)!r}):
    try:
        load_image(path)
    except ChexscoreError as error:
        print(error)
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("done\n")
    assert "DOE" not in done.stdout + done.stderr


def test_deflated_dicom_is_refused_before_it_inflates(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "d.dcm", FILM)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    with pytest.raises(UnsupportedImageError, match="deflated"):
        load_image(path)
    assert read_tags(path, ["Modality"]) == {}


def test_tags_are_the_text_that_the_file_has(tmp_path: Path) -> None:
    tags = {"ImageType": ["ORIGINAL", "PRIMARY"], "ImagerPixelSpacing": [0.1, 0.2], "KVP": None}
    path = save_dicom(tmp_path / "t.dcm", FILM, **tags, ViewPosition="PA")
    found = read_tags(path, ["ImageType", "ImagerPixelSpacing", "KVP", "ViewPosition", "StudyID"])
    assert found == {
        "ImageType": "ORIGINAL\\PRIMARY",
        "ImagerPixelSpacing": "0.1\\0.2",
        "KVP": "",
        "ViewPosition": "PA",
    }


def test_dicom_without_one_readable_frame_is_refused_for_its_reason(tmp_path: Path) -> None:
    frames = np.stack([FILM, FILM])
    path = save_dicom(tmp_path / "f.dcm", frames.reshape(128, 64), Rows=64, NumberOfFrames=2)
    with pytest.raises(UnsupportedImageError, match="several frames"):
        load_image(path)
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.save_as(tmp_path / "n.dcm")
    with pytest.raises(UnreadableImageError, match="its pixels are missing"):
        load_image(tmp_path / "n.dcm")
    del dataset.Rows
    dataset.save_as(tmp_path / "r.dcm")
    with pytest.raises(UnreadableImageError, match="nothing describes its pixels; the file may be cut off"):
        load_image(tmp_path / "r.dcm")
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.RawDataStorage
    dataset.save_as(tmp_path / "o.dcm")
    with pytest.raises(UnsupportedImageError, match="without an image"):
        load_image(tmp_path / "o.dcm")


def test_compressed_dicom_that_is_cut_is_unreadable_not_unsupported(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(FILM).save(stream, "JPEG", quality=95)
    path = tmp_path / "jpeg.dcm"
    for data, outcome in ((stream.getvalue(), None), (stream.getvalue()[:300], UnreadableImageError)):
        save_dicom(path, FILM)
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
        dataset.PixelData = pydicom.encaps.encapsulate([data])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path)
        if outcome is None:
            assert np.abs(load_image(path)[..., 0].astype(int) - FILM).max() < 12
        else:
            with pytest.raises(outcome, match="damaged or truncated"):
                load_image(path)
    content = path.read_bytes()
    for cut in (len(content) // 2, content.index(bytes([0x28, 0, 0x10, 0])), 400):
        path.write_bytes(content[:cut])
        with pytest.raises(UnreadableImageError, match="may be cut off"):
            load_image(path)


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
    (tmp_path / "loop.png").symlink_to("loop.png")
    for path, kind, said in (
        (empty, UnreadableImageError, "the file is empty"),
        (text, UnreadableImageError, "not an image of a known format"),
        (tmp_path, UnreadableImageError, "a directory"),
        (tmp_path / "pipe.png", UnreadableImageError, "not a regular file"),
        (tmp_path / "gone.png", MissingImageError, "no such file"),
        (text / "below.png", MissingImageError, "no such file"),
        (tmp_path / ("x" * 300), MissingImageError, "no file can have such a name"),
        (tmp_path / "a\0b", MissingImageError, "no file can have such a name"),
        (tmp_path / "loop.png", UnreadableImageError, "cannot be read: Too many levels of symbolic links"),
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


def write_png(path: Path, header: bytes, data: bytes) -> None:
    parts = (b"IHDR" + header, b"IDAT" + zlib.compress(data), b"IEND")
    chunks = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def test_a_decompression_bomb_is_too_large(tmp_path: Path) -> None:
    write_png(tmp_path / "bomb.png", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0), bytes(1000))
    with pytest.raises(TooLargeImageError):
        load_image(tmp_path / "bomb.png")


def test_a_broken_installation_is_not_blamed_on_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_dicom(tmp_path / "x.dcm", FILM)
    monkeypatch.setitem(sys.modules, "chexscore.dicom", None)  # makes its import fail
    with pytest.raises(ChexscoreError, match="this installation cannot read DICOM") as caught:
        load_image(tmp_path / "x.dcm")
    assert not isinstance(caught.value, ImageError)
