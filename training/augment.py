"""Random changes of the training images, as Keras layers on the device; no part of the exported network."""

import math

import keras
import numpy as np
from keras import layers, ops

from training.config import AugmentConfig

__all__ = [
    "RandomBorders",
    "RandomGamma",
    "RandomJpegQuality",
    "RandomNoise",
    "RandomPlacement",
    "RandomSharpness",
    "with_augmentation",
]

GREY = 128.0
"""The brightest border."""

BLOCK, LEVEL_SHIFT = 8, 128.0
"""JPEG transforms blocks of this side, of grey levels counted from there: ITU-T T.81, A.3."""

LUMINANCE_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
"""Quantization steps, rows by vertical frequency: those of ITU-T T.81, table K.1, which libjpeg takes."""

SMOOTHING = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
"""What leaves an image without fine detail, for Pillow's `ImageEnhance.Sharpness` and Keras' layer alike."""

UNSCALED, LARGEST_STEP = 50, 255
"""The quality at which libjpeg takes that table as it is, and the largest step of its baseline files."""


class RandomJpegQuality(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Each image as a JPEG file of a quality of its own gives it back; float32 [N, H, W, 1] in 0..255.

    Half of the images stay as they are. For the others the scale of the quantization table, not the quality,
    is drawn evenly, up to that of the lowest: with 10, half of these have a quality below 20. TensorFlow has
    such a function, Keras none.

    Args:
        lowest: 1 to 99, by libjpeg's scaling.
    """

    def __init__(self, lowest: int) -> None:
        super().__init__(dtype="float32", name="random_jpeg_quality")
        self.largest = UNSCALED / lowest if lowest < UNSCALED else 2 - lowest / UNSCALED
        frequency, place = np.indices((BLOCK, BLOCK))
        cosines = np.cos(np.pi * (2 * place + 1) * frequency / (2 * BLOCK)) * np.sqrt(2 / BLOCK)
        cosines[0] /= np.sqrt(2)
        basis = np.einsum("vy,ux->yxvu", cosines, cosines).reshape(BLOCK, BLOCK, 1, BLOCK * BLOCK)
        self.basis = basis.astype(np.float32)
        self.seeds = keras.random.SeedGenerator()

    def call(self, images: keras.KerasTensor, *, training: bool = False) -> keras.KerasTensor:
        """Loses nothing where the network only scores."""
        if not training:
            return images
        count, height, width, _ = ops.shape(images)
        scales = keras.random.uniform((count, 1, 1, 1), -self.largest, self.largest, seed=self.seeds)
        steps = ops.clip(ops.floor(scales * LUMINANCE_TABLE.ravel() + 0.5), 1, LARGEST_STEP)
        # Blocks at the lower and right edges are filled up with the last row and column, as libjpeg does.
        filled = images - LEVEL_SHIFT
        for axis, side in ((1, height), (2, width)):
            if missing := -side % BLOCK:
                filled = ops.take(filled, np.minimum(np.arange(side + missing), side - 1), axis=axis)
        coefficients = ops.conv(filled, self.basis, strides=BLOCK, padding="valid")
        quantized = ops.round(coefficients / steps) * steps
        decoded = ops.conv_transpose(quantized, self.basis, strides=BLOCK, padding="valid")
        pixels = ops.clip(ops.round(decoded[:, :height, :width] + LEVEL_SHIFT), 0, 255)
        return ops.where(scales > 0, pixels, images)


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


class RandomSharpness(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Fine detail of each image times a number of its own; float32 [N, H, W, 1] in 0..255.

    Keras' layer takes what is beyond the edge for black when it smooths, and so draws a frame along the
    outermost pixels, up to a quarter darker or brighter; here the edge goes on.

    Args:
        largest: the number is 1 - largest to 1 + largest.
    """

    def __init__(self, largest: float) -> None:
        super().__init__(dtype="float32", name="random_sharpness")
        self.largest = largest
        self.seeds = keras.random.SeedGenerator()

    def call(self, images: keras.KerasTensor, *, training: bool = False) -> keras.KerasTensor:
        """Loses and gains nothing where the network only scores."""
        if not training:
            return images
        count = ops.shape(images)[0]
        factors = 1 + keras.random.uniform((count, 1, 1, 1), -self.largest, self.largest, seed=self.seeds)
        filled = ops.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="symmetric")
        smooth = ops.conv(filled, SMOOTHING[..., np.newaxis, np.newaxis], padding="valid")
        return ops.clip(smooth + factors * (images - smooth), 0, 255)


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
        random.append(RandomJpegQuality(augment.jpeg_quality))
    if augment.flip or augment.rotation or augment.zoom or augment.zoom_width or augment.shift:
        random.append(RandomPlacement(augment))
    if augment.sharpness:
        random.append(RandomSharpness(augment.sharpness))
    if augment.gamma:
        random.append(RandomGamma(augment.gamma))
    if augment.contrast:
        # Of a single number Keras takes the upper half alone.
        both = (augment.contrast, augment.contrast)
        random.append(layers.RandomContrast(both, value_range=(0, 255), dtype="float32"))
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
