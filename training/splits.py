"""Patients -> training, validation and test. A patient is on one side only, with all images."""

import os
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chexscore import labels
from chexscore.errors import TableError
from chexscore.outputs import replacing
from training.config import DataConfig
from training.datasets import PATH_COLUMNS, check_once, image_paths, read_paths, read_table
from training.folders import make

__all__ = ["SIDES", "Side", "by_patient", "check", "divide", "write"]

Side = Literal["training", "validation", "test"]
SIDES: tuple[Side, ...] = ("training", "validation", "test")


def divide(root: Path, data: DataConfig) -> tuple[pd.DataFrame, NDArray[np.str_]]:
    """Splits a data set as its recipe says.

    Args:
        root: folder of the data set.
        data: the recipe's share or lists.

    Returns:
        The table of the data set with what the lists add to it, and for each row one of SIDES.

    Raises:
        TableError: the data set or a list cannot be used, a patient is on two sides, or no image is left for
            training or validation.
    """
    table = read_table(root, data)
    sides = np.full(len(table), "", dtype="<U10")
    lists = {"training": data.training_list, "validation": data.validation_list, "test": data.test_list}
    for side, name in lists.items():
        if name:
            table, rows = _listed(root, data, name, table)
            sides = np.append(sides, np.full(len(table) - len(sides), ""))
            if (taken := rows & (sides != "")).any():
                path, other = table["path"][taken].iloc[0], lists[sides[taken][0]]
                raise TableError(f"{root / name}: {path} is in {other} too.")
            sides[rows] = side
    patients = table["patient"].to_numpy(dtype=str)
    if not data.validation_list:
        left = sides == ""
        held_out = by_patient(patients[left], data.validation, data.split_seed)
        sides[np.flatnonzero(left)[held_out]] = "validation"
    sides[sides == ""] = "training"
    _check_disjoint(patients, sides)
    for side in SIDES[:2]:
        if not (sides == side).any():
            raise TableError(f"{root / data.table}: the lists leave no image for {side}.")
    return table, sides


def write(table: pd.DataFrame, sides: NDArray[np.str_], run: Path) -> None:
    """Writes training.csv, validation.csv and, if there is such a side, test.csv; labels as they were.

    Each is whole, or not there, whenever this is stopped.

    Raises:
        UsageError: the folder cannot be made.
        TableError: as `check`.
        OutputError: the disk is full, or the folder is not ours.
    """
    texts = _texts(table, sides, run)
    _refuse_another(texts, run)
    make(run)
    for file, text in texts.items():
        with replacing(str(file)) as stream:
            stream.write(text)


def check(table: pd.DataFrame, sides: NDArray[np.str_], run: Path) -> None:
    """Sees to it that a run folder holds this split, or none.

    Raises:
        TableError: the folder holds another split, by which its run has begun.
    """
    _refuse_another(_texts(table, sides, run), run)


def _texts(table: pd.DataFrame, sides: NDArray[np.str_], run: Path) -> dict[Path, bytes]:
    return {
        run / f"{side}.csv": table[sides == side]
        .to_csv(index=False, lineterminator="\n")
        .encode("utf-8", "surrogateescape")
        for side in SIDES
        if side != "test" or (sides == side).any()
    }


def _refuse_another(texts: dict[Path, bytes], run: Path) -> None:
    for file in (run / f"{side}.csv" for side in SIDES):
        if file.exists() and file.read_bytes() != texts.get(file):
            raise TableError(
                f"{file}: the data set gives another split now than this run has begun with; give another "
                "--out, or bring the table back."
            )


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


def _check_disjoint(patients: NDArray[np.str_], sides: NDArray[np.str_]) -> None:
    """Raises a TableError that names a patient who is on two sides. Both [N]."""
    pairs = pd.DataFrame({"patient": patients, "side": sides}, dtype=object).drop_duplicates()
    if (twice := pairs["patient"].duplicated()).any():
        patient = pairs["patient"][twice].iloc[0]
        both = " and ".join(pairs["side"][pairs["patient"] == patient])
        raise TableError(f"patient {patient} has images for {both}; a patient belongs to one side.")


