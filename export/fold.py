"""Takes the waste out of a graph: what is constant is worked out, and goes into the weights beside it.

onnxruntime's basic level does most of it: constants, transposes, what follows a convolution, a matrix and its
bias. What it leaves is done here: multiplications and additions beside a matrix go into it, and batch norms
behind a ReLU where they cost least. Each step is an identity of arithmetic, with W and b for weights and
bias, c and d for constants of each channel:

    ahead           W (cx + d) + b is (Wc) x + (Wd + b)
    behind          c (Wx + b) + d is (cW) x + (cb + d)
    if all c > 0    c ReLU(Wx + b) is ReLU((cW) x + cb)
    if all c > 0    the largest of all cx + d (MaxPool) is cx + d of the largest x, to the last digit

Ahead of a convolution the shift d of a batch norm stays where it is while the graph is in floats, though it
could go into the bias where no zeros are laid around x: it keeps the sums over many pixels and channels
small, and without it the reference lost two thirds of the digits that the tolerance leaves.
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, numpy_helper

from chexscore.errors import ModelError, OutputError, first_line
from chexscore.messages import cannot_hold
from chexscore.sessions import SILENT  # which switches off onnxruntime's telemetry before it is loaded
from export.files import temporary_folder

__all__ = ["fold", "fold_for_int8"]

Constants = dict[str, onnx.TensorProto]
Shapes = dict[str, list[int]]
"""Of tensors by name; 0 for a side that is not known."""

UNPADDED = (b"NOTSET", b"VALID")
"""Values of auto_pad with which no zeros are laid around images, but for those that pads asks for."""


def fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph without the waste; `export.verify` shows that nothing else is gone.

    Args:
        model: a float32 graph of ONNX's own operators without subgraphs, its nodes in order, its weights
            initializers.

    Raises:
        ModelError: onnxruntime cannot run it.
        OutputError: the folder for temporary files is full or gone.
    """
    model = _basic(_fix_shapes(model))
    constants, shapes = {item.name: item for item in model.graph.initializer}, _shapes(model)
    for node in list(model.graph.node):
        if node.op_type == "MaxPool":
            _pool_first(node, model.graph, constants, shapes)
        elif constants.keys() >= set(node.input[1:]):
            if node.op_type == "Gemm":
                _fill(node, model.graph, constants, shapes)
            elif node.op_type == "Conv":
                _scale(node, model.graph, constants, shapes)
    _widen(model, constants)
    _keep_used(model.graph, constants)
    return model


