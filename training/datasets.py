"""Labelled data sets -> one table: path, patient and a text column for each label."""

import glob
import os
import posixpath
import re
from pathlib import Path

import pandas as pd

from chexscore import labels
from chexscore.errors import TableError
from training.config import DataConfig

__all__ = ["PATH_COLUMNS", "check_once", "find_table", "image_paths", "read_paths", "read_table"]

PATH_COLUMNS = {"plain": "path", "chexpert": "Path", "nih": "Image Index"}
"""Layout -> the column that names the image."""

CHEXPERT_PREFIX = re.compile(r"^CheXpert-v1\.0[^/]*/")
"""Of the folder that CheXpert is unpacked into, which may have another name here."""


IGNORE: dict[str, labels.Policy] = {"default": "ignore"}


def read_table(root: Path, data: DataConfig, table: str = "") -> pd.DataFrame:
    """Reads the CSV of a data set, without looking at its images.

    Args:
        root: folder that the CSV and the paths in it are relative to.
        data: layout, CSV, labels, and which images to keep.
        table: another CSV of the same layout, instead of the recipe's.

    Returns:
        Columns path (plain, relative to `root`), patient and the labels, all text, as the CSV has them; an
        empty cell is the empty text.

    Raises:
        TableError: the CSV is not there or is none, lacks a column or a finding, has no rows, names a path
            twice, leaves a path, a patient or NIH's findings empty, or has a label that is not 1, 0, -1 or
            blank.
    """
    source = find_table(root, table or data.table)
    frame = _as_plain(source, root, data)
    _demand(source, frame, ("path", "patient", *data.labels))
    for column, kept in data.only.items():
        cells = labels.stripped(frame[column])
        if not cells.isin(kept).any():
            raise TableError(
                f"{source}: no line has {' or '.join(map(repr, kept))} in column {column!r}; "
                f"there are {', '.join(map(repr, sorted(cells.unique())[:5]))}."
            )
        frame = frame[cells.isin(kept)]
    frame["path"], frame["patient"] = image_paths(frame["path"], data), labels.stripped(frame["patient"])
    for name in ("path", "patient"):
        if (frame[name] == "").any():
            raise TableError(f"{source}: line {frame.index[frame[name] == ''][0] + 2} has no {name}.")
    check_once(frame, source)
    # Read here for what they refuse, while it is known which file and line a cell comes from.
    labels.to_targets(frame, data.labels, str(source), uncertain=IGNORE, blank=IGNORE)
    return frame[["path", "patient", *data.labels]].reset_index(drop=True)


def read_paths(root: Path, data: DataConfig) -> set[str]:
    """All images that the CSV of a data set names, those that `only` leaves out, too.

    Raises:
        TableError: as for `read_table`, but for what is wrong with a single line.
    """
    source = find_table(root, data.table)
    return set(image_paths(_as_plain(source, root, data)["path"], data))


def check_once(frame: pd.DataFrame, source: Path) -> None:
    """Raises a TableError that names a path that a table has twice."""
    if (again := frame["path"].duplicated()).any():
        raise TableError(f"{source}: {frame['path'][again].iloc[0]} is named twice.")


def find_table(root: Path, name: str) -> Path:
    """The one file of a data set that a name or pattern stands for."""
    pattern = os.path.join(glob.escape(str(root)), name)
    found = [root / name]
    if "*" in name:
        found = sorted(map(Path, glob.glob(pattern, recursive=True, include_hidden=True)))
    if len(found) != 1:
        which = (
            f"there are {found[0].name} and {found[1].name};" if found else "there is none; check --data, or"
        )
        raise TableError(
            f"{root}: the table is to be {name}, and {which} name one in the recipe's data.table."
        )
    if not os.path.exists(found[0]):
        raise TableError(
            f"{found[0]}: the table of labels cannot be read: there is no such file; check --data, and "
            "data.table in the recipe."
        )
    return found[0]


def image_paths(cells: pd.Series, data: DataConfig) -> pd.Series:
    """Paths without what makes no other path of them: blanks around them, "./", "a/../".

    CheXpert's are as they are below its own folder.
    """
    plain = [posixpath.normpath(path) if path else "" for path in labels.stripped(cells)]
    if data.layout == "chexpert":
        plain = [CHEXPERT_PREFIX.sub("", path) for path in plain]
    return pd.Series(plain, index=cells.index, dtype=object)


def _demand(source: Path, frame: pd.DataFrame, columns: tuple[str, ...]) -> None:
    if missing := [name for name in columns if name not in frame]:
        raise TableError(f"{source}: no column {missing[0]!r}; it has {', '.join(frame.columns)}.")


def _as_plain(source: Path, root: Path, data: DataConfig) -> pd.DataFrame:
    """The cells of a CSV, with the columns of the plain layout as far as they are there."""
    frame = labels.read_table(str(source))
    _demand(source, frame, (PATH_COLUMNS[data.layout], *data.only))
    if data.layout == "chexpert":
        return _from_chexpert(frame, data)
    return _from_nih(frame, source, root, data) if data.layout == "nih" else frame


def _from_chexpert(frame: pd.DataFrame, data: DataConfig) -> pd.DataFrame:
    """CheXpert's paths are `CheXpert-v1.0[-small]/train/patient00001/study1/view1_frontal.jpg`."""
    path = image_paths(frame["Path"], data)
    patient = path.str.extract(r"(patient\d+)", expand=False).fillna("")
    return frame.assign(path=path, patient=patient)


def _from_nih(frame: pd.DataFrame, source: Path, root: Path, data: DataConfig) -> pd.DataFrame:
    """ChestX-ray14 names images without their folder: images, or images_001/images to images_012/images."""
    _demand(source, frame, ("Finding Labels", "Patient ID"))
    named, where = set(frame["Image Index"]), dict[str, str]()
    for file in (file for folder in sorted(root.glob("images*")) for file in sorted(folder.rglob("*"))):
        if file.name in named:
            found = file.relative_to(root).as_posix()
            if file.name in where:  # masks, say, or copies of another size
                both = f"{where[file.name]} and {found}"
                raise TableError(f"{root}: there are {both}; only one may be in folders called images*.")
            where[file.name] = found
    path = frame["Image Index"].map(lambda name: where.get(name, f"images/{name}" if name else ""))
    findings = labels.split_findings(frame["Finding Labels"], str(source))
    known = set[str]().union(*findings)
    if unknown := sorted(set(data.labels) - known):
        raise TableError(
            f"{source}: no image has the finding {unknown[0]!r}; there are {', '.join(sorted(known))}."
        )
    columns = {label: ["1" if label in found else "0" for found in findings] for label in data.labels}
    return frame.assign(path=path, patient=frame["Patient ID"], **columns)
