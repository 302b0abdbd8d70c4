import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from chexscore import Prediction, Status
from chexscore.errors import TableError
from chexscore.evaluation.cases import Protocol
from chexscore.evaluation.evaluate import check_images
from chexscore.outputs import publish
from chexscore.predictions import Columns, in_locale, in_utf8, read_predictions, write_csv
from chexscore.report.mistakes import thumbnail
from tests.phantoms import draw

ROWS = [
    Prediction("./images/a.png", Status.OK, {"Bright": 0.25, "Dark": 2 / 3}),
    Prediction('b "quoted", with\nnewline.png', Status.UNREADABLE, note="the file is empty"),
    Prediction(os.fsdecode(b"caf\xe9.png"), Status.MISSING, note="gone, or moved"),
    Prediction("größe.png", Status.OK, {"Bright": 1.0, "Dark": 0.0}),
]


COLUMNS = Columns(("Bright", "Dark"))


def write(path: Path, rows: list[Prediction], columns: Columns = COLUMNS) -> str:
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        write_csv(file, rows, columns)
    return str(path)


def test_the_bytes_of_the_csv(tmp_path: Path) -> None:
    write(tmp_path / "out.csv", ROWS[:2])
    assert (tmp_path / "out.csv").read_bytes() == (
        b"path,status,Bright,Dark,note\r\n"
        b"./images/a.png,ok,0.250000,0.666667,\r\n"
        b'"b ""quoted"", with\nnewline.png",unreadable,,,the file is empty\r\n'
    )


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    labels, read = read_predictions(write(tmp_path / "out.csv", ROWS))
    assert labels == ("Bright", "Dark")
    assert [(row.path, row.status, row.note) for row in read] == [(r.path, r.status, r.note) for r in ROWS]
    assert read[0].scores == pytest.approx(ROWS[0].scores, abs=1e-6)
    assert read[1].scores == {}


def test_thresholds_and_tags_stand_behind_the_note(tmp_path: Path) -> None:
    columns = Columns(("Bright", "Dark"), {"Bright": 0.25, "Dark": 0.7}, ("StudyID", "StationName"))
    rows = [replace(ROWS[0], tags={"StudyID": "\n=1+1"}), ROWS[1]]
    path = Path(write(tmp_path / "out.csv", rows, columns))
    with path.open(newline="") as file:
        assert list(csv.reader(file)) == [
            [
                "path",
                "status",
                "Bright",
                "Dark",
                "note",
                "Bright_positive",
                "Dark_positive",
                "StudyID",
                "StationName",
            ],
            ["./images/a.png", "ok", "0.250000", "0.666667", "", "1", "0", "'\n=1+1", ""],
            [ROWS[1].path, "unreadable", "", "", "the file is empty", "", "", "", ""],
        ]
    assert read_predictions(str(path))[0] == ("Bright", "Dark")


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_a_path_is_never_a_formula_and_still_names_its_file(tmp_path: Path, start: str) -> None:
    path = Path(write(tmp_path / "out.csv", [Prediction(f"{start}cmd.png", Status.MISSING, note="gone")]))
    assert path.read_text().splitlines()[1] == f"./{start}cmd.png,missing,,,gone"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a CSV of predictions"),
        ("path,Bright\na.png,0.5\n", "not a CSV of predictions"),
        ("path,status,Bright,note\na.png,ok,high,\n", "line 2"),
        ("path,status,Bright,note\na.png,ok,1.5,\n", "outside 0..1"),
        ("path,status,Bright,note\na.png,ok,nan,\n", "outside 0..1"),
        ("path,status,Bright,note\na.png,ok,0.5,\nb.png,well,0.5,\n", "line 3"),
        ('path,status,Bright,note\n"' + "a" * 200_000 + '",ok,0.5,\n', "field larger than"),
        ("path,status,Bright,note\na.png,ok\n", "line 2"),
        ("path,status,Bright,note\na.png,ok,0,8,\n", "line 2 has 5 cells, the header 4; .* decimal points"),
        (
            'path,status,Bright,note\na.png,ok,0.5,"cut\nb.png,ok,0.5,\n',
            "unexpected end .* in line 2",
        ),
    ],
)
def test_what_breaks_the_contract_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "out.csv").write_text(text)
    with pytest.raises(TableError, match=said):
        read_predictions(str(tmp_path / "out.csv"))


def test_columns_behind_the_note_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("path,status,Bright,note,Later\na.png,ok,0.5,,7\n")
    labels, rows = read_predictions(str(tmp_path / "out.csv"))
    assert labels == ("Bright",)
    assert rows[0].scores == {"Bright": 0.5}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"none\.csv"):
        read_predictions(str(tmp_path / "none.csv"))


def test_a_name_is_that_of_its_bytes_whatever_the_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a locale of ISO-8859-1 the name of a file in UTF-8 looks like other letters."""
    name, there = "M\u00fcller.png", "M\u00fcller.png".encode().decode("latin-1")
    Image.fromarray(draw(1, size=32)).save(tmp_path / there)
    monkeypatch.setattr(os, "fsencode", lambda path: path.encode("latin-1"))
    monkeypatch.setattr(os, "fsdecode", lambda path: path.decode("latin-1"))
    assert in_locale(in_utf8(there)) == there
    for output, said in (("out.csv", name), ("out.jsonl", json.dumps(name))):
        rows = [Prediction(there, Status.MISSING, note="gone")]
        publish(str(tmp_path / output), rows, Columns(("A",)), str(tmp_path / "record"), b"{}")
        assert said in (tmp_path / output).read_text(encoding="utf-8")
    (tmp_path / "labels.csv").write_text(f"path,A\n{name},1\n", encoding="utf-8")
    check_images([there], ["A"], str(tmp_path / "labels.csv"), Protocol())
    assert thumbnail(f"{tmp_path}/{name}")[0]
