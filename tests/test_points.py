import json
import re
from pathlib import Path

import pytest

from chexscore.errors import ModelError, TableError, UsageError
from chexscore.evaluating import AT_HALF
from chexscore.evaluation.points import are_predictions, points_and_model


def test_points_come_from_the_record_in_either_form(tmp_path: Path) -> None:
    predictions = str(tmp_path / "out.csv")
    assert points_and_model(predictions) == ({}, {})
    record = {"model": {"name": "m", "sha256": "abc"}, "thresholds": {"A": 0.3}}
    write = Path(f"{predictions}.run.json").write_text
    write(json.dumps(record))
    assert points_and_model(predictions) == ({"A": {"default": 0.3}}, {"name": "m", "sha256": "abc"})
    points = {"A": {"sensitivity90": 0.1, "youden": 0.3}}
    write(json.dumps(record | {"operating_points": points}))
    (found,) = points_and_model(predictions)[0].values()
    assert list(found.items()) == [("default", 0.3), ("sensitivity90", 0.1), ("youden", 0.3)]
    for content, why in (
        ("[]", "it does not say which model it was"),
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("{}", "its thresholds are missing, or not in 0..1"),
        ('{"thresholds": {"A": NaN}}', "its thresholds are missing, or not in 0..1"),
        ('{"thresholds": 1}', "its thresholds are missing"),
        ('{"thresholds": {"A": 0.5}, "operating_points": {"A": 0.5}}', "its thresholds are missing"),
        ('{"model": "m"}', "it does not say which model it was"),
    ):
        write(content)
        with pytest.raises(TableError, match=f"not the record of a run: {re.escape(why)}") as caught:
            points_and_model(predictions)
        assert str(caught.value).endswith("; remove it, and give --model for the operating points.")
    with pytest.raises(TableError, match=r"; remove it; without it the two are compared at 0.5 alone.$"):
        points_and_model(predictions, without=AT_HALF)
    Path(f"{predictions}.run.json").unlink()
    Path(f"{predictions}.run.json").mkdir()
    with pytest.raises(TableError, match="the record of the run cannot be read: Is a directory"):
        points_and_model(predictions)


def test_points_are_found_through_links(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    record = json.dumps({"thresholds": {"A": 0.3}})
    (tmp_path / "store" / "aa").write_text("path,status,A,note\n")
    (tmp_path / "store" / "bb").write_text(record)
    output = tmp_path / "out.csv"
    output.symlink_to(tmp_path / "store" / "aa")
    (tmp_path / "out.csv.run.json").symlink_to(tmp_path / "store" / "bb")
    assert points_and_model(str(output))[0] == {"A": {"default": 0.3}}
    (tmp_path / "store" / "aa.run.json").write_text(record.replace("0.3", "0.4"))
    assert points_and_model(str(output))[0] == {"A": {"default": 0.4}}


def test_points_come_from_the_model_that_made_the_predictions(tmp_path: Path, model: Path) -> None:
    predictions = str(tmp_path / "out.csv")
    (tmp_path / "out.csv").write_text("path,status,Bright,note\na.png,ok,0.5,\n")
    points, about = points_and_model(predictions, str(model))
    assert points == {"Bright": {"default": 0.5}, "Dark": {"default": 0.25}}
    assert list(about) == ["points"], "nothing tells what made the scores"
    assert about["points"].startswith("brightness 1.0, sha256 ")
    record = {"model": {"sha256": about["points"].split()[-1]}, "thresholds": {"Bright": 0.9}}
    Path(f"{predictions}.run.json").write_text(json.dumps(record))
    found, about = points_and_model(predictions, str(model))
    assert (found, about["name"]) == (points, "brightness")
    (tmp_path / "out.csv").write_text("path,status,Bright,Edema,note\na.png,ok,0.5,0.5,\n")
    with pytest.raises(ModelError, match="it has no label Edema, but Bright, Dark"):
        points_and_model(predictions, str(model))
    Path(f"{predictions}.run.json").write_text(json.dumps(record | {"model": {"sha256": "another"}}))
    with pytest.raises(ModelError, match="is not the model that made"):
        points_and_model(predictions, str(model))


def test_predictions_are_told_from_images(tmp_path: Path) -> None:
    for name, content in (("scores.txt", "path,status,A,note\n"), ("film.txt", "no table")):
        (tmp_path / name).write_text(content)
    scans = tmp_path / "scans.csv"
    scans.mkdir()
    assert are_predictions([str(tmp_path / "scores.txt")])
    assert are_predictions(["not/there.csv"])
    for inputs in (
        [str(tmp_path / "film.txt")],
        [str(tmp_path)],
        ["not/there"],
        [str(scans)],
        ["a.png", str(scans)],
        [str(tmp_path), "a.png"],
    ):
        assert not are_predictions(inputs)
    for inputs in (["out.parquet"], ["a.png", "out.jsonl"]):
        with pytest.raises(UsageError, match="evaluated as CSV"):
            are_predictions(inputs)
    for inputs in (
        ["a.csv", "b.csv"],
        ["a.png", "b.csv"],
        ["k.csv", str(tmp_path)],
        ["a.png", str(tmp_path / "scores.txt")],
    ):
        with pytest.raises(
            UsageError, match=r"(\.csv|scores\.txt): one CSV of predictions .* name either alone"
        ):
            are_predictions(inputs)
