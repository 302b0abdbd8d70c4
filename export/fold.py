"""Takes the waste out of a graph: what is constant is worked out, and goes into the weights beside it.

onnxruntime's basic level does most of it: constants, transposes, what follows a convolution, a matrix and its
bias. It leaves multiplications and additions beside a matrix, which go into it here. Each is by itself an
identity of arithmetic, with W and b for weights and bias, c and d constants for each channel:

    ahead     W (cx + d) + b is (Wc) x + (Wd + b)
    behind    c (Wx + b) + d is (cW) x + (cb + d)

A batch norm ahead of a convolution stays, though the order of the layers would allow it to go where no zeros
are laid around x: it keeps the sums over many pixels and channels small, and without it the reference lost
two thirds of the digits that the tolerance leaves.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, numpy_helper

from chexscore.classifier import SILENT  # which switches off onnxruntime's telemetry before it is loaded
from chexscore.errors import ModelError

__all__ = ["fold"]


def fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph without the waste; `export.verify` shows that nothing else is gone.

    Args:
        model: a float32 graph of ONNX's own operators without subgraphs, its nodes in order, its weights
            initializers.

    Raises:
        ModelError: onnxruntime cannot run it.
    """
    model = _basic(_fix_shapes(model))
    constants = {item.name: item for item in model.graph.initializer}
    for gemm in [node for node in model.graph.node if node.op_type == "Gemm"]:
        if constants.keys() >= set(gemm.input[1:]):
            _fill(gemm, model.graph, constants)
    _widen(model, constants)
    used = {name for node in model.graph.node for name in node.input}
    del model.graph.initializer[:]
    model.graph.initializer.extend(item for name, item in constants.items() if name in used)
    return model


def _fix_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Makes the shapes constant that a Reshape is given by other nodes, where at most one axis is open.

    A layer that flattens asks for the number of images and builds its shape anew for every batch. tf2onnx
    sees through that for few networks, and not each time: it goes through nodes in the order of a set.
    """
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    graph = model.graph
    constants = {item.name for item in graph.initializer}
    types = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
    for node in graph.node:
        found = types.get(node.output[0])
        if node.op_type != "Reshape" or node.input[1] in constants or not (found and found.HasField("shape")):
            continue
        shape = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in found.shape.dim]
        if shape.count(-1) <= 1 and 0 not in shape:
            node.input[1] = name = f"{node.output[0]}/shape"
            graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), name))
    used = {value.name for value in graph.output}
    for node in reversed(list(graph.node)):  # onnxruntime leaves what has no user any more
        if used.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            used.update(node.input)
    return model


def _basic(model: onnx.ModelProto) -> onnx.ModelProto:
    """What onnxruntime makes of a graph at its basic level, which keeps to ONNX's own operators."""
    import onnxruntime  # noqa: PLC0415, behind chexscore.classifier

    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "basic.onnx")
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions have no common base
            reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
            raise ModelError(f"onnxruntime cannot run what the network was converted to: {reason}") from error
        basic = onnx.load(options.optimized_model_filepath)
    del basic.opset_import[:]  # it names all operator sets that onnxruntime knows
    basic.opset_import.extend(model.opset_import)
    return basic


def _fill(gemm: NodeProto, graph: GraphProto, constants: dict[str, onnx.TensorProto]) -> None:
    """Takes the multiplications and additions around a Gemm into its weights [in, out] and bias [out]."""
    weights, bias = (numpy_helper.to_array(constants[name]).astype(np.float64) for name in gemm.input[1:])
    while found := _affine(graph, gemm, constants, len(weights), ahead=True):
        node, each = found
        if node.op_type == "Mul":
            weights = weights * each[:, np.newaxis]
        else:
            bias = bias + each @ weights
        gemm.input[0] = next(name for name in node.input if name not in constants)
        graph.node.remove(node)
    while found := _affine(graph, gemm, constants, len(bias), ahead=False):
        node, each = found
        if node.op_type == "Mul":
            weights, bias = weights * each, bias * each
        else:
            bias = bias + each
        gemm.output[0] = node.output[0]
        graph.node.remove(node)
    for place, values in ((1, weights), (2, bias)):
        name = f"{gemm.output[0]}/{place}"  # a new one: an old one may have other users
        constants[name] = numpy_helper.from_array(values.astype(np.float32), name)
        gemm.input[place] = name


def _widen(model: onnx.ModelProto, constants: dict[str, onnx.TensorProto]) -> None:
    """Gives single values as many axes as the images that they meet.

    With fewer, onnxruntime goes through images of one channel, whose last axis is 1, pixel by pixel: scaling
    them took a tenth of a small network's time.
    """
    known = onnx.shape_inference.infer_shapes(model).graph
    axes = {value.name: len(value.type.tensor_type.shape.dim) for value in (*known.input, *known.value_info)}
    for node in model.graph.node:
        if node.op_type not in ("Add", "Sub", "Mul", "Div"):
            continue
        wanted = max((axes.get(name, 0) for name in node.input), default=0)
        for place, name in enumerate(node.input):
            if name in constants and len(constants[name].dims) < wanted:
                value = numpy_helper.to_array(constants[name])
                if value.size == 1:
                    node.input[place] = wide = f"{name}/{wanted}"
                    constants[wide] = numpy_helper.from_array(value.reshape([1] * wanted), wide)


def _affine(
    graph: GraphProto, gemm: NodeProto, constants: dict[str, onnx.TensorProto], channels: int, *, ahead: bool
) -> tuple[NodeProto, NDArray[np.float64]] | None:
    """The multiplication or addition by a constant beside a Gemm, and that constant for each channel.

    None if something else stands there, or what lies between is taken elsewhere too.
    """
    between = gemm.input[0] if ahead else gemm.output[0]
    takers = [node for node in graph.node for name in node.input if name == between]
    beside = [node for node in graph.node if between in node.output] if ahead else takers
    if len(takers) != 1 or len(beside) != 1 or beside[0].op_type not in ("Mul", "Add"):
        return None
    if any(between == value.name for value in graph.output):
        return None
    known = [numpy_helper.to_array(constants[name]) for name in beside[0].input if name in constants]
    if len(known) != 1 or known[0].shape not in ((), (1,), (channels,), (1, channels)):
        return None
    return beside[0], np.broadcast_to(known[0].astype(np.float64).reshape(-1), channels)
