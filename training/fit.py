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
    *.lock           empty; one process at a time fills the folder
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from keras import ops

from chexscore import metrics
from chexscore.errors import ChexscoreError, UsageError
from training import checkpoints, examples, networks, optimizers, outcome, plots, splits
from training.augment import with_augmentation
from training.batches import Batches, steps_per_epoch
from training.config import RECIPE_FILE, TrainConfig
from training.devices import Devices
from training.folders import alone, check_folder, check_free
from training.loss import MaskedCrossentropy, positive_weights
from training.progress import bar
from training.tensorboard import Logs
from training.watch import Watch

__all__ = ["fit"]


def fit(
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
        UsageError: the run folder belongs to another recipe or to one that cannot be read, holds something
            else, or another process fills it, or this recipe asks for what is not here.
        TableError: the data set cannot be used, or is split in another way than the run has begun with.
        OutputError, OSError: the disk is full, or the folder is not ours.
        ChexscoreError: the loss, or a score, stopped being a number.
    """
    check_folder(run)
    # A run folder belongs to one recipe, and a finished one is left alone.
    if not (run / RECIPE_FILE).exists():
        check_free(run, (*outcome.FILES, "history.csv", "epochs.png"))  # a checkpoint is read, not replaced
    elif TrainConfig.of_run(run) != config:
        raise UsageError(f"{run} holds a run of another recipe; give another --out.")
    if (run / "spec.json").exists():
        report(f"{run} is finished; give another --out to train again.")
        return

    devices = Devices(config, gpu=gpu)
    report(str(devices))
    with ExitStack() as held:
        _train(config, root, run, devices, held, cache=cache or run / "cache", workers=workers, report=report)


def _train(  # noqa: C901, PLR0912, PLR0913, PLR0915, one story, told from top to bottom
    config: TrainConfig,
    root: Path,
    run: Path,
    devices: Devices,
    held: ExitStack,
    *,
    cache: Path,
    workers: int,
    report: Callable[[str], None],
) -> None:
    commit = outcome.commit()  # now: the checkout may move on while this trains
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
    begun_with = networks.begun_with(config.network)  # behind the build, which says what is not there

    # Data: who is held out, targets, pixels.
    if devices.host:
        devices.wait("prepared")
    else:
        held.enter_context(alone(run / "checkpoint.npz"))
    data = examples.load(config, root, cache, workers, report, [run])
    if not devices.host:
        devices.wait("prepared")
    train_rows, held_out = data.rows["training"], data.rows["validation"]

    steps = steps_per_epoch(len(train_rows), config.batch_size)
    with devices.shared():
        weights = positive_weights(data.targets[train_rows]) if config.class_weights else None
        trainer.compile(optimizers.build(config, steps), loss=MaskedCrossentropy(weights))
        trainer.optimizer.build(trainer.trainable_variables)

    done = checkpoints.Progress([], [])
    checkpoint = run / "checkpoint.npz"
    if checkpoint.exists():
        done = checkpoints.restore(checkpoint, trainer)
        report(f"continuing after epoch {len(done.history)}")
    history, best_weights = done
    if devices.host == 0:
        splits.write(data.table, data.sides, run)
        config.keep(run)  # all is well: the folder is this recipe's

    for epoch in range(len(history), config.epochs):
        if optimizers.out_of_patience(history, config.patience):
            report(f"no better AUC in {config.patience} epochs: stopped early")
            break
        if config.schedule == "plateau":
            trainer.optimizer.learning_rate = optimizers.plateau_rate(history, config)
        name, started = f"epoch {epoch + 1}/{config.epochs}", time.monotonic()
        order = np.random.default_rng((config.seed, epoch)).permutation(train_rows)
        batches = Batches(data.pixels, data.targets, order, config.batch_size, workers, devices)
        with bar(name, steps) as show, devices.shared():
            watch = Watch(name, show, batches.images, report)
            # The order is ours: Keras would shuffle by a state that no checkpoint knows.
            trainer.fit(batches, verbose=0, shuffle=False, callbacks=[watch])
        seconds = time.monotonic() - started
        network.set_weights(trained.get_weights())
        watch.put_back()
        scores = outcome.score(network, data.pixels, held_out, config.batch_size)
        if not np.isfinite(scores).all():
            raise ChexscoreError(
                f"{name}: the network gives scores that are no numbers; lower learning_rate or set "
                "clip_norm, and start a new run."
            )
        row = {
            "epoch": epoch + 1,
            "learning_rate": float(ops.convert_to_numpy(trainer.optimizer.learning_rate)),
            "loss": watch.loss,
            "auc_macro": metrics.auroc_macro(data.truth[held_out], scores),
            "auc_micro": metrics.auroc_micro(data.truth[held_out], scores),
            "seconds": round(seconds, 1),
            "images_per_second": round(batches.images / seconds, 1),
            "commit": commit,
        }
        history.append(row)
        if optimizers.best_epoch(history) == epoch + 1:
            best_weights = network.get_weights()
        if devices.host == 0:
            progress = checkpoints.Progress(history, best_weights)
            # First, so that a stop between the two leaves an epoch that is done, and written, again.
            checkpoints.replace(run / "history.csv", pd.DataFrame(history).to_csv, index=False)
            checkpoints.replace(checkpoint, checkpoints.save, trainer, progress)
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
    checkpoints.replace(run / "epochs.png", plots.curves, history)
    report(f"measuring the network of epoch {best} on all images")
    commits = ", ".join(dict.fromkeys(row.get("commit", "unknown") for row in history))
    whence = {"begun_with": begun_with, "commit": commits, "epoch": str(best), "seed": str(config.seed)}
    outcome.write(run, config, network, data, whence)
    report(f"finished: {run}")
    devices.wait("finished")
