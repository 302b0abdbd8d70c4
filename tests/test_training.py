import errno
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter
from PIL.JpegImagePlugin import JpegImageFile

from chexscore.errors import ChexscoreError, OutputError, TableError, UsageError, exit_on_error
from chexscore.images import load_image
from chexscore.labels import Policy, to_targets
from chexscore.lock import locked
from chexscore.spec import ImageSpec, ModelSpec
from chexscore.stopping import Stop
from tests.phantoms import draw, write_chexpert, write_dataset
from training import cli as command
from training import examples, labels
from training import prepare as prepare_module
from training.config import RECIPE_FILE, DataConfig, ImageConfig, NetworkConfig, TrainConfig
from training.datasets import read_table
from training.prepare import prepare
from training.splits import by_patient, divide, write

CONFIGS = Path(__file__).parents[1] / "training" / "configs"
SMOKE = CONFIGS / "smoke.toml"


@pytest.fixture(autouse=True)
def draws() -> None:
    """The same in each run: Keras' layers, the random ones of augmentation too, seed themselves from this."""
    random.seed(0)


@pytest.mark.parametrize("recipe", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_each_recipe_that_ships_can_be_read(recipe: Path) -> None:
    config = TrainConfig.from_toml(recipe)
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "not a TOML file"),
        ('name = "x"', "data: Field required"),
        ('name = "x"\nlearning_rates = 1\n[data]\nlabels = ["A"]', "learning_rates: there is no such field"),
        (
            'name = "x"\n[data]\nlabels = []',
            r"toml: data: a model needs at least one label, and none may be blank\.$",
        ),
        (
            'name = "x"\n[data]\nlabels = ["A"]\nuncertain = {A = "maybe"}',
            "data.uncertain.A: Input .* or 'ignore'; data.uncertain.A: Input should be a list",
        ),
        (
            'name = "x"\n[data]\nlabels = ["A"]\nonly = {view = []}',
            "data.only.view: List should have at least 1 item",
        ),
        ('name = "x"\n[data]\nlabels = ["A", "A"]', "is named twice"),
        ('name = "x"\n[data]\nlabels = ["status"]', "cannot be called 'status'"),
        ('name = "x"\n[data]\nlabels = ["A"]\nblank = {B = "ignore"}', "a policy for 'B'"),
        ('name = "x"\n[data]\nlabels = ["A"]\n[network]\nname = "resnet"', "network.name"),
        (
            'name = "x"\n[data]\nlabels = ["A"]\n[network]\nfrozen_stages = 1',
            "frozen_stages needs efficientnet",
        ),
        (
            'name = "x"\n[data]\nlabels = ["A"]\n[network]\nname = "compact"\nimagenet = "y"',
            "compact has no such weights, only efficientnet",
        ),
        ('name = "x"\n[data]\nlabels = ["A"]\n[network]\nstages = 5', "stages: reference has none"),
        (
            'name = "x"\n[data]\nlabels = ["A"]\n[network]\nstandardize = true',
            "standardize: only compact and efficientnet-lite0 do that, not reference",
        ),
        ('name = "x"\ndata = "films"', "data: Input should be a valid dictionary"),
        ('name = "x"\n[data]\nlayout = ["plain"]', "data.layout: Input should be 'plain'"),
        ('name = "x"\nseed = -1\n[data]\nlabels = ["A"]', "seed: .*greater than or equal to 0"),
        ('name = "x"\n[data]\nlabels = ["A"]\nsplit_seed = 4294967296', "data.split_seed: .*less than"),
        (
            (
                'name = "x"\n[data]\nlabels = ["A"]\n'
                '[network]\nname = "efficientnet-lite0"\nimagenet = "y"\nstages = 2\nfrozen_stages = 3'
            ),
            "frozen_stages = 3 is above stages = 2",
        ),
        ('name = "x"\n[data]\nlabels = ["A"]\nuncertain = {A = [0.5, 1.5]}', "data.uncertain.A"),
        ('name = "x"\n[data]\nlabels = ["A"]\nuncertain = {A = [0.5, 0.2]}', "ends before it begins"),
        ('name = "x"\nweight_decay = 0.1\n[data]\nlabels = ["A"]', "weight_decay is for optimizer"),
        ('name = "x"\nclip_norm = inf\n[data]\nlabels = ["A"]', "clip_norm: .*finite"),
        ('name = "x"\nepochs = 2\nwarmup_epochs = 2\n[data]\nlabels = ["A"]', "leaves no epoch"),
        ('name = "x"\nlearning_rate = 1e-6\n[data]\nlabels = ["A"]', "final_learning_rate is above"),
    ],
)
def test_a_recipe_that_is_wrong_is_refused_by_field(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        TrainConfig.from_toml(tmp_path / "recipe.toml")


def test_a_recipe_keeps_its_letters_whatever_the_locale(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "Köln"\n[data]\nlabels = ["Ödem"]', encoding="utf-8")
    script = (
        "import locale; from pathlib import Path; from training.config import TrainConfig;"
        "assert locale.getpreferredencoding(False) != 'UTF-8';"
        f"config, run = TrainConfig.from_toml(Path({str(recipe)!r})), Path({str(tmp_path)!r});"
        "config.keep(run); assert TrainConfig.of_run(run) == config; print(ascii(config.name))"
    )
    environment = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    told = subprocess.run(
        [sys.executable, "-c", script], check=False, env=environment, capture_output=True, text=True
    )
    assert (told.stdout, told.stderr) == ("'K\\xf6ln'\n", "")
    assert json.loads((tmp_path / RECIPE_FILE).read_text(encoding="utf-8"))["name"] == "Köln"


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml"):
        TrainConfig.from_toml(tmp_path / "none.toml")


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('name = "x"\n[data]\nlabels = ["A"]', encoding="utf-8-sig")
    assert TrainConfig.from_toml(tmp_path / "recipe.toml").name == "x"


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


NIH = """Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position
00000001_000.png,Cardiomegaly|Effusion,0,1,57,M,PA
00000001_001.png,No Finding,1,1,58,M,AP
00000002_000.png,Effusion,0,2,81,F,PA
"""


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
    (tmp_path / "list.txt").write_text("\n".join(paths_of(tmp_path)))
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


def test_layouts_bring_their_findings_and_tables() -> None:
    chexpert, nih = DataConfig(layout="chexpert"), DataConfig(layout="nih")
    assert (len(chexpert.labels), chexpert.table) == (13, "train.csv")
    assert (len(nih.labels), nih.table) == (14, "Data_Entry_2017*.csv")
    assert DataConfig(layout="chexpert", labels=("No Finding",)).labels == ("No Finding",)


def paths_of(folder: Path) -> list[str]:
    return list(pd.read_csv(folder / "labels.csv")["path"])


def test_prepare_leaves_out_what_cannot_be_read_and_does_nothing_twice(tmp_path: Path) -> None:
    write_dataset(tmp_path, 4, size=16)
    paths = paths_of(tmp_path)
    (tmp_path / paths[1]).write_text("no image")
    said: list[str] = []
    image, cache = ImageSpec(16, 16), tmp_path / "cache"
    first = prepare(tmp_path, paths, image, cache, 2, said.append)
    assert first.usable.tolist() == [i != 1 for i in range(len(paths))]
    assert sum(line.startswith("left out") for line in said) == 1
    assert "(1 of them unreadable and left out; a new folder tries them again)" in said[-1]
    (tmp_path / paths[0]).unlink()  # would be noticed if anything were read again
    again = prepare(tmp_path, paths, image, cache, 2, said.append)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(first.usable, again.usable)
    with pytest.raises(TableError, match="another image size or resize rule"):
        prepare(tmp_path, paths, ImageSpec(16, 17), cache, 2, said.append)
    with pytest.raises(TableError, match="another table"):
        prepare(tmp_path, paths[1:], image, cache, 2, said.append)
    rule = json.loads((cache / "image.json").read_text())
    earlier = {name: value for name, value in rule.items() if name != "reading"}
    for other in (earlier, {**rule, "reading": rule["reading"] + 1}):
        (cache / "image.json").write_text(json.dumps(other))
        with pytest.raises(TableError, match="by a chexscore that read images otherwise; use another folder"):
            prepare(tmp_path, paths, image, cache, 2, said.append)
    (cache / "image.json").write_text(json.dumps(rule))
    for _ in range(2):
        with pytest.raises(TableError, match="not one of 1 images could be read"):
            prepare(tmp_path, paths[1:2], image, tmp_path / "none", 2, said.append)
    with locked(str(cache / "pixels.npy"), 0, Stop()):
        prepare(tmp_path, paths, image, cache, 2, said.append)  # a finished one is only read
    (tmp_path / "busy").mkdir()
    with (
        locked(str(tmp_path / "busy" / "pixels.npy"), 0, Stop()),
        pytest.raises(UsageError, match="another process fills it"),
    ):
        prepare(tmp_path, paths[1:], image, tmp_path / "busy", 2, said.append)
    (cache / "pixels.npy").write_bytes((cache / "pixels.npy").read_bytes()[:200])
    with pytest.raises(TableError, match=r"pixels\.npy: damaged"):
        prepare(tmp_path, paths, image, cache, 2, said.append)


def test_images_that_go_away_while_they_are_prepared_are_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "share", 10, size=16)
    paths, image = paths_of(tmp_path / "share"), ImageSpec(16, 16)
    monkeypatch.setattr(prepare_module, "KEEP_EVERY", 4)

    def unmount(path: str, image: ImageSpec) -> object:
        if path.endswith(paths[10]):
            (tmp_path / "share").rename(tmp_path / "gone")
        return load_image(path, image)

    monkeypatch.setattr(prepare_module, "load_image", unmount)
    with pytest.raises(TableError, match="was there a while ago"):
        prepare(tmp_path / "share", paths, image, tmp_path / "cache", 1, print)
    monkeypatch.setattr(prepare_module, "load_image", load_image)
    with pytest.raises(TableError, match="more than 1%; check --data"):
        prepare(tmp_path / "share", paths, image, tmp_path / "cache", 1, print)
    (tmp_path / "gone").rename(tmp_path / "share")
    assert prepare(tmp_path / "share", paths, image, tmp_path / "cache", 1, print).usable.all()


@pytest.mark.parametrize(
    "failure", [OSError(errno.ESTALE, "Stale"), MemoryError(), OSError("out of memory error when reading")]
)
def test_what_a_share_or_the_memory_fails_on_is_not_left_out_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    write_dataset(tmp_path, 4, size=16)
    paths, image, cache = paths_of(tmp_path), ImageSpec(16, 16), tmp_path / "cache"

    def fail(*_: object) -> None:
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr("chexscore.images._open", fail)
        with pytest.raises(TableError, match=f"{paths[0]}: .*; the same command goes on when it can be read"):
            prepare(tmp_path, paths, image, cache, 1, print)
    assert prepare(tmp_path, paths, image, cache, 1, print).usable.all()


def test_prepared_pixels_are_held_against_the_images_that_have_their_paths(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_dataset(tmp_path / name, 4, size=16)
    paths, image, cache = paths_of(tmp_path / "first"), ImageSpec(16, 16), tmp_path / "cache"
    prepare(tmp_path / "first", paths, image, cache, 1, print)
    prepare(tmp_path / "second", paths, image, cache, 1, print)  # copies of the same
    for path in paths[1:]:
        Image.new("L", (16, 16), 200).save(tmp_path / "second" / path)
    with pytest.raises(TableError, match=r"prepared from other images: .*second.* is not what it was"):
        prepare(tmp_path / "second", paths, image, cache, 1, print)


@pytest.mark.parametrize("images", [1, 20, 39, 100])
def test_the_images_that_are_looked_at_again_lie_all_over_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int
) -> None:
    for row in range(images):
        Image.new("L", (16, 16)).save(tmp_path / f"{row}.png")
    paths, image, read = [f"{row}.png" for row in range(images)], ImageSpec(16, 16), list[int]()
    prepare(tmp_path, paths, image, tmp_path / "cache", 1, list[str]().append)

    def load(path: str, image: ImageSpec) -> object:
        read.append(int(Path(path).stem))
        return load_image(path, image)

    monkeypatch.setattr(prepare_module, "load_image", load)
    prepare(tmp_path, paths, image, tmp_path / "cache", 1, list[str]().append)
    assert len(read) == len(set(read)) == min(images, 20)
    assert (read[0], read[-1]) == (0, images - 1)
    assert np.ptp(np.diff(read)) <= 1 if images > 1 else True


def test_a_name_that_is_too_long_is_that_of_an_image_that_is_missing(tmp_path: Path) -> None:
    write_dataset(tmp_path, 60, size=8)
    paths = [*paths_of(tmp_path)[:100], f"{'a' * 300}.png"]
    found = prepare(tmp_path, paths, ImageSpec(8, 8), tmp_path / "cache", 2, list[str]().append)
    assert found.usable.tolist() == [True] * 100 + [False]


def test_labels_without_both_classes_are_told_and_nothing_to_learn_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path, 8, size=16)
    table = pd.read_csv(tmp_path / "labels.csv", dtype=str)
    table["Opacity"], table["Some"] = table["Opacity"].where(table["patient"] < "p0006", ""), "-1"
    held_out = table["patient"] >= "p0006"
    table[held_out].to_csv(tmp_path / "held-out.csv", index=False)
    table.to_csv(tmp_path / "labels.csv", index=False)
    data = DataConfig(
        labels=("Opacity", "Some"),
        uncertain={"default": "ignore"},
        blank={"default": "ignore"},
        validation_list="held-out.csv",
    )
    config, said = recipe(data=data, image=ImageConfig(height=16, width=16)), list[str]()
    examples.load(config, tmp_path, tmp_path / "cache", 1, said.append)
    assert "training has no images with, or none without: Some" in said
    assert "validation has no images with, or none without: Opacity, Some" in said
    nothing = config.model_copy(update={"data": data.model_copy(update={"labels": ("Some",)})})
    with pytest.raises(TableError, match="no label has images with and without it to train on"):
        examples.load(nothing, tmp_path, tmp_path / "cache", 1, said.append)


