"""One network out of several that were trained by one recipe from different seeds: the mean of their weights.

Networks that begin with the same learned weights stay near enough to each other for that. The mean costs as
much to score with as one of them, and has been found to do better on images unlike those of the training
(Wortsman et al. 2022, arXiv:2203.05482). With random weights to begin with it means nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from chexscore.beside import LOCK, PARTIAL
from chexscore.errors import ModelError, UsageError, first_line
from chexscore.spec import ModelSpec
from training import networks, outcome, splits
from training.config import RECIPE_FILE, TrainConfig
from training.examples import load
from training.folders import alone

__all__ = ["average"]

LOCK_FILE = f"{RECIPE_FILE}{LOCK}"
"""In the folder that an average is put together in."""


def average(
    runs: Sequence[Path],
    root: Path,
    out: Path,
    *,
    cache: Path | None = None,
    workers: int = 2,
    report: Callable[[str], None] = print,
) -> None:
    """Averages the networks of finished runs into a run folder such as `fit` fills.

    Called again after a stop it begins anew, but for images that are decoded already.

    Args:
        runs: folders of two or more finished runs of one recipe, which differ in the seed alone.
        root: folder of the data set.
        out: folder that the result is moved to when it is complete; left alone where it holds this average.
        cache: folder for the prepared pixels; None means one inside `out`.
        workers: threads that decode images and fill batches.
        report: called with lines for the user.

    Raises:
        UsageError: a run is not finished, damaged, or an average itself, they are of different recipes, began
            with random weights or have the same seed; or `out`, or the folder beside it that it is put
            together in, holds something else, or another process fills that.
        TableError: the data set cannot be used, or is split in another way than the runs have split it.
        OutputError, OSError: the disk is full, or the folder is not ours.
    """
    configs = [_recipe(run) for run in runs]
    config, seeds = configs[0], [each.seed for each in configs]
    for run, each in zip(runs, configs, strict=True):
        if _but_for_seed(each, config) != config:
            raise UsageError(f"{run} was trained by another recipe than {runs[0]}; only seeds may differ.")
    if not config.network.imagenet:
        raise UsageError(f"{runs[0]} began with random weights, of which no average makes a network.")

    whence = [_provenance(run) for run in runs]
    for run, facts in zip(runs, whence, strict=True):
        if "seeds" in facts:
            raise UsageError(f"{run} is an average itself, of the seeds {facts['seeds']}; name those runs.")
    if len(set(seeds)) < max(len(seeds), 2):  # behind the averages, which have the seed of one of theirs
        raise UsageError(
            f"the seeds of the runs are {', '.join(map(str, seeds))}; give two or more different ones."
        )
    mean, named = _mean(config, runs), ", ".join(map(str, seeds))
    if (out / "spec.json").exists() and _holds(out, config, mean, named):
        report(f"{out} is finished; give another --out to average again.")
        return
    _make_way(out)
    commit = outcome.commit()
    partial = out.with_name(f"partial-{out.name}")
    _check_partial(partial, config)
    data = load(config, root, cache or partial / "cache", workers, report, runs)
    # What a stop left is written anew but for the pixels, and the folder gets its name when it is complete.
    with alone(partial / RECIPE_FILE):
        _make_way(out)  # which another process may have filled meanwhile
        config.keep(partial)
        for left in partial.iterdir():
            if left.name not in ("cache", RECIPE_FILE, LOCK_FILE):
                left.unlink()
        splits.write(data.table, data.sides, partial)
        provenance = {
            "begun_with": whence[0]["begun_with"],
            "commit": ", ".join(sorted({name for each in whence for name in each["commit"].split(", ")})),
            "averaged_at": commit,
            "seeds": named,
        }
        outcome.write(partial, config, mean, data, provenance)
    del data  # its pixels are a file in there, and Windows moves no open one
    (partial / LOCK_FILE).unlink()
    partial.rename(out)
    report(f"finished: {out}")


def _but_for_seed(config: TrainConfig, other: TrainConfig) -> TrainConfig:
    return config.model_copy(update={"seed": other.seed})


def _holds(out: Path, config: TrainConfig, mean: keras.Model, seeds: str) -> bool:
    """Whether a finished run folder is this very average."""
    if TrainConfig.of_run(out) != config or _provenance(out).get("seeds") != seeds:
        return False
    return all(map(np.array_equal, _weights(out), mean.get_weights()))


def _make_way(out: Path) -> None:
    """Removes an empty folder; a UsageError where anything else is."""
    try:
        out.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UsageError(f"{out} holds something else; give another --out.") from error


def _check_partial(partial: Path, config: TrainConfig) -> None:
    """Raises a UsageError if a folder is no average of this recipe that was stopped: its files would go."""
    if not partial.exists():
        return
    begun = {"cache", LOCK_FILE, f"{RECIPE_FILE}{PARTIAL}"}
    left = [each for each in partial.iterdir() if each.name not in begun] if partial.is_dir() else [partial]
    ours = (partial / RECIPE_FILE).exists() and _but_for_seed(TrainConfig.of_run(partial), config) == config
    finished = (partial / "spec.json").exists() and "seeds" not in _provenance(partial)
    if left and not (ours and not finished and all(each.is_file() for each in left)):
        raise UsageError(
            f"{partial} is where this is put together, and it holds something else; give another --out."
        )


def _mean(config: TrainConfig, runs: Sequence[Path]) -> keras.Model:
    bare = config.network.model_copy(update={"imagenet": ""})
    shape = (config.image.spec, len(config.data.labels))
    network = networks.build(bare, *shape, mirrored=config.network.mirror)
    found = [_weights(run) for run in runs]
    shapes = [weight.shape for weight in network.get_weights()]
    for run, weights in zip(runs, found, strict=True):
        if [weight.shape for weight in weights] != shapes:
            raise UsageError(f"{run}/network.keras: another network than that of {RECIPE_FILE} beside it.")
    network.set_weights([np.mean(values, axis=0) for values in zip(*found, strict=True)])
    return network


def _weights(run: Path) -> list[NDArray[np.float32]]:
    try:
        weights: list[NDArray[np.float32]] = keras.saving.load_model(
            run / "network.keras", compile=False
        ).get_weights()
    except Exception as error:  # damaged archives make Keras raise nearly anything
        raise UsageError(f"{run}/network.keras: cannot be read: {first_line(error)}") from error
    return weights


def _recipe(run: Path) -> TrainConfig:
    if not (run / "spec.json").exists():
        raise UsageError(f"{run}: no finished run of training is there; let its fit end first.")
    return TrainConfig.of_run(run)


def _provenance(run: Path) -> Mapping[str, str]:
    try:
        return ModelSpec.from_json((run / "spec.json").read_text(encoding="utf-8")).provenance
    except (ModelError, ValueError) as error:
        raise UsageError(f"{run}/spec.json: {first_line(error)}") from error
