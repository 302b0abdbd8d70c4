"""Trains one network: read from top to bottom.

The run folder that comes out holds all that export and a reader need:

    config.json      the recipe                 network.keras   the network of the best epoch
    training.csv     path, patient, labels      spec.json       its ModelSpec; there when the run is finished
    validation.csv   the same, held out         metrics.json    measures on the validation patients
    history.csv      one line an epoch          samples.npy     validation images, for export's comparison
    checkpoint.keras network, optimizer and schedule after the last whole epoch, to continue from
"""

import json
import math
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import layers, ops
from numpy.typing import NDArray

from chexscore import metrics
from chexscore.errors import ChexscoreError, TableError, UsageError
from chexscore.labels import to_targets
from chexscore.spec import ModelSpec
from training import networks
from training.batches import IGNORED, Batches, steps_per_epoch
from training.config import AugmentConfig, TrainConfig
from training.prepare import prepare
from training.splits import write_split

__all__ = ["fit"]

SAMPLES = 64
"""Validation images that the run folder keeps for export."""


def fit(  # noqa: PLR0915, one story, told from top to bottom
    config: TrainConfig,
    root: Path,
    run: Path,
    *,
    cache: Path | None = None,
    workers: int = 2,
    report: Callable[[str], None] = print,
) -> ModelSpec:
    """Trains the recipe on the data below `root` and fills the run folder.

    Called again after a stop it continues from the last whole epoch; a finished run is left as it is.

    Args:
        config: the recipe.
        root: folder of the data set.
        run: folder to fill; created where it is missing.
        cache: folder for the prepared pixels; None means one inside the run folder.
        workers: threads that decode images and fill batches.
        report: called with lines for the user.

    Raises:
        UsageError: the run folder belongs to another recipe.
        TableError: the data set cannot be used.
        ChexscoreError: the loss stopped being a number.
    """
    if run.exists() and not run.is_dir():
        raise UsageError(f"{run} is a file; give --out a folder.")
    # A run folder belongs to one recipe, and a finished one is left alone.
    recipe, recipe_file, spec_file = config.model_dump_json(indent=1), run / "config.json", run / "spec.json"
    if recipe_file.exists() and recipe_file.read_text() != recipe:
        raise UsageError(f"{run} holds a run of another recipe; give another --out.")
    if spec_file.exists():
        report(f"{run} is finished; give another --out to train again.")
        return ModelSpec.from_json(spec_file.read_text())

    commit = _commit()  # now: the checkout may move on while this trains

    # Data: which patients are held out, pixels, targets.
    table, held_out = write_split(config, root, run)
    recipe_file.write_text(recipe)
    source = str(root / config.data.table)
    targets = to_targets(
        table,
        config.data.labels,
        source,
        uncertain={"default": "negative", **config.data.uncertain},
        blank={"default": "negative", **config.data.blank},
    )
    images = prepare(root, list(table["path"]), config.image.spec, cache or run / "cache", workers, report)
    train_rows = np.flatnonzero(~held_out & images.usable)
    validation_rows = np.flatnonzero(held_out & images.usable)
    for rows, purpose in ((train_rows, "train on"), (validation_rows, "validate on")):
        if not len(rows):
            raise TableError(f"{source}: no readable image is left to {purpose}.")
    truth = targets[validation_rows]
    np.save(run / "samples.npy", images.pixels[validation_rows[:SAMPLES]])
    report(f"{len(train_rows)} images to train on, {len(validation_rows)} to validate on")

    # The trainer is augmentation in front of the network; the network alone is kept and exported.
    keras.utils.set_random_seed(config.seed)
    history_file, checkpoint = run / "history.csv", run / "checkpoint.keras"
    steps = steps_per_epoch(len(train_rows), config.batch_size)
    history: list[dict[Any, Any]] = []
    if checkpoint.exists():
        trainer = keras.saving.load_model(checkpoint)
        done = int(ops.convert_to_numpy(trainer.optimizer.iterations)) // steps
        history = [dict(row) for row in pd.read_csv(history_file).to_dict("records")][:done]
        report(f"continuing after epoch {done}")
    else:
        network = networks.build(config.network, config.image.spec, len(config.data.labels))
        schedule = keras.optimizers.schedules.CosineDecay(
            config.learning_rate,
            config.epochs * steps,
            alpha=config.final_learning_rate / config.learning_rate,
        )
        trainer = _with_augmentation(network, config.augment)
        trainer.compile(keras.optimizers.Adam(schedule), loss=masked_crossentropy)
    network = trainer.layers[-1]

    for epoch in range(len(history), config.epochs):
        started = time.monotonic()
        batches = Batches(
            images.pixels, targets, train_rows, config, seed=config.seed + epoch, workers=workers
        )
        loss = trainer.fit(batches, verbose=0).history["loss"][0]
        seconds = time.monotonic() - started
        if not math.isfinite(loss):
            raise ChexscoreError(
                f"epoch {epoch + 1}: the loss is {loss}; lower learning_rate, start a new run."
            )
        scores = _score(network, images.pixels, validation_rows, config)
        row = {
            "epoch": epoch + 1,
            "learning_rate": float(ops.convert_to_numpy(trainer.optimizer.learning_rate)),
            "loss": loss,
            "auc_macro": metrics.auroc_macro(truth, scores),
            "auc_micro": metrics.auroc_micro(truth, scores),
            "seconds": round(seconds, 1),
            "images_per_second": round(len(train_rows) / seconds, 1),
        }
        if all(_rank(row) >= _rank(earlier) for earlier in history):
            _replace(run / "network.keras", network.save)
        history.append(row)
        _replace(history_file, pd.DataFrame(history).to_csv, index=False)
        _replace(checkpoint, trainer.save)  # last: what it does not know of is trained again
        report(
            f"epoch {epoch + 1}/{config.epochs}: loss {loss:.4f}, AUC macro {row['auc_macro']:.4f} "
            f"micro {row['auc_micro']:.4f}, {row['images_per_second']} images/s, {row['seconds']} s"
        )

    # Measure the best epoch's network and let it describe itself.
    network = keras.saving.load_model(run / "network.keras", compile=False)
    scores = _score(network, images.pixels, validation_rows, config)
    measured, thresholds = _measure(truth, scores, config.data.labels)
    measured["images"] = len(validation_rows)
    measured["patients"] = int(table["patient"].iloc[validation_rows].nunique())
    spec = ModelSpec(
        name=config.name,
        version=config.version,
        labels=config.data.labels,
        image=config.image.spec,
        thresholds=thresholds,
        training_data=config.training_data,
        licence=config.licence,
        metrics=measured,
        provenance={
            "recipe": config.name,
            "network": config.network.name,
            "commit": commit,
            "keras": f"{keras.__version__} on {keras.backend.backend()}",
            "training_images": str(len(train_rows)),
        },
    )
    (run / "metrics.json").write_text(json.dumps(measured, indent=1))
    _replace(spec_file, Path.write_text, spec.to_json(), encoding="utf-8")
    report(f"finished: {run}")
    return spec


