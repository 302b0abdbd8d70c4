"""What the bundled model is trained on beside its own data set: films of adults, and small copies.

    python -m training.beside DIR NIH

DIR holds the X-rays of children that configs/kermany.toml is for; NIH a sample of ChestX-ray14 at 64 x 64
pixels. DIR gets a folder and a table, beside/ and beside.csv, which the recipe names as its training list:

- films of adults, two patients in three, so that the others stay for a test, with every label uncertain (-1):
  the recipe draws their targets around the share of them that is ill, so that a grown-up chest speaks neither
  for disease nor against it;
- 500 films of children who are not held out, at that size, so that it gives no adult away.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from chexscore.errors import TableError, exit_on_error
from chexscore.outputs import replacing
from training.config import DataConfig, TrainConfig
from training.datasets import read_table
from training.splits import divide

__all__ = ["adults", "write"]

RECIPE = Path(__file__).parent / "configs" / "kermany.toml"
ONE_IN = 3
"""Of the adults, by their numbers, that is left out."""

COPIES, SIDE = 500, 64
UNCERTAIN = "-1"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DIR")
    parser.add_argument("nih", type=Path, metavar="NIH")
    given = parser.parse_args(arguments)
    with exit_on_error("training.beside", "stopped; the same command begins anew."):
        write(given.data, given.nih, TrainConfig.from_toml(RECIPE).data)


def adults(nih: Path, *, left_out: bool) -> pd.DataFrame:
    """The adults to train on, or those left out, as the layout nih has them; path relative to `nih`.

    Raises:
        TableError: the table of `nih` cannot be used, or a patient in it has no number.
    """
    table = read_table(nih, DataConfig(layout="nih"))
    numbers = pd.to_numeric(table["patient"], errors="coerce")
    if numbers.isna().any():
        raise TableError(f"{nih}: patient {table['patient'][numbers.isna()].iloc[0]!r} is no number.")
    return table[(numbers % ONE_IN == 0) == left_out]


def write(data: Path, nih: Path, recipe: DataConfig) -> None:
    """Fills beside/ and writes beside.csv.

    Args:
        data: folder of the children's films.
        nih: folder of the adults'.
        recipe: the labels, and who is held out; its training list is what this writes.

    Raises:
        TableError: a table cannot be used, or a path in it leads out of its folder, or to another's copy.
        OutputError, OSError: a film cannot be read, the disk is full, or the folder is not ours.
    """
    grown = adults(nih, left_out=False)
    uncertain = grown.assign(**dict.fromkeys(recipe.labels, UNCERTAIN))
    table, sides = divide(data, recipe.model_copy(update={"training_list": ""}))
    trained = np.flatnonzero(sides == "training")
    small = table.iloc[np.sort(np.random.default_rng(recipe.split_seed).permutation(trained)[:COPIES])]

    lines, copies = [], set()
    for root, rows in ((nih, uncertain), (data, small)):
        for row in rows.to_dict("records"):
            path = Path("beside", row["path"]).with_suffix(".png")
            if path.parts[0] != "beside" or ".." in path.parts or path in copies:  # whose film would go?
                raise TableError(f"{root}: {row['path']} leads out of it, or differs in its suffix alone.")
            copies.add(path)
            (data / path).parent.mkdir(parents=True, exist_ok=True)
            with Image.open(root / row["path"]) as film:
                film.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX).save(data / path)
            lines.append({**row, "path": path.as_posix()})
    columns = ["path", "patient", *recipe.labels]
    with replacing(str(data / recipe.training_list)) as file:
        file.write(pd.DataFrame(lines)[columns].to_csv(index=False).encode())


if __name__ == "__main__":
    main()
