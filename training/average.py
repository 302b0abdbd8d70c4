"""One network out of several that were trained by one recipe from different seeds: the mean of their weights.

Networks that begin with the same learned weights stay near enough to each other for that, and the mean does
better on images unlike those of the training than each of them (Wortsman et al. 2022, arXiv:2203.05482), at
the price of one. With random weights to begin with it means nothing.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np

from chexscore.errors import UsageError
from training import checkpoints, networks, outcome, splits
from training.augment import with_augmentation
from training.batches import Batches
from training.config import TrainConfig
from training.devices import Devices
from training.examples import Examples, load

__all__ = ["average"]


def average(
    runs: Sequence[Path],
    root: Path,
    out: Path,
    *,
    cache: Path | None = None,
    workers: int = 2,
    report: Callable[[str], None] = print,
) -> None:
    """Averages the networks of finished runs, and fills a run folder with the result, as `fit` does.

    The statistics of batch norms are not averaged but taken anew, over one epoch of the training images with
    the recipe's augmentation, because those of the mean are not the mean of those.

    Args:
        runs: folders of two or more finished runs of one recipe, which differ in the seed alone.
        root: folder of the data set.
        out: folder to fill; created where it is missing.
        cache: folder for the prepared pixels; None means one inside `out`.
        workers: threads that decode images and fill batches.
        report: called with lines for the user.

    Raises:
        UsageError: a run is not finished, they are of different recipes, began with random weights or have
            the same seed.
        TableError: the data set cannot be used, or is split in another way than the runs have split it.
    """
    if (out / "spec.json").exists():
        report(f"{out} is finished; give another --out to average again.")
        return
    configs = [_recipe(run) for run in runs]
    config, seeds = configs[0], [each.seed for each in configs]
    if len(set(seeds)) < max(len(seeds), 2):
        raise UsageError(
            f"the seeds of the runs are {', '.join(map(str, seeds))}; give two or more different ones."
        )
    for run, each in zip(runs, configs, strict=True):
        if each.model_copy(update={"seed": config.seed}) != config:
            raise UsageError(f"{run} was trained by another recipe than {runs[0]}; only seeds may differ.")
    if not config.network.imagenet:
        raise UsageError(f"{runs[0]} began with random weights, of which no average makes a network.")

    commit = outcome.commit()
    data = load(config, root, cache or out / "cache", workers, report)
    for run in runs:
        splits.write(data.table, data.sides, run)
    keras.utils.set_random_seed(config.seed)
    shape = (config.image.spec, len(config.data.labels))
    bare = config.network.model_copy(update={"imagenet": ""})
    mean = networks.build(bare, *shape)
    found = [keras.saving.load_model(run / "network.keras", compile=False).get_weights() for run in runs]
    mean.set_weights([np.mean(values, axis=0) for values in zip(*found, strict=True)])
    report("taking the statistics of batch norms")
    _take_statistics(mean, config, data, workers)
    network = networks.build(bare, *shape, mirrored=config.network.mirror)
    network.set_weights(mean.get_weights())

    splits.write(data.table, data.sides, out)
    checkpoints.replace(out / "config.json", Path.write_text, config.model_dump_json(indent=1))
    outcome.write(out, config, network, data, {"commit": commit, "seeds": ", ".join(map(str, seeds))})
    report(f"finished: {out}")


def _take_statistics(network: keras.Model, config: TrainConfig, data: Examples, workers: int) -> None:
    """Gives batch norms the plain mean, over an epoch, of the statistics of each batch."""
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    order = np.random.default_rng(config.seed).permutation(data.rows["training"])
    batches = Batches(data.pixels, data.targets, order, config.batch_size, workers, Devices(config))
    trainer = with_augmentation(network, config.augment)
    for step in range(len(batches)):
        for norm in norms:
            norm.momentum = step / (step + 1)
        trainer(batches[step][0], training=True)


def _recipe(run: Path) -> TrainConfig:
    if not (run / "spec.json").exists():
        raise UsageError(f"{run}: no finished run of training is there; let its fit end first.")
    try:
        return TrainConfig.model_validate_json((run / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{run / 'config.json'}: not a recipe of this version: {error}.") from error