def _written(data: DataConfig, column: str, frame: pd.DataFrame) -> DataConfig:
    """How to read a list with labels: as the data set's own table, or as one that a run has written."""
    if column != "path":
        return data
    only = {name: kept for name, kept in data.only.items() if name in frame}  # runs write no other columns
    return data.model_copy(update={"layout": "plain", "only": only})


def _refuse_other_labels(source: Path, listed: pd.DataFrame, table: pd.DataFrame, data: DataConfig) -> None:
    """Raises a TableError if a list says something else of an image than the table: which is right?"""
    rows_of: dict[str, list[int]] = {}
    for row, path in enumerate(table["path"]):
        for name in {path, PurePosixPath(path).name}:
            rows_of.setdefault(name, []).append(row)
    pairs = [(line, row) for line, path in enumerate(listed["path"]) for row in rows_of.get(path, [])]
    listed, same = listed.iloc[[line for line, _ in pairs]], table.iloc[[row for _, row in pairs]]
    for label in data.labels:
        there, here = (pd.to_numeric(labels.stripped(each[label])).to_numpy() for each in (listed, same))
        if (differs := ~((there == here) | (np.isnan(there) & np.isnan(here)))).any():
            row = int(np.argmax(differs))
            raise TableError(
                f"{source}: {listed['path'].iloc[row]} has {listed[label].iloc[row]!r} for {label}, and "
                f"{same[label].iloc[row]!r} in {data.table} or an earlier list; correct one, or leave the "
                "labels out of the list."
            )


def _listed(
    root: Path, data: DataConfig, name: str, table: pd.DataFrame
) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    """The table, with what the list adds to it, and which of its rows are listed.

    A file name alone stands for an image of the table in any folder, unless it is a path to another.
    """
    source = root / name
    left_out = read_paths(root, data) if data.only else set[str]()  # by the recipe, and stays so
    if source.suffix == ".csv" and source.exists():
        frame = labels.read_table(str(source))
        column = next((key for key in ("path", PATH_COLUMNS[data.layout]) if key in frame), None)
        if column is None:
            raise TableError(f"{source}: no column 'path'; it has {', '.join(frame.columns)}.")
        cells = frame[column]
        if set(data.labels) <= set(frame.columns):
            more = read_table(root, _written(data, column, frame), name)
            more["path"] = image_paths(more["path"], data)
            check_once(more, source)
            known = {*table["path"], *left_out}
            names = {PurePosixPath(path).name for path in known}
            new = [
                path not in known and (path not in names or os.path.exists(root / path))
                for path in more["path"]
            ]
            _refuse_other_labels(source, more[np.invert(new)], table, data)
            table = pd.concat([table, more[new]], ignore_index=True)
            left_out |= set(image_paths(cells, data)) - known - names  # what its own lines leave out
    else:
        try:
            cells = pd.Series(source.read_text(encoding="utf-8-sig").splitlines(), dtype=object)
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise TableError(
                f"{source}: the list of images cannot be read: {why}; check --data and the recipe."
            ) from error
    named = set(image_paths(cells, data)) - {""}
    by_path = named & {*table["path"], *left_out}
    others = named - by_path
    by_name = {path for path in others if not os.path.exists(root / path)}  # without a folder, or unknown
    files = [PurePosixPath(path).name for path in table["path"]]
    pairs = zip(table["path"], files, strict=True)
    rows = np.array([path in by_path or file in by_name for path, file in pairs], dtype=np.bool_)
    if unknown := sorted(others - (by_name & {*files, *(PurePosixPath(path).name for path in left_out)})):
        raise TableError(
            f"{source}: names {len(unknown)} images that {data.table} has not, such as {unknown[0]!r}."
        )
    if not rows.any():
        raise TableError(f"{source}: names no image of {data.table}.")
    return table, rows
