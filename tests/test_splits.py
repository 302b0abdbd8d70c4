"""Who is trained on and who is held out."""

import errno
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chexscore.errors import OutputError, TableError
from tests.phantoms import NIH, write_chexpert, write_dataset
from tests.trained import recipe
from training import examples
from training.config import DataConfig
from training.datasets import read_table
from training.splits import by_patient, divide, write


def test_the_split_is_by_patient_fixed_by_the_seed_and_not_by_the_order() -> None:
    patients = np.array([f"p{i % 40}" for i in range(200)])
    held_out = by_patient(patients, 0.25, seed=1)
    assert not set(patients[held_out]) & set(patients[~held_out])
    assert len(set(patients[held_out])) == 10
    assert set(patients[::-1][by_patient(patients[::-1], 0.25, seed=1)]) == set(patients[held_out])
    assert set(patients[by_patient(patients, 0.25, seed=2)]) != set(patients[held_out])
    with pytest.raises(TableError, match="fewer than two patients"):
        by_patient(np.array(["p", "p"]), 0.5, seed=0)


def test_chexperts_own_validation_images_are_the_test_side(tmp_path: Path) -> None:
    write_chexpert(tmp_path, 30, size=8)
    data = DataConfig(
        layout="chexpert", table="train.csv", labels=("Lung Opacity",), test_list="valid.csv", validation=0.2
    )
    table, sides = divide(tmp_path, data)
    write(table, sides, tmp_path / "run")
    own = table["path"].str.startswith("valid/").to_numpy()
    np.testing.assert_array_equal(own, sides == "test")
    assert own.sum() == len(pd.read_csv(tmp_path / "valid.csv"))
    assert len(pd.read_csv(tmp_path / "run" / "test.csv")) == own.sum()
    by_side = table["patient"].groupby(sides).unique()
    assert len(set(by_side["validation"])) == round(0.2 * 27)
    assert not set(by_side["training"]) & set(by_side["validation"])


@pytest.mark.parametrize("layout", ["plain", "chexpert", "nih"])
def test_an_earlier_split_is_honoured_in_each_layout(tmp_path: Path, layout: str) -> None:
    if layout == "chexpert":
        write_chexpert(tmp_path, 30, size=8)
        only = {"Frontal/Lateral": ("Frontal",)}
        data = DataConfig(layout="chexpert", only=only, test_list="valid.csv", validation=0.2)
    elif layout == "nih":
        (tmp_path / "Data_Entry_2017.csv").write_text(NIH)
        data = DataConfig(layout="nih", labels=("Effusion",), validation=0.5)
    else:
        write_dataset(tmp_path, 6, size=8)
        data = DataConfig(labels=("Opacity",), validation=0.5)
    table, sides = divide(tmp_path, data)
    write(table, sides, tmp_path / "run")
    lists = {"validation_list": "run/validation.csv", "split_seed": 9}
    if data.test_list:
        lists["test_list"] = "run/test.csv"
    found, found_sides = divide(tmp_path, data.model_copy(update=lists))
    assert found.to_csv() == table.to_csv()
    np.testing.assert_array_equal(found_sides, sides)


def test_a_list_brings_no_view_that_the_recipe_leaves_out(tmp_path: Path) -> None:
    rows = "a.png,p,1,PA\nb.png,q,0,LATERAL\nc.png,r,1,PA\n"
    (tmp_path / "labels.csv").write_text(f"path,patient,Opacity,view\n{rows}")
    (tmp_path / "list.csv").write_text("path,patient,Opacity\na.png,p,1\nb.png,q,0\nd.png,s,0\n")
    data = DataConfig(labels=("Opacity",), only={"view": ("PA",)}, validation_list="list.csv")
    table, sides = divide(tmp_path, data)
    assert list(zip(table["path"], sides, strict=True)) == [
        ("a.png", "validation"),
        ("c.png", "training"),
        ("d.png", "validation"),
    ]


