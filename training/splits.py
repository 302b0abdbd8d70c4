"""Patients -> training, validation and test. A patient is on one side only, with all images."""

from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chexscore import labels
from chexscore.errors import TableError
from training.config import DataConfig
from training.datasets import CHEXPERT_PREFIX, PATH_COLUMNS, read_table

__all__ = ["SIDES", "Side", "by_patient", "split"]

Side = Literal["training", "validation", "test"]
SIDES: tuple[Side, ...] = ("training", "validation", "test")


def split(root: Path, data: DataConfig, run: Path) -> tuple[pd.DataFrame, NDArray[np.str_]]:
    """Splits a data set as its recipe says and writes training.csv, validation.csv and, if any, test.csv.

    Args:
        root: folder of the data set.
        data: the recipe's share or lists.
        run: folder for the tables; created where it is missing. Label columns are written as they were.

    Returns:
        The table of the data set, and for each row one of SIDES.

    Raises:
        TableError: the data set or a list cannot be used, or a patient is on two sides.
    """
    table = read_table(root, data)
    sides = np.full(len(table), "training", dtype="<U10")
    for side, name in (("validation", data.validation_list), ("test", data.test_list)):
        if name:
            table, rows = _listed(root, data, name, table)
            sides = np.append(sides, np.full(len(table) - len(sides), side))
            taken = rows & (sides == "validation")
            if side == "test" and taken.any():
                raise TableError(
                    f"{root / name}: {table['path'][taken].iloc[0]} is in {data.validation_list} too."
                )
            sides[rows] = side
    patients = table["patient"].to_numpy(dtype=str)
    if not data.validation_list:
        left = sides == "training"
        sides[np.flatnonzero(left)[by_patient(patients[left], data.validation, data.split_seed)]] = (
            "validation"
        )
    check_disjoint(patients, sides)
    run.mkdir(parents=True, exist_ok=True)
    for side in SIDES:
        if side != "test" or (sides == side).any():
            table[sides == side].to_csv(run / f"{side}.csv", index=False, errors="surrogateescape")
    return table, sides


def by_patient(patients: NDArray[np.str_], share: float, seed: int) -> NDArray[np.bool_]:
    """Draws the patients to hold out.

    Args:
        patients: [N], the patient of each image.
        share: of the patients to hold out, in 0..1; at least one is held out and one kept.
        seed: the same seed and the same set of patients give the same draw, whatever the order of images.

    Returns:
        bool [N], true for images of held-out patients.

    Raises:
        TableError: fewer than two patients.
    """
    everyone = np.unique(patients)
    if everyone.size < 2:  # noqa: PLR2004, one for each side
        raise TableError("the table has fewer than two patients; a split by patient needs some on each side.")
    count = min(max(round(share * everyone.size), 1), everyone.size - 1)
    held_out = np.random.default_rng(seed).permutation(everyone)[:count]
    return np.isin(patients, held_out)


def check_disjoint(patients: NDArray[np.str_], sides: NDArray[np.str_]) -> None:
    """Raises a TableError that names a patient who is on two sides. Both [N]."""
    pairs = pd.DataFrame({"patient": patients, "side": sides}).drop_duplicates()
    if (twice := pairs["patient"].duplicated()).any():
        patient = pairs["patient"][twice].iloc[0]
        both = " and ".join(pairs["side"][pairs["patient"] == patient])
        raise TableError(f"patient {patient} has images for {both}; a patient belongs to one side.")


def _listed(
    root: Path, data: DataConfig, name: str, table: pd.DataFrame
) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    """The table, with what the list adds to it, and which of its rows are listed."""
    source = root / name
    if source.suffix == ".csv":
        frame = labels.read_table(str(source))
        column = next((key for key in ("path", PATH_COLUMNS[data.layout]) if key in frame), None)
        if column is None:
            raise TableError(f"{source}: no column 'path'; it has {', '.join(frame.columns)}.")
        named = set(frame[column].str.replace(CHEXPERT_PREFIX, "", regex=True))
    else:
        try:
            named = {line.strip() for line in source.read_text(encoding="utf-8").splitlines()} - {""}
        except (OSError, UnicodeDecodeError) as error:
            raise TableError(f"{source}: the list of images cannot be read: {error}.") from error
    by_name = {PurePosixPath(path).name for path in named} == named

    def listed(paths: pd.Series) -> NDArray[np.bool_]:
        keys = paths.map(lambda path: PurePosixPath(path).name) if by_name else paths
        return keys.isin(named).to_numpy()

    rows = listed(table["path"])
    if not rows.any() and source.suffix == ".csv":
        table = pd.concat([table, read_table(root, data, name)], ignore_index=True)
        rows = listed(table["path"])
    if not rows.any():
        raise TableError(f"{source}: names no image of {root / data.table}.")
    return table, rows
