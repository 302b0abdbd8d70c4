"""What a trained network leaves in its run folder: itself, its measures and plots, and its description."""

import json
import math
import subprocess
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from chexscore import metrics
from chexscore.spec import ModelSpec
from training import checkpoints, plots
from training.config import TrainConfig
from training.examples import Examples
from training.measures import flat, measure
from training.progress import bar

__all__ = ["FILES", "commit", "score", "write"]

FILES = (
    "network.keras",
    "samples.npy",
    "validation.npz",
    "metrics.json",
    "findings.png",
    "roc.png",
    "samples.png",
    "spec.json",
)
"""What `write` leaves."""

SAMPLES = 1024
"""Validation images that the run folder keeps for export, at most."""

SHOWN = 12
"""Of those, on the sheet of samples."""


def write(
    run: Path, config: TrainConfig, network: keras.Model, examples: Examples, provenance: dict[str, str]
) -> None:
    """Measures a network on all sides and fills the run folder; spec.json, which makes it whole, comes last.

    Args:
        run: the folder.
        config: the recipe that the network was trained by.
        network: uint8 or float32 [N, H, W, 1] -> scores [N, L].
        examples: the data set of the recipe.
        provenance: what the recipe does not say of where the network comes from.
    """
    checkpoints.replace(run / "network.keras", network.save)
    truth, rows, names = examples.truth, examples.rows, config.data.labels
    held_out = rows["validation"]
    scores = np.full(truth.shape, np.nan, dtype=np.float32)
    patients = examples.table["patient"].to_numpy(dtype=str)
    for each in rows.values():
        scores[each] = score(network, examples.pixels, each, config.batch_size)
    thresholds = tuple(
        round(metrics.youden_threshold(truth[held_out, column], scores[held_out, column]), 6)
        for column in range(len(names))
    )
    measured = {
        side: measure(truth[each], scores[each], patients[each], names, thresholds)
        for side, each in rows.items()
        if len(each)
    }
    kept = np.sort(np.random.default_rng(config.seed).permutation(len(held_out))[:SAMPLES])
    checkpoints.replace(run / "samples.npy", np.save, examples.pixels[held_out[kept]])
    checkpoints.replace(
        run / "validation.npz",
        np.savez,
        paths=examples.table["path"].to_numpy(dtype=str)[held_out],
        patients=patients[held_out],
        targets=truth[held_out],
        scores=scores[held_out],
        samples=kept,
    )
    text, sides = json.dumps(measured, indent=1), {s: truth[each] for s, each in rows.items() if len(each)}
    checkpoints.replace(run / "metrics.json", Path.write_text, text, encoding="utf-8")
    checkpoints.replace(run / "findings.png", plots.frequencies, names, sides)
    checkpoints.replace(run / "roc.png", plots.roc, names, truth[held_out], scores[held_out])
    shown = held_out[kept[:SHOWN]]
    pixels = examples.pixels[shown]
    checkpoints.replace(run / "samples.png", plots.samples, names, pixels, truth[shown], scores[shown])
    spec = ModelSpec(
        name=config.name,
        version=config.version,
        labels=names,
        image=config.image.spec,
        thresholds=thresholds,
        training_data=config.training_data,
        licence=config.licence,
        metrics=flat(measured["validation"]),
        provenance={
            "recipe": config.name,
            "network": config.network.name,
            "keras": f"{keras.__version__} on {keras.backend.backend()}",
            "training_images": str(len(rows["training"])),
            **provenance,
        },
    )
    checkpoints.replace(run / "spec.json", Path.write_text, spec.to_json(), encoding="utf-8")


def score(
    network: keras.Model, pixels: NDArray[np.uint8], rows: NDArray[np.intp], batch_size: int
) -> NDArray[np.float32]:
    """Scores [rows, L], a batch of pixels in memory at a time, the last one filled up with the first rows."""
    if not len(rows):
        return np.empty((0, network.output_shape[-1]), dtype=np.float32)
    padded = np.resize(rows, math.ceil(len(rows) / batch_size) * batch_size)
    scores = []
    with bar("scoring", len(rows)) as show:
        for chunk in padded.reshape(-1, batch_size):
            scores.append(np.asarray(network.predict_on_batch(pixels[chunk])))
            show(min(len(scores) * batch_size, len(rows)), "")
    return np.concatenate(scores)[: len(rows)]


def commit() -> str:
    """The commit of this checkout, with "+" behind it where files differ from it; "unknown" without git."""
    here = str(Path(__file__).parent)
    command = ["git", "-C", here, "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603, all ours
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
