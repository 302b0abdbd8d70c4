"""Random changes of the training images, as Keras layers on the device; no part of the exported network."""

import math

import keras
import numpy as np
from keras import layers, ops

from training.config import AugmentConfig

__all__ = [
    "RandomBorders",
    "RandomCompression",
    "RandomGamma",
    "RandomNoise",
    "RandomPlacement",
    "with_augmentation",
]

GREY = 128.0
"""The brightest border, and what JPEG counts grey levels from."""

BLOCK = 8
"""Side of the squares that JPEG transforms."""

STEPS = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    dtype=np.float32,
)
"""What the amplitudes of a square are rounded to multiples of: ITU-T T.81, table K.1."""

AS_PUBLISHED = 50
"""The quality at which they are."""


class RandomCompression(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """What JPEG loses of each image, at a quality of its own; float32 [N, H, W, 1] in 0..255.

    Half of the images stay as they are, the others lose any amount up to that of the lowest quality. Files
    cannot be written within a training step; of what is done there, this alone changes pixels.
    """

    def __init__(self, lowest: int) -> None:
        super().__init__(dtype="float32", name="random_compression")
        # How libjpeg, and so everybody, takes a quality for a scale of the steps.
        self.largest = AS_PUBLISHED / lowest if lowest < AS_PUBLISHED else 2 - lowest / AS_PUBLISHED
        frequency, place = np.indices((BLOCK, BLOCK))
        wave = np.cos(np.pi * (2 * place + 1) * frequency / (2 * BLOCK)) * np.sqrt(2 / BLOCK)
        wave[0] /= np.sqrt(2)
        squares = np.einsum("uy,vx->yxuv", wave, wave).reshape(BLOCK, BLOCK, 1, BLOCK * BLOCK)
        self.waves = squares.astype(np.float32)
        self.seeds = keras.random.SeedGenerator()

    def call(self, images: keras.KerasTensor, *, training: bool = False) -> keras.KerasTensor:
        """Loses nothing where the network only scores."""
        if not training:
            return images
        count, height, width, _ = ops.shape(images)
        scales = keras.random.uniform((count, 1, 1, 1), -self.largest, self.largest, seed=self.seeds)
        steps = ops.maximum(ops.relu(scales) * STEPS.ravel(), 1)
        sides = [(0, 0), (0, -height % BLOCK), (0, -width % BLOCK), (0, 0)]
        whole = ops.pad(images - GREY, sides, mode="symmetric")
        amplitudes = ops.conv(whole, self.waves, strides=BLOCK, padding="valid")
        rounded = ops.round(amplitudes / steps) * steps
        back = ops.conv_transpose(rounded, self.waves, strides=BLOCK, padding="valid")[:, :height, :width]
        return ops.where(scales > 0, ops.clip(back + GREY, 0, 255), images)


class RandomPlacement(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Flip, rotation, zoom and shift in one resampling; float32 [N, H, W, C] in and out.

    Keras has a layer for each of these; a chain of them resamples, and so blurs, once for each.
    """

    def __init__(self, augment: AugmentConfig) -> None:
        super().__init__(dtype="float32", name="random_placement")
        self.augment = augment
        self.seeds = keras.random.SeedGenerator()

    def call(self, images: keras.KerasTensor, *, training: bool = False) -> keras.KerasTensor:
        """Changes each image by draws of its own where the network trains; what comes from outside is 0."""
        if not training:
            return images
        count, height, width = ops.shape(images)[:3]
        augment = self.augment

        def draw(largest: float) -> keras.KerasTensor:
            return keras.random.uniform((count,), -largest, largest, seed=self.seeds)

        angle = draw(augment.rotation * 2 * math.pi)
        down = 1 + draw(augment.zoom)
        across = 1 + draw(augment.zoom_width) if augment.zoom_width else down
        if augment.flip:
            across = across * ops.sign(draw(1.0))
        # The pixel at (x, y) from the centre is taken from (a x + b y + shift, d x + e y + shift) there.
        a, b = across * ops.cos(angle), -across * ops.sin(angle)
        d, e = down * ops.sin(angle), down * ops.cos(angle)
        x, y = (width - 1) / 2, (height - 1) / 2
        c = x - a * x - b * y + draw(augment.shift) * width
        f = y - d * x - e * y + draw(augment.shift) * height
        nothing = ops.zeros_like(a)
        transform = ops.stack([a, b, c, d, e, f, nothing, nothing], axis=1)
        return ops.image.affine_transform(images, transform, interpolation="bilinear", fill_mode="constant")


class RandomGamma(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Grey levels of each image raised to an exponent of its own; float32 [N, H, W, C] in 0..255."""

    def __init__(self, largest: float) -> None:
        super().__init__(dtype="float32", name="random_gamma")
        self.largest = math.log1p(largest)
        self.seeds = keras.random.SeedGenerator()

    def call(self, images: keras.KerasTensor, *, training: bool = False) -> keras.KerasTensor:
        """As the film's own curve or another window would have shown the image."""
        if not training:
            return images
        count = ops.shape(images)[0]
        exponents = ops.exp(
            keras.random.uniform((count, 1, 1, 1), -self.largest, self.largest, seed=self.seeds)
        )
        return 255 * ops.power(ops.clip(images / 255, 1e-6, 1), exponents)


class RandomNoise(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Normal noise in the pixels of each image, as of a small dose; float32 [N, H, W, C] in 0..255.

    Half of the images get none, the others up to the largest standard deviation, a share of 255.
    """

    def __init__(self, largest: float) -> None:
        super().__init__(dtype="float32", name="random_noise")
        self.largest = 255 * largest
        self.seeds = keras.random.SeedGenerator()

    def call(self, images: keras.KerasTensor, *, training: bool = False) -> keras.KerasTensor:
        """Adds nothing where the network only scores."""
        if not training:
            return images
        shape = ops.shape(images)
        deviations = ops.relu(
            keras.random.uniform((shape[0], 1, 1, 1), -self.largest, self.largest, seed=self.seeds)
        )
        return ops.clip(images + deviations * keras.random.normal(shape, seed=self.seeds), 0, 255)


class RandomBorders(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Sides of each image covered, as by a collimator or a margin; float32 [N, H, W, C] in 0..255.

    Half of the sides stay free; half of the images get black borders, the others grey ones.
    """

    def __init__(self, largest: float) -> None:
        super().__init__(dtype="float32", name="random_borders")
        self.largest = largest
        self.seeds = keras.random.SeedGenerator()

    def call(self, images: keras.KerasTensor, *, training: bool = False) -> keras.KerasTensor:
        """Covers nothing where the network only scores."""
        if not training:
            return images
        count, height, width = ops.shape(images)[:3]

        def draw(largest: float) -> keras.KerasTensor:
            return ops.relu(keras.random.uniform((count, 1, 1, 1), -largest, largest, seed=self.seeds))

        y = ops.reshape((ops.arange(height, dtype="float32") + 0.5) / height, (1, -1, 1, 1))
        x = ops.reshape((ops.arange(width, dtype="float32") + 0.5) / width, (1, 1, -1, 1))
        down = ops.logical_and(y > draw(self.largest), 1 - y > draw(self.largest))
        across = ops.logical_and(x > draw(self.largest), 1 - x > draw(self.largest))
        return ops.where(ops.logical_and(down, across), images, draw(GREY))


def with_augmentation(network: keras.Model, augment: AugmentConfig) -> keras.Model:
    """The network behind the layers that the recipe switches on; uint8 [N, H, W, 1] in.

    They compute in float32 whatever the network does, and change nothing when it only scores.
    """
    random: list[layers.Layer] = []
    if augment.jpeg_quality:
        random.append(RandomCompression(augment.jpeg_quality))
    if augment.flip or augment.rotation or augment.zoom or augment.zoom_width or augment.shift:
        random.append(RandomPlacement(augment))
    if augment.sharpness:
        # Keras counts from 0, smoothed, over 0.5, unchanged, to 1, sharpened.
        factor = (0.5 - augment.sharpness / 2, 0.5 + augment.sharpness / 2)
        random.append(layers.RandomSharpness(factor, value_range=(0, 255), dtype="float32"))
    if augment.gamma:
        random.append(RandomGamma(augment.gamma))
    if augment.contrast:
        random.append(layers.RandomContrast(augment.contrast, value_range=(0, 255), dtype="float32"))
    if augment.brightness:
        random.append(layers.RandomBrightness(augment.brightness, value_range=(0, 255), dtype="float32"))
    if augment.noise:
        random.append(RandomNoise(augment.noise))
    if augment.borders:
        random.append(RandomBorders(augment.borders))
    to_floats = layers.Rescaling(1.0, dtype="float32")  # still 0..255
    return keras.Sequential(
        [keras.Input(network.input_shape[1:], dtype="uint8"), to_floats, *random, network]
    )
