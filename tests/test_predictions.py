import contextlib
import os
from pathlib import Path

import pytest

from chexscore import Prediction, Status
from chexscore.errors import TableError, UsageError
from chexscore.predictions import open_output, read_predictions

ROWS = [
    Prediction("./images/a.png", Status.OK, {"Bright": 0.25, "Dark": 2 / 3}),
    Prediction('b "quoted", with\nnewline.png', Status.UNREADABLE, note="the file is empty"),
    Prediction(os.fsdecode(b"caf\xe9.png"), Status.MISSING, note="gone, or moved"),
    Prediction("größe.png", Status.OK, {"Bright": 1.0, "Dark": 0.0}),
]


def test_the_bytes_of_the_csv(tmp_path: Path) -> None:
    with open_output(str(tmp_path / "out.csv"), ("Bright", "Dark")) as write:
        for row in ROWS[:2]:
            write(row)
    assert (tmp_path / "out.csv").read_bytes() == (
        b"path,status,Bright,Dark,note\r\n"
        b"./images/a.png,ok,0.250000,0.666667,\r\n"
        b'"b ""quoted"", with\nnewline.png",unreadable,,,the file is empty\r\n'
    )


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    target = str(tmp_path / "out.csv")
    with open_output(target, ("Bright", "Dark")) as write:
        for row in ROWS:
            write(row)
    labels, rows = read_predictions(target)
    assert labels == ("Bright", "Dark")
    read = list(rows)
    assert [(row.path, row.status, row.note) for row in read] == [(r.path, r.status, r.note) for r in ROWS]
    assert read[0].scores == pytest.approx(ROWS[0].scores, abs=1e-6)
    assert read[1].scores == {}


def test_the_output_appears_under_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    with contextlib.suppress(RuntimeError), open_output(str(target), ("Bright", "Dark")) as write:
        write(ROWS[0])
        assert not target.exists()
        raise RuntimeError
    assert not target.exists()
    assert (tmp_path / "out.csv.partial").exists()


def test_an_output_that_exists_is_not_touched_unless_asked(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    target.write_text("precious")
    with pytest.raises(UsageError, match="--overwrite"), open_output(str(target), ("Bright",)):
        pass
    assert target.read_text() == "precious"
    with open_output(str(target), ("Bright",), overwrite=True):
        assert target.read_text() == "precious"
    assert target.read_bytes() == b"path,status,Bright,note\r\n"


@pytest.mark.parametrize(("name", "said"), [("", "is a directory"), ("none/out.csv", "cannot be written")])
def test_an_output_that_cannot_be_is_refused(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said), open_output(str(tmp_path / name), ("Bright",)):
        pass


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a CSV of predictions"),
        ("path,Bright\na.png,0.5\n", "not a CSV of predictions"),
        ("path,status,Bright,note\na.png,ok,high,\n", "row 2"),
        ("path,status,Bright,note\na.png,ok,1.5,\n", "outside 0..1"),
        ("path,status,Bright,note\na.png,ok,nan,\n", "outside 0..1"),
        ("path,status,Bright,note\na.png,ok,0.5,\nb.png,well,0.5,\n", "row 3"),
        ("path,status,Bright,note\na.png,ok\n", "row 2"),
    ],
)
def test_what_breaks_the_contract_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "out.csv").write_text(text)
    with pytest.raises(TableError, match=said):
        list(read_predictions(str(tmp_path / "out.csv"))[1])


def test_columns_behind_the_note_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("path,status,Bright,note,Later\na.png,ok,0.5,,7\n")
    labels, rows = read_predictions(str(tmp_path / "out.csv"))
    assert labels == ("Bright",)
    assert next(rows).scores == {"Bright": 0.5}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"none\.csv"):
        read_predictions(str(tmp_path / "none.csv"))