def test_the_plot_of_frequencies_says_where_no_label_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.axes import Axes

    from training.plots import frequencies

    said = list[str]()
    monkeypatch.setattr(Axes, "bar_label", lambda _, __, texts: said.extend(texts))
    truth = np.array([[1, np.nan], [0, np.nan], [0, np.nan]], np.float32)
    frequencies(tmp_path / "findings.png", ("A", "B"), {"training": truth})
    assert said == [" 33.3 % of 3", " none known"]


@pytest.mark.parametrize("torn", [",", ',"not an image of a known format, or'])
def test_a_stopped_prepare_goes_on_behind_what_it_has_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: str
) -> None:
    write_dataset(tmp_path, 10, size=16)
    paths, image, cache = paths_of(tmp_path), ImageSpec(16, 16), tmp_path / "cache"
    whole = prepare(tmp_path, paths, image, tmp_path / "whole", 2, print)
    monkeypatch.setattr(prepare_module, "KEEP_EVERY", 4)
    read = list[str]()

    def stop_at_ten(path: str, image: ImageSpec) -> object:
        read.append(path)
        if len(read) == 10:
            raise KeyboardInterrupt
        return load_image(path, image)

    monkeypatch.setattr(prepare_module, "load_image", stop_at_ten)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, paths, image, cache, 1, print)
    with (cache / "images.csv").open("a") as file:
        file.write(paths[8] + torn)  # the beginning of a block that power cut off
    monkeypatch.setattr(prepare_module, "load_image", load_image)
    (tmp_path / paths[0]).write_text("no image")  # is not looked at again
    said: list[str] = []
    found = prepare(tmp_path, paths, image, cache, 1, said.append)
    assert any(line.startswith(f"going on after 8 of {len(paths)}") for line in said)
    np.testing.assert_array_equal(found.pixels, whole.pixels)
    assert pd.read_csv(cache / "images.csv")["path"].tolist() == paths
    (cache / "images.csv").write_text('path,note\n"a\n')
    with pytest.raises(TableError, match=r"cache: damaged: .*; delete it to prepare again"):
        prepare(tmp_path, paths, image, cache, 1, said.append)
    (cache / "images.csv").write_text("file,size\na.png,3\n")
    with pytest.raises(UsageError, match=r"cache holds something else in image\.json or images\.csv"):
        prepare(tmp_path, paths, image, cache, 1, said.append)
    for other in ("[]", "3"):
        (cache / "image.json").write_text(other)
        with pytest.raises(UsageError, match="cache holds something else"):
            prepare(tmp_path, paths, image, cache, 1, said.append)


