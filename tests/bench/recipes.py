"""Recipes against each other: the same images, patients held out, size and epochs; paired difference of AUC.

python -m tests.bench.recipes DATA.toml --data DIR --size 128 --epochs 12 --out runs/recipes RECIPE.toml ...

DATA.toml is the recipe whose [data] is learned. Each other recipe brings its network, augmentation, optimizer
and schedule; the first is what the others are compared with. Runs that are finished are not trained again.
"""

import argparse
from pathlib import Path

import numpy as np

from chexscore.intervals import bootstrap, differences, intervals, number
from chexscore.samples import Sample
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
    data = told.data.model_copy(update={"validation": arguments.validation, "training_list": ""})
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

    first, groups = found[0], number(found[0]["patients"])
    print(f"{len(groups)} images of {groups.max() + 1} patients, {arguments.epochs} epochs")
    assert all(np.array_equal(each["paths"], first["paths"]) for each in found)
    drawn = bootstrap([Sample(each["targets"], each["scores"], groups, data.labels) for each in found])
    for recipe, draws in zip(arguments.recipes, drawn, strict=True):
        alone = dict(zip(draws.names, intervals(draws)["auc"], strict=True))
        line = f"{recipe.stem:24} AUC"
        for key in ("macro", "micro"):
            line += " {} {:.4f} ({:.4f} to {:.4f})".format(key, *alone[key])
        if draws is not drawn[0]:
            beyond = dict(zip(draws.names, differences(draws, drawn[0])["auc"], strict=True))
            line += "; macro beyond {}: {:+.4f} ({:+.4f} to {:+.4f})".format(
                arguments.recipes[0].stem, *beyond["macro"]
            )
        print(line)


if __name__ == "__main__":
    main()
