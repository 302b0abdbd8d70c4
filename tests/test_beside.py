"""What the bundled model is trained on beside its own data set."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from chexscore.errors import TableError
from tests.phantoms import draw, write_dataset
from training.beside import RECIPE, adults, main, write
from training.config import TrainConfig
from training.findings import NIH_FINDINGS
from training.splits import divide

DATA = TrainConfig.from_toml(RECIPE).data
PNEUMONIA, *KINDS = DATA.labels
FINDINGS = dict(enumerate((*NIH_FINDINGS, *["No Finding"] * 8, "Mass|Consolidation"), 1))
"""Number of an adult -> what was found."""


@pytest.fixture
def children(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "children", 30, size=80)
    table = pd.read_csv(tmp_path / "children" / "labels.csv").rename(columns={"Opacity": PNEUMONIA})
    table = table.assign(**dict.fromkeys(KINDS, table["Device"]))[["path", "patient", *DATA.labels]]
    table.to_csv(tmp_path / "children" / "labels.csv", index=False)
    return tmp_path / "children"


@pytest.fixture
def nih(tmp_path: Path) -> Path:
    (tmp_path / "nih" / "images").mkdir(parents=True)
    lines = ["Image Index,Finding Labels,Patient ID"]
    for patient, finding in FINDINGS.items():
        Image.fromarray(draw(patient, size=64)).save(tmp_path / "nih" / "images" / f"adult{patient}.png")
        lines.append(f"adult{patient}.png,{finding},{patient}")
    (tmp_path / "nih" / "Data_Entry_2017.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "nih"


def shape_of(path: Path) -> tuple[tuple[int, int], str]:
    with Image.open(path) as film:
        return film.size, film.mode


def test_adults_and_small_copies_stand_beside_the_children(children: Path, nih: Path) -> None:
    alone, alone_sides = divide(children, DATA.model_copy(update={"training_list": ""}))
    main([str(children), str(nih)])
    beside = pd.read_csv(children / "beside.csv", dtype=str, keep_default_na=False)
    assert {shape_of(children / path) for path in beside["path"]} == {((64, 64), "L")}

    grown = beside[beside["path"].str.contains("adult")]
    rows = grown[["path", *DATA.labels]].to_numpy()
    labels = {path.split("adult")[1]: tuple(row) for path, *row in rows}
    assert labels == {f"{patient}.png": ("-1", "-1", "-1") for patient in FINDINGS if patient % 3}
    left = set(adults(nih, left_out=True)["patient"])
    assert left == {str(patient) for patient in FINDINGS if patient % 3 == 0}

    small = beside[~beside.index.isin(grown.index)]
    trained = alone[alone_sides == "training"]
    of_path = trained.set_index("beside/" + trained["path"])
    assert small["path"].is_unique
    assert set(small["path"]) == set(of_path.index), "all, for there are fewer than are wanted"
    kept = ["patient", *DATA.labels]
    assert small.set_index("path")[kept].to_dict("index") == of_path[kept].to_dict("index")

    table, sides = divide(children, DATA)
    held_out = set(alone["path"][alone_sides == "validation"])
    assert set(table["path"][sides == "validation"]) == held_out
    assert len(table) == len(alone) + len(beside)


def test_the_same_copies_are_drawn_again(children: Path, nih: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.beside.COPIES", 5)
    main([str(children), str(nih)])
    first = (children / "beside.csv").read_bytes()
    main([str(children), str(nih)])
    assert (children / "beside.csv").read_bytes() == first
    table, sides = divide(children, DATA.model_copy(update={"training_list": ""}))
    small = {path for path in pd.read_csv(children / "beside.csv")["path"] if "adult" not in path}
    assert len(small) == 5
    assert small < set("beside/" + table["path"][sides == "training"])


def test_no_film_is_overwritten_by_a_copy(children: Path, nih: Path) -> None:
    table, sides = divide(children, DATA.model_copy(update={"training_list": ""}))
    for path in (str(children / "away.png"), "../away.png"):
        renamed = table["path"].where(sides == "validation", path).drop_duplicates()
        table.loc[renamed.index].assign(path=renamed).to_csv(children / "labels.csv", index=False)
        with pytest.raises(TableError, match="leads out of it"):
            write(children, nih, DATA)
    assert not (children.parent / "away.png").exists()
    assert not (children / "beside.csv").exists()


def test_a_film_that_cannot_be_read_is_named(
    children: Path, nih: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (nih / "images" / "adult1.png").write_bytes(b"no film")
    with pytest.raises(SystemExit) as ended:
        main([str(children), str(nih)])
    said = capsys.readouterr().err
    assert (ended.value.code, "adult1.png" in said) == (1, True), said
    assert not (children / "beside.csv").exists(), "or half of it would be trained on"


def test_a_folder_without_adults_is_told(children: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(children), str(children / "none")])
    assert ended.value.code == 1
    assert "none: the table is to be Data_Entry_2017*.csv, and there is none" in capsys.readouterr().err
