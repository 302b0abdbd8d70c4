"""fp32 -> fp16 or int8: smaller, and faster where the chip has the arithmetic."""

import logging
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from chexscore.errors import ModelError
from chexscore.spec import INPUT_NAME, Precision
from export.files import temporary_folder
from export.fold import fold_for_int8

__all__ = ["reduce", "set_apart"]

RANGE_IMAGES = 128
"""Enough for ranges of activations; more only takes time. Of few images no more than SHARE is taken."""

SHARE = 1 / 4


def set_apart(patients: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Draws patients whose images int8 takes its ranges from, and on whom its loss is therefore not measured.

    Args:
        patients: str [S], the patient of each image.

    Returns:
        bool [S], true for the images of those who are drawn; at least one patient is, and one is not.

    Raises:
        ModelError: there is one patient alone.
    """
    everyone, row, images = np.unique(patients, return_inverse=True, return_counts=True)
    if everyone.size < 2:  # noqa: PLR2004, one for each
        raise ModelError("int8 needs two validation patients: one for its ranges, one to measure it on.")
    order = np.random.default_rng(0).permutation(everyone.size)
    wanted = min(RANGE_IMAGES, SHARE * len(patients))
    count = int(np.searchsorted(np.cumsum(images[order]), wanted, side="right"))
    return np.isin(row, order[: max(1, count)])


def reduce(model: onnx.ModelProto, precision: Precision, images: NDArray[np.uint8]) -> onnx.ModelProto:
    """The same graph in another arithmetic, input and output as before.

    Args:
        model: float32 graph from `image` to `scores`, no Gemm behind its logits.
        precision: what to make of it.
        images: uint8 [S, H, W, 1], typical ones, for the ranges of int8, RANGE_IMAGES of them at most.
    """
    # Behind chexscore.sessions, which switches off onnxruntime's telemetry before it is loaded.
    from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: PLC0415

    match precision:
        case "fp32":
            return model
        case "fp16-weights":
            return _halve_weights(model)
        case "fp16":
            half: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
            return half
        case "int8":
            return _to_int8(model, images)


def _halve_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights stored in 16 bits and cast back to 32, which onnxruntime does once, when it opens the file."""
    halved = onnx.ModelProto()
    halved.CopyFrom(model)
    graph, casts = halved.graph, []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim > 1:  # biases are too few to save anything
            stored = f"{tensor.name}/fp16"
            casts.append(onnx.helper.make_node("Cast", [stored], [tensor.name], to=onnx.TensorProto.FLOAT))
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), stored))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return halved


def _to_int8(model: onnx.ModelProto, images: NDArray[np.uint8]) -> onnx.ModelProto:
    """Static quantization of convolutions and inner matrices.

    The layer that gives the logits stays float32, and so do convolutions of one channel. A ReLU behind
    another becomes the lower end of that one's range, which is half as wide then; adding in 8 bits brought no
    speed. Activations are unsigned: x86 has fast instructions for unsigned times signed 8 bits alone.
    """
    from onnxruntime import quantization as ort  # noqa: PLC0415, as above

    class Reader(ort.CalibrationDataReader):  # type: ignore[misc]  # no types
        def __init__(self) -> None:
            step = -(-len(images) // RANGE_IMAGES)
            self.batches = iter([{INPUT_NAME: image[np.newaxis]} for image in images[::step]])

        def get_next(self) -> Any:
            return next(self.batches, None)

    logging.disable(logging.WARNING)  # it advises to fold constants first, which export.fold has done
    try:
        folded, floats = fold_for_int8(model)
        return _quantize(folded, floats, Reader())
    finally:
        logging.disable(logging.NOTSET)


def _quantize(model: onnx.ModelProto, floats: list[str], images: Any) -> onnx.ModelProto:
    from onnxruntime import quantization as ort  # noqa: PLC0415, as above

    matrices = [node.name for node in model.graph.node if node.op_type in ("Gemm", "MatMul")]
    with temporary_folder() as folder:
        target = folder / "int8.onnx"
        ort.quantize_static(
            model,
            target,
            images,
            quant_format=ort.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul", "Relu"],
            nodes_to_exclude=[*floats, *matrices[-1:]],
            per_channel=True,
            activation_type=ort.QuantType.QUInt8,
            weight_type=ort.QuantType.QInt8,
        )
        return onnx.load(target)
