"""Keras -> ONNX by tf2onnx, with the ModelSpec inside the file."""

import contextlib
import io
from importlib.metadata import version

import keras
import onnx
import tensorflow as tf
import tf2onnx

from chexscore.errors import ModelError
from chexscore.spec import INPUT_NAME, OUTPUT_NAME, SPEC_KEY, ModelSpec

__all__ = ["OPSET", "convert", "describe", "tools"]

OPSET = 18
"""ONNX operator set of the graph; onnxruntime has supported it since 1.14."""


def convert(network: keras.Model, spec: ModelSpec) -> onnx.ModelProto:
    """Converts a network and wraps it into the contract of chexscore's models.

    Args:
        network: float32 [N, H, W, 1] in 0..255 -> scores [N, L].
        spec: what to write into the file.

    Returns:
        A graph from `image`, uint8 [N, H, W, 1], to `scores`, float32 [N, L].

    Raises:
        ModelError: the network's shapes are not those of the spec.
    """
    promised = ((None, spec.image.height, spec.image.width, 1), (None, len(spec.labels)))
    if (network.input_shape, network.output_shape) != promised:
        raise ModelError(
            f"the network maps {network.input_shape} to {network.output_shape}, its description promises "
            f"{promised[0]} to {promised[1]}."
        )
    image = keras.Input(promised[0][1:], dtype="uint8", name=INPUT_NAME)
    scores = keras.layers.Identity(name=OUTPUT_NAME)(network(keras.ops.cast(image, "float32")))
    wrapped = keras.Model(image, scores)
    signature = [tf.TensorSpec(promised[0], tf.uint8, name=INPUT_NAME)]
    with contextlib.redirect_stderr(io.StringIO()):  # tf2onnx talks about rewriting that succeeded
        model, _ = tf2onnx.convert.from_keras(wrapped, input_signature=signature, opset=OPSET)
    _name_axes(model)
    return describe(model, spec)


def tools() -> dict[str, str]:
    """What made the file, for its provenance."""
    return {"opset": str(OPSET), "tf2onnx": version("tf2onnx")}


def describe(model: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """Writes the spec into the file's metadata, in place of an earlier one; changes and returns `model`."""
    onnx.helper.set_model_props(model, {SPEC_KEY: spec.to_json()})
    return model


def _name_axes(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
