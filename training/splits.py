"""Patients -> training and validation. A patient is on one side only, with all images."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chexscore.errors import TableError
from training.config import TrainConfig
from training.datasets import read_table

__all__ = ["by_patient", "write_split"]


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


def write_split(config: TrainConfig, root: Path, run: Path) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    """Splits the data set by patient and writes training.csv and validation.csv, label columns as they were.

    Returns:
        The table of the data set, and bool [rows], true for those of held-out patients.

    Raises:
        TableError: the data set cannot be used.
    """
    table = read_table(root, config.data)
    held_out = by_patient(
        table["patient"].to_numpy(dtype=str), config.data.validation, config.data.split_seed
    )
    run.mkdir(parents=True, exist_ok=True)
    table[~held_out].to_csv(run / "training.csv", index=False)
    table[held_out].to_csv(run / "validation.csv", index=False)
    return table, held_out
