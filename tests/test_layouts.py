import os
from pathlib import Path

import numpy as np
import pytest

from chexscore.errors import TableError
from chexscore.evaluation.layouts import LabelTable, read_labels
from chexscore.labels import Policies

IGNORE: Policies = {"default": "ignore"}


def read(tmp_path: Path, text: str) -> LabelTable:
    (tmp_path / "labels.csv").write_text(text)
    return read_labels(str(tmp_path / "labels.csv"))


def test_chexpert_tells_patients_and_studies_by_its_paths(tmp_path: Path) -> None:
    start = "CheXpert-v1.0-small/train/patient00001"
    table = read(
        tmp_path,
        "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema\n"
        f"{start}/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,\n"
        f"{start}/study2/view1_frontal.jpg,Female,68,Frontal,PA,,-1.0\n",
    )
    assert table.layout == "CheXpert"
    assert table.patients == ["patient00001", "patient00001"]
    assert table.studies == ["patient00001/study1", "patient00001/study2"]
    assert table.labels == ("No Finding", "Edema")
    targets = table.targets(["Edema"], uncertain={"default": "positive"}, blank={"default": "negative"})
    assert targets.tolist() == [[0], [1]]


def test_nih_names_its_findings_in_one_column(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age\n"
        "1_000.png,Mass|Edema,0,1,058Y\n"
        "1_001.png,No Finding,1,1,058Y\n"
        "2_000.png,Mass|Rare Thing,0,2,031Y\n",
    )
    assert table.layout == "NIH"
    assert table.paths == ["1_000.png", "1_001.png", "2_000.png"]
    assert table.patients == ["1", "1", "2"]
    assert len(table.labels) == 16
    names = ["Mass", "Hernia", "No Finding", "Rare Thing"]
    targets = table.targets(names, uncertain=IGNORE, blank=IGNORE)
    assert targets.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]]
    with pytest.raises(TableError, match="line 2: a blank among its findings"):
        read(tmp_path, "Image Index,Finding Labels\n1_000.png,\n")


def test_plain_tables_may_have_patients_and_studies(tmp_path: Path) -> None:
    table = read(
        tmp_path, "path,subject_id,StudyInstanceUID,Site,Edema,Nothing\na.png,7,1.2,3,1,\nb.png,8,1.2,4,0,\n"
    )
    assert table.layout == "plain"
    assert table.patients == ["7", "8"]
    assert table.studies == ["7/1.2", "8/1.2"]
    assert table.labels == ("Edema",)  # a column that is blank everywhere says nothing
    table = read(tmp_path, "PATH,Edema\na.png,1\n")
    assert table.patients is None
    assert table.studies is None
    assert np.isnan(read(tmp_path, "path,Edema\na.png,\n").targets(["Edema"], uncertain=IGNORE, blank=IGNORE))


def test_a_patient_is_a_whole_folder_and_one_foreign_path_does_not_turn_patients_off(tmp_path: Path) -> None:
    table = read(tmp_path, "path,A\ninpatient1/a.png,1\ninpatient1/b.png,0\n")
    assert table.patients is None
    table = read(
        tmp_path,
        "path,A\n patient1/study1/a.png ,1\npatient1/study1/b.png,0\nward\\c.png,1\npatient2/d.png,0\n",
    )
    assert table.paths[0] == "patient1/study1/a.png"
    assert table.patients == ["patient1", "patient1", "line 4", "patient2"]
    assert table.studies == ["patient1/study1", "patient1/study1", "line 4/line 4", "patient2/line 5"]
    assert table.alone == {"patient": {2}, "study": {2, 3}}
    table = read(tmp_path, "path,patient,A\npatient1/study1/a.png,1,1\nward/c.png,2,1\n")
    assert table.alone == {"study": {1}}


def test_one_number_below_two_folders_is_no_patient(tmp_path: Path) -> None:
    paths = ("siteA/patient1/study1/a.png", "siteB\\patient1\\study1\\b.png")
    lines = "".join(f"{path},{place},7,1\n" for place, path in enumerate(paths))
    table = read(tmp_path, f"path,x,y,A\n{lines}")
    with pytest.raises(TableError, match=r"labels.csv: (.*) and (.*) are .* add a column patient") as caught:
        table.check("patient", (0, 1))
    assert all(path in str(caught.value) for path in paths)
    table.check("patient", (1,))
    table = read(tmp_path, f"path,study,y,A\n{lines.replace(',1,7', ',0,7')}")
    with pytest.raises(
        TableError, match=r"their study patient1/0 may be two; add a column patient that tells.$"
    ):
        table.check("study", (0, 1))
    table = read(tmp_path, f"path,x,patient,A\n{lines}")
    table.check("patient", (0, 1))
    with pytest.raises(TableError, match=r"their study 7/study1 may be two; add a column study"):
        table.check("study", (0, 1))
    for columns, studies in (("patient,y", ["0/study1", "1/study1"]), ("study,patient", ["7/0", "7/1"])):
        table = read(tmp_path, f"path,{columns},A\n{lines}")
        assert table.studies == studies
        for what in ("patient", "study"):
            table.check(what, (0, 1))
    same = read(tmp_path, "path,A\n./train/patient1/study1/a.png,1\ntrain\\patient1\\b.png,1\n")
    assert same.patients == ["patient1", "patient1"]
    same.check("patient", (0, 1))
    chexpert = read(tmp_path, "Path,A\nC/train/patient1/study1/a.png,1\nC/valid/patient2/study1/a.png,1\n")
    assert chexpert.studies == ["patient1/study1", "patient2/study1"]
    chexpert.check("study", (0, 1))


def test_columns_of_a_spreadsheet_without_name_and_cells_are_none(tmp_path: Path) -> None:
    table = read(tmp_path, "path,Edema,,\na.png,1,, \nb.png,0,,\n")
    assert (list(table.cells), table.labels) == (["path", "Edema"], ("Edema",))
    assert read(tmp_path, ",path,Edema\n0,a.png,1\n").labels == ("Edema",)  # an index, as pandas writes it
    with pytest.raises(TableError, match="two columns have no name"):
        read(tmp_path, "path,Edema,,\na.png,1,x,y\n")


def test_a_label_is_a_whole_number_to_the_last_digit(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"line 3: '0.99999999' is not 1, 0, -1 or blank"):
        read(tmp_path, "path,A\na.png,1\nb.png,0.99999999\n").targets(["A"], uncertain=IGNORE, blank=IGNORE)


def test_a_quote_without_its_end_is_told(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"labels.csv: not a CSV: unexpected end .* begins in line 3"):
        read(tmp_path, 'path,A,Remark\na.png,1,5" film\nb.png,0,"late\nc.png,1,\n')


def test_a_table_from_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels.csv")
    with pytest.raises(TableError, match=r"labels.csv: .* so it has to be a file; save it first"):
        read_labels(str(tmp_path / "labels.csv"))
