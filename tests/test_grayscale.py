"""What DICOM's stored values are shown as, where the file says it in an odd way."""

import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGLosslessSV1, RLELossless

from chexscore import load_image
from chexscore.errors import UnreadableImageError, UnsupportedImageError
from tests.phantoms import draw
from tests.test_images import save_dicom

DCM2PNM = which("dcm2pnm")
FILM = draw(2, size=64, opacity=True)
DEEP = FILM.astype(np.uint16) * 16
TWELVE = {"BitsStored": 12, "HighBit": 11}
WIDE = {"WindowCenter": "2048", "WindowWidth": "4096"}
HALF = {"WindowCenter": "16384", "WindowWidth": "32768"}


def table(entries: NDArray[np.generic], first: int, bits: int, kind: str = "US") -> list[Dataset]:
    """A lookup table whose descriptor is written as `kind` says, and its entries as their bytes."""
    item = Dataset()
    item.add_new("LUTDescriptor", kind, [len(entries) % 2**16, first, bits])
    item.add_new("LUTData", "OW", entries.tobytes())
    return [item]


def curve(count: int, top: int) -> NDArray[np.float64]:
    """From 0 to `top`, and no straight line."""
    return np.asarray(np.rint(top * np.linspace(0, 1, count) ** 2))


LACKING = table(curve(4095, 4095).astype(np.uint16), 0, 12)
LACKING[0].LUTDescriptor = [4096, 0, 12]


def shown(values: NDArray[Any], entries: NDArray[Any], first: int, bits: int) -> NDArray[np.float64]:
    places = np.clip(np.floor(values).astype(int) - first, 0, len(entries) - 1)
    return np.asarray(entries[places].astype(float) / (2**bits - 1) * 255)


def differ(path: str, expected: NDArray[np.generic]) -> float:
    return float(np.abs(load_image(path)[..., 0].astype(float) - expected).max())


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("top", [12, 13, 15])
def test_values_stand_where_the_highest_bit_says(
    tmp_path: Path, top: int, signed: int, *, compressed: bool
) -> None:
    values = DEEP.astype(np.int16) - 2048 * signed
    window = {"WindowCenter": str(2048 - 2048 * signed), "WindowWidth": "4096", "PixelRepresentation": signed}
    plain = load_image(save_dicom(tmp_path / "plain.dcm", values, **TWELVE, **window))
    below, above = (1 << (top - 11)) - 1, ~((1 << (top + 1)) - 1) & 0xFFFF  # an overlay in all other bits
    moved = (values.astype(np.uint16) << (top - 11)) & ~np.uint16(above) | np.uint16(below | above)
    path = save_dicom(tmp_path / "moved.dcm", moved, BitsStored=12, HighBit=top, **window)
    if compressed:
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless)
        dataset.save_as(path)
    np.testing.assert_array_equal(load_image(path), plain)


def test_a_highest_bit_that_none_of_the_values_reaches_is_a_mistake(tmp_path: Path) -> None:
    plain = load_image(save_dicom(tmp_path / "plain.dcm", DEEP, **TWELVE, **WIDE))
    path = save_dicom(tmp_path / "x.dcm", DEEP, BitsStored=12, HighBit=15, **WIDE)
    np.testing.assert_array_equal(load_image(path), plain)


@pytest.mark.parametrize("top", [0, 3, 10, 16, 200, None])
def test_an_impossible_highest_bit_is_none(tmp_path: Path, top: int | None) -> None:
    plain = load_image(save_dicom(tmp_path / "plain.dcm", DEEP, **TWELVE, **WIDE))
    path = save_dicom(tmp_path / "x.dcm", DEEP | np.uint16(2**15), BitsStored=12, HighBit=top, **WIDE)
    np.testing.assert_array_equal(load_image(path), plain)


def test_values_in_upper_bits_are_refused_where_decoders_lose_them(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "x.dcm", DEEP, BitsStored=12, HighBit=15)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8 and so on"])
    dataset.save_as(path)
    with pytest.raises(UnsupportedImageError, match="compressed, and not in the lowest bits; store it plain"):
        load_image(path)


@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("count", [256, 4096])
def test_tables_of_8_bits_are_read_however_they_are_stored(
    tmp_path: Path, count: int, kind: type, keyword: str
) -> None:
    values = FILM if count == 256 else DEEP
    entries: NDArray[Any] = curve(count, 255).astype(kind)
    depth = {} if count == 256 else TWELVE
    path = save_dicom(tmp_path / "x.dcm", values, **depth, **{keyword: table(entries, 0, 8)})
    assert differ(path, shown(values, entries, 0, 8)) <= 1


