"""Takes the waste out of a graph: what is constant is worked out, and goes into the weights beside it.

onnxruntime's basic level does most of it: constants, transposes, what follows a convolution, a matrix and its
bias. It leaves multiplications and additions beside a matrix, which go into it here, and batch norms behind a
ReLU. Each step is by itself an identity of arithmetic, with W and b for weights and bias, c and d constants
for each channel:

    ahead     W (cx + d) + b is (Wc) x + (Wd + b)
    behind    c (Wx + b) + d is (cW) x + (cb + d)
    c > 0     c ReLU(Wx + b) is ReLU((cW) x + cb)
    c > 0     the largest of all cx + d is cx + d of the largest x, to the last digit

The shift d of a batch norm ahead of a convolution stays, though the order of the layers would allow it to go
where no zeros are laid around x: it keeps the sums over many pixels and channels small, and without it the
reference lost two thirds of the digits that the tolerance leaves. Sums of whole numbers lose none: see
`fold_for_int8`.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, numpy_helper

from chexscore.classifier import SILENT  # which switches off onnxruntime's telemetry before it is loaded
from chexscore.errors import ModelError

__all__ = ["fold", "fold_for_int8"]

Constants = dict[str, onnx.TensorProto]

UNPADDED = (b"NOTSET", b"VALID")
"""Values of auto_pad with which no zeros are laid around images, but for those that pads asks for."""


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
    for convolution in [node for node in model.graph.node if node.op_type == "Conv"]:
        if constants.keys() >= set(convolution.input[1:]):
            _scale(convolution, model.graph, constants)
    for pool in [node for node in model.graph.node if node.op_type == "MaxPool"]:
        _pool_first(pool, model.graph, constants)
    _widen(model, constants)
    _keep_used(model.graph, constants)
    return model


def fold_for_int8(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """A folded graph in the form that is fastest in 8 bits, and the names of nodes that stay in floats.

    Additions ahead of convolutions go into the biases, where no zeros are laid around images. Convolutions of
    one channel stay in floats: in 8 bits onnxruntime takes longer to gather their few products than to
    multiply them. Their ReLU goes behind the pooling, or else onnxruntime would pool bytes in the order of
    floats, which takes it seven times as long as pooling floats.
    """
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    graph, floats = folded.graph, []
    constants = {item.name: item for item in graph.initializer}
    for convolution in [node for node in graph.node if node.op_type == "Conv"]:
        settings = {item.name: onnx.helper.get_attribute_value(item) for item in convolution.attribute}
        if settings.get("group", 1) > 1 or not constants.keys() >= set(convolution.input[1:]):
            continue
        if constants[convolution.input[1]].dims[1] == 1:
            floats.append(convolution.name)
            _relu_last(convolution, graph)
        padded = any(settings.get("pads", [])) or settings.get("auto_pad", b"NOTSET") not in UNPADDED
        if not padded and len(convolution.input) > 2:  # noqa: PLR2004, it has a bias
            _take_shift(convolution, graph, constants)
    _keep_used(graph, constants)
    return folded, floats


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


def _fill(gemm: NodeProto, graph: GraphProto, constants: Constants) -> None:
    """Takes the multiplications and additions around a Gemm into its weights [in, out] and bias [out]."""
    weights, bias = _values(gemm, constants)
    while found := _beside(graph, gemm.input[0], constants, len(weights), ahead=True):
        node, each = found
        if node.op_type == "Mul":
            weights = weights * each[:, np.newaxis]
        else:
            bias = bias + each @ weights
        gemm.input[0] = _variable(node, constants)
        graph.node.remove(node)
    while found := _beside(graph, gemm.output[0], constants, len(bias), ahead=False):
        node, each = found
        if node.op_type == "Mul":
            weights, bias = weights * each, bias * each
        else:
            bias = bias + each
        gemm.output[0] = node.output[0]
        graph.node.remove(node)
    _give(gemm, [weights, bias], constants)


def _scale(convolution: NodeProto, graph: GraphProto, constants: Constants) -> None:
    """Takes a multiplication behind its ReLU into a convolution's weights [out, in, h, w] and bias [out]."""
    relu = _only_taker(graph, convolution.output[0])
    if relu is None or relu.op_type != "Relu":
        return
    values = _values(convolution, constants)
    while found := _beside(graph, relu.output[0], constants, len(values[0]), ahead=False, map_axes=2):
        node, each = found
        if node.op_type != "Mul" or not (each > 0).all():
            break
        values = [(part.T * each).T for part in values]
        relu.output[0] = node.output[0]
        graph.node.remove(node)
        _give(convolution, values, constants)