def test_the_last_image_is_looked_at_again_if_its_line_was_torn(tmp_path: Path) -> None:
    write_dataset(tmp_path, 4, size=16)
    paths, image, cache = paths_of(tmp_path), ImageSpec(16, 16), tmp_path / "cache"
    (tmp_path / paths[-1]).write_text("no image")
    prepare(tmp_path, paths, image, cache, 1, print)
    index = (cache / "images.csv").read_text()
    (cache / "images.csv").write_text(index[: index.rindex(paths[-1]) + len(paths[-1])])
    assert not prepare(tmp_path, paths, image, cache, 1, print).usable[-1]


def test_a_folder_without_the_images_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    write_dataset(tmp_path, 4, size=16)
    paths = paths_of(tmp_path)
    (tmp_path / paths[2]).unlink()
    with pytest.raises(TableError, match=f"1 of {len(paths)} images .* such as {paths[2]}: more than 1%"):
        prepare(tmp_path, paths, ImageSpec(16, 16), tmp_path / "cache", 2, print)
    assert not (tmp_path / "cache").exists()


def test_a_disk_without_room_is_told_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path, 4, size=16)
    paths = paths_of(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(OSError, match="No space left on device"):
        prepare(tmp_path, paths, ImageSpec(16, 16), tmp_path / "cache", 2, print)
    assert f"{len(paths)} images need" in capsys.readouterr().out
    assert not (tmp_path / "cache" / "pixels.npy").exists()


def test_the_command_takes_another_seed_than_the_recipe_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import fit as module

    seeds: list[int] = []
    monkeypatch.setattr(module, "fit", lambda config, *_, **__: seeds.append(config.seed))
    command.fit(SMOKE, tmp_path, tmp_path / "run")
    command.fit(SMOKE, tmp_path, tmp_path / "run", seed=7)
    assert seeds == [0, 7]


def test_the_split_command_writes_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path, 8, size=16)
    command.split(SMOKE, tmp_path, tmp_path / "run")
    sides = [pd.read_csv(tmp_path / "run" / f"{side}.csv") for side in ("training", "validation")]
    assert not set(sides[0]["patient"]) & set(sides[1]["patient"])
    assert len(pd.concat(sides)) == len(pd.read_csv(tmp_path / "labels.csv"))
    assert "images for validation" in capsys.readouterr().err