def test_a_table_of_all_words_is_read_in_both_orders_of_bytes(tmp_path: Path) -> None:
    entries: NDArray[Any] = curve(2**16, 2**16 - 1)  # so many that their number is written as 0
    path = save_dicom(tmp_path / "x.dcm", DEEP, VOILUTSequence=table(entries.astype("<u2"), 0, 16))
    assert differ(path, shown(DEEP, entries, 0, 16)) <= 1
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dataset.PixelData = DEEP.astype(">u2").tobytes()
    dataset.VOILUTSequence = table(entries.astype(">u2"), 0, 16)
    other = tmp_path / "y.dcm"
    pydicom.dcmwrite(other, dataset, implicit_vr=False, little_endian=False, force_encoding=True)
    np.testing.assert_array_equal(load_image(other), load_image(path))


@pytest.mark.parametrize("kind", ["SS", "US"])
@pytest.mark.parametrize("signed", [0, 1])
def test_a_table_may_begin_below_0(tmp_path: Path, signed: int, kind: str) -> None:
    """After a modality that gives negative values, however the descriptor writes them."""
    first, entries = -1024, curve(1500, 4095).astype(np.uint16)
    written = first if kind == "SS" else first + 2**16
    values = DEEP.astype(np.int16) // 2 - 1024 * signed
    tags = {**TWELVE, "PixelRepresentation": signed, "VOILUTSequence": table(entries, written, 12, kind)}
    if not signed:
        tags |= {"RescaleSlope": "1", "RescaleIntercept": "-1024"}
    path = save_dicom(tmp_path / "x.dcm", values, **tags)
    assert differ(path, shown(DEEP // 2 - 1024.0, entries, first, 12)) <= 1
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # tells no signed ones from others
    implicit = tmp_path / "y.dcm"
    pydicom.dcmwrite(implicit, dataset, implicit_vr=True, little_endian=True, force_encoding=True)
    np.testing.assert_array_equal(load_image(implicit), load_image(path))


def test_a_table_may_begin_far_above_0(tmp_path: Path) -> None:
    values, entries = DEEP + np.uint16(40000), curve(4096, 4095).astype(np.uint16)
    path = save_dicom(tmp_path / "x.dcm", values, VOILUTSequence=table(entries, 40000, 12))
    assert differ(path, shown(values, entries, 40000, 12)) <= 1
    tags = {"RescaleSlope": "20", "RescaleIntercept": "0", "VOILUTSequence": table(entries, 30000, 12)}
    path = save_dicom(tmp_path / "y.dcm", DEEP, **TWELVE, **tags)  # up to 81,600, beyond any word
    assert differ(path, shown(DEEP * 20.0, entries, 30000, 12)) <= 1


@pytest.mark.parametrize("written", ["SS", "US"])
@pytest.mark.parametrize(("kind", "first"), [(np.int8, -128), (np.int16, -2048)])
def test_a_modality_table_of_signed_values_begins_below_0(
    tmp_path: Path, kind: type, first: int, written: str
) -> None:
    values = (FILM if kind is np.int8 else DEEP).astype(np.int32) + first
    entries = curve(-2 * first, 65535).astype(np.uint16)
    depth = {"BitsStored": 8 if kind is np.int8 else 12, "HighBit": 7 if kind is np.int8 else 11}
    tags = {"PixelRepresentation": 1, "ModalityLUTSequence": table(entries, first % 2**16, 16)}
    if written == "SS":
        tags["ModalityLUTSequence"] = table(entries, first, 16, "SS")
    tags |= {"WindowCenter": "32768", "WindowWidth": "65536"}
    path = save_dicom(tmp_path / "x.dcm", values.astype(kind), **depth, **tags)
    assert differ(path, shown(values, entries, first, 16)) <= 1


def test_what_changes_no_value_changes_no_picture(tmp_path: Path) -> None:
    """Of 16 bits in 16, and far from both ends of their depth, which floats would be stretched to."""
    values = 1000 + DEEP // 4
    plain = load_image(save_dicom(tmp_path / "plain.dcm", values))
    none = Dataset()
    for tags in (
        {"RescaleSlope": "1", "RescaleIntercept": "0"},
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"ModalityLUTSequence": [none]},
        {"VOILUTSequence": [none]},
        {"WindowCenter": None, "WindowWidth": None},
    ):
        path = save_dicom(tmp_path / "x.dcm", values, **tags)
        np.testing.assert_array_equal(load_image(path), plain)


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize(("bits", "kind"), [(6, np.int8), (12, np.int16), (13, np.int16), (15, np.int16)])
def test_without_a_window_all_values_that_the_bits_can_have_count(
    tmp_path: Path, bits: int, kind: type, signed: int
) -> None:
    """However dark the film is, and whatever one bright pixel adds; behind a change of units, too."""
    span = 2**bits
    values = (FILM // 4 if bits == 6 else FILM.astype(int)) - span // 2 * signed
    expected = (values + span // 2 * signed) / (span - 1) * 255
    depth = {"BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": signed}
    for tags in ({}, {"RescaleSlope": "0.5", "RescaleIntercept": "-100"}):
        path = save_dicom(tmp_path / "x.dcm", values.astype(kind), **depth, **tags)
        assert differ(path, expected) <= 1
    path = save_dicom(
        tmp_path / "y.dcm", values.astype(kind), **depth, RescaleSlope="-1", RescaleIntercept="0"
    )
    assert differ(path, 255 - expected) <= 1


@pytest.mark.parametrize(("bits", "kind"), [(1, np.uint8), (8, np.uint8), (8, np.int8)])
def test_a_whole_byte_of_bits_is_no_other_matter(tmp_path: Path, bits: int, kind: type) -> None:
    values = (FILM // 2**7 if bits == 1 else FILM).astype(int) - 128 * (kind is np.int8)
    depth = {"BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": int(kind is np.int8)}
    expected = np.rint((values + 128 * (kind is np.int8)) / (2**bits - 1) * 255)
    for tags in ({}, {"RescaleSlope": "3", "RescaleIntercept": "-7"}):
        assert differ(save_dicom(tmp_path / "x.dcm", values.astype(kind), **depth, **tags), expected) <= 1


def test_an_empty_end_of_the_padding_is_none(tmp_path: Path) -> None:
    values = DEEP.copy()
    values[:8] = 4000
    padding: dict[str, object] = {**TWELVE, **WIDE, "PixelPaddingValue": 4000}
    plain = load_image(save_dicom(tmp_path / "x.dcm", values, **padding))
    empty = load_image(save_dicom(tmp_path / "y.dcm", values, **padding, PixelPaddingRangeLimit=None))
    np.testing.assert_array_equal(empty, plain)
    assert not plain[:8].any()


@pytest.mark.parametrize(
    ("kind", "ends", "padded"),
    [
        ("SS", (-2000, None), [63536]),  # the same 16 bits
        ("SS", (-2000, 0), [0]),  # a range of values below 0, and none of those above
        ("US", (0, 100), [0, 100]),
    ],
)
def test_padding_is_what_pixels_can_be(
    tmp_path: Path, kind: str, ends: tuple[int, int | None], padded: list[int]
) -> None:
    values = DEEP + np.uint16(1000)
    values[0, :4] = 0, 100, 63536, 65535
    dataset = pydicom.dcmread(save_dicom(tmp_path / "x.dcm", values, PhotometricInterpretation="MONOCHROME1"))
    for keyword, end in zip(("PixelPaddingValue", "PixelPaddingRangeLimit"), ends, strict=True):
        dataset.add_new(keyword, kind, end)
    dataset.save_as(tmp_path / "y.dcm")
    shown = load_image(str(tmp_path / "y.dcm"))[0, :4, 0]
    found = [value for value, grey in zip(values[0, :4], shown, strict=True) if not grey]
    assert sorted({*found} - {65535}) == padded  # the brightest value is black in any case
    assert (load_image(str(tmp_path / "y.dcm"))[8:] > 0).all()


def test_padding_of_16_bits_is_none_in_8(tmp_path: Path) -> None:
    values = FILM.copy()
    values[0, :2] = 255, 0
    depth = {"BitsStored": 8, "HighBit": 7}
    dataset = pydicom.dcmread(save_dicom(tmp_path / "x.dcm", values, **depth))
    dataset.add_new("PixelPaddingValue", "US", 65535)
    dataset.save_as(tmp_path / "y.dcm")
    np.testing.assert_array_equal(load_image(str(tmp_path / "y.dcm"))[..., 0], values)


def test_the_narrowest_windows_are_a_step(tmp_path: Path) -> None:
    step = (DEEP > 1600) * 255
    for tags in (
        {"WindowCenter": "1600.5", "WindowWidth": "1"},
        {"WindowCenter": "1600.5", "WindowWidth": "1", "VOILUTFunction": "linear"},
        {"WindowCenter": "1600.5", "WindowWidth": "0.001", "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": "1600.5", "WindowWidth": "0.001", "VOILUTFunction": "sigmoid"},
    ):
        assert differ(save_dicom(tmp_path / "x.dcm", DEEP, **TWELVE, **tags), step) == 0


@pytest.mark.parametrize(
    "tags",
    [
        {"VOILUTSequence": LACKING},
        {"ModalityLUTSequence": LACKING},
        {"VOILUTSequence": table(curve(4096, 255).astype(np.uint16), 0, 0)},
        {"VOILUTSequence": table(curve(4096, 255).astype(np.uint16), 0, 33)},
        {"RescaleSlope": "nan", "RescaleIntercept": "0"},
        {"RescaleSlope": "1", "RescaleIntercept": "inf"},
    ],
)
def test_what_the_header_makes_no_values_of_is_unreadable(tmp_path: Path, tags: dict[str, object]) -> None:
    """A lookup table without its last entry, or of another depth; numbers that are none."""
    with pytest.raises(UnreadableImageError, match="damaged or truncated: ValueError"):
        load_image(save_dicom(tmp_path / "x.dcm", DEEP, **TWELVE, **tags))


@pytest.mark.parametrize("numbers", [("1e40", "0"), ("-1e-42", "0"), ("2", "0"), ("-3", "7")])
def test_a_rescale_of_whole_words_changes_no_more_than_the_sign(
    tmp_path: Path, numbers: tuple[str, str]
) -> None:
    """Without a window they go from their darkest to their brightest, whatever the unit is."""
    slope, intercept = numbers
    path = save_dicom(tmp_path / "x.dcm", DEEP, RescaleSlope=slope, RescaleIntercept=intercept)
    expected = (DEEP - float(DEEP.min())) / (DEEP.max() - DEEP.min()) * 255
    assert differ(path, expected if float(slope) > 0 else 255 - expected) <= 1


def test_a_rescale_to_one_value_is_no_picture_but_a_film_of_one_is(tmp_path: Path) -> None:
    tags = {"RescaleSlope": "1", "RescaleIntercept": "1e20"}
    with pytest.raises(UnreadableImageError, match="ValueError"):
        load_image(save_dicom(tmp_path / "x.dcm", DEEP, **tags))
    assert not load_image(save_dicom(tmp_path / "y.dcm", np.full_like(DEEP, 7), **tags)).any()


@pytest.mark.parametrize("inverted", [{}, {"PhotometricInterpretation": "MONOCHROME1"}])
def test_a_slope_of_0_is_none(tmp_path: Path, inverted: dict[str, str]) -> None:
    plain = load_image(save_dicom(tmp_path / "x.dcm", DEEP, **TWELVE, **inverted))
    none = {"RescaleSlope": "0", "RescaleIntercept": "5", **inverted}
    assert len(np.unique(plain)) > 100
    np.testing.assert_array_equal(load_image(save_dicom(tmp_path / "y.dcm", DEEP, **TWELVE, **none)), plain)


def test_a_window_that_is_no_number_is_none(tmp_path: Path) -> None:
    plain = load_image(save_dicom(tmp_path / "plain.dcm", DEEP, **TWELVE))
    for centre, width in (
        ("nan", "1000"),
        ("inf", "1000"),
        ("1000", "nan"),
        ("1000", "inf"),
        ("1000", "0.5"),
    ):
        path = save_dicom(tmp_path / "x.dcm", DEEP, **TWELVE, WindowCenter=centre, WindowWidth=width)
        np.testing.assert_array_equal(load_image(path), plain)


def test_a_window_is_that_of_whole_numbers(tmp_path: Path) -> None:
    """C.11.2.1.2.1; on a ramp, where half a value more or less is seen."""
    values = np.tile(np.arange(1990, 2010, dtype=np.uint16), (8, 1))
    path = save_dicom(tmp_path / "x.dcm", values, **TWELVE, WindowCenter="2000", WindowWidth="6")
    shown = np.clip((values - (2000 - 0.5)) / (6 - 1) + 0.5, 0, 1) * 255
    assert differ(path, shown) <= 1


def test_behind_a_modality_table_no_value_is_negative(tmp_path: Path) -> None:
    """So that a VOI LUT begins where it says, above the words that would be negative elsewhere."""
    values = DEEP.astype(np.int16) - 2048
    modality, voi = np.arange(4096, dtype=np.uint16) + np.uint16(40000), curve(4096, 4095).astype(np.uint16)
    tags = {"ModalityLUTSequence": table(modality, -2048, 16, "SS"), "VOILUTSequence": table(voi, 40000, 12)}
    path = save_dicom(tmp_path / "x.dcm", values, **TWELVE, PixelRepresentation=1, **tags)
    assert differ(path, shown(DEEP + 40000.0, voi, 40000, 12)) <= 1


def test_behind_a_modality_table_the_depth_is_that_of_its_values(tmp_path: Path) -> None:
    entries = curve(4096, 3000).astype(np.uint16)
    path = save_dicom(tmp_path / "x.dcm", DEEP, **TWELVE, ModalityLUTSequence=table(entries, 0, 12))
    assert differ(path, shown(DEEP, entries, 0, 12)) <= 1


def test_a_table_may_be_a_list_and_longer_than_it_says(tmp_path: Path) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [200, 100, 16])
    entries = curve(300, 65535).astype(np.uint16)
    item.add_new("LUTData", "US", entries.tolist())
    path = save_dicom(tmp_path / "x.dcm", FILM * np.uint16(2), VOILUTSequence=[item])
    assert differ(path, shown(FILM * 2.0, entries[:200], 100, 16)) <= 1


def test_a_modality_table_of_words_begins_far_above_0_in_implicit_vr_too(tmp_path: Path) -> None:
    """Where nothing tells that 40,000 is no negative number but the pixels, which are none."""
    values, entries = DEEP + np.uint16(40000), curve(4096, 4095).astype(np.uint16)
    window = {"WindowCenter": "2048", "WindowWidth": "4096"}
    path = save_dicom(tmp_path / "x.dcm", values, ModalityLUTSequence=table(entries, 40000, 12), **window)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    implicit = tmp_path / "y.dcm"
    pydicom.dcmwrite(implicit, dataset, implicit_vr=True, little_endian=True, force_encoding=True)
    assert differ(str(implicit), shown(values, entries, 40000, 12)) <= 1


@pytest.mark.skipif(DCM2PNM is None, reason="DCMTK is not installed")
@pytest.mark.parametrize(
    ("option", "tags"),
    [
        ("+Wi", WIDE),
        ("+Wi", {"WindowCenter": "1500", "WindowWidth": "600"}),
        ("+Wi", {"WindowCenter": "1500", "WindowWidth": "600", "VOILUTFunction": "SIGMOID"}),
        ("+Wi", {"WindowCenter": ["1500", "2000"], "WindowWidth": ["600", "900"]}),
        ("+Wi", {"WindowCenter": "500", "WindowWidth": "1"}),
        ("+Wi", {**WIDE, "PhotometricInterpretation": "MONOCHROME1"}),
        ("+Wi", {**WIDE, "PresentationLUTShape": "INVERSE"}),
        (
            "+Wi",
            {"WindowCenter": "-200", "WindowWidth": "900", "RescaleSlope": "0.5", "RescaleIntercept": "-800"},
        ),
        ("+Wi", {**WIDE, "RescaleSlope": "0", "RescaleIntercept": "7"}),
        ("+Wl", {"VOILUTSequence": table(curve(4096, 4095).astype(np.uint16), 0, 12)}),
        ("+Wl", {"VOILUTSequence": table(curve(1000, 255).astype(np.uint8), 500, 8)}),
        ("+Wl", {"VOILUTSequence": table(curve(2000, 65535).astype(np.uint16), 300, 16)}),
        ("+Wi", {"ModalityLUTSequence": table(curve(4096, 65535).astype(np.uint16), 0, 16), **HALF}),
    ],
)
def test_pictures_are_those_of_another_viewer(tmp_path: Path, option: str, tags: dict[str, object]) -> None:
    """To rounding, which DCMTK does downwards."""
    path = save_dicom(tmp_path / "x.dcm", DEEP, **TWELVE, **tags)
    picture = tmp_path / "x.pgm"
    assert DCM2PNM
    subprocess.run([DCM2PNM, option, "1", path, picture], check=True, capture_output=True)
    assert differ(path, np.asarray(Image.open(picture))) <= 1


@pytest.mark.parametrize("keyword", ["SamplesPerPixel", "PhotometricInterpretation", "BitsStored"])
def test_what_a_header_lacks_is_named(tmp_path: Path, keyword: str) -> None:
    path = save_dicom(tmp_path / "x.dcm", DEEP)
    dataset = pydicom.dcmread(path)
    delattr(dataset, keyword)
    dataset.save_as(path)
    with pytest.raises(UnreadableImageError, match=f"its header lacks {keyword}"):
        load_image(path)