def _pool_first(pool: NodeProto, graph: GraphProto, constants: Constants) -> None:
    """Leaves multiplications and additions ahead of a MaxPool to the fewer pixels behind it."""
    while found := _beside(graph, pool.input[0], constants, None, ahead=True, map_axes=2):
        node, each = found
        if len(pool.output) > 1 or (node.op_type == "Mul" and not (each > 0).all()):
            break
        before, behind = _variable(node, constants), pool.output[0]
        between = f"{behind}/pooled"
        graph.node.remove(node)
        node.input[list(node.input).index(before)] = pool.output[0] = between
        pool.input[0], node.output[0] = before, behind
        graph.node.insert(list(graph.node).index(pool) + 1, node)


def _relu_last(convolution: NodeProto, graph: GraphProto) -> None:
    """Lets the ReLU behind a convolution change places with a MaxPool: the largest stays the largest."""
    relu = _only_taker(graph, convolution.output[0])
    pool = None if relu is None else _only_taker(graph, relu.output[0])
    if relu is None or pool is None or (relu.op_type, pool.op_type) != ("Relu", "MaxPool"):
        return
    behind = pool.output[0]
    graph.node.remove(relu)
    pool.input[0], relu.output[0] = convolution.output[0], behind
    pool.output[0] = relu.input[0] = f"{behind}/pooled"
    graph.node.insert(list(graph.node).index(pool) + 1, relu)


def _take_shift(convolution: NodeProto, graph: GraphProto, constants: Constants) -> None:
    """Takes an addition ahead of a convolution into its bias."""
    weights, bias = _values(convolution, constants)
    found = _beside(graph, convolution.input[0], constants, weights.shape[1], ahead=True, map_axes=2)
    if found and found[0].op_type == "Add":
        node, each = found
        convolution.input[0] = _variable(node, constants)
        graph.node.remove(node)
        _give(convolution, [weights, bias + weights.sum(axis=(2, 3)) @ each], constants)


def _widen(model: onnx.ModelProto, constants: Constants) -> None:
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


def _beside(
    graph: GraphProto,
    between: str,
    constants: Constants,
    channels: int | None,
    *,
    ahead: bool,
    map_axes: int = 0,
) -> tuple[NodeProto, NDArray[np.float64]] | None:
    """The multiplication or addition by a constant that gives or takes `between`, and the constant.

    That is one number for each channel, of which there are so many, or as many as it says itself; behind the
    channels images have `map_axes` more axes. None if something else stands there, or what lies between is
    taken elsewhere too.
    """
    taker = _only_taker(graph, between)
    beside = next((node for node in graph.node if between in node.output), None) if ahead else taker
    if taker is None or beside is None or beside.op_type not in ("Mul", "Add"):
        return None
    known = [numpy_helper.to_array(constants[name]) for name in beside.input if name in constants]
    if len(known) != 1:
        return None
    shape = (1,) * (2 + map_axes - known[0].ndim) + known[0].shape
    wanted = (1, channels or shape[1], *(1,) * map_axes)
    if len(shape) != len(wanted) or any(
        side not in (1, want) for side, want in zip(shape, wanted, strict=True)
    ):
        return None
    return beside, np.broadcast_to(known[0].astype(np.float64).reshape(-1), wanted[1])


def _only_taker(graph: GraphProto, name: str) -> NodeProto | None:
    """The node that alone takes what is called so; None where others do, or whoever runs the graph."""
    takers = [node for node in graph.node for each in node.input if each == name]
    return takers[0] if len(takers) == 1 and all(name != value.name for value in graph.output) else None


def _variable(node: NodeProto, constants: Constants) -> str:
    """The input of a node that is no constant."""
    return next(str(name) for name in node.input if name not in constants)


def _values(node: NodeProto, constants: Constants) -> list[NDArray[np.float64]]:
    """Weights and, if there is one, bias."""
    return [numpy_helper.to_array(constants[name]).astype(np.float64) for name in node.input[1:]]


def _give(node: NodeProto, values: list[NDArray[np.float64]], constants: Constants) -> None:
    for place, value in enumerate(values, start=1):
        name = f"{node.output[0]}/{place}"  # a new one: an old one may have other users
        constants[name] = numpy_helper.from_array(value.astype(np.float32), name)
        node.input[place] = name


def _keep_used(graph: GraphProto, constants: Constants) -> None:
    used = {name for node in graph.node for name in node.input}
    del graph.initializer[:]
    graph.initializer.extend(item for name, item in constants.items() if name in used)