def fold_for_int8(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """A folded graph in the form that is fastest in 8 bits, and the convolutions that stay in floats by name.

    Additions ahead of convolutions go into the biases, where no zeros are laid around images: they would be
    made in floats, and sums of whole numbers lose no digits. Convolutions of images of one channel stay in
    floats: in 8 bits onnxruntime takes longer to gather their few products than to multiply them. The ReLU
    of such a convolution changes places with a MaxPool behind it, or else onnxruntime would pool bytes in
    the order of floats, which takes it seven times as long as pooling floats.

    Args:
        model: as `fold` gives it, each node with a name of its own.
    """
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    graph, floats = folded.graph, []
    constants, shapes = {item.name: item for item in graph.initializer}, _shapes(folded)
    for convolution in [node for node in graph.node if node.op_type == "Conv"]:
        settings = {item.name: onnx.helper.get_attribute_value(item) for item in convolution.attribute}
        padded = any(settings.get("pads", [])) or settings.get("auto_pad", b"NOTSET") not in UNPADDED
        if settings.get("group", 1) > 1 or not constants.keys() >= set(convolution.input[1:]):
            continue
        if constants[convolution.input[1]].dims[1] == 1:
            floats.append(convolution.name)
            _relu_last(convolution, graph)
        elif not padded:
            _take_shift(convolution, graph, constants, shapes)
    _keep_used(graph, constants)
    return folded, floats


def _shapes(model: onnx.ModelProto) -> Shapes:
    """Those that are known of inputs and of what nodes give."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    known = ((value.name, value.type.tensor_type.shape.dim) for value in (*graph.input, *graph.value_info))
    return {name: [side.dim_value for side in sides] for name, sides in known}


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
    import onnxruntime  # noqa: PLC0415, behind chexscore.sessions
    from onnxruntime.capi.onnxruntime_pybind11_state import InvalidProtobuf  # noqa: PLC0415, as above

    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with temporary_folder() as folder:
        options.optimized_model_filepath = str(folder / "basic.onnx")
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except InvalidProtobuf as error:  # the file's: what it reads has been written by onnx
            raise OutputError(cannot_hold("the network")) from error
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise ModelError(
                f"onnxruntime cannot run what the network was converted to: {first_line(error)}"
            ) from error
        basic = onnx.load(options.optimized_model_filepath)
    del basic.opset_import[:]  # it names all operator sets that onnxruntime knows
    basic.opset_import.extend(model.opset_import)
    return basic


def _fill(gemm: NodeProto, graph: GraphProto, constants: Constants, shapes: Shapes) -> None:
    """Takes the multiplications and additions around a Gemm into its weights [in, out] and bias [out]."""
    weights, bias = _values(gemm, constants)
    while found := _beside(graph, gemm.input[0], constants, shapes, ahead=True):
        node, each = found
        if node.op_type == "Mul":
            weights = weights * each[:, np.newaxis]
        else:
            bias = bias + each @ weights
        gemm.input[0] = node.input[_variable(node, constants)]
        graph.node.remove(node)
    while found := _beside(graph, gemm.output[0], constants, shapes, ahead=False):
        node, each = found
        if node.op_type == "Mul":
            weights, bias = weights * each, bias * each
        else:
            bias = bias + each
        gemm.output[0] = node.output[0]
        graph.node.remove(node)
    _give(gemm, 1, weights, constants)
    _give(gemm, 2, bias, constants)


def _scale(convolution: NodeProto, graph: GraphProto, constants: Constants, shapes: Shapes) -> None:
    """Takes multiplications behind its ReLU into a convolution's weights [out, in, ...] and bias [out].

    All or nothing: one channel whose scale is not positive leaves the layer as it is.
    """
    relu = _only_taker(graph, convolution.output[0])
    if relu is None or relu.op_type != "Relu":
        return
    while found := _beside(graph, relu.output[0], constants, shapes, ahead=False):
        node, each = found
        if node.op_type != "Mul" or not (each > 0).all():
            break
        for place, values in enumerate(_values(convolution, constants), start=1):
            _give(convolution, place, (values.T * each).T, constants)
        relu.output[0] = node.output[0]
        graph.node.remove(node)


def _pool_first(pool: NodeProto, graph: GraphProto, constants: Constants, shapes: Shapes) -> None:
    """Leaves multiplications and additions ahead of a MaxPool to the fewer pixels behind it."""
    while found := _beside(graph, pool.input[0], constants, shapes, ahead=True):
        node, each = found
        if len(pool.output) > 1 or (node.op_type == "Mul" and not (each > 0).all()):
            break
        _change_places(node, _variable(node, constants), pool, graph)


def _relu_last(convolution: NodeProto, graph: GraphProto) -> None:
    """Lets the ReLU behind a convolution change places with a MaxPool: the largest stays the largest."""
    relu = _only_taker(graph, convolution.output[0])
    pool = None if relu is None else _only_taker(graph, relu.output[0])
    if relu and pool and (relu.op_type, pool.op_type, len(pool.output)) == ("Relu", "MaxPool", 1):
        _change_places(relu, 0, pool, graph)


def _change_places(node: NodeProto, place: int, pool: NodeProto, graph: GraphProto) -> None:
    """Puts a node, whose input at `place` is pooled then, behind the pool that it stands ahead of."""
    behind = pool.output[0]
    graph.node.remove(node)
    pool.input[0], node.output[0] = node.input[place], behind
    pool.output[0] = node.input[place] = f"{behind}/pooled"
    graph.node.insert(list(graph.node).index(pool) + 1, node)


def _take_shift(convolution: NodeProto, graph: GraphProto, constants: Constants, shapes: Shapes) -> None:
    """Takes additions ahead of a convolution into its bias; if it has none, it gets one."""
    while found := _beside(graph, convolution.input[0], constants, shapes, ahead=True):
        node, each = found
        if node.op_type != "Add":
            break
        weights, *known = _values(convolution, constants)
        shift = weights.sum(axis=tuple(range(2, weights.ndim))) @ each
        _give(convolution, 2, sum(known, shift), constants)
        convolution.input[0] = node.input[_variable(node, constants)]
        graph.node.remove(node)


def _widen(model: onnx.ModelProto, constants: Constants) -> None:
    """Gives single values as many axes as the images that they meet.

    With fewer, onnxruntime goes through images of one channel, whose last axis is 1, pixel by pixel: scaling
    them took a tenth of a small network's time.
    """
    shapes = _shapes(model)
    for node in model.graph.node:
        if node.op_type not in ("Add", "Sub", "Mul", "Div"):
            continue
        wanted = max(len(shapes.get(name, [])) for name in node.input)
        for place, name in enumerate(node.input):
            if name in constants and len(constants[name].dims) < wanted:
                value = numpy_helper.to_array(constants[name])
                if value.size == 1:
                    node.input[place] = wide = f"{name}/{wanted}"
                    constants[wide] = numpy_helper.from_array(value.reshape([1] * wanted), wide)


def _beside(
    graph: GraphProto, between: str, constants: Constants, shapes: Shapes, *, ahead: bool
) -> tuple[NodeProto, NDArray[np.float64]] | None:
    """The multiplication or addition by a constant that gives or takes `between`, and that constant [C].

    None if something else stands there, what lies between is taken elsewhere too, or the constant is not one
    number for each of the C channels that the images have.
    """
    taker = _only_taker(graph, between)
    beside = next((node for node in graph.node if between in node.output), None) if ahead else taker
    if taker is None or beside is None or beside.op_type not in ("Mul", "Add"):
        return None
    known = [numpy_helper.to_array(constants[name]) for name in beside.input if name in constants]
    if len(known) != 1:
        return None
    images = shapes.get(beside.input[_variable(beside, constants)], [])
    missing = len(images) - known[0].ndim
    shape = (1,) * missing + known[0].shape
    if missing < 0 or len(images) < 2 or not images[1] or shape[1] not in (1, images[1]):  # noqa: PLR2004
        return None
    if any(side != 1 for axis, side in enumerate(shape) if axis != 1):
        return None
    return beside, np.broadcast_to(known[0].astype(np.float64).reshape(-1), images[1])


def _only_taker(graph: GraphProto, name: str) -> NodeProto | None:
    """The node that alone takes what is called so; None where others do, or whoever runs the graph."""
    takers = [node for node in graph.node for each in node.input if each == name]
    return takers[0] if len(takers) == 1 and all(name != value.name for value in graph.output) else None


def _variable(node: NodeProto, constants: Constants) -> int:
    """The place of the input of a node that is no constant."""
    return next(place for place, name in enumerate(node.input) if name not in constants)


def _values(node: NodeProto, constants: Constants) -> list[NDArray[np.float64]]:
    """Weights and, if there is one, bias."""
    return [numpy_helper.to_array(constants[name]).astype(np.float64) for name in node.input[1:]]


def _give(node: NodeProto, place: int, values: NDArray[np.float64], constants: Constants) -> None:
    """Sets a constant input of a node, in float32, under a new name: the old one may have other users."""
    name = f"{node.output[0]}/{place}"
    constants[name] = numpy_helper.from_array(values.astype(np.float32), name)
    node.input[place : place + 1] = [name]


def _keep_used(graph: GraphProto, constants: Constants) -> None:
    """Makes those constants the graph's that are used in it."""
    used = {name for node in graph.node for name in node.input}
    del graph.initializer[:]
    graph.initializer.extend(item for name, item in constants.items() if name in used)
