"""Trains one network: read from top to bottom.

The run folder that comes out holds all that export and a reader need:

    config.json      the recipe                 network.keras   the network of the best epoch, float32
    training.csv     path, patient, labels      spec.json       its ModelSpec; there when the run is finished
    validation.csv   the same, held out         metrics.json    measures of all sides, with intervals
    test.csv         the same, if the recipe    validation.npz  paths, patients, targets and scores of the
                     names a test list                          validation images; samples: rows of them whose
    history.csv      one line an epoch          samples.npy     pixels these are, for export
    checkpoint.npz   all variables after the last whole epoch, and the best weights, to continue from
    *.png            plots of the labels, the epochs, the ROC curves and some samples
"""

import json
import math
import subprocess
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from keras import ops
from numpy.typing import NDArray

from chexscore import metrics
from chexscore.errors import TableError, UsageError
from chexscore.spec import ModelSpec
from training import checkpoints, labels, networks, optimizers, plots
from training.augment import with_augmentation
from training.batches import Batches, steps_per_epoch
from training.config import TrainConfig
from training.devices import Devices
from training.loss import MaskedCrossentropy, positive_weights
from training.measures import flat, measure
from training.prepare import prepare
from training.progress import bar
from training.splits import SIDES, divide, write
from training.tensorboard import Logs
from training.watch import Watch

__all__ = ["fit"]

SAMPLES = 1024
"""Validation images that the run folder keeps for export, at most."""

SHOWN = 12
"""Of those, on the sheet of samples."""


