"""Recipes against each other: the same images, patients held out, size and epochs; paired difference of AUC.

python -m tests.bench.recipes DATA.toml --data DIR --size 128 --epochs 12 --out runs/recipes RECIPE.toml ...

DATA.toml is the recipe whose [data] is learned. Each other recipe brings its network, augmentation, optimizer
and schedule; the first is what the others are compared with. Runs that are finished are not trained again.
"""

import argparse
from pathlib import Path

import numpy as np

from chexscore.intervals import compare, estimate
from training.config import TrainConfig
from training.fit import fit
from training.networks import reference_blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("table", type=Path, metavar="DATA.toml")
    parser.add_argument("recipes", type=Path, nargs="+", metavar="RECIPE.toml")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--validation", type=float, default=0.3, help="share of the patients")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    told = TrainConfig.from_toml(arguments.table)
    data = told.data.model_copy(update={"validation": arguments.validation})
    image = told.image.model_copy(update={"height": arguments.size, "width": arguments.size})
    found = []
    for recipe in arguments.recipes:
        config = TrainConfig.from_toml(recipe)
        changes = {"data": data, "image": image, "epochs": arguments.epochs, "devices": "one"}
        if config.network.name == "reference":
            changes["network"] = config.network.model_copy(
                update={"blocks": reference_blocks(arguments.size)}
            )
        run = arguments.out / recipe.stem
        fit(config.model_copy(update=changes), arguments.data, run, cache=arguments.out / "cache")
        with np.load(run / "validation.npz") as arrays:
            found.append({name: arrays[name] for name in ("paths", "targets", "scores", "patients")})

    first = found[0]
    patients = first["patients"]
    print(f"{len(patients)} images of {len(set(patients))} patients, {arguments.epochs} epochs")
    for recipe, each in zip(arguments.recipes, found, strict=True):
        alone = estimate(each["targets"], each["scores"], each["patients"], data.labels)
        line = f"{recipe.stem:24} AUC"
        for key in ("macro", "micro"):
            line += " {} {:.4f} ({:.4f} to {:.4f})".format(key, *alone[f"auc/{key}"])
        if each is not first:
            assert np.array_equal(each["paths"], first["paths"])
            differences = compare(
                each["targets"], each["scores"], first["scores"], each["patients"], data.labels
            )
            line += "; macro beyond {}: {:+.4f} ({:+.4f} to {:+.4f})".format(
                arguments.recipes[0].stem, *differences["auc/macro"]
            )
        print(line)


if __name__ == "__main__":
    main()
