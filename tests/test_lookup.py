"""Pixels of few values get the levels of these, whichever way is taken."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from chexscore import lookup
from chexscore.lookup import look_up, present

WINDOW = np.clip((np.arange(4096) - 1999.5) / 1999 + 0.5, 0, 1) * 255
"""Of the 2,000 values around 2,000, by DICOM's LINEAR: PS3.3 C.11.2.1.2.1."""
STEEP = np.clip((np.arange(4096) - 1100 + 0.5) / 729 + 0.5, 0, 1) * 255
SIGNED = np.arange(-2048, 2048)
CURVES: dict[str, tuple[str, NDArray[np.int64], NDArray[np.generic]]] = {
    "window": ("u2", np.arange(4096), WINDOW),
    "whole range": ("u2", np.arange(4096), np.arange(4096) * 255 / 4095),
    "falling": ("u2", np.arange(4096), WINDOW[::-1]),
    "every third value": ("u2", np.arange(0, 4096, 3), WINDOW[::3]),
    "signed": ("i2", SIGNED, WINDOW),
    "16 bit": ("u2", np.arange(65536), np.arange(65536) * 255 / 65535),
    "8 bit": ("u1", np.arange(256), np.arange(256)),
    "ties": ("u2", np.arange(1021), np.arange(1021) / 4),
    "narrow": ("u2", np.arange(4096), np.clip(np.arange(4096.0) - 2000, 0, 3) * 85),
    "a gap before the line": ("u2", np.append(0, np.arange(900, 4096)), np.append(0.0, WINDOW[900:])),
    "a gap before a steep line": ("u2", np.append(0, np.arange(900, 4096)), np.append(0.0, STEEP[900:])),
    "sigmoid": ("u2", np.arange(4096), 255 / (1 + np.exp(-(np.arange(4096.0) - 2048) / 300))),
    "a hill": ("u2", np.arange(4096), 127 + 127 * np.sin(np.arange(4096) / 500)),
    "one level": ("u2", np.arange(100, 200), np.full(100, 17)),
    "a single value": ("i2", np.arange(7, 8), np.array([255])),
}
"""Name -> kind of the pixels, the values that they have, and the levels of these."""


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.filterwarnings("error")
def test_each_pixel_has_the_level_of_its_value(name: str, order: str) -> None:
    kind, values, levels = CURVES[name]
    values = values.astype(order + kind)
    drawn = np.random.default_rng(0).integers(len(values), size=(310, 311))
    found = look_up(values[drawn], values, levels.astype(np.float32))
    assert found.dtype == np.uint8
    assert drawn.size > lookup.PIXELS_AT_ONCE
    np.testing.assert_array_equal(found, np.rint(levels.astype(np.float32))[drawn])


@pytest.mark.parametrize("name", list(CURVES)[:8])
def test_a_straight_line_is_computed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "take", None)
    kind, values, levels = CURVES[name]
    pixels = values.astype(kind)
    np.testing.assert_array_equal(look_up(pixels, pixels, levels.astype(np.float32)), np.rint(levels))


@pytest.mark.parametrize("name", CURVES)
def test_only_what_a_byte_holds_is_made_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """C does not define what becomes of other floats, and processors differ."""
    made = []
    copy = np.copyto

    def watched(out: NDArray[np.generic], given: NDArray[np.generic], **settings: Any) -> None:
        if out.dtype == np.uint8:
            made.append((given.min(), given.max()))
        copy(out, given, **settings)

    monkeypatch.setattr(np, "copyto", watched)
    kind, values, levels = CURVES[name]
    look_up(values.astype(kind), values.astype(kind), levels.astype(np.float32))
    assert all(low >= 0 and high <= 255 for low, high in made)


@pytest.mark.parametrize("kind", ["u1", "i1", "<u2", ">u2", "<i2", ">i2"])
def test_each_value_that_is_there_is_named_once_in_order(kind: str) -> None:
    there = [-128, -1, 0, 3, 100] if "i" in kind else [0, 3, 100, 128, 255]
    pixels = np.array([there, there[::-1]]).astype(kind)
    np.testing.assert_array_equal(present(pixels), np.array(there))
    assert present(pixels).dtype == pixels.dtype