def test_the_reference_has_the_reference_s_parameters() -> None:
    from training.networks import build

    network = build(NetworkConfig(name="reference"), ImageSpec(512, 512), 13)
    assert network.count_params() == 44_790_413
    assert network.output_shape == (None, 13)
    kinds = [type(layer).__name__ for layer in network.layers]
    block = ["Conv2D", "BatchNormalization", "MaxPooling2D", "Dropout"]
    head = ["Flatten", *["Dense", "BatchNormalization", "Dropout"] * 2, "Dense"]
    assert kinds == ["InputLayer", "Rescaling", *block * 7, *head]
    with pytest.raises(UsageError, match="at least 508 x 508"):
        build(NetworkConfig(name="reference"), ImageSpec(507, 600), 13)


def test_the_reference_with_fewer_blocks_takes_smaller_images() -> None:
    from training.networks import build

    config = NetworkConfig(name="reference", blocks=4, width=2)
    assert build(config, ImageSpec(76, 76), 1).output_shape == (None, 1)
    with pytest.raises(UsageError, match="blocks = 4 needs images of at least 76 x 76"):
        build(config, ImageSpec(75, 76), 1)


def test_efficientnet_begins_with_weights_from_a_file_or_says_what_is_missing(tmp_path: Path) -> None:
    import keras

    from training.networks import build

    config, image, file = NetworkConfig(name="efficientnet"), ImageSpec(40, 56), tmp_path / "b0.weights.h5"
    network = build(config, image, 14)
    assert network.output_shape == (None, 14)
    missing = config.model_copy(update={"imagenet": "weights.h5"}).located(tmp_path)
    with pytest.raises(UsageError, match=r"weights\.h5: no such file; .* or leave imagenet"):
        build(missing, image, 14)
    keras.Model(network.input, network.get_layer("top_activation").output).save_weights(file)
    found = build(config.model_copy(update={"imagenet": str(file)}), image, 14)
    np.testing.assert_array_equal(found.get_layer("stem_conv").kernel, network.get_layer("stem_conv").kernel)


def test_mixed_precision_keeps_weights_and_scores_in_float32() -> None:
    from training.networks import build

    network = build(NetworkConfig(name="compact", width=4), ImageSpec(32, 32), 2, precision="mixed_bfloat16")
    convolution = next(layer for layer in network.layers if "conv" in layer.name)
    assert convolution.compute_dtype == "bfloat16"
    assert {weight.dtype for weight in network.weights} == {"float32"}
    assert network.output.dtype == "float32"


def test_unknown_labels_take_no_part_in_the_loss() -> None:
    from training.batches import IGNORED
    from training.loss import MaskedCrossentropy, positive_weights

    truth = np.array([[1, 0, IGNORED], [IGNORED, IGNORED, IGNORED]], dtype=np.float32)
    scores = np.array([[0.5, 0.25, 0.999], [0.1, 0.2, 0.3]], dtype=np.float32)
    first = -(np.log(0.5) + np.log(0.75)) / 2
    assert float(MaskedCrossentropy()(truth, scores)) == pytest.approx(first / 2, abs=1e-6)
    weights = positive_weights(np.array([[1, 0, 1], [0, 0, np.nan], [0, 0, 0], [0, 1, 0.5]]))
    assert weights.tolist() == [3, 3, 1]
    weighted = -(3 * np.log(0.5) + np.log(0.75)) / 2
    assert float(MaskedCrossentropy(weights)(truth, scores)) == pytest.approx(weighted / 2, abs=1e-6)
    smoothed = -(3 * 0.7 * np.log(0.6) + 0.3 * np.log(0.4))
    part, score = np.array([[0.7]], dtype=np.float32), np.array([[0.6]], dtype=np.float32)
    assert float(MaskedCrossentropy(weights[:1])(part, score)) == pytest.approx(smoothed, abs=1e-6)


def test_augmentation_is_switched_by_the_recipe_and_off_when_scoring() -> None:
    from training.augment import with_augmentation
    from training.config import AugmentConfig
    from training.networks import build

    network = build(NetworkConfig(name="compact", width=4), ImageSpec(32, 32), 1)
    full = with_augmentation(
        network,
        AugmentConfig(contrast=0.2, gamma=0.5, sharpness=1.0, borders=0.1, noise=0.1, jpeg_quality=30),
    )
    assert [type(layer).__name__ for layer in full.layers[1:-1]] == [
        "RandomJpegQuality",
        "RandomPlacement",
        "RandomSharpness",
        "RandomGamma",
        "RandomContrast",
        "RandomBrightness",
        "RandomNoise",
        "RandomBorders",
    ]
    bare = with_augmentation(network, AugmentConfig(flip=False, rotation=0, brightness=0))
    assert len(bare.layers) == 2
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), dtype=np.uint8)
    np.testing.assert_array_equal(full.predict_on_batch(images), network.predict_on_batch(images))


