"""Keras -> ONNX by tf2onnx, with calibration and the ModelSpec inside the file."""

import contextlib
import io
import logging
from importlib.metadata import version

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from numpy.typing import NDArray

from chexscore.errors import ModelError, first_line
from chexscore.spec import INPUT_NAME, OUTPUT_NAME, ModelSpec
from export.calibrate import Platt, sigmoid
from export.files import describe
from export.fold import fold
from export.names import rename

__all__ = ["OPSET", "check_shapes", "convert", "predict_logits", "tools", "without_sigmoid"]

logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # its errors are raised, or seen in the graph

ROUNDING = 1e-5
"""Of scores in float32, between one way through Keras and another."""

OPSET = 18
"""ONNX operator set of the graph; onnxruntime has supported it since 1.14."""


def convert(network: keras.Model, spec: ModelSpec, platt: Platt | None = None) -> onnx.ModelProto:
    """Converts a network and wraps it into the contract of chexscore's models.

    Args:
        network: float32 [N, H, W, 1] in 0..255 -> scores [N, L], each the sigmoid of a logit; see
            `check_shapes`.
        spec: what to write into the file.
        platt: the calibration to put between logits and sigmoid.

    Returns:
        A graph from `image`, uint8 [N, H, W, 1], to `scores`, float32 [N, L].

    Raises:
        ModelError: the network does not end in a sigmoid, or cannot be converted.
        OutputError: the folder for temporary files is full or gone.
    """
    shape = (spec.image.height, spec.image.width, 1)
    image = keras.Input(shape, dtype="uint8", name=INPUT_NAME)
    logits = without_sigmoid(network)(keras.ops.cast(image, "float32"))
    if platt is not None:
        logits = keras.layers.Rescaling(platt.slopes.tolist(), platt.intercepts.tolist())(logits)
    wrapped = keras.Model(image, keras.layers.Activation("sigmoid", name=OUTPUT_NAME)(logits))
    signature = [tf.TensorSpec((None, *shape), tf.uint8, name=INPUT_NAME)]
    words = io.StringIO()  # tf2onnx talks about rewriting that succeeded
    try:
        with contextlib.redirect_stderr(words):
            model, _ = tf2onnx.convert.from_keras(wrapped, input_signature=signature, opset=OPSET)
    except Exception as error:  # tf2onnx raises what it happens to meet
        raise ModelError(
            f"tf2onnx cannot convert the network: {type(error).__name__}: {first_line(error)}."
        ) from error
    _check_operators(model)
    _name_axes(model)
    return describe(rename(fold(model)), spec)


def check_shapes(network: keras.Model, spec: ModelSpec) -> None:
    """Raises a ModelError unless a network takes the images and gives the scores that its spec promises."""
    promised = ((None, spec.image.height, spec.image.width, 1), (None, len(spec.labels)))
    if (network.input_shape, network.output_shape) != promised:
        raise ModelError(
            f"the network maps {network.input_shape} to {network.output_shape}, its description promises "
            f"{promised[0]} to {promised[1]}."
        )


def without_sigmoid(network: keras.Model) -> keras.Model:
    """The same network up to its logits, float [N, L], with a last layer of its own.

    Raises:
        ModelError: the last layer does not apply a sigmoid, so the scores are no probabilities.
    """
    last = _last(network)
    plain = type(last).from_config({**last.get_config(), "activation": "linear"})
    logits = keras.Model(network.inputs, plain(last.input))
    plain.set_weights(last.get_weights())
    return logits


def predict_logits(network: keras.Model, images: NDArray[np.uint8]) -> NDArray[np.floating]:
    """Logits [S, L] of images [S, H, W, 1], by the network itself: its sigmoid is switched off meanwhile.

    Raises:
        ModelError: the last layer does not apply a sigmoid, or the logits are not those of its scores, or no
            numbers.
    """
    last, scores = _last(network), _predict(network, images)
    last.activation = keras.activations.linear
    try:
        logits = _predict(keras.Model(network.inputs, network.outputs), images)
    finally:
        last.activation = keras.activations.sigmoid
    if not np.isfinite(logits).all():
        raise ModelError("the network gives scores that are no numbers; train it again.")
    if np.abs(sigmoid(logits) - scores).max() > ROUNDING:
        raise ModelError(f"the network's last layer, {last.name}, gives no sigmoid of what it gives without.")
    return logits


def _last(network: keras.Model) -> keras.layers.Layer:
    last = network.layers[-1]
    if getattr(last, "activation", None) is not keras.activations.sigmoid:
        raise ModelError(f"the network ends in the layer {last.name}, which is no sigmoid for each label.")
    return last


def _predict(network: keras.Model, images: NDArray[np.uint8]) -> NDArray[np.floating]:
    """What Keras gives for images [S, H, W, 1], 8 at a time; the first images fill up the last batch."""
    rows = np.resize(np.arange(len(images)), (-(-len(images) // 8), 8))
    batches = [np.asarray(network.predict_on_batch(images[chunk])) for chunk in rows]
    return np.concatenate(batches)[: len(images)]


def tools() -> dict[str, str]:
    """What made the file, for its provenance."""
    return {"opset": str(OPSET), "tf2onnx": version("tf2onnx")}


def _check_operators(model: onnx.ModelProto) -> None:
    """Raises a ModelError if tf2onnx has left something in the graph as TensorFlow has it."""
    for node in model.graph.node:
        if not node.domain and not onnx.defs.has(node.op_type):
            where = node.name and f" at {node.name}"  # its layer is a part of that
            raise ModelError(f"tf2onnx cannot convert the {node.op_type}{where}; replace that layer.")


def _name_axes(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
