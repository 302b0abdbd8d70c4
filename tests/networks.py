"""Small ONNX models whose scores a test can work out in its head."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from chexscore.spec import INPUT_NAME, OUTPUT_NAME, SPEC_KEY, ImageSpec, ModelSpec, Resize

__all__ = ["LABELS", "brightness_model", "brightness_spec"]

LABELS = ("Bright", "Dark")


def brightness_spec(size: int = 8, resize: Resize = Resize.STRETCH) -> ModelSpec:
    return ModelSpec(
        name="brightness",
        version="1.0",
        labels=LABELS,
        image=ImageSpec(size, size, resize),
        thresholds=(0.5, 0.25),
        training_data="none, it was drawn",
        licence="Apache-2.0",
        metrics={"auc/Bright": 0.75},
    )


def brightness_model(path: Path, spec: ModelSpec | None = None, *, describe: bool = True) -> Path:
    """Bright is the mean of the pixels over 255, Dark is one minus that."""
    spec = spec or brightness_spec()
    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Mul", ["mean", "scale"], ["bright"]),
        helper.make_node("Sub", ["one", "bright"], ["dark"]),
        helper.make_node("Concat", ["bright", "dark"], [OUTPUT_NAME], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [
            helper.make_tensor_value_info(
                INPUT_NAME, TensorProto.UINT8, ["N", spec.image.height, spec.image.width, 1]
            )
        ],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", 2])],
        [
            numpy_helper.from_array(np.array(1 / 255, dtype=np.float32), "scale"),
            numpy_helper.from_array(np.array(1, dtype=np.float32), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if describe:
        helper.set_model_props(model, {SPEC_KEY: spec.to_json()})
    onnx.save(model, path)
    return path