@pytest.mark.parametrize("lowest", [10, 40, 75])
def test_jpeg_loses_what_a_file_loses_down_to_the_quality_that_the_recipe_says(lowest: int) -> None:
    from training.augment import LUMINANCE_TABLE, UNSCALED, RandomJpegQuality

    pixels = draw(3, size=90)[:76].astype(np.float32)
    pixels[10:14, 5:40], pixels[10:40, 20:23], pixels[60:, 70:] = 255, 255, 0  # as of letters and a margin

    def stored(quality: int) -> JpegImageFile:
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=quality)
        file.seek(0)
        return JpegImageFile(file)

    assert stored(UNSCALED).quantization[0] == LUMINANCE_TABLE.ravel().tolist()
    lost = np.asarray(stored(lowest), np.float32) - pixels
    copies = np.repeat(pixels[None, ..., None], 256, axis=0)
    made = np.asarray(RandomJpegQuality(lowest)(copies, training=True))[..., 0]
    assert 0 <= made.min() < made.max() <= 255
    amounts = (made - pixels).std((1, 2))
    assert 0.4 < (np.abs(made - pixels).max((1, 2)) == 0).mean() < 0.6
    assert amounts.max() == pytest.approx(lost.std(), rel=0.05)
    most = made[amounts.argmax()] - pixels
    assert np.corrcoef(most.ravel(), lost.ravel())[0, 1] > 0.92
    spread = np.quantile(amounts[amounts > 0] / amounts.max(), [0.25, 0.75])
    assert spread[0] < 0.75 < spread[1]


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"flip": True}, {"width": 16, "height": 16}),
        ({"zoom": 0.5}, {"ratio": 1.0}),
        ({"zoom_width": 0.5}, {"height": 16}),
        ({"rotation": 0.5}, {"area": 256}),
        ({"shift": 0.2}, {"width": 16, "height": 16}),
    ],
)
def test_placement_moves_a_square_as_the_recipe_says(
    change: dict[str, object], seen: dict[str, float]
) -> None:
    """What is not asked for stays: the sides, their ratio or the area of a square of 16 x 16 pixels."""
    from training.augment import RandomPlacement
    from training.config import AugmentConfig

    square = np.zeros((8, 64, 64, 1), np.float32)
    square[:, 24:40, 20:36] = 1
    still = {"flip": False, "rotation": 0.0}
    moved = np.asarray(RandomPlacement(AugmentConfig(**still | change))(square, training=True))[..., 0]
    assert moved.max() <= 1
    assert any(np.abs(image - square[0, ..., 0]).max() > 0.1 for image in moved)
    found = {
        "width": moved.max(axis=1).sum(axis=1),
        "height": moved.max(axis=2).sum(axis=1),
        "area": moved.sum((1, 2)),
    }
    found["ratio"] = found["width"] / found["height"]
    for name, value in seen.items():
        np.testing.assert_allclose(found[name], value, rtol=0.12)


def test_gamma_bends_the_greys_and_leaves_black_and_white() -> None:
    from training.augment import RandomGamma

    greys = np.tile(np.array([0, 64, 128, 255], np.float32), (16, 1))[:, None, :, None]
    bent = np.asarray(RandomGamma(0.5)(greys, training=True))[:, 0, :, 0]
    assert bent[:, [0, 3]] == pytest.approx(np.tile([0, 255], (16, 1)), abs=0.1)
    exponents = np.log(bent[:, 1:3] / 255) / np.log(np.array([64, 128]) / 255)
    assert exponents[:, 0] == pytest.approx(exponents[:, 1], rel=1e-3)
    assert 1 / 1.5 <= exponents.min() < 0.9
    assert 1.1 < exponents.max() <= 1.5


def test_sharpness_changes_fine_detail_alone_up_to_the_edge() -> None:
    from training.augment import RandomSharpness

    film = 64 + draw(3, size=90)[:76].astype(np.float32) // 2
    films = np.repeat(film[None, ..., None], 64, axis=0)
    changed = np.asarray(RandomSharpness(0.8)(films, training=True))[..., 0]
    assert 0 <= changed.min() < changed.max() <= 255
    smooth = np.asarray(Image.fromarray(film.astype(np.uint8)).filter(ImageFilter.SMOOTH), np.float32)
    inner = np.s_[1:-1, 1:-1]  # Pillow leaves the outermost pixels as they are
    detail, found = (film - smooth)[inner].ravel(), changed[:, 1:-1, 1:-1] - smooth[inner]
    factors = found.reshape(64, -1) @ detail / (detail @ detail)
    assert 0.2 - 0.05 < factors.min() < 0.4
    assert 1.6 < factors.max() < 1.8 + 0.05
    assert found.reshape(64, -1) == pytest.approx(np.outer(factors, detail), abs=2)  # Pillow rounds
    flat = np.asarray(RandomSharpness(1.0)(np.full((16, 8, 8, 1), 128, np.float32), training=True))
    assert flat == pytest.approx(128)


def test_noise_is_normal_up_to_the_deviation_that_the_recipe_says() -> None:
    from training.augment import RandomNoise

    grey = np.full((64, 50, 40, 1), 128, np.float32)
    noise = np.asarray(RandomNoise(0.1)(grey, training=True)) - grey
    deviations = noise.std((1, 2, 3))
    assert 0.3 < (deviations == 0).mean() < 0.7
    assert 20 < deviations.max() < 26
    noisy = noise[deviations > 1] / deviations[deviations > 1][:, None, None, None]
    assert noisy.mean((1, 2, 3)) == pytest.approx(0, abs=0.1)
    assert (np.abs(noisy) < 1).mean() == pytest.approx(0.683, abs=0.01)  # within a standard deviation
    assert np.abs(np.corrcoef(noisy.reshape(len(noisy), -1))[0, 1:]).max() < 0.15  # each image has its own
    white = np.asarray(RandomNoise(0.1)(np.full((8, 8, 8, 1), 255, np.float32), training=True))
    assert white.max() == 255


