"""Size and speed of the networks that were tried for the bundled model, beside the one that it has.

    python -m tests.bench.sizes

Each is built as tests.bench.crossvalidation builds it, with random weights, exported with weights in 16 bits,
and run on batches of one image, one on each core, as `predict` does it. Speeds are measured in turns, so that
whatever else the machine does meets all alike; the ratios carry over to other machines. The table goes to
standard output, as it stands in training/configs/kermany.md.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from chexscore import Classifier, ModelSpec
from chexscore.cores import usable_cores
from tests.bench.crossvalidation import COMPACT, RECIPE
from training.config import TrainConfig

ROUNDS, IMAGES = 15, 40

TRIED: dict[str, tuple[dict[str, object], tuple[int, ...]]] = {
    "compact, width 8": ({**COMPACT, "width": 8}, (96, 192)),
    "compact, width 16": (COMPACT, (96, 192)),
    "compact, width 24": ({**COMPACT, "width": 24}, (96, 192)),
    "EfficientNet-Lite0, five stages": ({"stages": 5}, (192, 208)),
    "six stages": ({}, (96, 128, 160, 192, 224, 256)),
    "seven stages": ({"stages": 7}, (96, 176, 192)),
    "seven stages, and the mirror image": ({"stages": 7, "mirror": True}, (176,)),
}
"""Network -> what of the recipe's it changes, and the sides of its images in pixels."""


class Built(NamedTuple):
    """A network as `predict` has it."""

    parameters: int
    megabytes: float
    classifier: Classifier


def main() -> None:
    """Prints the table, as Markdown."""
    with TemporaryDirectory() as place:
        built = {
            (name, side): _build(changes, side, Path(place) / "network.onnx")
            for name, (changes, sides) in TRIED.items()
            for side in sides
        }
    bundled = TrainConfig.from_toml(RECIPE).image.height
    seconds = _seconds({key: each.classifier for key, each in built.items()})
    print("| network | px | parameters | MB | images/s | beside the bundled one |\n|" + " --- |" * 6)
    for (name, side), each in built.items():
        rate, ratio = 1 / seconds[name, side], seconds["six stages", bundled] / seconds[name, side]
        print(f"| {name} | {side} | {each.parameters:,} | {each.megabytes:.1f} | {rate:,.0f} | {ratio:.2f} |")


def _build(changes: dict[str, object], side: int, file: Path) -> Built:
    import onnx

    from export.convert import convert
    from export.quantize import reduce
    from tests.trained import shake
    from training.networks import build

    config = TrainConfig.from_toml(RECIPE)
    plan = config.network.model_copy(update={**changes, "imagenet": ""})  # speed does not depend on weights
    image = config.image.model_copy(update={"height": side, "width": side}).spec
    labels = config.data.labels
    network = build(plan, image, len(labels), mirrored=plan.mirror)
    shake(network)  # or export would leave out what does nothing
    exact = convert(network, ModelSpec("tried", "0", labels, image, (0.5,) * len(labels)))
    onnx.save(reduce(exact, "fp16-weights", np.zeros((1, side, side, 1), np.uint8)), file)
    return Built(network.count_params(), file.stat().st_size / 1e6, Classifier(file, device="cpu", threads=1))


def _seconds(classifiers: dict[tuple[str, int], Classifier]) -> dict[tuple[str, int], float]:
    """Of an image; the median of the rounds."""
    taken: dict[tuple[str, int], list[float]] = {key: [] for key in classifiers}
    with ThreadPoolExecutor(usable_cores()) as pool:
        for _ in range(ROUNDS + 1):  # the first warms up
            for (name, side), classifier in classifiers.items():
                images = np.random.default_rng(0).integers(0, 256, (1, side, side, 1), np.uint8)
                began = time.perf_counter()
                for _ in pool.map(classifier.score, [images] * IMAGES):
                    pass
                taken[name, side].append((time.perf_counter() - began) / IMAGES)
    return {key: median(each[1:]) for key, each in taken.items()}


if __name__ == "__main__":
    main()
