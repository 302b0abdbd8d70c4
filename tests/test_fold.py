"""What is folded at export, in graphs made by hand: other operators, the same numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from export.fold import fold, fold_for_int8

SPATIAL = np.arange(6).reshape(1, 1, 1, 6)
"""A constant for each column of pixels."""


def graph_of(
    nodes: list[onnx.NodeProto], image: list[int], values: Mapping[str, ArrayLike], outputs: str = "y"
) -> onnx.ModelProto:
    """From `x`, images of a shape, to outputs of any."""
    given = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", *image])]
    made = [onnx.ValueInfoProto(name=name) for name in outputs.split()]
    constants = [
        numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in values.items()
    ]
    graph = helper.make_graph(nodes, "made", given, made, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def operators(model: onnx.ModelProto) -> str:
    return " ".join(node.op_type for node in model.graph.node)


def check_same(folded: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """That a graph is sound, holds what it uses alone, and gives what another gives."""
    onnx.checker.check_model(folded, full_check=True)
    used = {name for node in folded.graph.node for name in node.input}
    assert {item.name for item in folded.graph.initializer} <= used
    sides = model.graph.input[0].type.tensor_type.shape.dim[1:]
    x = np.random.default_rng(1).standard_normal((2, *(side.dim_value for side in sides)), np.float32)
    before, after = (ReferenceEvaluator(each).run(None, {"x": x}) for each in (model, folded))
    for found, expected in zip(after, before, strict=True):
        np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-5, atol=1e-5)


def normals(*shape: int) -> NDArray[np.float64]:
    return np.random.default_rng(0).standard_normal(shape)


def test_a_shape_that_is_worked_out_in_the_graph_is_written_out_where_one_axis_is_open() -> None:
    nodes = [  # without names, as ONNX allows
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "one", "zero"], ["count"]),
        helper.make_node("Cast", ["count"], ["few"], to=onnx.TensorProto.INT32),  # onnxruntime stops here
        helper.make_node("Cast", ["few"], ["many"], to=onnx.TensorProto.INT64),
        helper.make_node("Concat", ["many", "pixels"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["flat"]),
        helper.make_node("Concat", ["many", "map"], ["another"], axis=0),
        helper.make_node("Reshape", ["flat", "another"], ["again"]),
        helper.make_node("Relu", ["again"], ["scores"]),
        helper.make_node("Shape", ["y"], ["open"]),
        helper.make_node("Reshape", ["y", "open"], ["same"]),
        helper.make_node("Relu", ["same"], ["rest"]),
    ]
    values = {"zero": [0], "one": [1], "pixels": [12], "map": [2, 6]}
    graph = helper.make_graph(
        nodes,
        "reshapes",
        [
            helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 2, 2]),
            helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", "M"]),
        ],
        [
            helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["N", 2, 6]),
            helper.make_tensor_value_info("rest", onnx.TensorProto.FLOAT, ["N", "M"]),
        ],
        [numpy_helper.from_array(np.array(value), name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    folded = fold(model)
    shapes = {item.name: numpy_helper.to_array(item).tolist() for item in folded.graph.initializer}
    given = {node.output[0]: shapes.get(node.input[1]) for node in folded.graph.node if len(node.input) > 1}
    assert given == {"flat": [-1, 12], "again": [-1, 2, 6], "same": None}
    assert not {"Cast", "Concat", "Slice"} & {node.op_type for node in folded.graph.node}
    before, after = (ReferenceEvaluator(each) for each in (model, folded))
    for images in (1, 3):
        feed = {
            "x": np.random.default_rng(0).standard_normal((images, 3, 2, 2), np.float32),
            "y": np.ones((images, 5), np.float32),
        }
        for mine, theirs in zip(after.run(None, feed), before.run(None, feed), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_single_values_get_the_axes_of_the_images_that_they_meet() -> None:
    """onnxruntime takes images of one channel pixel by pixel else."""
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scaled"]),
        helper.make_node("Sub", ["offset", "scaled"], ["centred"]),
        helper.make_node("Mul", ["centred", "channels"], ["y"]),
    ]
    model = graph_of(nodes, [4, 4, 2], {"scale": 0.5, "offset": [3], "channels": [1, 2]})
    folded = fold(model)
    assert sorted(list(item.dims) for item in folded.graph.initializer) == [[1, 1, 1, 1], [1, 1, 1, 1], [2]]
    x = np.random.default_rng(0).random((2, 4, 4, 2), np.float32)
    (y,) = ReferenceEvaluator(folded).run(None, {"x": x})
    np.testing.assert_allclose(np.asarray(y), (3 - 0.5 * x) * np.array([1, 2], np.float32), rtol=1e-6)


@pytest.mark.parametrize(
    ("channels", "given", "changes", "folded_to", "for_int8"),
    [
        (2, "Relu Mul Add MaxPool", {}, "Relu MaxPool Add", "Relu MaxPool"),
        (2, "Relu Mul Add MaxPool", {"bias": False}, "Relu MaxPool Add", "Relu MaxPool"),
        (2, "Relu Mul Add", {}, "Relu Add", "Relu"),
        # the zeros around an image are not shifted
        (2, "Relu Mul Add", {"pads": [1] * 4}, "Relu Add", "Relu Add"),
        (2, "Relu Mul Add", {"auto_pad": "SAME_UPPER"}, "Relu Add", "Relu Add"),
        (2, "Relu Mul Add", {"group": 3}, "Relu Add", "Relu Add"),
        # the largest pixel would be another one
        (2, "Relu Mul Add MaxPool", {"scale": -0.5}, "Relu Mul MaxPool Add", "Relu Mul MaxPool"),
        (2, "Relu Add Mul", {"scale": -0.5}, "Relu Add Mul", "Relu Add Mul"),
        (2, "Sigmoid Mul Add MaxPool", {}, "Sigmoid MaxPool Mul Add", "Sigmoid MaxPool Mul"),
        # a number for all channels, without the axis of images, and for each column of pixels
        (2, "Relu Mul Add MaxPool", {"shift": 0.3}, "Relu MaxPool Add", "Relu MaxPool"),
        (2, "Relu Mul Add MaxPool", {"shift": normals(3, 1, 1)}, "Relu MaxPool Add", "Relu MaxPool"),
        (2, "Relu Mul Add MaxPool", {"shift": SPATIAL}, "Relu Add MaxPool", "Relu Add MaxPool"),
        # what stays in floats
        (1, "Relu Mul Add MaxPool", {}, "Relu MaxPool Add", "MaxPool Relu"),
        (1, "Relu Mul Add", {"pads": [1] * 4}, "Relu Add", "Relu Add"),
    ],
)
def test_a_batch_norm_between_convolutions_goes_where_it_costs_least(
    channels: int, given: str, changes: dict[str, Any], folded_to: str, for_int8: str
) -> None:
    nodes = [helper.make_node("Conv", ["x", "first", "offset"], ["map"], name="stem")]
    for name in given.split():
        constant = {"Mul": ["scale"], "Add": ["shift"]}.get(name, [])
        sides: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]} if name == "MaxPool" else {}
        last = nodes[-1].output[0]
        nodes.append(helper.make_node(name, [last, *constant], [f"{last}{name}"], **sides))
    settings = {name: changes[name] for name in ("pads", "auto_pad", "group") if name in changes}
    inputs = [nodes[-1].output[0], "second", *["offset"] * changes.get("bias", True)]
    nodes.append(helper.make_node("Conv", inputs, ["y"], **settings))
    values = {
        "first": normals(3, channels, 3, 3),
        "offset": [0.5, -1, 0.25],
        "scale": np.array([2, changes.get("scale", 0.5), 1]).reshape(1, 3, 1, 1),
        "shift": changes.get("shift", normals(1, 3, 1, 1)),
        "second": normals(3, 3 // changes.get("group", 1), 2, 2),
    }
    model = graph_of(nodes, [channels, 8, 8], values)
    folded = fold(model)
    small, floats = fold_for_int8(folded)
    assert floats == ["stem"] * (channels == 1)
    assert operators(folded) == f"Conv {folded_to} Conv"
    assert operators(small) == f"Conv {for_int8} Conv"
    check_same(folded, model)
    check_same(small, model)


def test_what_others_take_too_is_not_scaled() -> None:
    """The ReLU's own values are wanted as well as their scaled ones: by another node, or as an output."""
    nodes = [
        helper.make_node("Conv", ["x", "weights"], ["map"]),
        helper.make_node("Relu", ["map"], ["lit"]),
        helper.make_node("Mul", ["lit", "scale"], ["y"]),
    ]
    values = {"weights": np.ones((2, 1, 3, 3)), "scale": np.array([2, 3]).reshape(1, 2, 1, 1)}
    another = helper.make_node("MaxPool", ["lit"], ["z"], kernel_shape=[6, 6])
    for model in (
        graph_of([*nodes, another], [1, 8, 8], values, "y z"),
        graph_of(nodes, [1, 8, 8], values, "y lit"),
    ):
        folded = fold(model)
        assert operators(folded) == operators(model)
        check_same(folded, model)