def test_borders_cover_some_sides_up_to_the_share_that_the_recipe_says() -> None:
    from training.augment import RandomBorders

    white = np.full((64, 40, 20, 1), 255, np.float32)
    covered = np.asarray(RandomBorders(0.2)(white, training=True))[..., 0]
    free = covered == 255
    assert free[:, 8:32, 4:16].all()
    rows, columns = free.any(axis=2), free.any(axis=1)
    assert (free == rows[:, :, None] & columns[:, None, :]).all()
    for sides, most in ((rows, 8), (rows[:, ::-1], 8), (columns, 4), (columns[:, ::-1], 4)):
        widths = sides.argmax(axis=1)
        assert widths.max() == most - 1 or widths.max() == most
        assert 0.3 < (widths == 0).mean() < 0.8
    levels = [np.unique(image[~seen]) for image, seen in zip(covered, free, strict=True) if not seen.all()]
    assert all(level.size == 1 for level in levels)
    assert 0.3 < np.mean([level[0] == 0 for level in levels]) < 0.7
    assert 60 < max(level[0] for level in levels) <= 128


def test_a_network_that_standardizes_scores_alike_at_any_exposure() -> None:
    from training.networks import build

    network = build(NetworkConfig(name="compact", width=4, standardize=True), ImageSpec(32, 32), 1)
    image = np.random.default_rng(0).integers(40, 120, (1, 32, 32, 1)).astype(np.float32)
    np.testing.assert_allclose(
        network.predict_on_batch(image), network.predict_on_batch(2 * image + 10), atol=1e-3
    )


