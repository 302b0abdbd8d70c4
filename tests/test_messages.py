"""What stands on standard error, for collectors of logs and for terminals."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from chexscore import Classifier
from chexscore.cli import app
from chexscore.errors import UsageError
from chexscore.lock import locked
from chexscore.messages import visible
from chexscore.options import Options
from chexscore.progress import show
from chexscore.settings import begin_record
from chexscore.stopping import Stop
from tests.networks import brightness_model, brightness_spec
from tests.test_cli import chexscore

Flat = Callable[[str, int], Path]


def texts(said: str) -> list[str]:
    """Fails if a line is no JSON object."""
    return [str(json.loads(line)["text"]) for line in said.splitlines()]


def test_wrong_usage_is_json_too() -> None:
    done = chexscore("predict", "--nonsense", "--log-json")
    assert done.returncode == 2
    assert texts(done.stderr) == ["No such option: --nonsense"]


def test_what_cannot_be_said_is_no_end(model: Path, flat: Flat, tmp_path: Path) -> None:
    """A disk of logs that is full, and `2>&1 | head`; with names that the terminal cannot show."""
    flat("i/a.png", 51)
    (tmp_path / "i" / "\u00e9\udcff.png").write_text("no image")
    command = f"{sys.executable} -m chexscore predict {tmp_path}/i -m {model} -o {tmp_path}/out"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    for number, (option, stderr) in enumerate(
        (option, stderr) for option in ("", "--log-json") for stderr in ("2>/dev/full", "2>&1 | true", "")
    ):
        line = f"{command}{number}.csv {option} {stderr}; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(
            ["/bin/bash", "-c", line], capture_output=True, text=True, check=False, env=environment
        )
        assert done.returncode == 3, (line, done.stderr)
        assert (tmp_path / f"out{number}.csv").read_bytes().count(b"\n") == 3
        assert "Traceback" not in done.stderr


def test_cuda_that_is_not_there_is_json(model: Path, tmp_path: Path) -> None:
    done = chexscore(
        "predict", tmp_path, "-m", model, "--device", "cuda", "--log-json", "-o", tmp_path / "o.csv"
    )
    if done.returncode == 4:
        return  # a host with a GPU
    assert done.returncode == 5
    (said,) = texts(done.stderr)
    assert "does not work here (lib" in said or "built without CUDA" in said


def test_a_run_that_is_stopped_while_it_waits_for_another_says_how_to_go_on(
    model: Path, tmp_path: Path
) -> None:
    """It waits once its first line is there."""
    output = tmp_path / "out.csv"
    words = ["predict", tmp_path, "-m", model, "-o", output, "--lock-wait", "1h"]
    with locked(str(output), 0, Stop()):
        done = chexscore(*words, "--max-duration", "0.1s", "-q", timeout=60)
        assert done.returncode == 3
        assert done.stderr.endswith("the same command with --resume goes on from here\n")
        command = [sys.executable, "-m", "chexscore", *map(str, words)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as waiting:
            assert waiting.stderr is not None
            assert "on cpu" in waiting.stderr.readline()
            waiting.terminate()
            said = waiting.stderr.read()
        assert waiting.returncode == 143
        assert said.endswith("the same command with --resume goes on from here\n")


def test_names_cannot_command_a_terminal(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a\x1b]0;x\x07\n.png").write_text("no image")
    done = chexscore("predict", tmp_path, "-m", model)
    assert "\x1b" not in done.stderr
    assert r"a\x1b]0;x\x07\n.png: not an image" in done.stderr
    assert "a\x1b]0;x\x07\n.png" in done.stdout  # which is data, for machines
    done = chexscore("predict", "--files-from", tmp_path / "\x1b[2J")
    assert r"\x1b[2J: the list of images cannot be read" in done.stderr
    spec = replace(brightness_spec(), provenance={"a\x1b[2J": "b\x1b[2J"})
    done = chexscore("info", "-m", brightness_model(tmp_path / "model.onnx", spec))
    assert "\x1b" not in done.stdout
    assert "a\\x1b[2J" in done.stdout


@pytest.mark.parametrize("option", ["--min-age", "--max-duration", "--lock-wait", "--max-failures"])
def test_a_value_that_cannot_be_is_told_with_its_option(option: str) -> None:
    with pytest.raises(UsageError, match=f"{option}: 'few' is no "):
        app(["predict", "images", "-o", "out.csv", option, "few"], standalone_mode=False)


def test_only_what_can_be_printed_is() -> None:
    assert visible("a b/ü.png") == "a b/ü.png"
    assert visible("\t\r\n\x1b\u202e\udcff") == r"\t\r\n\x1b\u202e\xff"


def test_closed_streams_leave_their_numbers_to_nobody(model: Path, flat: Flat, tmp_path: Path) -> None:
    flat("i/a.png", 51)
    command = (
        f"{sys.executable} -m chexscore predict {tmp_path}/i -m {model} -o {tmp_path}/out.csv <&- >&- 2>&-"
    )
    assert subprocess.run(["/bin/sh", "-c", command], check=False).returncode == 0
    code = "import os\nfrom chexscore.messages import open_streams\nopen_streams()\nprint(os.open('/', 0))"
    done = subprocess.run(
        ["/bin/sh", "-c", f'{sys.executable} -c "{code}" <&- 2>&-'], capture_output=True, check=True
    )
    assert int(done.stdout) > 2


@pytest.mark.parametrize(("output", "said"), [("-", None), ("out.csv", "the same command with --resume")])
def test_how_to_go_on_is_said_where_that_can_be(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch, output: str, said: str | None
) -> None:
    lines = []
    monkeypatch.setattr("chexscore.progress.log", lambda event, **more: lines.append((event, more)))
    record = begin_record(classifier, Options(), {"paths": ["images"], "output": output})
    record.found = record.scored = 1
    with show("json", output, classifier, None, Stop("SIGTERM")) as watch:
        watch(record)
    assert [more["go_on"] for event, more in lines if event == "stopped"] == [said]
