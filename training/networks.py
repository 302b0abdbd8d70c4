"""The networks: a config -> keras.Model, through the Keras 3 API alone.

Each takes `image`, float32 [N, H, W, 1] in 0..255, scales it inside, and gives sigmoid scores [N, L].
"""

import os
from collections.abc import Sequence

import keras
from keras import layers, ops

from chexscore.errors import UsageError
from chexscore.spec import ImageSpec
from training.config import NetworkConfig
from training.efficientnet_lite import efficientnet_lite0, load_imagenet, weights_file

__all__ = ["begun_with", "build", "reference_blocks"]

REFERENCE_KERNELS = (5, 5, 5, 5, 5, 5, 3)
"""Of the convolutions of the reference, a block each."""

PHOTOGRAPH = 0.5
"""Standard deviation of a standardized image, in units of half the full scale: about that of ImageNet's."""


def build(
    config: NetworkConfig,
    image: ImageSpec,
    labels: int,
    *,
    precision: str = "float32",
    mirrored: bool = False,
) -> keras.Model:
    """Builds an untrained network for images of one shape.

    Args:
        config: which, and its settings.
        image: the shape of its input.
        labels: scores of an image.
        precision: Keras's dtype policy of all layers but the last; weights are float32 in any case.
        mirrored: score the mean of an image's features and those of its mirror image, which takes twice as
            long; the weights are the same.

    Raises:
        UsageError: the image is too small for the network, or its ImageNet weights cannot be loaded.
    """
    inputs = keras.Input((image.height, image.width, 1), name="image")
    bodies = {
        "reference": _reference,
        "compact": _compact,
        "efficientnet": _efficientnet,
        "efficientnet-lite0": _efficientnet_lite0,
    }
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        images = ops.concatenate([inputs, inputs[:, :, ::-1]], axis=0) if mirrored else inputs
        features = bodies[config.name](images, config)
        if mirrored:
            features = ops.mean(ops.reshape(features, (2, -1, features.shape[-1])), axis=0)
    finally:
        keras.config.set_dtype_policy(policy)
    # Features that are learned already are told nothing wrong by a last layer of zeros, and runs of other
    # seeds begin with the same network. A sigmoid of 16 bits has few values near 0 and 1.
    begin = "zeros" if config.imagenet else "glorot_uniform"
    last = layers.Dense(labels, "sigmoid", kernel_initializer=begin, dtype="float32", name="scores")
    scores = last(features)
    return keras.Model(inputs, scores, name=config.name)


def begun_with(config: NetworkConfig) -> str:
    """The name of the file whose weights the recipe begins with; "random weights" if there is none."""
    if config.name == "efficientnet-lite0" and config.imagenet:
        return weights_file(config.imagenet).name
    return os.path.basename(config.imagenet) or "random weights"


def _reference(image: keras.KerasTensor, config: NetworkConfig) -> keras.KerasTensor:
    """The plain CNN to beat: 44,790,413 parameters for 512 x 512 pixels, 13 labels and all seven blocks."""
    penalty = keras.regularizers.L2(config.l2)
    filters = [config.width * 2**block for block in range(config.blocks)]
    kernels = REFERENCE_KERNELS[: config.blocks]
    x = layers.Rescaling(1 / 255)(image)
    for count, kernel in zip(filters, kernels, strict=True):
        if min(x.shape[1:3]) <= kernel:
            raise UsageError(
                f"the reference network with blocks = {config.blocks} needs images of at least "
                f"{_smallest(kernels)} x {_smallest(kernels)} pixels; take larger ones, or fewer blocks."
            )
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


def reference_blocks(side: int) -> int:
    """As many blocks of the reference as images of this shorter side, in pixels, have room for."""
    return max(
        (
            blocks
            for blocks in range(1, len(REFERENCE_KERNELS) + 1)
            if _smallest(REFERENCE_KERNELS[:blocks]) <= side
        ),
        default=1,
    )


def _smallest(kernels: Sequence[int]) -> int:
    """The shortest side that is left with a pixel after a convolution and a halving for each kernel."""
    side = 1
    for kernel in reversed(kernels):
        side = 2 * side + kernel - 1
    return side


def _compact(image: keras.KerasTensor, config: NetworkConfig) -> keras.KerasTensor:
    """A small residual network for CPUs: five strided stages, batch norms where they fold away.

    Plain 3x3 convolutions throughout: per multiplication they are what CPUs run fastest, and train fastest.
    """
    penalty = keras.regularizers.L2(config.l2)

    def convolve(x: keras.KerasTensor, count: int, strides: int = 1) -> keras.KerasTensor:
        x = layers.Conv2D(
            count, 3, strides=strides, padding="same", use_bias=False, kernel_regularizer=penalty
        )(x)
        return layers.BatchNormalization(momentum=0.9)(x)

    x = layers.Rescaling(1 / 255, dtype="float32")(image)
    if config.standardize:
        x = _standardized(x)
    x = layers.ReLU()(convolve(x, config.width, strides=2))
    for stage in range(1, 5):
        count = config.width * 2**stage
        x = layers.ReLU()(convolve(x, count, strides=2))
        y = layers.ReLU()(convolve(x, count))
        x = layers.ReLU()(layers.Add()([x, convolve(y, count)]))
    x = layers.GlobalAveragePooling2D()(x)
    return layers.Dropout(config.dropout)(x)


def _efficientnet_lite0(image: keras.KerasTensor, config: NetworkConfig) -> keras.KerasTensor:
    x = layers.Rescaling(1 / 128, -127 / 128, dtype="float32")(image)
    if config.standardize:
        x = PHOTOGRAPH * _standardized(x)
    x = efficientnet_lite0(x, config.frozen_stages, config.stages)
    if config.imagenet:
        load_imagenet(keras.Model(image, x), config.imagenet)
    return layers.Dropout(config.dropout)(layers.GlobalAveragePooling2D()(x))


def _standardized(x: keras.KerasTensor) -> keras.KerasTensor:
    x = x - _mean(x)
    return x / ops.sqrt(_mean(ops.square(x)) + 1e-4)


def _mean(x: keras.KerasTensor) -> keras.KerasTensor:
    """[N, 1, 1, 1] of one channel, row by row: one long sum of float32 would cost onnxruntime two digits.

    The channel is taken with the row, because onnxruntime is slow where numbers of a sum lie apart.
    """
    return ops.mean(ops.mean(x, axis=(2, 3), keepdims=True), axis=1, keepdims=True)


def _efficientnet(image: keras.KerasTensor, config: NetworkConfig) -> keras.KerasTensor:
    """EfficientNetV2-B0 (Tan and Le 2021, arXiv:2104.00298), grey on all three of its channels.

    A quarter of DenseNet121's multiplications. It scales and normalises its input itself.
    """
    if config.imagenet and not os.path.isfile(config.imagenet):
        raise UsageError(
            f"{config.imagenet}: no such file; it is Keras's efficientnetv2-b0_notop.h5, to be fetched on a "
            'machine that may; or leave imagenet = "" to begin with random weights.'
        )
    x = layers.Concatenate()([image, image, image])
    try:
        body = keras.applications.EfficientNetV2B0(
            include_top=False, weights=config.imagenet or None, input_tensor=x, pooling="avg"
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"{config.imagenet}: not weights of EfficientNetV2-B0: {error}") from error
    return layers.Dropout(config.dropout)(body.output)
