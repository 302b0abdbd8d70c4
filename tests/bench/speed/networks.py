"""The networks that are measured, each as Keras has it and as chexscore runs it.

    python -m tests.bench.speed.networks FOLDER

Weights are random, and batch norms shift and scale as trained ones do, for export leaves out what does
nothing: no arithmetic here is faster for other ones. Run as a process of its own, so that TensorFlow keeps no
threads while something else is measured.
"""

import sys
from pathlib import Path

import numpy as np

__all__ = ["RECIPES"]

RECIPES = {"bundled": "training/configs/kermany.toml", "reference": "training/configs/reference.toml"}
"""Network -> its recipe; the bundled one is what chexscore has, and only its Keras side is made here."""

LABELS = tuple(f"Finding {number}" for number in range(14))

FILMS = 8
"""Drawn ones, for the ranges of int8: random weights deserve no more."""


def main(folder: Path) -> None:
    """Writes NAME.keras for both, and reference.onnx and reference-int8.onnx."""
    import keras
    import onnx

    from chexscore import ModelSpec
    from export.convert import convert
    from export.quantize import reduce
    from export.verify import draw_samples
    from tests.trained import shake
    from training.config import TrainConfig
    from training.networks import build

    keras.utils.set_random_seed(0)
    for name, recipe in RECIPES.items():
        config = TrainConfig.from_toml(Path(recipe))
        image = config.image.spec
        plan = config.network.model_copy(update={"imagenet": ""})  # speed does not depend on weights
        network = build(plan, image, len(LABELS), mirrored=config.network.mirror)
        shake(network)
        network.save(folder / f"{name}.keras")
        if name == "reference":
            exact = convert(network, ModelSpec(name, "0", LABELS, image, (0.5,) * len(LABELS)))
            onnx.save(exact, folder / "reference.onnx")
            films = np.asarray(draw_samples(image).images)[:FILMS]
            onnx.save(reduce(exact, "int8", films), folder / "reference-int8.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