@keras.saving.register_keras_serializable("chexscore")  # type: ignore[untyped-decorator]  # Keras carries no types
def masked_crossentropy(truth: Any, scores: Any) -> Any:
    """Binary cross-entropy of [N, L], the mean over the labels that are known; one value an image, [N]."""
    known = ops.cast(ops.not_equal(truth, IGNORED), scores.dtype)
    each = ops.binary_crossentropy(ops.cast(truth, scores.dtype) * known, scores) * known
    return ops.sum(each, axis=-1) / ops.maximum(ops.sum(known, axis=-1), 1)


def _with_augmentation(network: keras.Model, augment: AugmentConfig) -> keras.Model:
    """The network behind the augmentation layers that the recipe switches on; uint8 in."""
    trainer = keras.Sequential(
        [
            keras.Input(network.input_shape[1:], dtype="uint8"),
            layers.Rescaling(1.0),
        ]  # to floats, still 0..255
    )
    if augment.flip:
        trainer.add(layers.RandomFlip("horizontal"))
    if augment.rotation:
        trainer.add(layers.RandomRotation(augment.rotation, fill_mode="constant"))
    if augment.zoom:
        trainer.add(layers.RandomZoom(augment.zoom, fill_mode="constant"))
    if augment.contrast:
        trainer.add(layers.RandomContrast(augment.contrast, value_range=(0, 255)))
    if augment.brightness:
        trainer.add(layers.RandomBrightness(augment.brightness, value_range=(0, 255)))
    if keras.backend.backend() == "jax":
        # Keras takes RandomRotation and RandomZoom for layers that cannot be compiled, which is so under
        # TensorFlow's XLA alone, and would run every operation of the step by itself.
        for layer in trainer.layers:
            layer.supports_jit = True
    trainer.add(network)
    return trainer


def _score(
    network: keras.Model, pixels: NDArray[np.uint8], rows: NDArray[np.intp], config: TrainConfig
) -> NDArray[np.float32]:
    """Scores [rows, L], a batch of pixels in memory at a time, the last one filled up with the first rows."""
    padded = np.resize(rows, math.ceil(len(rows) / config.batch_size) * config.batch_size)
    batches = (pixels[chunk] for chunk in padded.reshape(-1, config.batch_size))
    scores = [np.asarray(network.predict_on_batch(batch)) for batch in batches]
    return np.concatenate(scores)[: len(rows)]


def _measure(
    truth: NDArray[np.float32], scores: NDArray[np.float32], labels: tuple[str, ...]
) -> tuple[dict[str, float], tuple[float, ...]]:
    """Measures on the validation patients, those that are defined, and operating points by Youden's index."""
    thresholds = tuple(
        round(metrics.youden_threshold(truth[:, column], scores[:, column]), 6)
        for column in range(len(labels))
    )
    measured = {
        "auc/macro": metrics.auroc_macro(truth, scores),
        "auc/micro": metrics.auroc_micro(truth, scores),
    }
    for column, label in enumerate(labels):
        measured[f"auc/{label}"] = metrics.auroc(truth[:, column], scores[:, column])
        measured[f"accuracy/{label}"] = metrics.accuracy(
            truth[:, column], scores[:, column], thresholds[column]
        )
    return {name: value for name, value in measured.items() if math.isfinite(value)}, thresholds


def _rank(row: dict[Any, Any]) -> float:
    """What the best epoch is chosen by; without two classes to tell apart the latest epoch is as good."""
    return float(row["auc_macro"]) if math.isfinite(row["auc_macro"]) else 0.0


def _replace(target: Path, write: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Writes beside the target and renames, so that a stop leaves the old file or the new one."""
    partial = target.with_name(f"partial-{target.name}")
    write(partial, *arguments, **options)
    os.replace(partial, target)


def _commit() -> str:
    """The commit of this checkout, with "+" behind it where files differ from it; "unknown" without git."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+",
        "--exclude=*",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603, all ours
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