@pytest.fixture
def eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves seconds a network: to compile one takes longer than the few steps here. test_line.py compiles."""
    import keras

    monkeypatch.setattr(keras.Model, "run_eagerly", property(lambda _: True, lambda *_: None))


def test_a_mirrored_network_scores_an_image_and_its_mirror_image_together() -> None:
    from training.networks import build

    config, image = NetworkConfig(name="compact", width=4), ImageSpec(32, 32)
    network, mirrored = build(config, image, 2), build(config, image, 2, mirrored=True)
    mirrored.set_weights(network.get_weights())
    films = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1)).astype(np.float32)
    logits = [
        np.log(scores / (1 - scores)) for scores in map(network.predict_on_batch, (films, films[:, :, ::-1]))
    ]
    assert np.abs(logits[0] - logits[1]).max() > 1e-3
    scores = 1 / (1 + np.exp(-np.mean(logits, axis=0)))
    np.testing.assert_allclose(mirrored.predict_on_batch(films), scores, atol=1e-5)


def recipe(**changes: object) -> TrainConfig:
    """One of few layers, because backends take longer to build a network than to train it here."""
    network = NetworkConfig(name="reference", blocks=2, width=4)
    small = {"network": network, "image": ImageConfig(height=32, width=32)}
    return TrainConfig.from_toml(SMOKE).model_copy(update=small | changes)


def test_the_rate_warms_up_and_falls_or_falls_where_the_auc_stands_still() -> None:
    from training import optimizers

    config = recipe(epochs=10, warmup_epochs=1, learning_rate=1e-3, final_learning_rate=1e-5)
    optimizer, values = optimizers.build(config, steps=100), []
    for step in (0, 50, 100, 550, 1000):
        optimizer.iterations.assign(step)
        values.append(float(optimizer.learning_rate))
    assert values == pytest.approx([0, 5e-4, 1e-3, 5.05e-4, 1e-5], rel=1e-3, abs=1e-9)

    short = optimizers.build(recipe(epochs=1, warmup_epochs=0.9), steps=1)  # its only step is none of warm-up
    assert float(short.learning_rate) == pytest.approx(1e-3)

    history = [{"auc_macro": value} for value in (0.5, 0.6, 0.6, 0.55, 0.6, 0.7, 0.1, 0.2, 0.3)]
    plateau = recipe(schedule="plateau", learning_rate=1e-3, final_learning_rate=5e-5)
    rates = [optimizers.plateau_rate(history[:epochs], plateau) for epochs in (0, 4, 5, 8, 9)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 5e-5])
    assert optimizers.best_epoch(history) == 6
    assert optimizers.best_epoch([{"auc_macro": float("nan")}] * 2) == 2
    assert optimizers.out_of_patience(history, 3)
    assert not optimizers.out_of_patience(history, 4)
    assert not optimizers.out_of_patience(history, 0)
    assert not optimizers.out_of_patience([], 1)


def test_adamw_decays_kernels_alone() -> None:
    from keras import ops

    from training import optimizers
    from training.networks import build

    network = build(NetworkConfig(name="compact", width=4), ImageSpec(32, 32), 1)
    optimizer = optimizers.build(recipe(optimizer="adamw", weight_decay=0.1), 1)
    optimizer.build(network.trainable_variables)
    before = [ops.convert_to_numpy(variable).copy() for variable in network.trainable_variables]
    optimizer.apply([np.zeros_like(value) for value in before])
    after = [ops.convert_to_numpy(variable) for variable in network.trainable_variables]
    decayed = [not np.array_equal(*pair) for pair in zip(before, after, strict=True)]
    assert decayed == [variable.name == "kernel" for variable in network.trainable_variables]


class Cut(BaseException):
    """A stop that nothing on its way catches."""


@pytest.mark.usefixtures("eagerly")
def test_a_run_that_was_cut_off_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import checkpoints
    from training import fit as module

    write_dataset(tmp_path, 36, size=64)
    config = recipe(epochs=2, batch_size=16, average=0.5, optimizer="adamw", weight_decay=0.01, clip_norm=1.0)
    whole, run, said = tmp_path / "whole", tmp_path / "run", list[str]()
    module.fit(config, tmp_path, whole, report=said.append)
    assert "continuing" not in " ".join(said)

    real = checkpoints.replace

    def stop(target: Path, *arguments: object, **options: object) -> None:
        real(target, *arguments, **options)  # type: ignore[arg-type]
        if target.name == "checkpoint.npz":
            target.with_name("partial-checkpoint.npz").write_bytes(b"PK")  # as of a kill, an epoch later
            raise Cut

    monkeypatch.setattr(checkpoints, "replace", stop)
    with pytest.raises(Cut):
        module.fit(config, tmp_path, run, cache=whole / "cache", report=said.append)
    assert not (run / "spec.json").exists()
    monkeypatch.setattr(checkpoints, "replace", real)
    monkeypatch.setattr("training.outcome.commit", lambda: "another")
    with (
        locked(str(run / "checkpoint.npz"), 0, Stop()),
        pytest.raises(UsageError, match="run: another process fills it; wait for its end"),
    ):
        module.fit(config, tmp_path, run, cache=whole / "cache", report=said.append)
    earlier = json.loads((run / "config.json").read_text())  # of a version that had no such field yet
    del earlier["augment"]["jpeg_quality"]
    (run / "config.json").write_text(json.dumps(earlier))
    module.fit(config, tmp_path, run, cache=whole / "cache", report=said.append)
    assert "continuing after epoch 1" in said
    assert not list(run.glob("partial-*"))

    first, second = (pd.read_csv(folder / "history.csv") for folder in (whole, run))
    assert second["epoch"].tolist() == [1, 2]
    assert second["commit"].tolist() == [first["commit"].iloc[0], "another"]
    provenance = ModelSpec.from_json((run / "spec.json").read_text()).provenance
    assert provenance["commit"] == ", ".join(second["commit"])
    assert second["learning_rate"].iloc[-1] == pytest.approx(1e-5)
    np.testing.assert_allclose(first["loss"], second["loss"], rtol=1e-4)
    with np.load(whole / "checkpoint.npz") as ours, np.load(run / "checkpoint.npz") as theirs:
        for name in set(ours) - {"history"}:
            np.testing.assert_allclose(ours[name], theirs[name], atol=1e-4)

    _assert_finished(run)
    with np.load(whole / "checkpoint.npz") as arrays:
        kept = {name: arrays[name] for name in list(arrays)[:-1] if name != "history"}
        np.savez(whole / "checkpoint.npz", history=arrays["history"], **kept)
    (whole / "spec.json").unlink()
    with pytest.raises(UsageError, match=r"checkpoint\.npz: cannot be continued from: its best network"):
        module.fit(config, tmp_path, whole, report=said.append)
    module.fit(config, tmp_path, run, report=said.append)
    assert "is finished" in said[-1]
    with pytest.raises(UsageError, match="another recipe"):
        module.fit(recipe(epochs=4), tmp_path, run, report=said.append)
    (run / "config.json").write_text('{"name": "cut')
    with pytest.raises(
        UsageError, match=r"config\.json: no recipe that this version knows: Invalid JSON[^\n]*\.$"
    ):
        module.fit(config, tmp_path, run, report=said.append)


def _assert_finished(run: Path) -> None:
    """It holds what fit says, in the shapes that export and a reader need."""
    measured = json.loads((run / "metrics.json").read_text())
    validation = pd.read_csv(run / "validation.csv")
    with np.load(run / "validation.npz") as arrays:
        assert arrays["paths"].tolist() == validation["path"].tolist()
        assert arrays["patients"].tolist() == validation["patient"].tolist()
        np.testing.assert_array_equal(arrays["targets"], validation[["Opacity", "Device"]])
        assert arrays["scores"].shape == (len(validation), 2)
        assert np.load(run / "samples.npy").shape == (len(arrays["samples"]), 32, 32, 1)
    assert set(measured) == {"training", "validation"}
    assert measured["validation"]["images"] == len(validation)
    assert measured["validation"]["patients"] == validation["patient"].nunique()
    assert measured["validation"]["labels_with_both_classes"] == 2
    for key in ("auc/macro", "accuracy/micro", "accuracy_at_0.5/micro", "prevalence/Device"):
        assert set(measured["training"][key]) == {"value", "low", "high"}
        assert 0 <= measured["validation"][key]["value"] <= 1
    interval = measured["training"]["auc/macro"]
    assert interval["low"] <= interval["value"] <= interval["high"]
    assert {"average_precision/Device", "accuracy/Opacity", "auc/micro"} <= set(measured["training"])
    spec = ModelSpec.from_json((run / "spec.json").read_text())
    assert spec.labels == ("Opacity", "Device")
    assert spec.metrics["auc/macro"] == measured["validation"]["auc/macro"]["value"]
    assert sorted(path.name for path in run.glob("*.png")) == [
        "epochs.png",
        "findings.png",
        "roc.png",
        "samples.png",
    ]


@pytest.mark.usefixtures("eagerly")
def test_the_network_that_is_kept_is_the_average_of_the_weights(tmp_path: Path) -> None:
    import keras

    from training import fit as module

    write_dataset(tmp_path, 10, size=64)
    module.fit(recipe(average=0.9, batch_size=4), tmp_path, tmp_path / "run", report=lambda _: None)
    network = keras.saving.load_model(tmp_path / "run" / "network.keras", compile=False)
    kernel = np.asarray(network.layers[-1].kernel)
    with np.load(tmp_path / "run" / "checkpoint.npz") as arrays:
        alike = [arrays[name] for name in arrays if arrays[name].shape == kernel.shape]
    # The weights, their running average, two moments of Adam, and the best network.
    assert [bool(np.allclose(array, kernel)) for array in alike] == [False, True, False, False, True]


@pytest.mark.usefixtures("eagerly")
def test_a_loss_that_is_no_number_stops_the_run_with_advice(tmp_path: Path) -> None:
    from training import fit as module

    write_dataset(tmp_path, 10, size=64)
    network = recipe().network.model_copy(update={"l2": 1e38})
    with pytest.raises(ChexscoreError, match=r"the loss is (inf|nan); lower learning_rate"):
        module.fit(recipe(network=network), tmp_path, tmp_path / "run", report=lambda _: None)
    assert not (tmp_path / "run" / "spec.json").exists()


def test_weights_that_the_last_step_made_no_numbers_of_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is that of before the step."""
    from training import fit as module
    from training import outcome

    write_dataset(tmp_path, 10, size=64)
    score = outcome.score
    monkeypatch.setattr(outcome, "score", lambda *given: score(*given) * np.nan)
    with pytest.raises(ChexscoreError, match=r"epoch 1/\d: the network gives scores that are no numbers"):
        module.fit(recipe(), tmp_path, tmp_path / "run", report=lambda _: None)
    assert not (tmp_path / "run" / "checkpoint.npz").exists()


