"""Random changes of the training images."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter
from PIL.JpegImagePlugin import JpegImageFile

from chexscore.spec import ImageSpec
from tests.phantoms import draw
from training.config import NetworkConfig

pytestmark = pytest.mark.usefixtures("draws")


def test_augmentation_is_switched_by_the_recipe_and_off_when_scoring() -> None:
    from training.augment import with_augmentation
    from training.config import AugmentConfig
    from training.networks import build

    network = build(NetworkConfig(name="compact", width=4), ImageSpec(32, 32), 1)
    full = with_augmentation(
        network,
        AugmentConfig(contrast=0.2, gamma=0.5, sharpness=1.0, borders=0.1, noise=0.1, jpeg_quality=30),
    )
    assert [type(layer).__name__ for layer in full.layers[1:-1]] == [
        "RandomJpegQuality",
        "RandomPlacement",
        "RandomSharpness",
        "RandomGamma",
        "RandomContrast",
        "RandomBrightness",
        "RandomNoise",
        "RandomBorders",
    ]
    bare = with_augmentation(network, AugmentConfig(flip=False, rotation=0, brightness=0))
    assert len(bare.layers) == 2
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), dtype=np.uint8)
    np.testing.assert_array_equal(full.predict_on_batch(images), network.predict_on_batch(images))


@pytest.mark.parametrize("lowest", [10, 40, 75])
def test_jpeg_loses_what_a_file_loses_down_to_the_quality_that_the_recipe_says(lowest: int) -> None:
    from training.augment import LUMINANCE_TABLE, UNSCALED, RandomJpegQuality

    pixels = draw(3, size=90)[:76].astype(np.float32)
    pixels[10:14, 5:40], pixels[10:40, 20:23], pixels[60:, 70:] = 255, 255, 0  # as of letters and a margin

    def stored(quality: int) -> JpegImageFile:
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=quality)
        file.seek(0)
        return JpegImageFile(file)

    assert stored(UNSCALED).quantization[0] == LUMINANCE_TABLE.ravel().tolist()
    lost = np.asarray(stored(lowest), np.float32) - pixels
    copies = np.repeat(pixels[None, ..., None], 256, axis=0)
    made = np.asarray(RandomJpegQuality(lowest)(copies, training=True))[..., 0]
    assert 0 <= made.min() < made.max() <= 255
    amounts = (made - pixels).std((1, 2))
    assert 0.4 < (np.abs(made - pixels).max((1, 2)) == 0).mean() < 0.6
    assert amounts.max() == pytest.approx(lost.std(), rel=0.05)
    most = made[amounts.argmax()] - pixels
    assert np.corrcoef(most.ravel(), lost.ravel())[0, 1] > 0.92
    spread = np.quantile(amounts[amounts > 0] / amounts.max(), [0.25, 0.75])
    assert spread[0] < 0.75 < spread[1]


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"flip": True}, {"width": 16, "height": 16}),
        ({"zoom": 0.5}, {"ratio": 1.0}),
        ({"zoom_width": 0.5}, {"height": 16}),
        ({"rotation": 0.5}, {"area": 256}),
        ({"shift": 0.2}, {"width": 16, "height": 16}),
    ],
)
def test_placement_moves_a_square_as_the_recipe_says(
    change: dict[str, object], seen: dict[str, float]
) -> None:
    """What is not asked for stays: the sides, their ratio or the area of a square of 16 x 16 pixels."""
    from training.augment import RandomPlacement
    from training.config import AugmentConfig

    square = np.zeros((8, 64, 64, 1), np.float32)
    square[:, 24:40, 20:36] = 1
    still = {"flip": False, "rotation": 0.0}
    moved = np.asarray(RandomPlacement(AugmentConfig(**still | change))(square, training=True))[..., 0]
    assert moved.max() <= 1
    assert any(np.abs(image - square[0, ..., 0]).max() > 0.1 for image in moved)
    found = {
        "width": moved.max(axis=1).sum(axis=1),
        "height": moved.max(axis=2).sum(axis=1),
        "area": moved.sum((1, 2)),
    }
    found["ratio"] = found["width"] / found["height"]
    for name, value in seen.items():
        np.testing.assert_allclose(found[name], value, rtol=0.12)


def test_gamma_bends_the_greys_and_leaves_black_and_white() -> None:
    from training.augment import RandomGamma

    greys = np.tile(np.array([0, 64, 128, 255], np.float32), (16, 1))[:, None, :, None]
    bent = np.asarray(RandomGamma(0.5)(greys, training=True))[:, 0, :, 0]
    assert bent[:, [0, 3]] == pytest.approx(np.tile([0, 255], (16, 1)), abs=0.1)
    exponents = np.log(bent[:, 1:3] / 255) / np.log(np.array([64, 128]) / 255)
    assert exponents[:, 0] == pytest.approx(exponents[:, 1], rel=1e-3)
    assert 1 / 1.5 <= exponents.min() < 0.9
    assert 1.1 < exponents.max() <= 1.5


def test_sharpness_changes_fine_detail_alone_up_to_the_edge() -> None:
    from training.augment import RandomSharpness

    film = 64 + draw(3, size=90)[:76].astype(np.float32) // 2
    films = np.repeat(film[None, ..., None], 64, axis=0)
    changed = np.asarray(RandomSharpness(0.8)(films, training=True))[..., 0]
    assert 0 <= changed.min() < changed.max() <= 255
    smooth = np.asarray(Image.fromarray(film.astype(np.uint8)).filter(ImageFilter.SMOOTH), np.float32)
    inner = np.s_[1:-1, 1:-1]  # Pillow leaves the outermost pixels as they are
    detail, found = (film - smooth)[inner].ravel(), changed[:, 1:-1, 1:-1] - smooth[inner]
    factors = found.reshape(64, -1) @ detail / (detail @ detail)
    assert 0.2 - 0.05 < factors.min() < 0.4
    assert 1.6 < factors.max() < 1.8 + 0.05
    assert found.reshape(64, -1) == pytest.approx(np.outer(factors, detail), abs=2)  # Pillow rounds
    flat = np.asarray(RandomSharpness(1.0)(np.full((16, 8, 8, 1), 128, np.float32), training=True))
    assert flat == pytest.approx(128)


def test_noise_is_normal_up_to_the_deviation_that_the_recipe_says() -> None:
    from training.augment import RandomNoise

    grey = np.full((64, 50, 40, 1), 128, np.float32)
    noise = np.asarray(RandomNoise(0.1)(grey, training=True)) - grey
    deviations = noise.std((1, 2, 3))
    assert 0.3 < (deviations == 0).mean() < 0.7
    assert 20 < deviations.max() < 26
    noisy = noise[deviations > 1] / deviations[deviations > 1][:, None, None, None]
    assert noisy.mean((1, 2, 3)) == pytest.approx(0, abs=0.1)
    assert (np.abs(noisy) < 1).mean() == pytest.approx(0.683, abs=0.01)  # within a standard deviation
    assert np.abs(np.corrcoef(noisy.reshape(len(noisy), -1))[0, 1:]).max() < 0.15  # each image has its own
    white = np.asarray(RandomNoise(0.1)(np.full((8, 8, 8, 1), 255, np.float32), training=True))
    assert white.max() == 255


def test_borders_cover_some_sides_up_to_the_share_that_the_recipe_says() -> None:
    from training.augment import RandomBorders

    white = np.full((64, 40, 20, 1), 255, np.float32)
    covered = np.asarray(RandomBorders(0.2)(white, training=True))[..., 0]
    free = covered == 255
    assert free[:, 8:32, 4:16].all()
    rows, columns = free.any(axis=2), free.any(axis=1)
    assert (free == rows[:, :, None] & columns[:, None, :]).all()
    for sides, most in ((rows, 8), (rows[:, ::-1], 8), (columns, 4), (columns[:, ::-1], 4)):
        widths = sides.argmax(axis=1)
        assert widths.max() == most - 1 or widths.max() == most
        assert 0.3 < (widths == 0).mean() < 0.8
    levels = [np.unique(image[~seen]) for image, seen in zip(covered, free, strict=True) if not seen.all()]
    assert all(level.size == 1 for level in levels)
    assert 0.3 < np.mean([level[0] == 0 for level in levels]) < 0.7
    assert 60 < max(level[0] for level in levels) <= 128


def test_contrast_is_lowered_as_often_as_it_is_raised() -> None:
    import keras

    from training.augment import with_augmentation
    from training.config import AugmentConfig

    image = keras.Input((16, 16, 1))
    nothing = keras.Model(image, keras.layers.Identity()(image))
    alone = AugmentConfig(flip=False, rotation=0, brightness=0, contrast=0.3)
    films = np.random.default_rng(0).integers(100, 150, (400, 16, 16, 1), dtype=np.uint8)
    changed = np.asarray(with_augmentation(nothing, alone)(films, training=True))
    factors = changed.std((1, 2, 3)) / films.std((1, 2, 3))
    assert factors.min() == pytest.approx(0.7, abs=0.02)
    assert factors.max() == pytest.approx(1.3, abs=0.02)
    assert np.mean(factors) == pytest.approx(1, abs=0.03)
