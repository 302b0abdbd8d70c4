"""Changes of films by which the bench measures robustness: what they hide, remove, blur and move."""

from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tests.bench.robustness import CHANGES, hide, shrink, unmark
from tests.phantoms import draw

FILM = draw(3, size=224)
DARK = np.full((224, 224), 40, dtype=np.uint8)


def changed(pixels: NDArray[np.uint8], name: str, ill: int = 0) -> NDArray[np.uint8]:
    return np.asarray(CHANGES[name][ill](Image.fromarray(pixels)))


def test_letters_near_the_edges_are_removed_and_what_is_broad_or_further_in_stays() -> None:
    film = Image.fromarray(DARK)
    pen = ImageDraw.Draw(film)
    pen.line([(20, 15), (20, 35)], fill=230, width=4)  # a stroke of a letter
    pen.line([(112, 100), (112, 124)], fill=230, width=4)  # as thin, in the middle
    pen.rectangle([(180, 180), (210, 210)], fill=230)  # as bright, but broad: bone
    before, after = np.asarray(film), np.asarray(unmark(0.2)(film))
    np.testing.assert_array_equal(after[:60, :60], DARK[:60, :60])
    np.testing.assert_array_equal(after[60:], before[60:])
    np.testing.assert_array_equal(np.asarray(unmark(0.2)(Image.fromarray(DARK))), DARK)


def test_what_is_hidden_is_black_or_the_mean_of_the_rest() -> None:
    white = Image.new("L", (224, 224), 255)
    for margin, corners in ((0.1, 0.0), (0.0, 0.2)):
        hidden = np.asarray(hide(margin, corners)(white)) == 0
        side = round(224 * (margin or corners))
        expected = np.full((224, 224), bool(margin))
        expected[side:-side, side:-side] = False
        for rows, columns in product((slice(side), slice(-side, None)), repeat=2):
            expected[rows, columns] = True
        np.testing.assert_array_equal(hidden, expected)
        for grey in (False, True):
            found = np.asarray(hide(margin, corners, grey=grey)(Image.fromarray(FILM)))
            np.testing.assert_array_equal(found[~hidden], FILM[~hidden])
            assert np.all(found[hidden] == (int(FILM[~hidden].mean()) if grey else 0))


def test_detail_is_lost_and_grey_levels_move_as_the_names_say() -> None:
    fine = np.indices((224, 224)).sum(0) % 2 * np.uint8(200)
    assert np.asarray(shrink(112)(Image.fromarray(fine.astype(np.uint8)))).std() < 10
    assert changed(FILM, "brighter by 15 %").mean() > FILM.mean() > changed(FILM, "darker by 15 %").mean()
    np.testing.assert_array_equal(changed(FILM, "inverted"), 255 - FILM)
    ramp = np.arange(256, dtype=np.uint8)[None]
    for name, expected in (("gamma 0.6", 169), ("gamma 1.6", 85)):  # 255 * (128 / 255) ** gamma
        np.testing.assert_array_equal(changed(ramp, name)[0, [0, 128, 255]], [0, expected, 255])
    np.testing.assert_array_equal(changed(ramp, "contrast 0.6")[0, [0, 128, 255]], [51, 128, 204])
    np.testing.assert_array_equal(changed(FILM, "none"), FILM)


def test_frames_of_films_with_and_without_disease_are_changed_in_opposite_ways() -> None:
    bar = np.zeros((224, 224), dtype=np.uint8)
    bar[100:124, 92:132] = 255  # 24 high, 40 wide
    name = "frame: the same, and others 9 % of width"

    def sides(ill: int) -> tuple[int, int]:
        seen = changed(bar, name, ill) > 127
        return int(seen.any(1).sum()), int(seen.any(0).sum())

    assert sides(0) == (26, 40)  # without 9 % of the height it is 224/204 as high
    assert sides(1) == (24, 44)


def test_smaller_films_lie_in_the_middle_of_black_and_noise_repeats() -> None:
    white = np.full((224, 224), 255, dtype=np.uint8)
    seen = changed(white, "all 15 % smaller, on black") > 0
    assert (seen.any(1).sum(), seen.any(0).sum()) == (190, 190)
    assert seen[17:207, 17:207].all()
    noisy = changed(FILM, "noise of 12 levels")
    np.testing.assert_array_equal(noisy, changed(FILM, "noise of 12 levels"))
    assert 8 < (noisy.astype(float) - FILM).std() < 13
    stored = changed(np.full((448, 448), 9, dtype=np.uint8), "reduced to 224 pixels, JPEG of quality 75")
    assert stored.shape == (224, 224)