@pytest.mark.parametrize("only", [{}, {"view": ("PA",)}])
def test_a_list_names_images_in_other_words_or_is_refused(
    tmp_path: Path, only: dict[str, tuple[str, ...]]
) -> None:
    """What is passed over in silence would be trained on."""
    rows = "x/a.png,p,1,PA\n./x/b.png,q,0,LATERAL\nx/c.png,r,1,PA\nx/d.png,s,1,PA\n"
    (tmp_path / "labels.csv").write_text(f"path,patient,Opacity,view\n{rows}")
    data = DataConfig(labels=("Opacity",), only=only, test_list="list.txt", validation=0.5)
    for words in ("\ufeffx/a.png\n./x/b.png", "a.png\r\nx/b.png\n", " x/../x/a.png \nb.png"):
        (tmp_path / "list.txt").write_text(words, encoding="utf-8")
        table, sides = divide(tmp_path, data)
        assert list(table["path"][sides == "test"]) == ["x/a.png", "x/b.png"][: 2 - len(only)]
    (tmp_path / "list.csv").write_text("path,patient,Opacity\na.png,p,1\nz/new.png,z,0\n")
    table, sides = divide(tmp_path, data.model_copy(update={"test_list": "list.csv"}))
    assert list(table["path"][sides == "test"]) == ["x/a.png", "z/new.png"]
    for word in ("a.PNG", "y/a.png", "x\\a.png", "typo.png"):
        (tmp_path / "list.txt").write_text(f"x/c.png\n{word}\n")
        with pytest.raises(
            TableError, match=re.escape(f"names 1 images that labels.csv has not, such as {word!r}")
        ):
            divide(tmp_path, data)


def test_a_list_that_says_something_else_of_an_image_is_refused(tmp_path: Path) -> None:
    """Such as a radiologist's labels: the table's would be measured against in silence."""
    (tmp_path / "labels.csv").write_text("path,patient,Opacity\nx/a.png,p,1\nx/b.png,q,\nx/c.png,r,0\n")
    data = DataConfig(labels=("Opacity",), test_list="list.csv", validation=0.5)
    for line in ("x/a.png,p,1.0", "x/b.png,q, ", "a.png,p,1"):
        (tmp_path / "list.csv").write_text(f"path,patient,Opacity\n{line}\n")
        _, sides = divide(tmp_path, data)
        assert (sides == "test").sum() == 1
    assert (tmp_path / "labels.csv").write_text((tmp_path / "labels.csv").read_text() + "y/a.png,p,1\n")
    for line in ("x/a.png,p,0", "x/b.png,q,1", "a.png,p,0", "y/a.png,p,0"):
        (tmp_path / "list.csv").write_text(f"path,patient,Opacity\nx/c.png,r,0\n{line}\n")
        with pytest.raises(TableError, match=r"\.png has '.' for Opacity, and '1?' in labels.csv or "):
            divide(tmp_path, data)


def test_a_listed_path_to_another_image_is_not_taken_for_a_file_name(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,patient,Opacity\nx/a.png,p,1\nx/b.png,q,0\nx/c.png,r,0\n")
    (tmp_path / "a.png").touch()
    (tmp_path / "list.csv").write_text("path,patient,Opacity\na.png,s,0\nb.png,q,0\n")
    data = DataConfig(labels=("Opacity",), test_list="list.csv", validation=0.5)
    table, sides = divide(tmp_path, data)
    assert list(table[sides == "test"]["path"]) == ["x/b.png", "a.png"]
    assert table["patient"].iloc[-1] == "s"
    (tmp_path / "list.txt").write_text("a.png\nb.png\n")
    with pytest.raises(TableError, match=r"names 1 images that labels\.csv has not, such as 'a\.png'"):
        divide(tmp_path, data.model_copy(update={"test_list": "list.txt"}))


def test_a_list_of_names_is_honoured(tmp_path: Path) -> None:
    write_dataset(tmp_path, 6, size=8)
    table = read_table(tmp_path, DataConfig(labels=("Opacity",)))
    held_out = table["path"][table["patient"] == "p0002"]
    (tmp_path / "test.txt").write_text("\n".join(held_out) + "\n")
    listed = DataConfig(labels=("Opacity",), test_list="test.txt", validation=0.5)
    _, sides = divide(tmp_path, listed)
    np.testing.assert_array_equal(sides == "test", table["patient"] == "p0002")
    assert (sides == "validation").any()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("p0000/view0.png", "patient p0000 has images for .*; a patient belongs to one side"),
        ("other.png", "names 1 images that labels.csv has not, such as 'other.png'"),
        ("", "names no image"),
    ],
)
def test_a_list_that_cannot_be_honoured_is_refused(tmp_path: Path, line: str, said: str) -> None:
    write_dataset(tmp_path, 6, size=8)
    (tmp_path / "list.txt").write_text(line)
    data = DataConfig(labels=("Opacity",), validation_list="list.txt")
    with pytest.raises(TableError, match=said):
        divide(tmp_path, data)
    with pytest.raises(TableError, match="cannot be read: No such file or directory; check --data"):
        divide(tmp_path, data.model_copy(update={"validation_list": "none.txt"}))
    (tmp_path / "list.txt").write_text("\n".join(pd.read_csv(tmp_path / "labels.csv")["path"]))
    with pytest.raises(TableError, match=r"labels\.csv: the lists leave no image for training"):
        divide(tmp_path, data)


