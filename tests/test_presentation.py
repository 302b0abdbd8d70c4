"""Pixels of DICOM that are averaged, before what is shown of them is looked up or behind that."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import ExplicitVRBigEndian

from chexscore import load_image
from chexscore.depth import to_uint8
from chexscore.images import _resize
from chexscore.presentation import _reduce
from chexscore.spec import ImageSpec, Resize
from tests.phantoms import draw
from tests.test_images import DEEP, FILM, HILLS, NEGATIVE, lut, save_dicom

CLINICAL = {"WindowCenter": "2048", "WindowWidth": "4000"}

LARGE = draw(3, size=807)[:403, :290]


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"PixelRepresentation": 1, "RescaleSlope": "-1", "RescaleIntercept": "7"},
        {"WindowCenter": "2048", "WindowWidth": "1024"},
        {**CLINICAL, "PixelPaddingValue": 0, "PixelPaddingRangeLimit": 40},
    ],
)
@pytest.mark.parametrize("rule", Resize)
def test_a_large_dicom_averaged_before_its_window_looks_as_one_reduced_afterwards(
    tmp_path: Path, rule: Resize, tags: dict[str, object]
) -> None:
    pixels = LARGE * 16.0 - 2048 * ("PixelRepresentation" in tags)
    path = save_dicom(tmp_path / "x.dcm", pixels.astype(np.int16), BitsStored=12, HighBit=11, **tags)
    image = ImageSpec(24, 25, rule)  # for means of 7 x 7 pixels; 4 and 3 are left over
    found, behind = load_image(path, image)[..., 0].astype(int), afterwards(path, image, times=7)
    assert (found != behind).any(), "nothing was averaged before"
    assert np.abs(found - behind).max() <= 1, "the order of lookup and means is seen"
    whole = afterwards(path, image)  # by Pillow's filter alone; further than this only with wrong places
    assert np.abs(found - whole).max() <= 6
    assert np.abs(found - whole).mean() < 0.6


def afterwards(path: str, image: ImageSpec, times: int = 1) -> NDArray[np.int64]:
    """The pixels of a DICOM, all looked up, averaged then if `times` is above 1, and reduced."""
    shown = load_image(path)[..., 0]
    height, width = shown.shape
    small = Image.fromarray(_reduce(shown, 0, 255, times))
    return np.asarray(_resize(small, (width / times, height / times), image)).astype(int)


@pytest.mark.parametrize("bright", [65535, 7000])
def test_what_lies_far_beyond_a_window_does_not_outshine_its_square(tmp_path: Path, bright: int) -> None:
    """Letters, and pixels of a detector that do not work."""
    pixels = np.full((200, 200), 1024, np.uint16)
    pixels[::16, ::16] = pixels[50:150, 100] = bright
    path = save_dicom(tmp_path / "x.dcm", pixels, WindowCenter="2048", WindowWidth="4096")
    found, image = load_image(path, ImageSpec(20, 20))[..., 0].astype(int), ImageSpec(20, 20)
    assert np.abs(found - afterwards(path, image, times=6)).max() <= 1
    assert (found != afterwards(path, image, times=6)).any(), "nothing was averaged before"


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2"])
@pytest.mark.parametrize("times", [2, 3, 7])
def test_means_are_those_of_whole_squares(kind: str, times: int) -> None:
    limits = np.iinfo(kind)
    pixels = (
        np.random.default_rng(times).integers(limits.min, limits.max, (45, 62), endpoint=True).astype(kind)
    )
    pixels[: 2 * times, : 2 * times], pixels[-9:, -9:] = limits.max, limits.min
    found = _reduce(pixels, limits.min, limits.max, times)
    assert (found.dtype, found.shape) == (np.dtype(kind), (-(-45 // times), -(-62 // times)))
    for row, column in np.ndindex(found.shape):
        top, left = min(row * times, 45 - times), min(column * times, 62 - times)
        square = pixels[top : top + times, left : left + times]
        assert found[row, column] == np.rint(square.mean())


def test_values_of_a_whole_depth_are_averaged_before_too(tmp_path: Path) -> None:
    """Without a window they depend on the brightest of them, which the means leave as it is."""
    path = save_dicom(tmp_path / "x.dcm", LARGE * np.uint16(16) + np.uint16(3))
    image = ImageSpec(24, 25)
    found, behind = load_image(path, image)[..., 0].astype(int), afterwards(path, image, times=7)
    assert (found != behind).any(), "nothing was averaged before"
    assert np.abs(found - behind).max() <= 1


@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
def test_an_entry_that_no_pixel_has_outshines_nothing(tmp_path: Path, keyword: str) -> None:
    """The largest counts of entries beyond the depth that their table says, and of those without a window."""
    entries = np.arange(1000, 3000, dtype=np.uint16)
    entries[500] = 60000
    pixels = np.where(DEEP // 4 == 500, 501, DEEP // 4).astype(np.uint16)
    path = save_dicom(tmp_path / "x.dcm", pixels, **{keyword: lut(entries, 10)})
    modality = keyword == "ModalityLUTSequence"
    expected = to_uint8(entries[pixels] if modality else entries[pixels] / np.float32(1023))
    np.testing.assert_array_equal(load_image(path)[..., 0], expected)


def test_a_dicom_of_one_value_keeps_it(tmp_path: Path) -> None:
    for value in (1, 32768, 65535):
        pixels = np.full((64, 64), value, np.uint16)
        tags = {"WindowCenter": str(value), "WindowWidth": "2000", "VOILUTFunction": "LINEAR_EXACT"}
        path = save_dicom(tmp_path / "x.dcm", pixels, **tags)
        assert set(load_image(path, ImageSpec(2, 2)).ravel()) == {128}


def test_a_dicom_whose_bytes_come_in_the_other_order_is_averaged_like_any(tmp_path: Path) -> None:
    window = {"WindowCenter": "2048", "WindowWidth": "2048"}
    path = save_dicom(tmp_path / "x.dcm", DEEP, BitsStored=12, HighBit=11, **window)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dataset.PixelData = DEEP.astype(">u2").tobytes()
    other = tmp_path / "y.dcm"
    pydicom.dcmwrite(other, dataset, implicit_vr=False, little_endian=False, force_encoding=True)
    for image in (None, ImageSpec(8, 8)):
        np.testing.assert_array_equal(load_image(other, image), load_image(path, image))


def test_a_compressed_dicom_is_averaged_like_a_plain_one(tmp_path: Path) -> None:
    path = Path(save_dicom(tmp_path / "x.dcm", DEEP, BitsStored=12, HighBit=11))
    plain = load_image(path, ImageSpec(8, 8))
    dataset = pydicom.dcmread(path)
    dataset.compress(pydicom.uid.RLELossless)
    dataset.save_as(path)
    np.testing.assert_array_equal(load_image(path, ImageSpec(8, 8)), plain)
    assert (plain[..., 0] != afterwards(str(path), ImageSpec(8, 8))).any(), "nothing was averaged"


@pytest.mark.parametrize(
    "tags",
    [
        {"PixelPaddingValue": 0, "BitsStored": 16, "HighBit": 15},
        {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 3000, **CLINICAL},
        {"PixelPaddingValue": 0, **CLINICAL, **NEGATIVE},
        {"WindowCenter": "2048", "WindowWidth": "64"},
        {"WindowCenter": "2048", "WindowWidth": "2048", "VOILUTFunction": "SIGMOID"},
        {"VOILUTSequence": lut((np.arange(4096) ** 2 / 4096).astype(np.uint16), 12)},
        {"VOILUTSequence": lut(HILLS, 16)},
        {"VOILUTSequence": lut(np.abs(np.arange(-2048, 2048)).astype(np.uint16), 11)},
        {"ModalityLUTSequence": lut(HILLS, 16)},
        {"BitsAllocated": 32},
        {"PhotometricInterpretation": "RGB"},
    ],
)
def test_what_shows_values_in_curves_or_jumps_is_averaged_behind_them(
    tmp_path: Path, tags: dict[str, object]
) -> None:
    pixels: NDArray[Any] = DEEP.astype(np.uint32 if "BitsAllocated" in tags else np.uint16)
    pixels[0, 0] = 0
    depth: dict[str, object] = {"BitsStored": 12, "HighBit": 11}
    if tags.get("PhotometricInterpretation") == "RGB":
        pixels = np.stack([FILM, FILM // 2, FILM // 3], axis=-1)
        depth = {"SamplesPerPixel": 3, "PlanarConfiguration": 0}
    path = save_dicom(tmp_path / "x.dcm", pixels, **{**depth, **tags})
    image = ImageSpec(8, 8)
    found = load_image(path, image)[..., 0]
    np.testing.assert_array_equal(found, afterwards(path, image, times=5))
    assert (found != afterwards(path, image)).any(), "nothing was averaged"
