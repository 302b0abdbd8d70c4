"""Labelled data sets -> one table: path, patient and a text column for each label."""

from pathlib import Path

import pandas as pd

from chexscore import labels
from chexscore.errors import TableError
from training.config import DataConfig

__all__ = ["read_table"]


def read_table(root: Path, data: DataConfig) -> pd.DataFrame:
    """Reads the CSV of a data set, without looking at its images.

    Args:
        root: folder that the CSV and the paths in it are relative to.
        data: layout, CSV and labels.

    Returns:
        Columns path (relative to `root`), patient and the labels, all text, in the order of the CSV; an
        empty cell is the empty text.

    Raises:
        TableError: the CSV is not there or is none, lacks a column, has no rows, names a path twice, or
            leaves a path or patient empty.
    """
    source = root / data.table
    table = labels.read_table(str(source))
    if data.layout == "chexpert":
        table = _from_chexpert(table, source)
    missing = [name for name in ("path", "patient", *data.labels) if name not in table]
    if missing:
        raise TableError(f"{source}: no column {missing[0]!r}; it has {', '.join(table.columns)}.")
    for name in ("path", "patient"):
        if (table[name] == "").any():
            raise TableError(f"{source}: line {int((table[name] == '').argmax()) + 2} has no {name}.")
    if table["path"].duplicated().any():
        twice = table["path"][table["path"].duplicated()].iloc[0]
        raise TableError(f"{source}: {twice} is named twice.")
    return table[["path", "patient", *data.labels]]


def _from_chexpert(table: pd.DataFrame, source: Path) -> pd.DataFrame:
    """CheXpert's paths are `CheXpert-v1.0[-small]/train/patient00001/study1/view1_frontal.jpg`."""
    if "Path" not in table:
        raise TableError(f"{source}: no column 'Path'; CheXpert's train.csv and valid.csv have one.")
    path = table["Path"].str.replace(r"^CheXpert-v1\.0[^/]*/", "", regex=True)
    patient = path.str.extract(r"(patient\d+)", expand=False).fillna("")
    return table.assign(path=path, patient=patient)
