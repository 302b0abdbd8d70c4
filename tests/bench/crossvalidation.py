"""What the parts of the bundled model's recipe are worth: variants of it, cross-validated by patient.

    python -m tests.bench.crossvalidation DIR [VARIANT ...] --out runs/folds [--by looks] [--fold K]

DIR holds the X-rays that training/configs/kermany.toml is for, and what training.beside has put there. For
each variant and fold a network is trained by that recipe, but for the size, the epochs and what the variant
changes, and measured on the patients of that fold, plain and with some changes of tests.bench.robustness.
`--by looks` holds out normal films that look alike, so that those of a fold differ from all that were trained
on, as those of another year may; `--by number` holds out patients whose numbers follow one another;
`--by series` all normal films of one of the two series that their names tell apart, IM and NORMAL2, so that
folds 0 and 1 alone have any.
Accuracy is that at thresholds where so many of the ill are found in the other folds. Each figure is the mean
over the folds, with the standard deviation between them behind it. The epoch that is kept is the best one for
the patients of the fold. Finished trainings are not done again.

`--fold`, once or more, takes some of the folds alone; a single one has no spread and no accuracy.

`distilled` learns from the labels and, in equal parts, from what the networks of `recipe` and `another seed`
of the same fold say to the same images without augmentation; they are trained first.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from sklearn.cluster import KMeans

from chexscore import metrics
from tests.bench.robustness import CHANGES, sized
from training import examples
from training.config import TrainConfig
from training.fit import fit

RECIPE = Path(__file__).parents[2] / "training" / "configs" / "kermany.toml"
NOT_MOVED = {"rotation": 0.0, "zoom": 0.0, "zoom_width": 0.0, "shift": 0.0}
MOVED_ONLY = {
    "gamma": 0.0,
    "sharpness": 0.0,
    "noise": 0.0,
    "borders": 0.0,
    "jpeg_quality": 0,
}
STILL = {**NOT_MOVED, **MOVED_ONLY}
AS_IN_0_5_0 = {
    "gamma": 0.5,
    "zoom": 0.25,
    "zoom_width": 0.4,
    "shift": 0.08,
    "sharpness": 1.0,
    "noise": 0.06,
    "borders": 0.15,
    "jpeg_quality": 0,
}
AS_IN_0_8_0 = {
    "gamma": 0.25,
    "zoom": 0.12,
    "zoom_width": 0.2,
    "shift": 0.04,
    "sharpness": 1.0,
    "noise": 0.03,
    "borders": 0.07,
    "jpeg_quality": 10,
}
HALF = {
    "rotation": 0.02,
    "gamma": 0.0625,
    "zoom": 0.03,
    "zoom_width": 0.05,
    "shift": 0.01,
    "sharpness": 0.5,
    "noise": 0.015,
    "borders": 0.035,
    "jpeg_quality": 20,
}
QUARTER = {
    "rotation": 0.01,
    "gamma": 0.03125,
    "zoom": 0.015,
    "zoom_width": 0.025,
    "shift": 0.005,
    "sharpness": 0.25,
    "noise": 0.0075,
    "borders": 0.0175,
    "jpeg_quality": 40,
}
COMPACT = {
    "name": "compact",
    "imagenet": "",
    "stages": 7,
    "frozen_stages": 0,
    "width": 16,
    "l2": 1e-4,
}
SMALL = {"network": COMPACT, "learning_rate": 1e-3}
VARIANTS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "another seed": {"seed": 1},
    "children alone": {"data": {"training_list": ""}},
    "no augmentation": {"augment": STILL},
    "no augmentation, another seed": {"augment": STILL, "seed": 1},
    "0.5.0's augmentation": {"augment": AS_IN_0_5_0},
    "placement alone changed": {"augment": MOVED_ONLY},
    "0.8.0's augmentation": {"augment": AS_IN_0_8_0},
    "half the noise and borders": {"augment": {"noise": 0.015, "borders": 0.035}},
    "twice gamma, noise and borders": {"augment": {"gamma": 0.25, "noise": 0.06, "borders": 0.15}},
    "with mirroring": {"augment": {"flip": True}},
    "half of all": {"augment": HALF},
    "a quarter of all": {"augment": QUARTER},
    "half the rotation": {"augment": {"rotation": 0.02}},
    "half of placement": {"augment": {"rotation": 0.02, "zoom": 0.03, "zoom_width": 0.05, "shift": 0.01}},
    "placement unchanged": {"augment": NOT_MOVED},
    "no JPEG": {"augment": {"jpeg_quality": 0}},
    "half the sharpness": {"augment": {"sharpness": 0.5}},
    "half the sharpness, another seed": {"augment": {"sharpness": 0.5}, "seed": 1},
    "0.7.0's augmentation": {"augment": {**AS_IN_0_8_0, "jpeg_quality": 0, "sharpness": 0.5}},
    "JPEG of 30, half the sharpness": {"augment": {"jpeg_quality": 30, "sharpness": 0.5}},
    "no borders": {"augment": {"borders": 0.0}},
    "no noise": {"augment": {"noise": 0.0}},
    "twice the borders": {"augment": {"borders": 0.15}},
    "not standardized": {"network": {"standardize": False}},
    "mirrored": {"network": {"mirror": True}},
    "weights not averaged": {"average": 0.0},
    "weights averaged for longer": {"average": 1.5},
    "distilled": {},
    "lower rate": {"learning_rate": 2e-4},
    "not pretrained": {"network": {"imagenet": "", "frozen_stages": 0}},
    "not pretrained, 15 epochs": {
        "network": {"imagenet": "", "frozen_stages": 0},
        "epochs": 15,
        "learning_rate": 1e-3,
    },
    "more dropout": {"network": {"dropout": 0.5}},
    "class weights": {"class_weights": True},
    "no stage frozen": {"network": {"frozen_stages": 0}},
    "five stages frozen": {"network": {"frozen_stages": 5}},
    "seven stages": {"network": {"stages": 7}},
    "five stages": {"network": {"stages": 5}},
    "compact": SMALL,
    "compact, no borders": {**SMALL, "augment": {"borders": 0.0}},
    "compact, no augmentation": {
        **SMALL,
        "augment": STILL,
    },
    "compact, width 8": {**SMALL, "network": {**COMPACT, "width": 8}},
    "compact, width 24": {**SMALL, "network": {**COMPACT, "width": 24}},
    "128 px": {"image": {"height": 128, "width": 128}},
    "160 px": {"image": {"height": 160, "width": 160}},
    "192 px": {"image": {"height": 192, "width": 192}},
    "224 px": {"image": {"height": 224, "width": 224}},
    "224 px, another seed": {"image": {"height": 224, "width": 224}, "seed": 1},
    "256 px": {"image": {"height": 256, "width": 256}},
}
"""Name -> section or field of the recipe -> what it is instead."""

TEACHERS = {"distilled": ("recipe", "another seed")}
"""Variant -> those whose networks, of the same fold, it learns from beside the labels."""

SHOWN = (
    "none",
    "frame: the same, and others 9 % of width",
    "frame: both 18 %",
    "margin of 10 % hidden, black",
    "margin of 10 % hidden, grey",
    "noise of 12 levels",
)
"""Of the changes of tests.bench.robustness."""

FOUND = (0.95, 0.975)
ACCURACIES = tuple(f"accuracy, {found:.1%} found" for found in FOUND)
THUMBNAIL = (14, 14)


def main() -> None:
    """Prints one line for each variant, when its folds are done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DIR")
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--fold", type=int, action="append", metavar="K", help="from 0; else all of them")
    parser.add_argument("--by", choices=("patient", "looks", "number", "series"), default="patient")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    if unknown := set(arguments.variants) - set(VARIANTS):
        parser.error(f"no variant is called {' or '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    taken = arguments.fold or range(arguments.folds)
    if not set(taken) <= set(range(arguments.folds)) or len(set(taken)) < len(taken):
        parser.error(f"--fold takes different numbers from 0 to {arguments.folds - 1}")

    told = TrainConfig.from_toml(RECIPE)
    small = {
        "epochs": arguments.epochs,
        "image": told.image.model_copy(update={"height": arguments.size, "width": arguments.size}),
    }
    table = pd.read_csv(arguments.data / told.data.table)
    films = [Image.open(arguments.data / path).convert("L") for path in table["path"]]
    divided = {"patient": _by_patient, "looks": _by_looks, "number": _by_number, "series": _by_series}
    folds = divided[arguments.by](films, table, arguments.folds)
    arguments.out.mkdir(parents=True, exist_ok=True)

    def trained(name: str, fold: int) -> Path:
        settings = (arguments.by, fold, *name.split(), arguments.size, arguments.epochs)
        run: Path = arguments.out / "-".join(map(str, settings))
        taught = [trained(teacher, fold) for teacher in TEACHERS.get(name, ())]
        config = _changed(told.model_copy(update=small), VARIANTS[name])
        _train(config, table[folds == fold], arguments.data, run, taught)
        return run

    print("| variant | AUC Pneumonia | macro AUC | " + " | ".join(ACCURACIES + SHOWN[1:]) + " |")
    print("|" + " --- |" * (len(SHOWN) + 4))
    for name in arguments.variants or VARIANTS:
        truths, scores = [], []
        for fold in taken:
            held_out = np.flatnonzero(folds == fold)
            network = keras.saving.load_model(trained(name, fold) / "network.keras", compile=False)
            truths.append(table[list(told.data.labels)].to_numpy(np.float64)[held_out])
            scores.append(_scores(network, [films[row] for row in held_out], truths[-1]))
        only = f", fold {', '.join(map(str, taken))}" if arguments.fold else ""
        print(f"| {name}{only} | " + " | ".join(_cells(truths, scores)) + " |", flush=True)


def _changed(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    sections = {
        key: getattr(config, key).model_copy(update=value) if isinstance(value, dict) else value
        for key, value in changes.items()
    }
    return TrainConfig.model_validate(config.model_copy(update=sections).model_dump())


def _train(
    config: TrainConfig, held_out: pd.DataFrame, root: Path, run: Path, teachers: Sequence[Path]
) -> None:
    lists = {"validation_list": run.with_name(f"{run.name}.txt").absolute()}
    lists["validation_list"].write_text("\n".join(held_out["path"]))
    if config.data.training_list:  # which has copies of films of those who are held out here
        beside = pd.read_csv(root / config.data.training_list, dtype=str, keep_default_na=False)
        lists["training_list"] = run.with_name(f"{run.name}-beside.csv").absolute()
        beside[~beside["patient"].isin(held_out["patient"])].to_csv(lists["training_list"], index=False)
    data = config.data.model_copy(update={name: str(path) for name, path in lists.items()})
    cache, load = run.with_name(f"{run.name}-cache"), examples.load

    def taught(*arguments: Any) -> examples.Examples:
        """Targets halfway between the labels and the mean of what the teachers say to the training images."""
        known = load(*arguments)
        rows, targets = known.rows["training"], known.targets.copy()
        networks = [keras.saving.load_model(each / "network.keras", compile=False) for each in teachers]
        said = np.mean([network.predict(known.pixels[rows], verbose=0) for network in networks], axis=0)
        targets[rows] = (targets[rows] + said) / 2
        return known._replace(targets=targets)

    with mock.patch.object(examples, "load", taught if teachers else load):
        fit(config.model_copy(update={"data": data}), root, run, cache=cache, report=_tell)
    shutil.rmtree(cache, ignore_errors=True)  # of this fold alone, and large
    if set(pd.read_csv(run / "validation.csv")["path"]) != set(held_out["path"]):
        sys.exit(f"{run} was trained with other folds; give another --out")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _scores(
    network: keras.Model, films: list[Image.Image], truth: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Change -> scores [N, L]."""
    _, height, width, _ = network.input_shape
    found = {}
    for name in SHOWN:
        changed = [CHANGES[name][int(row[0])](film) for row, film in zip(truth, films, strict=True)]
        pixels = np.stack([sized(film, (width, height)) for film in changed])
        found[name] = np.asarray(network.predict(pixels, verbose=0), np.float64)
    return found


def _cells(truths: list[NDArray[np.float64]], scores: list[dict[str, NDArray[np.float64]]]) -> list[str]:
    def aucs(change: str) -> list[float]:
        return [
            metrics.auroc(truth[:, 0], each[change][:, 0]) for truth, each in zip(truths, scores, strict=True)
        ]

    macro = [metrics.auroc_macro(truth, each["none"]) for truth, each in zip(truths, scores, strict=True)]
    accuracy: dict[float, list[float]] = {found: [] for found in FOUND}
    for fold, truth in enumerate(truths if len(truths) > 1 else ()):
        others = [other for other in range(len(truths)) if other != fold]
        ill = np.concatenate([scores[other]["none"][truths[other][:, 0] == 1, 0] for other in others])
        for found, values in accuracy.items():
            called = scores[fold]["none"][:, 0] >= np.quantile(ill, 1 - found)
            values.append(float((called == (truth[:, 0] == 1)).mean()))
    figures = [aucs("none"), macro, *accuracy.values(), *(aucs(change) for change in SHOWN[1:])]
    return [_with_spread(each) for each in figures]


def _with_spread(values: Sequence[float]) -> str:
    if len(values) > 1:
        return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    return f"{values[0]:.3f}" if values else ""


def _by_patient(_: list[Image.Image], table: pd.DataFrame, folds: int) -> NDArray[np.intp]:
    """The fold of each image; all images of a patient are in one."""
    everyone, row = np.unique(table["patient"].to_numpy(str), return_inverse=True)
    return np.asarray(np.random.default_rng(0).permutation(np.arange(everyone.size) % folds)[row])


def _by_looks(films: list[Image.Image], table: pd.DataFrame, folds: int) -> NDArray[np.intp]:
    """As `_by_patient`, but patients with normal films by how these look, whatever their exposure."""
    looks = np.stack([np.asarray(film.resize(THUMBNAIL, Image.Resampling.BOX), float) for film in films])
    looks = (looks - looks.mean((1, 2), keepdims=True)) / looks.std((1, 2), keepdims=True)
    normal = (table["Pneumonia"] == 0).to_numpy()
    each = pd.DataFrame(looks.reshape(len(films), -1)[normal]).groupby(table["patient"].to_numpy()[normal])
    means = each.mean()
    kind = KMeans(folds, n_init=10, random_state=0).fit_predict(means.to_numpy())
    found = table["patient"].map(dict(zip(means.index, kind, strict=True)))
    return np.where(found.notna(), found.fillna(0), _by_patient(films, table, folds)).astype(np.intp)


def _by_number(_: list[Image.Image], table: pd.DataFrame, folds: int) -> NDArray[np.intp]:
    """The lowest numbers of each series of patients, the next, and so on: as time may have numbered them."""
    parts = table["patient"].str.extract(r"^(.*?)(\d+)$")
    rank = parts[1].astype(int).groupby(parts[0]).rank(method="dense", pct=True).to_numpy(np.float64)
    return np.ceil((rank * folds).round(9)).astype(np.intp) - 1


def _by_series(films: list[Image.Image], table: pd.DataFrame, folds: int) -> NDArray[np.intp]:
    """As `_by_patient`, but patients with normal films by the series that their names tell."""
    second = table["patient"].str.startswith("NORMAL2").astype(int)
    return np.where(table["Pneumonia"] == 0, second, _by_patient(films, table, folds)).astype(np.intp)


if __name__ == "__main__":
    main()