def fit(  # noqa: C901, PLR0912, PLR0915, one story, told from top to bottom
    config: TrainConfig,
    root: Path,
    run: Path,
    *,
    cache: Path | None = None,
    workers: int = 2,
    gpu: bool = False,
    report: Callable[[str], None] = print,
) -> None:
    """Trains the recipe on the data below `root` and fills the run folder.

    Called again after a stop it continues from the last whole epoch; a finished run is left as it is. Where
    several hosts train together they share the run folder and the cache.

    Args:
        config: the recipe.
        root: folder of the data set.
        run: folder to fill; created where it is missing.
        cache: folder for the prepared pixels; None means one inside the run folder.
        workers: threads that decode images and fill batches.
        gpu: whether to refuse to train on a CPU.
        report: called with lines for the user.

    Raises:
        UsageError: the run folder belongs to another recipe, or the recipe asks for what is not here.
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
        return

    commit = _commit()  # now: the checkout may move on while this trains
    devices = Devices(config, gpu=gpu)
    report(str(devices))
    logs = Logs(run / "tensorboard") if config.tensorboard and not devices.host else None

    # The trainer is augmentation in front of the network. The same network in float32, on one device and
    # with averaged weights, is what is measured, kept and exported.
    keras.utils.set_random_seed(config.seed)
    shape = (config.image.spec, len(config.data.labels))
    bare = config.network.model_copy(update={"imagenet": ""})  # which gets its weights from what was trained
    network = networks.build(bare, *shape)
    with devices.shared():
        trained = networks.build(config.network.located(root), *shape, precision=config.precision)
        trainer = with_augmentation(trained, config.augment)

    # Data: who is held out, targets, pixels.
    table, sides = divide(root, config.data)
    targets, truth = labels.learned(table, config.data, config.seed), labels.measured(table, config.data)
    if devices.host:
        devices.wait("prepared")
    pixels, usable = prepare(
        root, list(table["path"]), config.image.spec, cache or run / "cache", workers, report
    )
    if not devices.host:
        devices.wait("prepared")
    rows = {side: np.flatnonzero((sides == side) & usable) for side in SIDES}
    for side in SIDES[:2]:
        if not len(rows[side]):
            raise TableError(f"{root / config.data.table}: no readable image is left for {side}.")
    report(", ".join(f"{len(each)} images for {side}" for side, each in rows.items() if len(each)))
    train_rows, held_out = rows["training"], rows["validation"]

    steps = steps_per_epoch(len(train_rows), config.batch_size)
    with devices.shared():
        weights = positive_weights(targets[train_rows]) if config.class_weights else None
        trainer.compile(optimizers.build(config, steps), loss=MaskedCrossentropy(weights))
        trainer.optimizer.build(trainer.trainable_variables)

    done = checkpoints.Progress([], [])
    checkpoint = run / "checkpoint.npz"
    if checkpoint.exists():
        done = checkpoints.restore(checkpoint, trainer)
        report(f"continuing after epoch {len(done.history)}")
    history, best_weights = done
    if devices.host == 0:
        write(table, sides, run)
        checkpoints.replace(recipe_file, Path.write_text, recipe)  # all is well: the folder is this recipe's

    for epoch in range(len(history), config.epochs):
        if optimizers.out_of_patience(history, config.patience):
            report(f"no better AUC in {config.patience} epochs: stopped early")
            break
        if config.schedule == "plateau":
            trainer.optimizer.learning_rate = optimizers.plateau_rate(history, config)
        name, started = f"epoch {epoch + 1}/{config.epochs}", time.monotonic()
        order = np.random.default_rng(config.seed + epoch).permutation(train_rows)
        batches = Batches(pixels, targets, order, config.batch_size, workers, devices)
        with bar(name, steps) as show, devices.shared():
            watch = Watch(name, show, batches.images, report)
            # The order is ours: Keras would shuffle by a state that no checkpoint knows.
            trainer.fit(batches, verbose=0, shuffle=False, callbacks=[watch])
        seconds = time.monotonic() - started
        network.set_weights(trained.get_weights())
        watch.put_back()
        scores = _score(network, pixels, held_out, config.batch_size)
        row = {
            "epoch": epoch + 1,
            "learning_rate": float(ops.convert_to_numpy(trainer.optimizer.learning_rate)),
            "loss": watch.loss,
            "auc_macro": metrics.auroc_macro(truth[held_out], scores),
            "auc_micro": metrics.auroc_micro(truth[held_out], scores),
            "seconds": round(seconds, 1),
            "images_per_second": round(batches.images / seconds, 1),
        }
        history.append(row)
        if optimizers.best_epoch(history) == epoch + 1:
            best_weights = network.get_weights()
        if devices.host == 0:
            progress = checkpoints.Progress(history, best_weights)
            checkpoints.replace(checkpoint, checkpoints.save, trainer, progress)
            checkpoints.replace(run / "history.csv", pd.DataFrame(history).to_csv, index=False)
        if logs:
            logs.write(row)
        left = (config.epochs - epoch - 1) * (time.monotonic() - started)
        report(
            f"{name}: loss {watch.loss:.4f}, AUC macro {row['auc_macro']:.4f} micro "
            f"{row['auc_micro']:.4f}, {row['images_per_second']} images/s, {row['seconds']} s, "
            f"{timedelta(seconds=round(left))} left"
        )
    if logs:
        logs.close()

    # Measure the best epoch's network and let it describe itself.
    if devices.host:
        devices.wait("finished")
        return
    best = optimizers.best_epoch(history)
    if config.network.mirror:
        network = networks.build(bare, *shape, mirrored=True)
    network.set_weights(best_weights)
    checkpoints.replace(run / "network.keras", network.save)
    report(f"measuring the network of epoch {best} on all images")
    scores = np.full(truth.shape, np.nan, dtype=np.float32)
    patients = table["patient"].to_numpy(dtype=str)
    for each in rows.values():
        scores[each] = _score(network, pixels, each, config.batch_size)
    names = config.data.labels
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
    np.save(run / "samples.npy", pixels[held_out[kept]])
    np.savez(
        run / "validation.npz",
        paths=table["path"].to_numpy(dtype=str)[held_out],
        patients=patients[held_out],
        targets=truth[held_out],
        scores=scores[held_out],
        samples=kept,
    )
    (run / "metrics.json").write_text(json.dumps(measured, indent=1), encoding="utf-8")
    plots.frequencies(run / "findings.png", names, {s: truth[each] for s, each in rows.items() if len(each)})
    plots.curves(run / "epochs.png", history)
    plots.roc(run / "roc.png", names, truth[held_out], scores[held_out])
    shown = held_out[kept[:SHOWN]]
    plots.samples(run / "samples.png", names, pixels[shown], truth[shown], scores[shown])
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
            "begun_with": networks.begun_with(config.network),
            "commit": commit,
            "keras": f"{keras.__version__} on {keras.backend.backend()}",
            "training_images": str(len(train_rows)),
            "epoch": str(best),
        },
    )
    checkpoints.replace(spec_file, Path.write_text, spec.to_json(), encoding="utf-8")
    report(f"finished: {run}")
    devices.wait("finished")


def _score(
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


def _commit() -> str:
    """The commit of this checkout, with "+" behind it where files differ from it; "unknown" without git."""
    here = str(Path(__file__).parent)
    command = ["git", "-C", here, "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603, all ours
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
