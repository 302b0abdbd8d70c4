"""Tables of labels, and what is learned from them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chexscore.errors import TableError
from chexscore.labels import Policy, to_targets
from tests.phantoms import NIH
from training import labels
from training.config import DataConfig
from training.datasets import read_table
from training.splits import divide, write

CHEXPERT = """Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema,Fracture
CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,
CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg,Female,87,Frontal,AP,,-1.0,1.0
CheXpert-v1.0-small/train/patient00002/study1/view2_lateral.jpg,Female,83,Lateral,,,0.0,-1.0
"""


def test_chexperts_own_table_and_the_policies_for_uncertain_and_blank(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(CHEXPERT)
    data = DataConfig(layout="chexpert", table="train.csv", labels=("Edema", "Fracture"), validation=0.5)
    table = read_table(tmp_path, data)
    assert table["path"].iloc[0] == "train/patient00001/study1/view1_frontal.jpg"
    assert list(table["patient"]) == ["patient00001", "patient00002", "patient00002"]
    targets = to_targets(
        table,
        data.labels,
        "train.csv",
        uncertain={"Edema": "positive", "default": "ignore"},
        blank={"default": "negative", "Fracture": "ignore"},
    )
    np.testing.assert_array_equal(targets, [[0, np.nan], [1, 1], [0, np.nan]])


def test_only_the_views_asked_for_are_kept(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(CHEXPERT)
    data = DataConfig(layout="chexpert", table="train.csv", labels=("Edema",))
    frontal = data.model_copy(update={"only": {"Frontal/Lateral": ("Frontal",)}})
    assert list(read_table(tmp_path, frontal)["Edema"]) == ["", "-1.0"]
    nothing = data.model_copy(update={"only": {"AP/PA": ("LL",)}})
    with pytest.raises(TableError, match="no line has 'LL' in column 'AP/PA'; there are '', 'AP'"):
        read_table(tmp_path, nothing)


def test_smoothed_labels_are_drawn_once_for_the_loss_and_left_out_of_measures() -> None:
    table = pd.DataFrame({"path": ["a"] * 400, "A": ["-1", "1", "0", ""] * 100, "B": ["-1"] * 400})
    data = DataConfig(labels=("A", "B"), uncertain={"A": (0.55, 0.85), "B": "positive"})
    targets, truth = labels.learned(table, data, seed=3), labels.measured(table, data)
    drawn = targets[::4, 0]
    assert drawn.min() >= 0.55
    assert drawn.max() <= 0.85
    assert drawn.std() == pytest.approx(0.3 / np.sqrt(12), rel=0.2)
    assert np.isnan(truth[::4, 0]).all()
    np.testing.assert_array_equal(targets[1::4], [[1, 1]] * 100)
    np.testing.assert_array_equal(targets[2::4], truth[2::4])
    np.testing.assert_array_equal(targets, labels.learned(table, data, seed=3))


def test_nihs_own_table_and_its_images_in_several_folders(tmp_path: Path) -> None:
    (tmp_path / "Data_Entry_2017.csv").write_text(NIH)
    (tmp_path / "images_002" / "images").mkdir(parents=True)
    (tmp_path / "images_002" / "images" / "00000002_000.png").touch()
    data = DataConfig(layout="nih", labels=("Effusion", "No Finding"))
    table = read_table(tmp_path, data)
    assert list(table["path"]) == [
        "images/00000001_000.png",
        "images/00000001_001.png",
        "images_002/images/00000002_000.png",
    ]
    assert table[["patient", "Effusion", "No Finding"]].to_numpy().tolist() == [
        ["1", "1", "0"],
        ["1", "0", "1"],
        ["2", "1", "0"],
    ]
    with pytest.raises(TableError, match="no image has the finding 'Pneumonia'; there are Cardiomegaly, "):
        read_table(tmp_path, data.model_copy(update={"labels": ("Pneumonia",)}))
    (tmp_path / "Data_Entry_2017.csv").write_text(NIH.replace("No Finding", " "))
    with pytest.raises(TableError, match="line 3: a blank among its findings"):
        read_table(tmp_path, data)
    (tmp_path / "Data_Entry_2017.csv").write_text(NIH)
    (tmp_path / "images_masks").mkdir()
    (tmp_path / "images_masks" / "00000002_000.png").touch()
    with pytest.raises(TableError, match=r"there are images_002/images/0.* and images_masks/0.*; only one"):
        read_table(tmp_path, data)
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text(NIH)
    with pytest.raises(TableError, match=r"is to be Data_Entry_2017\*\.csv, and there are Data_Entry"):
        read_table(tmp_path, data)
    with pytest.raises(TableError, match="and there is none; check --data, or name one in the recipe's"):
        read_table(tmp_path / "images_masks", data)
    (tmp_path / "images_masks" / "00000002_000.png").unlink()
    elsewhere = data.model_copy(update={"table": str(tmp_path / "Data_Entry_2017_*.csv")})
    assert list(read_table(tmp_path, elsewhere)["path"]) == list(table["path"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,Opacity\na.png,1\n", "no column 'patient'"),
        ("path,patient\na.png,p\n", "no column 'Opacity'"),
        ("path,patient,Opacity\n", "no rows"),
        ("path,patient,Opacity\na.png,p,1\na.png,p,1\n", "a.png is named twice"),
        ("path,patient,Opacity\na.png,p,1\n./a.png,q,1\n", "a.png is named twice"),
        ("path,patient,Opacity\na.png,,1\n", "line 2 has no patient"),
        ("path,patient,Opacity\na.png, ,1\n", "line 2 has no patient"),
        ("path,patient,Opacity\na.png,p,1\nb.png,p,0.5\n", "line 3: '0.5' is not 1, 0, -1 or blank"),
        ("image,patient,Opacity\na.png,p,1\n", "no column 'path'"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(TableError, match=said):
        read_table(tmp_path, DataConfig(labels=("Opacity",), validation=0.5))


def test_blanks_make_no_other_patient_and_no_other_label(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,patient,Opacity\na.png,p,-1\n b.png ,p ,1\nc.png,q, \n")
    data = DataConfig(labels=("Opacity",), uncertain={"Opacity": (0.6, 0.6)}, blank={"Opacity": "ignore"})
    table = read_table(tmp_path, data)
    assert list(table["path"]) == ["a.png", "b.png", "c.png"]
    assert list(table["patient"]) == ["p", "p", "q"]
    (tmp_path / "list.csv").write_text("path\n c.png \n")
    _, sides = divide(tmp_path, data.model_copy(update={"validation_list": "list.csv"}))
    assert list(sides) == ["training", "training", "validation"]
    np.testing.assert_allclose(labels.learned(table, data, 0).ravel(), [0.6, 1, np.nan])


def test_patients_and_images_may_have_names_that_are_no_utf_8(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"path,patient,Opacity\na\xe9.png,p\xe9,1\nb.png,q,0\n")
    table, sides = divide(tmp_path, DataConfig(labels=("Opacity",), validation=0.5))
    assert sorted(sides) == ["training", "validation"]
    write(table, sides, tmp_path / "run")
    assert sum(b"a\xe9.png,p\xe9,1" in file.read_bytes() for file in (tmp_path / "run").iterdir()) == 1
    again = DataConfig(labels=("Opacity",), validation_list="run/validation.csv")
    np.testing.assert_array_equal(divide(tmp_path, again)[1], sides)


def test_a_label_that_is_none_is_named_with_its_line() -> None:
    table, policies = pd.DataFrame({"A": ["1", "0.5"]}), dict[str, Policy](default="ignore")
    with pytest.raises(TableError, match=r"t\.csv: column A, line 3: '0\.5'"):
        to_targets(table, ["A"], "t.csv", uncertain=policies, blank=policies)