def test_a_list_adds_what_the_table_lacks_and_may_have_chexperts_prefix(tmp_path: Path) -> None:
    write_chexpert(tmp_path, 30, size=8)
    train, valid = ((tmp_path / f"{side}.csv").read_text().splitlines() for side in ("train", "valid"))
    own = [line for line in train if "patient00001/" in line]
    (tmp_path / "mixed.csv").write_text("\n".join([*valid, *own]) + "\n")
    data = DataConfig(layout="chexpert", test_list="mixed.csv")
    table, sides = divide(tmp_path, data)
    assert (sides == "test").sum() == len(valid) - 1 + len(own)
    (tmp_path / "list.txt").write_text("\n".join(line.split(",")[0] for line in own))
    table, sides = divide(tmp_path, data.model_copy(update={"test_list": "list.txt"}))
    assert set(table["patient"][sides == "test"]) == {"patient00001"}
    listed = table[table["patient"] == "patient00001"]
    prefixed = listed.assign(path="CheXpert-v1.0-small/" + listed["path"], patient="1")
    prefixed.to_csv(tmp_path / "list.csv", index=False)
    found, sides = divide(tmp_path, data.model_copy(update={"test_list": "list.csv"}))
    assert set(found["patient"][sides == "test"]) == {"patient00001"}
    assert len(found) == len(table), "none is added a second time"
    listed.head(1).to_csv(tmp_path / "list.csv", index=False, mode="a", header=False)
    with pytest.raises(TableError, match=r"list\.csv: train/patient00001/.* is named twice"):
        divide(tmp_path, data.model_copy(update={"test_list": "list.csv"}))
    both = data.model_copy(update={"test_list": "list.txt", "validation_list": "mixed.csv"})
    with pytest.raises(TableError, match=r"patient00001/.* is in mixed\.csv too"):
        divide(tmp_path, both)


def test_a_training_list_joins_in_and_is_never_held_out(tmp_path: Path) -> None:
    children, adults = tmp_path / "children", tmp_path / "adults"
    write_dataset(children, 6, size=8)
    write_dataset(adults, 40, size=8)
    more = pd.read_csv(adults / "labels.csv")
    more["path"], more["patient"] = "../adults/" + more["path"], "adult " + more["patient"]
    more.to_csv(children / "adults.csv", index=False)
    alone = recipe(data=DataConfig(labels=("Opacity",), validation=0.5))
    table, sides = divide(children, alone.data)
    data = alone.data.model_copy(update={"training_list": "adults.csv"})
    both, both_sides = divide(children, data)
    assert list(both["path"]) == [*table["path"], *more["path"]]
    assert list(both_sides) == [*sides, *["training"] * len(more)], "the same patients are held out"
    found = examples.load(alone.model_copy(update={"data": data}), children, tmp_path / "cache", 1, print)
    assert len(found.rows["training"]) == (sides == "training").sum() + len(more)
    with pytest.raises(TableError, match=r"view0\.png is in adults\.csv too"):
        divide(children, data.model_copy(update={"test_list": "adults.csv"}))


def test_a_run_keeps_to_the_split_that_it_began_with(tmp_path: Path) -> None:
    from training.fit import fit

    write_dataset(tmp_path, 12, size=8)
    data = DataConfig(labels=("Opacity",), validation=0.5)
    csv = tmp_path / "labels.csv"
    csv.write_text(csv.read_text() + '"line\rend.png",p0000,0,0\n')
    for _ in range(2):
        write(*divide(tmp_path, data), tmp_path / "run")
    (tmp_path / "run" / "test.csv").write_text("of an earlier split")
    with pytest.raises(TableError, match=r"test\.csv: the data set gives another split now"):
        write(*divide(tmp_path, data), tmp_path / "run")
    (tmp_path / "run" / "test.csv").unlink()
    csv.write_text(csv.read_text().replace("p0003,", "p0100,"))
    with pytest.raises(TableError, match="gives another split now than this run has begun with"):
        write(*divide(tmp_path, data), tmp_path / "run")
    with pytest.raises(TableError, match="gives another split now than this run has begun with"):
        fit(recipe(data=data), tmp_path, tmp_path / "run", report=list[str]().append)
    assert not (tmp_path / "run" / "cache").exists(), "it is refused before images are decoded"


def test_a_split_that_cannot_be_written_leaves_no_part_of_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_dataset(tmp_path, 12, size=8)
    monkeypatch.setattr("chexscore.outputs.os.fsync", full)
    with pytest.raises(OutputError, match=r"training\.csv.*No space left"):
        write(*divide(tmp_path, DataConfig(labels=("Opacity",))), tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())
