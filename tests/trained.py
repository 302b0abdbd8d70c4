"""What trains in seconds: a recipe, and a run folder as `python -m training fit` leaves it.

The network in that is not trained; the labels are drawn from its scores instead, so that the right
calibration is known.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chexscore.spec import ImageSpec, ModelSpec
from tests.phantoms import draw
from training.config import ImageConfig, NetworkConfig, TrainConfig

__all__ = ["INTERCEPT", "LABELS", "SLOPE", "SMOKE", "recipe", "shake", "spread", "write_run"]

SMOKE = Path(__file__).parents[1] / "training" / "configs" / "smoke.toml"

LABELS = ("Opacity", "Device", "Rare")
IMAGE = ImageSpec(64, 64)
SLOPE, INTERCEPT = 2.0, 1.0
"""A label is present with the probability sigmoid(SLOPE * logit + INTERCEPT)."""


def recipe(**changes: object) -> TrainConfig:
    """One of few layers, because backends take longer to build a network than to train it here."""
    network = NetworkConfig(name="reference", blocks=2, width=4)
    small = {"network": network, "image": ImageConfig(height=32, width=32)}
    return TrainConfig.from_toml(SMOKE).model_copy(update=small | changes)


def write_run(folder: Path, images: int = 300) -> Path:
    """Writes network.keras, spec.json, metrics.json, validation.npz and samples.npy; two images a patient.

    The label Rare has too few positives to be calibrated.
    """
    import keras

    from export.convert import without_sigmoid
    from training.networks import build

    keras.utils.set_random_seed(0)
    network = build(NetworkConfig(name="compact", width=4), IMAGE, len(LABELS))
    shake(network)
    films = np.stack([draw(seed, size=64, opacity=seed % 2 == 0) for seed in range(images)])[..., np.newaxis]
    for _ in range(20):  # batch norms learn what their inputs are like
        network(films[:32].astype(np.float32), training=True)
    logits = spread(without_sigmoid(network), network.layers[-1], films)
    scores = np.asarray(network.predict(films, verbose=0))
    chances = 1 / (1 + np.exp(-(SLOPE * logits + INTERCEPT)))
    targets = (np.random.default_rng(1).random(chances.shape) < chances).astype(np.float32)
    targets[:, 2] = 0
    targets[np.argsort(scores[:, 2])[-5:], 2] = 1
    targets[:3, 1] = np.nan

    folder.mkdir(parents=True)
    network.save(folder / "network.keras")
    spec = ModelSpec("made", "1", LABELS, IMAGE, (0.5,) * 3, metrics={"auc/macro": 0.5})
    (folder / "spec.json").write_text(spec.to_json())
    (folder / "metrics.json").write_text('{"validation": {"auc/macro": {"value": 0.5}}}')
    samples = np.arange(0, images, 3)
    np.savez(
        folder / "validation.npz",
        paths=np.array([f"{row}.png" for row in range(images)]),
        patients=np.array([f"p{row // 2}" for row in range(images)]),
        targets=targets,
        scores=scores,
        samples=samples,
    )
    np.save(folder / "samples.npy", films[samples])
    return folder


def shake(network: Any, seed: int = 0) -> None:
    """Gives biases and batch norms values as training does, so that nothing can be left out unnoticed."""
    random = np.random.default_rng(seed)
    for layer in network.layers:
        kind = type(layer).__name__
        weights = layer.get_weights()
        if kind == "BatchNormalization":
            shape = weights[0].shape
            layer.set_weights(
                [
                    random.uniform(0.5, 1.5, shape),
                    random.normal(0, 0.1, shape),
                    random.normal(0, 0.1, shape),
                    random.uniform(0.5, 1.5, shape),
                ]
            )
        elif kind in ("Conv2D", "Dense") and len(weights) == 2:
            layer.set_weights([weights[0], random.normal(0, 0.1, weights[1].shape)])


def spread(to_logits: Any, last: Any, films: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Changes the last layer until the logits of the films have mean 0 and deviation 1.5, and gives them."""
    logits = np.asarray(to_logits.predict(films, batch_size=4, verbose=0), np.float64)
    kernel, bias = last.get_weights()
    scale = 1.5 / logits.std(axis=0)
    assert scale.max() < 50, "differences of rounding would be blown up"
    last.set_weights([kernel * scale, (bias - logits.mean(axis=0)) * scale])
    spread: NDArray[np.float64] = (logits - logits.mean(axis=0)) * scale
    return spread