def test_weights_of_two_convolutions_stay_those_of_the_other() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "weights"], ["map"]),
        helper.make_node("Relu", ["map"], ["lit"]),
        helper.make_node("Mul", ["lit", "scale"], ["y"]),
        helper.make_node("Conv", ["x", "weights"], ["z"], pads=[1] * 4),
    ]
    values = {"weights": normals(2, 1, 3, 3), "scale": np.array([2, 3]).reshape(1, 2, 1, 1)}
    model = graph_of(nodes, [1, 8, 8], values, "y z")
    folded = fold(model)
    assert operators(folded).split().count("Mul") == 0
    check_same(folded, model)


def test_where_the_largest_pixel_lies_is_not_changed() -> None:
    """All that a ReLU cuts off is equal: the first of it would be another place."""
    nodes = [
        helper.make_node("Conv", ["x", "weights"], ["map"], name="stem"),
        helper.make_node("Relu", ["map"], ["lit"]),
        helper.make_node("Add", ["lit", "shift"], ["shifted"]),
        helper.make_node("MaxPool", ["shifted"], ["y", "places"], kernel_shape=[3, 3]),
    ]
    model = graph_of(nodes, [1, 8, 8], {"weights": normals(2, 1, 3, 3), "shift": 0.5}, "y places")
    for folded in (fold(model), fold_for_int8(model)[0]):
        assert operators(folded) == operators(model)
    del nodes[2]
    nodes[-1].input[0] = "lit"
    model = graph_of(nodes, [1, 8, 8], {"weights": normals(2, 1, 3, 3)}, "y places")
    assert operators(fold_for_int8(model)[0]) == operators(model)


