import csv
import dataclasses
import gc
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from PIL import Image

from chexscore import Classifier, __version__
from chexscore.cli import main
from chexscore.errors import ChexscoreError, OutputError
from chexscore.records import RunRecord
from chexscore.runs import run
from chexscore.sessions import PROVIDERS
from chexscore.stopping import Stop
from chexscore.tags import names_people
from tests.networks import brightness_model, brightness_spec
from tests.phantoms import draw
from tests.test_images import save_dicom
from tests.test_runs import kept_rows

Flat = Callable[[str, int], Path]


def chexscore(
    *arguments: object, columns: int = 100, **options: object
) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "chexscore", *map(str, arguments)]
    environment = os.environ | {"COLUMNS": str(columns), "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **options)  # type: ignore[call-overload, no-any-return]


class OnCpu(onnxruntime.InferenceSession):  # type: ignore[misc]  # it has no types
    """Whatever it is asked for."""

    def __init__(self, content: bytes, options: object, **_: object) -> None:
        super().__init__(content, options, providers=[PROVIDERS["cpu"]])


@pytest.fixture
def images(flat: Flat, tmp_path: Path) -> Path:
    for value in (0, 51, 204):
        flat(f"images/{value:03}.png", value)
    return tmp_path / "images"


def test_predict_writes_csv_and_record_and_exits_0(model: Path, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    done = chexscore("predict", images, "-o", output, "--model", model, "--device", "cpu")
    assert done.returncode == 0
    assert done.stdout == ""
    assert "3 images found: 3 scored, 0 not" in done.stderr
    with output.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["path", "status", "Bright", "Dark", "note"],
        [f"{images}/000.png", "ok", "0.000000", "1.000000", ""],
        [f"{images}/051.png", "ok", "0.200000", "0.800000", ""],
        [f"{images}/204.png", "ok", "0.800000", "0.200000", ""],
    ]
    record = json.loads((tmp_path / "out.csv.run.json").read_text())
    assert (record["found"], record["scored"], record["failed"], record["ignored"]) == (3, 3, {}, 0)
    assert record["thresholds"] == {"Bright": 0.5, "Dark": 0.25}
    assert record["operating_points"] == {"Bright": {"default": 0.5}, "Dark": {"default": 0.25}}
    assert record["device"] == "cpu"
    asked = {"output": str(output), "device": "cpu", "model": str(model), "max_failures": None}
    assert asked.items() <= record["arguments"].items()
    assert not list(tmp_path.glob("*.partial"))


def test_data_goes_to_standard_output_and_words_to_standard_error(model: Path, images: Path) -> None:
    done = chexscore("predict", images, "--model", model)
    assert done.stdout.splitlines()[0] == "path,status,Bright,Dark,note"
    assert len(done.stdout.splitlines()) == 4
    assert "on cpu" in done.stderr
    assert chexscore("predict", images, "-o", "-", "--model", model, "--quiet").stderr == ""


def test_some_failures_exit_3_and_nothing_is_lost(model: Path, images: Path, tmp_path: Path) -> None:
    (images / "bad.png").write_text("no image")
    (images / "x.png").mkdir()
    (images / "notes.txt").write_text("not to be scored")
    output = tmp_path / "out.csv"
    done = chexscore("predict", images, f"{images}/gone.png", "--model", model, "-o", output)
    assert done.returncode == 3
    statuses = [line.split(",")[1] for line in output.read_text().splitlines()[1:]]
    assert statuses == ["ok", "ok", "ok", "unreadable", "missing"]
    record = json.loads((tmp_path / "out.csv.run.json").read_text())
    assert (record["found"], record["scored"]) == (5, 3)
    assert record["failed"] == {"unreadable": 1, "missing": 1}
    assert "5 images found: 3 scored, 2 not; 1 other file ignored" in done.stderr
    assert "missing: 1" in done.stderr


def test_no_image_exits_4(model: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    done = chexscore("predict", tmp_path / "none", "--model", model)
    assert done.returncode == 4
    assert f"no image found in {tmp_path / 'none'}." in done.stderr
    done = chexscore("predict", tmp_path / "gone", "--dry-run")
    assert (done.returncode, done.stdout) == (4, "")
    assert "gone: there is no such file or folder" in done.stderr
    for words in (["-n"], ["-n", "-o", tmp_path / "out.csv", "--resume"]):
        done = chexscore("predict", tmp_path / "none", *words)
        assert (done.returncode, done.stdout) == (4, "")
        assert f"no image found in {tmp_path / 'none'}." in done.stderr


def test_a_list_without_an_image_is_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "none.txt").touch()
    for words in (["--model", model], ["--dry-run"]):
        for source, name in ((tmp_path / "none.txt", tmp_path / "none.txt"), ("-", "on standard input")):
            done = chexscore("predict", "--files-from", source, *words, input="")
            assert done.returncode == 4
            assert f"no image found in the list {name}." in done.stderr


def test_wrong_usage_exits_2(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: to start one for each would take long."""
    monkeypatch.setattr("chexscore.stopping.stop_on_signals", Stop)
    (tmp_path / "out.csv").write_text("precious")
    for arguments in (
        ("predict",),
        ("predict", images, "--nonsense"),
        ("predict", images, "", "--model", model),
        ("predict", images, "--model", model, "--max-pixels", "200000000"),
        ("predict", images, "--model", model, "-o", tmp_path / "out.csv"),
        ("predict", images, "--model", model, "-o", tmp_path),
        ("predict", images, "--model", model, "-o", ""),
        ("predict", images, "--model", model, "-o", "/dev/null", "--overwrite"),
        ("predict", images, "--model", model, "-o", tmp_path / "none" / "out.csv"),
        ("predict", images, "--model", model, "-o", tmp_path / "out.csv.gz"),
        ("predict", images, "--model", model, "-o", tmp_path / "out"),
        ("predict", images, "--model", model, "--resume"),
        ("predict", images, "--model", model, "--batch-size", "0"),
        ("predict", images, "--model", model, "--batch-size", "1000000000"),
        ("predict", images, "--model", model, "--min-age", "soon"),
        ("predict", images, "--model", model, "--min-age", "9" * 400),
        ("predict", images, "--model", model, "--max-failures", "few"),
        ("predict", images, "--model", model, "--max-failures", ""),
        ("predict", images, "--model", model, "--max-duration", ""),
        ("predict", images, "--model", model, "--dicom-tag", "OtherPatientIDsSequence"),
        ("predict", images, "--model", model, "--dicom-tag", "EncapsulatedDocument"),
        ("predict", images, "--model", model, "--jsonl", "-o", tmp_path / "new.csv"),
        ("predict", images, "--model", model, "--overwrite"),
        ("predict", images, "--model", model, "-o", tmp_path / "new.csv", "--resume", "--overwrite"),
        ("predict", images, "--model", model, "--lock-wait", "5m"),
        ("predict", images, "-n", "-o", tmp_path / "new.csv", "--resume", "--overwrite"),
        ("predict", images, "-n", "-o", tmp_path / "new.csv", "--forget-gone"),
        ("predict", images, "-n", "-o", tmp_path / "out.csv.gz"),
        ("predict", images, "-n", "-o", tmp_path / "none" / "out.csv"),
        ("predict", images, "--model", model, "--dicom-tag", "Name"),
        ("predict", "--files-from", tmp_path / "none.txt", "--model", model),
        ("eval", tmp_path / "out.csv", "--labels", "l.csv", "-o", tmp_path / "out.csv"),
        ("eval", tmp_path / "out.csv", "--labels", "l.csv", "-o", "l.csv", "--overwrite"),
        ("eval", tmp_path / "out.csv", "--labels", "l.csv", "-o", "t.csv", "--report", "t.csv"),
        ("predict", images, "--model", model, "--device", "tpu"),
        ("eval", tmp_path / "out.csv"),
        ("eval", tmp_path / "out.csv", "--labels", "l.csv", "-o", "table.parquet"),
        ("eval", tmp_path / "out.csv", "--labels", "l.csv", "--keep", "k.csv"),
        ("eval", tmp_path / "out.csv", "--labels", "l.csv", "--device", "cpu"),
        ("eval", tmp_path / "out.csv", "--labels", "l.csv", "--pictures", "9"),
        ("eval", tmp_path / "out.csv", "--labels", "l.csv", "--overwrite"),
        ("eval", images, "--labels", "l.csv", "--uncertain", "positive", "--uncertain", "negative"),
        ("eval", "out.parquet", "--labels", "l.csv"),
        ("eval", images, "--labels", "l.csv", "--uncertain", "perhaps"),
        ("eval", images, "--labels", "l.csv", "--resamples", "199"),
        ("eval", images, "--labels", "l.csv", "--strict"),
        ("eval", images, "--labels", "l.csv", "--report", tmp_path),
        ("eval", tmp_path / "out.csv", "--labels", "l.csv", "--report", ""),
        ("eval", tmp_path / "out.csv", "--labels", "l.csv", "--report", "r.pdf"),
        ("eval", tmp_path / "out.csv", "--labels", "l.csv", "--views", "mean"),
    ):
        monkeypatch.setattr(sys, "argv", ["chexscore", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2, arguments
    assert (tmp_path / "out.csv").read_text() == "precious"


def test_a_bad_model_exits_1_with_one_sentence(images: Path, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    done = chexscore("predict", images, "--model", tmp_path / "text.onnx")
    assert done.returncode == 1
    assert done.stderr.startswith(f"chexscore: error: {tmp_path}/text.onnx: not a model")
    assert "Traceback" not in done.stderr


def test_a_device_that_is_not_there_exits_5(model: Path, images: Path) -> None:
    done = chexscore("predict", images, "--model", model, "--device", "cuda")
    if done.returncode == 0:
        assert "on cuda" in done.stderr  # a host with a GPU
    else:
        assert done.returncode == 5
        assert "CUDA" in done.stderr


def test_a_folder_that_is_not_there_exits_4_with_its_row(model: Path, tmp_path: Path) -> None:
    done = chexscore("predict", tmp_path / "mistyped", "--model", model)
    assert done.returncode == 4
    assert ",missing," in done.stdout
    strict = chexscore(
        "predict", tmp_path / "mistyped", "--model", model, "--max-failures", "5%", "--log-json"
    )
    assert strict.returncode == 4
    assert all(json.loads(line) for line in strict.stderr.splitlines())


def test_lists_of_paths_come_from_a_file_or_standard_input(model: Path, images: Path, tmp_path: Path) -> None:
    names = [f"{images}/204.png", f"{images}/000.png"]
    for separator in ("\n", "\0", "\r\n"):
        (tmp_path / "list.txt").write_text(separator.join(names))
        done = chexscore("predict", "--files-from", tmp_path / "list.txt", "--model", model)
        assert [line.split(",")[0] for line in done.stdout.splitlines()[1:]] == names
    done = chexscore(
        "predict", images / "051.png", "--files-from", "-", "-m", model, input="\n".join(names) + "\n"
    )
    assert [line.split(",")[0] for line in done.stdout.splitlines()[1:]] == [f"{images}/051.png", *names]
    done = chexscore("predict", "--files-from", "-", "-m", model, input=f" \0{names[0]}\0")
    assert [line.split(",")[0] for line in done.stdout.splitlines()[1:]] == [" ", names[0]]


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="no file that cannot be read")
def test_a_list_that_cannot_be_read_is_named(model: Path) -> None:
    done = chexscore("predict", "--files-from", "/proc/self/mem", "-m", model)
    assert done.returncode == 2
    assert "/proc/self/mem: the list of images cannot be read: Input/output error" in done.stderr


def test_a_pipe_without_a_writer_does_not_keep_a_run_from_stopping(model: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list")
    command = [sys.executable, "-m", "chexscore", "predict", "--files-from", str(tmp_path / "list")]
    running = subprocess.Popen([*command, "-m", str(model)])
    time.sleep(1)
    running.terminate()
    assert running.wait(timeout=10) == 143


def test_a_silent_list_does_not_keep_a_run_from_stopping(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chexscore", "predict", "--files-from", "-", "-m", str(model), "-q"]
    output = tmp_path / "out.csv"
    running = subprocess.Popen(
        [*command, "-o", str(output)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while running.poll() is None and not (tmp_path / "out.csv.state").exists():
        time.sleep(0.01)
    running.terminate()
    assert running.wait(timeout=10) == 143
    running.communicate()
    assert not output.exists()


def test_dry_run_lists_without_a_model(images: Path, tmp_path: Path) -> None:
    done = chexscore("predict", images, "--dry-run", "--model", tmp_path / "none.onnx")
    assert done.stdout.splitlines() == [f"{images}/{name}.png" for name in ("000", "051", "204")]
    assert "3 images would be scored" in done.stderr
    done = chexscore("predict", images, "-n", "--min-age", "1h")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == "chexscore: error: no image is older than --min-age.\n"
    assert chexscore("predict", images, "-n", "-q").stderr == ""
    assert not list(tmp_path.glob("out.csv*"))


def test_too_many_failures_exit_1_after_everything_is_written(
    model: Path, images: Path, tmp_path: Path
) -> None:
    (images / "bad.png").write_text("no image")
    output = tmp_path / "out.csv"
    arguments = ("predict", images, "-o", output, "--model", model, "--overwrite", "--max-failures")
    assert chexscore(*arguments, "25%").returncode == 3
    done = chexscore(*arguments, "20%")
    assert done.returncode == 1
    assert "1 of 4 images were not scored, more than --max-failures 20%" in done.stderr
    assert len(output.read_text().splitlines()) == 5
    assert chexscore(*arguments, "0").returncode == 1


def test_a_folder_that_cannot_be_listed_is_more_than_any_number_of_failures(
    model: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process, because root may list any folder."""
    monkeypatch.setattr("chexscore.stopping.stop_on_signals", Stop)
    (images / "most.png").mkdir()
    output, scandir = tmp_path / "out.csv", os.scandir

    def refuse(path: str) -> object:
        if path.endswith("most.png"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    words = ["predict", images, "-o", output, "-m", model, "--overwrite"]
    for limit, code in (([], 3), (["--max-failures", "50%"], 1)):
        monkeypatch.setattr(sys, "argv", ["chexscore", *map(str, [*words, *limit])])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
    said = f"1 input cannot be looked into ({images}/most.png: a directory that cannot be listed)"
    assert said in capsys.readouterr().err
    assert len(output.read_text().splitlines()) == 5


@pytest.mark.parametrize(("name", "code"), [("b.png", 3), ("b", 1), ("day.png/", 1)])
def test_a_named_image_below_a_closed_folder_is_one_failure_and_what_may_be_a_folder_any_number(
    model: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    code: int,
) -> None:
    """In this process, because root may enter any folder."""
    monkeypatch.setattr("chexscore.stopping.stop_on_signals", Stop)
    stat = os.stat

    def refuse(path: Any, **how: Any) -> os.stat_result:
        if "/closed/" in str(path):
            raise PermissionError(13, "Permission denied", path)
        return stat(path, **how)

    monkeypatch.setattr(os, "stat", refuse)
    named = [f"{tmp_path}/closed/a.png", f"{tmp_path}/closed/{name}"]
    (tmp_path / "list.txt").write_text("\n".join(named))
    words = (
        "predict",
        images,
        "--files-from",
        tmp_path / "list.txt",
        "-m",
        model,
        "-o",
        tmp_path / "out.csv",
    )
    monkeypatch.setattr(sys, "argv", ["chexscore", *map(str, words), "--max-failures", "50%"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    assert (f"1 input cannot be looked into ({named[1]}: " in capsys.readouterr().err) == (code == 1)


def test_a_night_that_is_refused_says_what_it_did(model: Path, images: Path, tmp_path: Path) -> None:
    words = ("predict", images, "-o", tmp_path / "out.csv", "-m", model, "--resume")
    assert chexscore(*words).returncode == 0
    (images / "051.png").unlink()
    (images / "bad.png").write_text("no image")
    done = chexscore(*words)
    assert done.returncode == 1
    assert "3 images found: 0 scored, 1 not, 2 unchanged" in done.stderr
    assert "unreadable: 1, such as" in done.stderr
    done = chexscore(*words, "--log-json")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["event"] for event in events] == ["start", "refused", "error"]
    assert (events[1]["found"], events[1]["gone"], events[1]["finished"]) == (3, 1, "")


def test_no_image_that_is_old_enough_exits_4(model: Path, images: Path, tmp_path: Path) -> None:
    for output in ("-", tmp_path / "out.csv"):
        done = chexscore("predict", images, "-m", model, "-o", output, "--min-age", "1h")
        assert done.returncode == 4
        assert "3 too young, left for the next run" in done.stderr
        assert "no image is older than --min-age" in done.stderr
    assert not (tmp_path / "out.csv").exists()


def test_an_old_image_that_fails_has_its_row_whatever_waits(
    model: Path, images: Path, tmp_path: Path
) -> None:
    bad, output = images / "bad.png", tmp_path / "out.csv"
    bad.write_text("no image")
    os.utime(bad, (0, 0))
    words = ("predict", images, "-m", model, "-o", output, "--min-age", "1h")
    assert chexscore(*words, "--max-failures", "0").returncode == 1
    assert chexscore(*words, "--overwrite").returncode == 3
    assert [line.split(",")[:2] for line in output.read_text().splitlines()[1:]] == [[str(bad), "unreadable"]]


def test_a_fall_back_to_the_cpu_is_told_even_when_quiet(
    model: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("chexscore.stopping.stop_on_signals", Stop)
    monkeypatch.setattr("chexscore.sessions.NVIDIA", [model])  # a device that is there
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: list(PROVIDERS.values()))
    monkeypatch.setattr("chexscore.sessions.onnxruntime.InferenceSession", OnCpu)
    monkeypatch.setattr(sys, "argv", ["chexscore", "predict", str(images), "-m", str(model), "-q"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    assert capfd.readouterr().err.startswith("chexscore: warning: CUDA does not work (")


def test_json_lines_and_json_logs(model: Path, images: Path) -> None:
    (images / "bad.png").write_text("no image")
    done = chexscore("predict", images, "--model", model, "--jsonl", "--log-json", "--thresholds")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["Bright"] for row in rows] == [0.0, 0.2, 0.8, None]
    assert [row["Dark_positive"] for row in rows] == [1, 1, 0, None]
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["event"] for event in events] == ["start", "finished"]
    assert events[-1]["failed"] == {"unreadable": 1}


def test_dicom_tags_are_columns_only_when_asked_for(model: Path, tmp_path: Path) -> None:
    tags = {"StudyInstanceUID": "1.2.3", "PatientName": "Doe^Jane"}
    save_dicom(tmp_path / "d" / "x.dcm", draw(1, size=16), **tags)
    plain = chexscore("predict", tmp_path / "d", "--model", model, "--log-json")
    assert "Doe" not in plain.stdout + plain.stderr
    assert "1.2.3" not in plain.stdout + plain.stderr
    done = chexscore("predict", tmp_path / "d", "--model", model, "--dicom-tag", "StudyInstanceUID")
    assert [line.rsplit(",", 1)[1] for line in done.stdout.splitlines()] == ["StudyInstanceUID", "1.2.3"]
    assert "warning" not in done.stderr
    named = chexscore("predict", tmp_path / "d", "--model", model, "--dicom-tag", "PatientName")
    assert "Doe^Jane" in named.stdout
    assert "warning: PatientName leads to people" in named.stderr
    quiet = chexscore("predict", tmp_path / "d", "--model", model, "--dicom-tag", "PatientName", "-q")
    assert quiet.stderr == ""


def test_tags_that_lead_to_people_are_known() -> None:
    for keyword in (
        "PatientSex",
        "OtherPatientNames",
        "PersonAddress",
        "AdmissionID",
        "OperatorsName",
        "StudyID",
        "CurrentPatientLocation",
        "ClinicalTrialSubjectID",
    ):
        assert names_people(keyword), keyword
    for keyword in ("StudyInstanceUID", "ViewPosition", "StudyDate", "ImageOrientationPatient"):
        assert not names_people(keyword), keyword


def test_a_standard_input_that_is_closed_is_said(model: Path) -> None:
    words = f"{sys.executable} -m chexscore predict --files-from - -m {model} <&-"
    done = subprocess.run(["/bin/sh", "-c", words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "chexscore: error: standard input is closed; give --files-from a file.\n"


def test_a_pipe_among_the_images_is_a_row_and_no_end(model: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    done = chexscore(
        "predict", tmp_path / "pipe.png", "--model", model, "--dicom-tag", "StudyInstanceUID", timeout=60
    )
    assert done.returncode == 3
    assert "not a regular file" in done.stdout


def test_a_closed_or_full_standard_output_is_one_sentence(model: Path, images: Path) -> None:
    command = f"{sys.executable} -m chexscore predict {images} -q --model {model}"
    for redirection, code in ((">/dev/full", 1), (">&-", 2)):
        done = subprocess.run(
            ["/bin/sh", "-c", command + redirection], capture_output=True, text=True, check=False
        )
        assert done.returncode == code
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_so_and_leaves_no_output(
    model: Path, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    film = tmp_path / "film.png"
    Image.fromarray(draw(1, size=1000)).save(film)
    for number in range(2000):  # half a minute's work
        os.link(film, tmp_path / f"{number}.png")
    command = [
        sys.executable,
        "-m",
        "chexscore",
        "predict",
        tmp_path,
        "-o",
        tmp_path / "out.csv",
        "-m",
        model,
        "--overwrite",
    ]
    running = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    while running.poll() is None and not kept_rows(tmp_path / "out.csv"):
        time.sleep(0.01)
    running.send_signal(sent)
    said = running.communicate(timeout=30)[1]
    assert running.returncode == code
    assert f"stopped by {sent.name}" in said
    assert "the same command with --resume instead of --overwrite goes on from here" in said
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--overwrite"], "the same command begins anew"),
        ([], "the same command with --resume goes on from here"),
        (["--resume"], "the same command with --resume goes on from here"),
    ],
)
def test_only_an_overwrite_that_is_stopped_before_it_keeps_anything_begins_anew(
    model: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    """An earlier run's rows are still there: --resume would refuse other settings, or score nothing."""
    done = chexscore(
        "predict", tmp_path, "-o", tmp_path / "out.csv", "-m", model, *words, "--max-duration", "0s"
    )
    assert done.returncode == 3
    assert f"the time is over: 0 images done; {said}" in done.stderr


def test_eval_prints_tables_and_takes_the_recorded_thresholds(
    model: Path, images: Path, tmp_path: Path
) -> None:
    def values(text: str) -> dict[tuple[str, str], str]:
        rows = csv.DictReader(text.splitlines())
        return {(row["label"], row["metric"]): row["value"] for row in rows if row["group"] == "all"}

    chexscore("predict", images, "-o", tmp_path / "out.csv", "--model", model)
    labels, table, page = (tmp_path / name for name in ("labels.csv", "t.csv", "t.html"))
    labels.write_text("path,Sex,Bright,Dark\n000.png,F,0,1\n051.png,M,0,0\n204.png,F,1,0\n")
    command = ("eval", tmp_path / "out.csv", "--labels", labels)
    compared = ("--subgroup", "Sex", "--against", tmp_path / "out.csv")
    done = chexscore(*command, *compared, "-o", table, "--report", page)
    assert done.returncode == 0
    for words in ("macro", "AUC (95 %)", "default point", "Sex", "minus the rest", "other"):
        assert words in done.stdout, words
    assert "3 images evaluated" in done.stderr
    found = values(table.read_text())
    assert found["Bright", "auc"] == "1.000000"
    assert found["Dark", "threshold@default"] == "0.2500000"
    assert found["Dark", "accuracy@default"] == "0.666667"
    assert "brightness 1.0" in page.read_text()

    spec = dataclasses.replace(brightness_spec(), thresholds=(0.1, 0.9))
    other = brightness_model(tmp_path / "other.onnx", spec)
    done = chexscore(*command, "-m", other)
    assert done.returncode == 1
    assert "is not the model that made" in done.stderr
    (tmp_path / "out.csv.run.json").unlink()
    done = chexscore(*command, "-m", other, "-o", "-")
    assert values(done.stdout)["Dark", "threshold@default"] == "0.9000000"
    assert "warning: only 3 images: the intervals are rough" in done.stderr


def test_eval_writes_its_files_whoever_reads_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,A\na.png,1\nb.png,0\n")
    (tmp_path / "out.csv").write_text("path,status,A,note\na.png,ok,0.9,\nb.png,ok,0.1,\n")
    names = " ".join(f"{tmp_path / name}" for name in ("out.csv --labels", "labels.csv -o", "table.csv"))
    command = f"{sys.executable} -m chexscore eval {names}"
    words = f"{command} > /dev/full"
    done = subprocess.run(["/bin/sh", "-c", words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: standard output cannot be written: No space left on device.\n" in done.stderr
    assert (tmp_path / "table.csv").read_text().startswith("label,group,metric")
    (tmp_path / "table.csv").unlink()
    (tmp_path / "table.csv.partial").mkdir()
    done = subprocess.run(["/bin/sh", "-c", words], capture_output=True, text=True, check=False)
    assert "table.csv cannot be written: Is a directory" in done.stderr, "the first thing that went wrong"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "AUC" in done.stdout, "and there is the terminal"


def test_eval_prints_labels_as_they_are_or_as_the_terminal_can(tmp_path: Path) -> None:
    name = "Zapalenie p\N{LATIN SMALL LETTER L WITH STROKE}uc :x:"
    (tmp_path / "labels.csv").write_text(f"path,{name}\na.png,1\nb.png,0\n", encoding="utf-8")
    rows = f"path,status,{name},note\na.png,ok,0.9,\nb.png,ok,0.1,\n"
    (tmp_path / "out.csv").write_text(rows, encoding="utf-8")
    command = [sys.executable, "-m", "chexscore", "eval", "out.csv", "--labels", "labels.csv"]
    for encoding, shown in (("utf-8", name), ("latin-1", "Zapalenie p\\u0142uc :x:")):
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert shown in done.stdout.decode(encoding)


def test_tables_of_eval_fit_80_columns(tmp_path: Path) -> None:
    names = ["Enlarged Cardiomediastinum", "Pleural_Thickening"]
    sites = ["North of the city, first floor", "South", "East", "West of the city, third floor"]
    lines = [f'{i}.png,{i % 2},{i % 3 % 2},"{sites[i // 2 % 4]}"\n' for i in range(1000)]
    (tmp_path / "labels.csv").write_text(f"path,{','.join(names)},Site\n" + "".join(lines))
    lines = [f"{i}.png,ok,{i % 7 / 7:.6f},{i % 5 / 5:.6f},\n" for i in range(1000)]
    (tmp_path / "out.csv").write_text(f"path,status,{','.join(names)},note\n" + "".join(lines))
    command = ("eval", tmp_path / "out.csv", "--labels", tmp_path / "labels.csv", "--resamples", "200")
    done = chexscore(*command, "--subgroup", "Site", "--against", tmp_path / "out.csv", columns=80)
    assert done.returncode == 0
    tables = [line for line in done.stdout.splitlines() if not line.startswith(("Right of", "*"))]
    assert max(map(len, tables)) <= 80
    by_label = done.stdout[done.stdout.rindex(" Pleural_Thickening", 0, done.stdout.index("difference")) :]
    assert re.match(r" Pleural_Thickening +\*?0\.\d{3} \(0\.\d\d-0\.\d\d\) *\n", by_label), "the fourth site"
    assert "..." not in done.stdout
    assert "\N{HORIZONTAL ELLIPSIS}" not in done.stdout


def test_eval_scores_images_first(model: Path, images: Path, tmp_path: Path) -> None:
    (images / "bad.png").write_text("no image")
    labels = tmp_path / "labels.csv"
    labels.write_text("path,Bright\n000.png,0\n051.png,0\n204.png,1\nbad.png,1\n")
    command = ("eval", images, "--labels", labels, "--model", model)
    kept = tmp_path / "kept.csv"
    done = chexscore(*command, "-o", tmp_path / "t.json", "--keep", kept)
    assert done.returncode == 0
    assert [line.split(",")[1] for line in kept.read_text().splitlines()] == [
        "status",
        "ok",
        "ok",
        "ok",
        "unreadable",
    ]
    assert json.loads(Path(f"{kept}.run.json").read_text())["model"]["name"] == "brightness"
    found = json.loads((tmp_path / "t.json").read_text())
    assert found["evaluated"]["left out"] == "1 prediction without a score"
    assert found["evaluated"]["predictions"] == str(kept)
    assert len(found["evaluated"]["sha256 of model"]) == 64
    assert "4 images found: 3 scored" in done.stderr
    strict = chexscore(*command, "--strict", "--keep", kept, "--overwrite")
    assert strict.returncode == 1
    assert "--strict allows nothing to be left over" in strict.stderr
    done = chexscore("eval", tmp_path / "none", "--labels", labels, "--model", model)
    assert (done.returncode, "none: there is no such file or folder" in done.stderr) == (4, True)
    labels.write_text("file\n000.png\n")
    done = chexscore(*command)
    assert done.returncode == 1
    assert "found" not in done.stderr, "the labels are looked at before hours of scoring"


def test_eval_goes_on_with_what_a_stopped_one_has_kept(
    model: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels, kept, page = tmp_path / "labels.csv", tmp_path / "kept.csv", tmp_path / "t.csv"
    labels.write_text("path,Bright\n000.png,0\n051.png,0\n204.png,1\n")

    def stop_soon(record: RunRecord) -> None:
        stop.reason = "SIGTERM" if record.done > 1 else ""

    def evaluated(*words: str) -> tuple[int, str]:
        command = ["eval", images, "--labels", labels, "--model", model, "--keep", kept, *words]
        monkeypatch.setattr(sys, "argv", ["chexscore", *map(str, command)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().err

    for words in ((), ("--overwrite", "-o", str(page))):
        kept.unlink(missing_ok=True)
        Path(f"{kept}.state").unlink(missing_ok=True)
        stop = Stop()
        run([str(images)], str(kept), Classifier(model), stop=stop, watch=stop_soon)
        assert not kept.exists()
        (images / "000.png").unlink(missing_ok=True)
        page.touch()
        code, said = evaluated(*words)
        assert code == 0
        assert re.search(r"2 images found: \d scored, 0 not, [12] unchanged", said)
        assert [line.split(",")[1] for line in kept.read_text().splitlines()] == ["status", "ok", "ok"]
    code, said = evaluated()
    assert code == 2
    assert f"chexscore eval {kept} evaluates it, and --overwrite scores the images anew" in said
    assert "2 images found: 2 scored, 0 not" in evaluated("--overwrite")[1]
    kept.unlink()
    with closing(sqlite3.connect(f"{kept}.state")) as database:
        database.execute("UPDATE settings SET value = 'x'")
        database.commit()
    assert evaluated()[0] == 2
    assert "2 images found: 2 scored, 0 not" in evaluated("--overwrite")[1]


def test_eval_of_something_else_says_so(tmp_path: Path) -> None:
    done = chexscore("eval", tmp_path / "none.csv", "--labels", tmp_path / "none.csv")
    assert done.returncode == 1
    assert "none.csv: the predictions cannot be read" in done.stderr
    done = chexscore("eval", "out.csv", "--labels", "")
    assert done.returncode == 2
    assert "an empty path is named" in done.stderr
    done = chexscore("eval", "out.csv", "--labels", "labels.csv", "--against", "other.parquet")
    assert done.returncode == 2
    assert "other.parquet: predictions are evaluated as CSV" in done.stderr


def test_info_shows_what_the_model_says(model: Path) -> None:
    done = chexscore("info", "--model", model)
    assert done.returncode == 0
    for word in ("brightness 1.0", "8 x 8 grey", "Apache-2.0", "0.7500", "cpu", "Not a medical device"):
        assert word in done.stdout


def test_version_and_help() -> None:
    assert chexscore("--version").stdout == f"chexscore {__version__}\n"
    for command in ("predict", "eval", "info"):
        text = " ".join(chexscore(command, "--help").stdout.split())
        assert "Example: chexscore " + command in text
        assert "Exit codes: 0 " in text
    assert "the bundled one" in text


@pytest.mark.parametrize("statement", ["import chexscore", "from chexscore import cli; cli.app(['--help'])"])
def test_nothing_heavy_is_imported_before_it_is_needed(statement: str) -> None:
    heavy = {
        "tensorflow",
        "keras",
        "pandas",
        "onnxruntime",
        "matplotlib",
        "sklearn",
        "numpy",
        "PIL",
        "pydicom",
    }
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('LOADED', *sorted({heavy!r} & set(sys.modules)), file=sys.stderr))\n"
        f"{statement}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.splitlines() == ["LOADED"]


@pytest.mark.parametrize(
    ("command", "function"),
    [
        ("predict IMAGES -m MODEL", "chexscore.runs.run"),
        ("predict IMAGES --dry-run", "chexscore.runs.plan"),
        ("merge FOLDER", "chexscore.cluster.run.merge"),
        ("eval IMAGES --labels LABELS -m MODEL", "chexscore.evaluating.are_predictions"),
        ("info -m MODEL", "chexscore.display.info"),
    ],
)
def test_garbage_is_collected_once_a_command_has_started(
    model: Path, images: Path, monkeypatch: pytest.MonkeyPatch, command: str, function: str
) -> None:
    collects: list[bool] = []

    def stand_in(*_: object, **__: object) -> None:
        collects.append(gc.isenabled())
        raise ChexscoreError("enough is seen")

    monkeypatch.setattr(function, stand_in)
    places = {"IMAGES": str(images), "MODEL": str(model)}
    monkeypatch.setattr(sys, "argv", ["chexscore", *(places.get(word, word) for word in command.split())])
    with pytest.raises(SystemExit):
        main()
    assert collects == [True]
    assert gc.isenabled()


def test_onnxruntime_reports_nothing_home(model: Path, images: Path, tmp_path: Path) -> None:
    """Its telemetry would leave a device id and a queue of reports in the user's cache folder."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "XDG_CACHE_HOME")}
    command = [sys.executable, "-m", "chexscore", "predict", str(images), "--model", str(model), "-q"]
    subprocess.run(command, check=True, env=environment | {"HOME": str(home)}, stdout=subprocess.DEVNULL)
    assert not [path.name for path in home.rglob("*")]


def test_predict_loads_no_extra(model: Path, images: Path, tmp_path: Path) -> None:
    words = ["predict", str(images), "-q", "-m", str(model), "-o", str(tmp_path / "out.csv")]
    code = (
        "import sys\nfrom chexscore import cli\n"
        f"cli.app({words}, standalone_mode=False)\n"
        "extra = {'tensorflow', 'keras', 'onnx', 'tf2onnx', 'pandas', 'pyarrow', 'ray'}\n"
        "print(*sorted(extra & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1 + 3


def test_eval_names_the_folder_that_has_no_room_for_its_scores(
    model: Path,
    flat: Flat,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flat("images/a.png", 1)
    (tmp_path / "labels.csv").write_text("path,Bright\na.png,0\n")

    def full(*_: object, **__: object) -> None:
        raise OutputError("its rows cannot be kept; --resume goes on") from OSError()

    monkeypatch.setattr("chexscore.runs.run", full)
    words = ["eval", tmp_path / "images", "--labels", tmp_path / "labels.csv", "--model", model]
    for keep, said in (
        ([], "give --keep a file elsewhere, or set TMPDIR"),
        (["--keep", tmp_path / "k.csv"], "--resume"),
    ):
        monkeypatch.setattr(sys, "argv", ["chexscore", *map(str, [*words, *keep])])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        assert said in capsys.readouterr().err
