"""Takes the waste out of a graph: arithmetic by constants goes into the convolution or matrix beside it.

tf2onnx folds a batch norm that follows a convolution directly. The rules below do the rest, each by itself an
identity of arithmetic; `export.verify` shows that nothing but the waste is gone. In formulas W and b are
weights and bias, c and d constants for each channel.
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

__all__ = ["fold"]

Channels = NDArray[np.float64]

CHANNELS_LAST = [0, 2, 3, 1]


def fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """Applies the rules until none applies; changes and returns `model`.

    Args:
        model: a float32 graph, its weights initializers.
    """
    graph = _Graph(onnx.shape_inference.infer_shapes(model).graph)
    while any(rule(graph, node) for node in graph.nodes for rule in RULES):
        pass
    graph.drop_unused()
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(graph.nodes)
    used = {name for node in graph.nodes for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(values, name) for name, values in graph.constants.items() if name in used
    )
    return model


class _Graph:
    """Nodes and constants, and who stands beside a node."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = list(graph.node)
        self.constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
        values = (*graph.value_info, *graph.input)
        self.ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in values}
        self.outputs = {value.name for value in graph.output}

    def before(self, node: NodeProto) -> NodeProto | None:
        """What gives the first input of `node`, if nothing else takes that."""
        found = next((other for other in self.nodes if node.input[0] in other.output), None)
        return found if found is not None and self.behind(found) is node else None

    def behind(self, node: NodeProto) -> NodeProto | None:
        """What takes the output of `node` as its first input, if nothing else takes it."""
        name = node.output[0]
        takers = [
            (other, place)
            for other in self.nodes
            for place in range(len(other.input))
            if other.input[place] == name
        ]
        alone = len(takers) == 1 and takers[0][1] == 0 and name not in self.outputs
        return takers[0][0] if alone else None

    def constant(self, values: NDArray[np.generic]) -> str:
        """The name of a new constant: an old one may have other users."""
        name = f"folded/{len(self.constants)}"
        self.constants[name] = values
        return name

    def affine(self, node: NodeProto) -> NDArray[np.float64] | None:
        """The constant of a multiplication or addition, which becomes its second input; None for others."""
        if node.op_type not in ("Mul", "Add"):
            return None
        if node.input[0] in self.constants:
            node.input[:] = [node.input[1], node.input[0]]
        constant = self.constants.get(node.input[1])
        return None if constant is None else constant.astype(np.float64)

    def weights(self, node: NodeProto) -> tuple[NDArray[np.float64], Channels]:
        """Weights [out, in, pixels] and bias [out] of a convolution or Gemm."""
        weights = self.constants[node.input[1]].astype(np.float64)
        weights = (
            weights.T[..., np.newaxis] if node.op_type == "Gemm" else weights.reshape(*weights.shape[:2], -1)
        )
        has_bias = len(node.input) > 2  # noqa: PLR2004, data, weights, bias
        return weights, self.constants[node.input[2]].astype(np.float64) if has_bias else np.zeros(
            len(weights)
        )

    def set_weights(self, node: NodeProto, weights: NDArray[np.float64], bias: Channels) -> None:
        """What `weights` gave, changed."""
        shape = self.constants[node.input[1]].shape
        weights = weights[..., 0].T if node.op_type == "Gemm" else weights.reshape(shape)
        node.input[:] = [
            node.input[0],
            self.constant(weights.astype(np.float32)),
            self.constant(bias.astype(np.float32)),
        ]

    def can_fold(self, node: NodeProto | None) -> bool:
        """Whether this is a convolution or Gemm of constant weights."""
        if node is None or node.op_type not in ("Conv", "Gemm"):
            return False
        return all(name in self.constants for name in node.input[1:])

    def remove(self, node: NodeProto) -> bool:
        """Takes a node out: its takers get its first input."""
        self.nodes = [other for other in self.nodes if other is not node]
        for other in self.nodes:
            other.input[:] = [node.input[0] if name == node.output[0] else name for name in other.input]
        return True

    def drop_unused(self) -> None:
        """Takes out the nodes whose outputs nobody takes."""
        for node in reversed(self.nodes):
            taken = self.outputs.union(*(other.input for other in self.nodes))
            if not taken.intersection(node.output):
                self.nodes = [other for other in self.nodes if other is not node]