def test_what_stays_in_floats_keeps_its_sums_small() -> None:
    nodes = [
        helper.make_node("Add", ["x", "shift"], ["centred"]),
        helper.make_node("Conv", ["centred", "weights"], ["y"], name="stem"),
    ]
    model = graph_of(nodes, [1, 8, 8], {"shift": -0.5, "weights": normals(2, 1, 3, 3)})
    small, floats = fold_for_int8(fold(model))
    assert (operators(small), floats) == ("Add Conv", ["stem"])


@pytest.mark.parametrize(
    ("image", "weights"), [([1, 8, 8], normals(4, 3, 3, 3)), ([1, 3, 8, 8], normals(3, 1, 1, 3, 3))]
)
def test_a_constant_that_makes_channels_or_is_for_a_depth_stays(
    image: list[int], weights: NDArray[np.float64]
) -> None:
    first = [helper.make_node("Relu", ["x"], ["lit"]), helper.make_node("Add", ["lit", "shift"], ["sum"])]
    nodes = [*first, helper.make_node("Conv", ["sum", "weights"], ["y"], name="next")]
    model = graph_of(nodes, image, {"shift": normals(1, 3, 1, 1), "weights": weights})
    folded = fold(model)
    small, _ = fold_for_int8(folded)
    assert operators(small) == operators(folded) == "Relu Add Conv"
    check_same(small, model)


def test_one_channel_becomes_three_ahead_of_a_matrix() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["lit"]),
        helper.make_node("Add", ["lit", "shift"], ["three"]),
        helper.make_node("Gemm", ["three", "weights", "bias"], ["y"]),
    ]
    model = graph_of(nodes, [1], {"shift": normals(1, 3), "weights": normals(3, 2), "bias": normals(2)})
    folded = fold(model)
    assert operators(folded) == "Relu Add Gemm"
    check_same(folded, model)
