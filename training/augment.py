"""Random changes of the training images, as Keras layers on the device; no part of the exported network."""

import keras
from keras import layers

from training.config import AugmentConfig

__all__ = ["with_augmentation"]


def with_augmentation(network: keras.Model, augment: AugmentConfig) -> keras.Model:
    """The network behind the layers that the recipe switches on; uint8 [N, H, W, 1] in.

    They compute in float32 whatever the network does, and change nothing when it only scores.
    """
    random: list[layers.Layer] = []
    if augment.flip:
        random.append(layers.RandomFlip("horizontal", dtype="float32"))
    if augment.rotation:
        random.append(layers.RandomRotation(augment.rotation, fill_mode="constant", dtype="float32"))
    if augment.zoom:
        random.append(layers.RandomZoom(augment.zoom, fill_mode="constant", dtype="float32"))
    if augment.shift:
        random.append(
            layers.RandomTranslation(augment.shift, augment.shift, fill_mode="constant", dtype="float32")
        )
    if augment.contrast:
        random.append(layers.RandomContrast(augment.contrast, value_range=(0, 255), dtype="float32"))
    if augment.brightness:
        random.append(layers.RandomBrightness(augment.brightness, value_range=(0, 255), dtype="float32"))
    if keras.backend.backend() == "jax":
        # Keras takes RandomRotation and RandomZoom for layers that cannot be compiled, which is so under
        # TensorFlow's XLA alone, and would run every operation of the step by itself.
        for layer in random:
            layer.supports_jit = True
    to_floats = layers.Rescaling(1.0, dtype="float32")  # still 0..255
    return keras.Sequential(
        [keras.Input(network.input_shape[1:], dtype="uint8"), to_floats, *random, network]
    )
