"""How close ONNX comes to Keras, and how many nodes it has: our networks, and some of keras.applications.

    python -m tests.bench.parity [compact reference MobileNetV2 ...]

Weights are random, batch norms as after training; compared on drawn radiographs, with Keras in float64, so
that what shows is the file's own rounding. The full reference takes minutes.
"""

import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np
import onnx

from chexscore import ImageSpec, ModelSpec
from export.calibrate import sigmoid
from export.convert import convert, predict_logits
from export.run import in_precision
from export.verify import LOGIT_TOLERANCE, TOLERANCE, compare, compare_logits, draw
from tests.trained import shake
from training.config import NetworkConfig
from training.networks import build

SIDES = {"reference": 512, "compact": 192, "efficientnet-lite0": 176}
SCALED_INSIDE = {"EfficientNetV2B0"}
NETWORKS = ("compact", "efficientnet-lite0", "reference", "MobileNetV2", "DenseNet121", "EfficientNetV2B0")
FILMS = 16
LARGEST_LOGIT = 4.0
"""As a trained network has them; random weights give hundreds to some, and no digits behind the point."""

LABELS = tuple(f"Finding {number}" for number in range(13))


def main(names: list[str]) -> None:
    """Prints a line for each network; fails if one is beyond the tolerance."""
    for name in names or NETWORKS:
        image = ImageSpec(SIDES.get(name, 224), SIDES.get(name, 224))
        keras.utils.set_random_seed(0)
        network = _build(name, image)
        shake(network)
        films = draw(image, FILMS)
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = 0.0
        network(films.astype(np.float32), training=True)  # batch norms take their statistics from these
        logits = predict_logits(network, films)
        scale = min(1.0, LARGEST_LOGIT / np.abs(logits).max())
        network.layers[-1].set_weights([scale * values for values in network.layers[-1].get_weights()])
        logits = predict_logits(in_precision(network, "float64"), films)
        expected = sigmoid(logits)
        spec = ModelSpec(name, "0", LABELS, image, (0.5,) * len(LABELS))
        with TemporaryDirectory() as place:
            file = Path(place) / "model.onnx"
            model = convert(network, spec)
            onnx.save(model, file)
            proof = compare(expected, file, films, f"{FILMS} drawn films")
            apart = compare_logits(logits, model, films)
        nodes = Counter(node.op_type for node in model.graph.node)
        print(f"{name}: {network.count_params():,} parameters, {sum(nodes.values())} nodes {dict(nodes)}")
        print(
            f"  scores {expected.min():.3f} to {expected.max():.3f}: {proof}, "
            f"their logits by {apart:.1e} of their size",
            flush=True,
        )
        assert proof.difference <= TOLERANCE
        assert apart <= LOGIT_TOLERANCE


def _build(name: str, image: ImageSpec) -> Any:
    if name in SIDES:
        return build(NetworkConfig.model_validate({"name": name}), image, len(LABELS))
    inputs = keras.Input((image.height, image.width, 1))
    x = keras.layers.Concatenate()([inputs] * 3)
    if name not in SCALED_INSIDE:
        x = keras.layers.Rescaling(1 / 127.5, -1.0)(x)
    body = getattr(keras.applications, name)(include_top=False, weights=None, input_tensor=x, pooling="avg")
    return keras.Model(inputs, keras.layers.Dense(len(LABELS), activation="sigmoid")(body.output))


if __name__ == "__main__":
    main(sys.argv[1:])
