"""The networks: a config -> keras.Model, through the Keras 3 API alone.

Each takes `image`, float32 [N, H, W, 1] in 0..255, scales it inside, and gives sigmoid scores [N, L].
"""

import keras
from keras import layers

from chexscore.errors import UsageError
from chexscore.spec import ImageSpec
from training.config import NetworkConfig

__all__ = ["build"]


def build(config: NetworkConfig, image: ImageSpec, labels: int) -> keras.Model:
    """Builds an untrained network for images of one shape.

    Raises:
        UsageError: the image is too small for the network.
    """
    inputs = keras.Input((image.height, image.width, 1), name="image")
    scaled = layers.Rescaling(1 / 255)(inputs)
    features = {"reference": _reference, "compact": _compact}[config.name](scaled, config)
    scores = layers.Dense(labels, activation="sigmoid", name="scores")(features)
    return keras.Model(inputs, scores, name=config.name)


def _reference(x: keras.KerasTensor, config: NetworkConfig) -> keras.KerasTensor:
    """The plain CNN to beat: 44,790,413 parameters for 512 x 512 pixels and 13 labels."""
    penalty = keras.regularizers.L2(config.l2)
    filters = [config.width * 2**block for block in range(7)]
    for count, kernel in zip(filters, [5] * 6 + [3], strict=True):
        if min(x.shape[1:3]) <= kernel:
            raise UsageError("the reference network needs images of at least 508 x 508 pixels.")
        x = layers.Conv2D(count, kernel, activation="relu", kernel_regularizer=penalty)(x)
        x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D()(x)
        x = layers.Dropout(config.dropout)(x)
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.Dense(filters[-1], activation="relu", kernel_regularizer=penalty)(x)
        x = layers.BatchNormalization()(x)
        x = layers.Dropout(config.dropout)(x)
    return x


def _compact(x: keras.KerasTensor, config: NetworkConfig) -> keras.KerasTensor:
    """A small residual network for CPUs: five strided stages, batch norms where they fold away.

    Plain 3x3 convolutions throughout: per multiplication they are what CPUs run fastest, and train fastest.
    """
    penalty = keras.regularizers.L2(config.l2)

    def convolve(x: keras.KerasTensor, count: int, strides: int = 1) -> keras.KerasTensor:
        x = layers.Conv2D(
            count, 3, strides=strides, padding="same", use_bias=False, kernel_regularizer=penalty
        )(x)
        return layers.BatchNormalization(momentum=0.9)(x)

    x = layers.ReLU()(convolve(x, config.width, strides=2))
    for stage in range(1, 5):
        count = config.width * 2**stage
        x = layers.ReLU()(convolve(x, count, strides=2))
        y = layers.ReLU()(convolve(x, count))
        x = layers.ReLU()(layers.Add()([x, convolve(y, count)]))
    x = layers.GlobalAveragePooling2D()(x)
    return layers.Dropout(config.dropout)(x)
