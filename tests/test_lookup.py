"""Pixels of few values get the levels of these, whichever way is taken."""

import numpy as np
import pytest

from chexscore import lookup
from chexscore.lookup import look_up, present

WINDOW = np.clip((np.arange(4096) - 1999.5) / 1999 + 0.5, 0, 1) * 255
"""Of the 2,000 values around 2,000, by DICOM's LINEAR: PS3.3 C.11.2.1.2.1."""
SIGNED = np.arange(-2048, 2048)
CURVES = {
    "window": (np.arange(4096), WINDOW),
    "whole range": (np.arange(4096), np.arange(4096) * 255 / 4095),
    "falling": (np.arange(4096), WINDOW[::-1]),
    "narrow": (np.arange(4096), np.clip(np.arange(4096.0) - 2000, 0, 3) * 85),
    "every third value": (np.arange(0, 4096, 3), WINDOW[::3]),
    "signed": (SIGNED, WINDOW),
    "signed, in the order of their bits": (np.roll(SIGNED, 2048), np.roll(WINDOW, 2048)),
    "16 bit": (np.arange(65536), np.clip((np.arange(65536) - 9000.5) / 40000, 0, 1) * 255),
    "8 bit": (np.arange(256), np.arange(256)),
    "sigmoid": (np.arange(4096), 255 / (1 + np.exp(-(np.arange(4096.0) - 2048) / 300))),
    "a hill": (np.arange(4096), 127 + 127 * np.sin(np.arange(4096) / 500)),
    "one level": (np.arange(100, 200), np.full(100, 17)),
    "a single value": (np.arange(7, 8), np.array([255])),
}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("order", ["<", ">"])
def test_each_pixel_has_the_level_of_its_value(name: str, order: str) -> None:
    values, levels = CURVES[name]
    kind = "u1" if values.max() < 256 and values.min() >= 0 else f"{order}{'i' if values.min() < 0 else 'u'}2"
    drawn = np.random.default_rng(0).integers(len(values), size=(310, 311))
    found = look_up(values.astype(kind)[drawn], values.astype(kind), levels.astype(np.float32))
    assert found.dtype == np.uint8
    assert drawn.size > lookup.PIXELS_AT_ONCE
    np.testing.assert_array_equal(found, np.rint(levels.astype(np.float32))[drawn])


@pytest.mark.parametrize("name", ["window", "whole range", "falling", "every third value", "signed", "8 bit"])
def test_a_straight_line_is_computed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "take", None)
    values, levels = CURVES[name]
    pixels = values.astype(np.int16)
    np.testing.assert_array_equal(look_up(pixels, pixels, levels.astype(np.float32)), np.rint(levels))


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16])
def test_each_value_that_is_there_is_named_once(kind: type[np.generic]) -> None:
    pixels = np.array([[3, 100, 3], [0, 101, 100]]).astype(kind)
    assert sorted(present(pixels).tolist()) == [0, 3, 100, 101]
    assert present(pixels).dtype == kind
