"""The layouts in which labelled chest X-rays come: CheXpert's, NIH's, and plain columns of 0 and 1."""

import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chexscore.errors import TableError, UsageError
from chexscore.evaluation.joining import names_in
from chexscore.labels import DEFAULT, Policies, read_table, split_findings, stripped, to_targets

__all__ = ["LabelTable", "find_column", "read_labels"]

NIH_IMAGE, NIH_FINDINGS = "Image Index", "Finding Labels"
"""Columns of NIH's Data_Entry_2017.csv; the findings of an image are joined by "|"."""

NIH_VOCABULARY = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
    "No Finding",
)
"""What NIH looked for in every image, so that a finding that an extract never names is negative, not unknown
(Wang et al. 2017, doi:10.1109/CVPR.2017.369)."""

CHEXPERT_PATH = re.compile(r"(?:^|[/\\])(patient\d+)[/\\](?:(study\d+)[/\\])?")
"""CheXpert's paths are `CheXpert-v1.0[-small]/train/patient00001/study1/view1_frontal.jpg`."""

PATIENT_COLUMNS = ("patient", "patientid", "subjectid")
STUDY_COLUMNS = ("study", "studyid", "studyinstanceuid")
"""Without capitals, spaces and the like: "Patient ID" is one of them."""

LABEL_CELLS = frozenset({"1", "0", "-1", "1.0", "0.0", "-1.0", ""})


@dataclass(frozen=True)
class LabelTable:
    """A CSV of labels, a line for each image.

    Attributes:
        source: the file.
        layout: "CheXpert", "NIH" or "plain".
        cells: the text of the file, and for NIH a column for each finding.
        paths: of the images.
        patients: of the images, or None where nothing tells for any.
        studies: of the images, or None where nothing tells for any; those of two patients are two, but where
            no patients are known what is called the same is one study.
        alone: "patient" or "study" -> lines whose path names none, though others do: each is one of its own.
        labels: columns that hold labels.
    """

    source: str
    layout: str
    cells: pd.DataFrame
    paths: list[str]
    patients: list[str] | None
    studies: list[str] | None
    alone: Mapping[str, AbstractSet[int]]
    labels: tuple[str, ...]

    def check(self, what: str, lines: Iterable[int], otherwise: str = "") -> None:
        """Refuses names from paths that stand in several folders: two sites may have a patient1 each.

        Args:
            what: is drawn or counted by its name, "patient" or "study".
            lines: that take part.
            otherwise: what else can be done, for the error.

        Raises:
            TableError: one name may be of two; the text has both paths.
        """
        names = self.patients if what == "patient" else self.studies
        if names is None or not self.alone or (what == "patient" and "patient" not in self.alone):
            return
        tells = "patient" if "patient" in self.alone else "study"
        first: dict[str, tuple[str, Sequence[str]]] = {}
        for line in lines:
            path = self.paths[line]
            match = CHEXPERT_PATH.search(path)
            folder = names_in(path[: match.end(1)]) if match else ()
            other, its_folder = first.setdefault(names[line], (path, folder))
            if folder != its_folder:
                raise TableError(
                    f"{self.source}: {other} and {path} are below different folders, so that their {what} "
                    f"{names[line]} may be two; add a column {tells} that tells{otherwise}."
                )

    def targets(self, names: Sequence[str], *, uncertain: Policies, blank: Policies) -> NDArray[np.float32]:
        """The labels as numbers, [lines, names], 1, 0 or NaN.

        Args:
            names: columns to read.
            uncertain: what -1 is taken for.
            blank: what an empty cell is taken for.

        Raises:
            TableError: a cell is no label; the text names column and line.
            UsageError: there is a policy for a label that is not there.
        """
        if wrong := {*uncertain, *blank} - {DEFAULT, *self.labels, *names}:
            raise UsageError(f"{self.source}: has no label {min(wrong)} to take uncertain or blank ones of.")
        return to_targets(self.cells, names, self.source, uncertain=uncertain, blank=blank)


def read_labels(source: str) -> LabelTable:
    """Reads a CSV of labels in whichever layout it has.

    Raises:
        TableError: it cannot be read, is no table, or has no column of paths.
    """
    cells = read_table(source)
    if {NIH_IMAGE, NIH_FINDINGS} <= set(cells.columns):
        return _from_nih(cells, source)
    column = find_column(list(map(str, cells)), "path")
    if column is None:
        raise TableError(f"{source}: no column path; it has {', '.join(cells.columns)}.")
    patient, study = _find(cells, PATIENT_COLUMNS), _find(cells, STUDY_COLUMNS)
    layout = "plain"
    patients, studies = (_filled(cells, each, source) if each else None for each in (patient, study))
    paths = _filled(cells, column, source)
    in_paths = [match.groups() if (match := CHEXPERT_PATH.search(path)) else (None, None) for path in paths]
    alone: dict[str, AbstractSet[int]] = {}
    if any(name for name, _ in in_paths):
        layout = "CheXpert" if column == "Path" else layout
        if patients is None:
            patients, alone["patient"] = _named([name for name, _ in in_paths])
        if studies is None and any(name for _, name in in_paths):
            studies, alone["study"] = _named([name for _, name in in_paths])
    if patients and studies:
        studies = [f"{patient}/{study}" for patient, study in zip(patients, studies, strict=True)]
    known = {column, patient, study, ""}  # an index has no name
    return LabelTable(
        source,
        layout,
        cells,
        paths,
        patients,
        studies,
        alone,
        tuple(name for name in map(str, cells) if name not in known and _holds_labels(cells[name])),
    )


def find_column(columns: Sequence[str], wanted: str) -> str | None:
    """The column that is called so, or else one that is but for its capitals; None without."""
    alike = [name for name in columns if name.lower() == wanted.lower()]
    return wanted if wanted in alike else next(iter(alike), None)


def _from_nih(cells: pd.DataFrame, source: str) -> LabelTable:
    findings = split_findings(cells[NIH_FINDINGS], source)
    names = tuple(dict.fromkeys((*NIH_VOCABULARY, *sorted(set().union(*findings)))))
    columns = {name: ["1" if name in found else "0" for found in findings] for name in names}
    patient = _find(cells, PATIENT_COLUMNS)
    patients = _filled(cells, patient, source) if patient else None
    paths = _filled(cells, NIH_IMAGE, source)
    return LabelTable(source, "NIH", cells.assign(**columns), paths, patients, None, {}, names)


def _named(names: Sequence[str | None]) -> tuple[list[str], AbstractSet[int]]:
    """The names, of a line without one a name of its own; and which lines these are."""
    alone = {row for row, name in enumerate(names) if name is None}
    return [f"line {row + 2}" if name is None else name for row, name in enumerate(names)], alone


def _find(cells: pd.DataFrame, names: Sequence[str]) -> str | None:
    plain = {"".join(filter(str.isalnum, name)).lower(): name for name in map(str, cells)}
    return next((plain[name] for name in names if name in plain), None)


def _filled(cells: pd.DataFrame, column: str, source: str) -> list[str]:
    text = list(stripped(cells[column]))
    if "" in text:
        raise TableError(f"{source}: line {cells.index[text.index('')] + 2} has no {column}.")
    return text


def _holds_labels(column: "pd.Series[str]") -> bool:
    values = set(stripped(column))
    return values <= LABEL_CELLS and values != {""}