def test_contrast_is_lowered_as_often_as_it_is_raised() -> None:
    import keras

    from training.augment import with_augmentation
    from training.config import AugmentConfig

    image = keras.Input((16, 16, 1))
    nothing = keras.Model(image, keras.layers.Identity()(image))
    alone = AugmentConfig(flip=False, rotation=0, brightness=0, contrast=0.3)
    films = np.random.default_rng(0).integers(100, 150, (400, 16, 16, 1), dtype=np.uint8)
    changed = np.asarray(with_augmentation(nothing, alone)(films, training=True))
    factors = changed.std((1, 2, 3)) / films.std((1, 2, 3))
    assert factors.min() == pytest.approx(0.7, abs=0.02)
    assert factors.max() == pytest.approx(1.3, abs=0.02)
    assert np.mean(factors) == pytest.approx(1, abs=0.03)


def test_what_is_asked_for_and_not_there_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import devices
    from training import fit as module

    write_dataset(tmp_path, 10, size=64)
    with pytest.raises(UsageError, match='devices = "all" needs Keras on JAX'):
        module.fit(recipe(devices="all"), tmp_path, tmp_path / "run", report=lambda _: None)
    monkeypatch.setattr(devices, "_gpus", list)
    with pytest.raises(UsageError, match="no GPU: Keras on tensorflow sees none"):
        module.fit(recipe(), tmp_path, tmp_path / "run", gpu=True, report=lambda _: None)
    lite = NetworkConfig(name="efficientnet-lite0", imagenet="no_such_package")
    with pytest.raises(UsageError, match="no_such_package: no installed package with weights"):
        module.fit(recipe(network=lite), tmp_path, tmp_path / "run", report=lambda _: None)
    large = recipe().network.model_copy(update={"blocks": 7})
    with pytest.raises(UsageError, match="needs images of at least 508 x 508"):
        module.fit(recipe(network=large), tmp_path, tmp_path / "run", report=lambda _: None)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UsageError, match="tensorboard = true needs the extra"):
        module.fit(recipe(tensorboard=True), tmp_path, tmp_path / "run", report=lambda _: None)
    assert not (tmp_path / "run").exists()  # the folder is still free for a recipe that can be run
    (tmp_path / "run").mkdir()
    whole = io.BytesIO()
    np.savez(whole, np.zeros(1000), history=np.array("[]"))
    flipped = bytearray(whole.getvalue())
    flipped[200] ^= 1
    for content in (b"PK", whole.getvalue()[:-1], bytes(flipped)):
        (tmp_path / "run" / "checkpoint.npz").write_bytes(content)
        with pytest.raises(UsageError, match=r"checkpoint\.npz: cannot be continued from"):
            module.fit(recipe(), tmp_path, tmp_path / "run", report=lambda _: None)


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    from training.checkpoints import replace

    def fill(partial: Path) -> None:
        partial.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").write_text("before")
    with pytest.raises(OSError, match="No space left") as caught:
        replace(tmp_path / "file", fill)
    assert caught.value.filename == str(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "before"


def test_the_command_tells_errors_in_a_sentence_with_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path, 4, size=16)
    arguments = ["prepare", str(SMOKE), "--data", str(tmp_path), "--out"]
    for out, code, said in (
        (tmp_path / "labels.csv", 2, "labels.csv is a file; give a folder."),
        (tmp_path / "cache", 0, "images in "),
    ):
        with pytest.raises(SystemExit) as left, exit_on_error("training", "stopped."):
            command.app([*arguments, str(out)])
        assert (left.value.code, said in capsys.readouterr().err) == (code, True)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.splits.divide", interrupted)
    with pytest.raises(SystemExit) as left, exit_on_error("training", "stopped; the same command goes on."):
        command.app(["split", *arguments[1:], str(tmp_path / "tables")])
    stopped = "training: stopped; the same command goes on.\n"
    assert (left.value.code, capsys.readouterr().err) == (130, stopped)
    whole = [sys.executable, "-m", "training", *arguments, str(tmp_path / "cache")]
    whole[whole.index(str(tmp_path))] = str(tmp_path / "none")
    done = subprocess.run(whole, capture_output=True, text=True, check=False)
    said = "labels.csv: the table of labels cannot be read: there is no such file; check --data"
    assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (1, True, False)


def test_an_interrupt_while_a_library_is_loaded_is_one_too(capsys: pytest.CaptureFixture[str]) -> None:
    """Extension modules make an ImportError of it, and who imports Keras a UsageError of that."""
    failed = ImportError("initialization failed")
    failed.__cause__ = KeyboardInterrupt()
    told = UsageError("Keras cannot be used")
    told.__cause__ = failed
    ended = ImportError("initialization failed")
    ended.__context__ = SystemExit(143)
    for error, code in ((failed, 130), (told, 130), (ended, 143)):
        with pytest.raises(SystemExit) as left, exit_on_error("export", "stopped."):
            raise error
        assert (left.value.code, capsys.readouterr().err) == (code, "export: stopped.\n")
    with pytest.raises(ImportError), exit_on_error("export", "stopped."):
        raise ImportError("no such library") from OSError()


@pytest.mark.parametrize(
    ("backend", "missing"), [("foo", ""), ("torch", "torch"), ("jax", "jax"), ("tensorflow", "keras")]
)
def test_a_backend_that_is_not_there_is_one_sentence(tmp_path: Path, backend: str, missing: str) -> None:
    (tmp_path / f"{missing or 'other'}.py").write_text(f"raise ImportError('No module named {missing}')")
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "training", "fit", str(SMOKE), "--data", "data", "--out", "run"],
        env=os.environ
        | {"KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(root)))},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert f"error: Keras cannot be used with the backend {backend} (" in done.stderr
    assert "pip install 'chexscore[training]'" in done.stderr
    assert "Traceback" not in done.stderr