def _neutral(graph: _Graph, node: NodeProto) -> bool:
    """Times one, plus zero."""
    constant = graph.affine(node)
    if constant is None or constant.shape not in ((), (1,)):  # a larger one may spread the other side
        return False
    return bool((constant == (node.op_type == "Mul")).all()) and graph.remove(node)


def _gemm(graph: _Graph, node: NodeProto) -> bool:
    """A product with a matrix becomes one that has a place for a bias."""
    weights = graph.constants.get(node.input[1]) if node.op_type == "MatMul" else None
    if weights is None or weights.ndim != 2 or graph.ranks.get(node.input[0]) != 2:  # noqa: PLR2004, matrices
        return False
    bias = graph.constant(np.zeros(weights.shape[1], np.float32))
    node.CopyFrom(helper.make_node("Gemm", [*node.input, bias], node.output, name=node.name))
    return True


def _flat(graph: _Graph, node: NodeProto) -> bool:
    """What a matrix multiplies has as many columns as that has rows: tf2onnx may work it out in the graph."""
    matrix = (
        graph.behind(node) if node.op_type == "Reshape" and node.input[1] not in graph.constants else None
    )
    if matrix is None or matrix.op_type != "Gemm" or not graph.can_fold(matrix):
        return False
    node.input[1] = graph.constant(np.array([-1, graph.weights(matrix)[0].shape[1]]))
    return True


def _after(graph: _Graph, node: NodeProto) -> bool:
    """What follows: c (Wx + b) + d is (cW) x + (cb + d)."""
    constant = graph.affine(node)
    weighted = graph.before(node) if constant is not None else None
    if constant is None or weighted is None or not graph.can_fold(weighted):
        return False
    weights, bias = graph.weights(weighted)
    each = _channels(constant, len(bias), weighted)
    if each is None:
        return False
    if node.op_type == "Mul":
        graph.set_weights(weighted, weights * each[:, np.newaxis, np.newaxis], bias * each)
    else:
        graph.set_weights(weighted, weights, bias + each)
    return graph.remove(node)


def _ahead(graph: _Graph, node: NodeProto) -> bool:
    """What precedes a matrix: W (cx + d) + b is (Wc) x + (Wd + b).

    Not a convolution, though the order of the layers would allow it where no zeros are laid around x: a batch
    norm keeps the sums over many pixels and channels small, and without it in front of its convolutions the
    reference lost two thirds of the digits that the tolerance leaves.
    """
    constant = graph.affine(node)
    matrix = graph.behind(node) if constant is not None else None
    if constant is None or matrix is None or matrix.op_type != "Gemm" or not graph.can_fold(matrix):
        return False
    weights, bias = graph.weights(matrix)
    each = _channels(constant, weights.shape[1], matrix)
    if each is None:
        return False
    if node.op_type == "Mul":
        graph.set_weights(matrix, weights * each[:, np.newaxis], bias)
    else:
        graph.set_weights(matrix, weights, bias + weights.sum(axis=2) @ each)
    return graph.remove(node)


def _mean(graph: _Graph, node: NodeProto) -> bool:
    """A mean over height and width does not need the channels last."""
    mean = graph.behind(node) if node.op_type == "Transpose" else None
    if mean is None or mean.op_type != "ReduceMean" or len(mean.input) != 2:  # noqa: PLR2004, data and axes
        return False
    axes = graph.constants.get(mean.input[1])
    given = (
        _ints(node, "perm"),
        _ints(mean, "keepdims"),
        sorted(axes.tolist()) if axes is not None else None,
    )
    if given != (CHANNELS_LAST, [0], [1, 2]):
        return False
    mean.input[1] = graph.constant(np.array([2, 3]))
    return graph.remove(node)


RULES = (_neutral, _gemm, _flat, _after, _ahead, _mean)


def _channels(constant: NDArray[np.float64], count: int, weighted: NodeProto) -> Channels | None:
    """A constant as one value for each of `count` channels; None if it is something else."""
    spread = (count, 1, 1) if weighted.op_type == "Conv" else (count,)
    shape = constant.shape[1:] if len(constant.shape) > len(spread) else constant.shape
    return np.broadcast_to(constant.reshape(-1), count) if shape in ((), (1,), spread) else None


def _ints(node: NodeProto, name: str) -> list[int]:
    """An attribute's integers; none if it is absent."""
    found = next((item for item in node.attribute if item.name == name), None)
    return [] if found is None else list(found.ints) or [found.i]
