"""What stands on standard error, for collectors of logs and for terminals."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from chexscore.lock import locked
from chexscore.messages import visible
from chexscore.stopping import Stop
from tests.test_cli import chexscore

Flat = Callable[[str, int], Path]


def texts(said: str) -> list[str]:
    """Fails if a line is no JSON object."""
    return [str(json.loads(line)["text"]) for line in said.splitlines()]


def test_wrong_usage_is_json_too() -> None:
    done = chexscore("predict", "--nonsense", "--log-json")
    assert done.returncode == 2
    assert texts(done.stderr)[-1] == "Error: No such option: --nonsense"


def test_what_libraries_write_is_json_and_in_its_place() -> None:
    code = (
        "import os, sys, warnings\nfrom chexscore.messages import json_lines, log, say\n"
        "with json_lines():\n"
        "    os.write(2, b'\\x1b[1;31mnative\\x1b[m\\n\\n\\xff')\n"
        "    say('said')\n"
        "    os.write(2, b'half')\n"
        "    log('event', text='logged')\n"
        "    print('done', file=sys.stderr)\n"
        "    os.write(2, 30000 * b'ten bytes\\n')\n"
        "    raise KeyError('unexpected')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    said = texts(done.stderr)
    assert done.returncode == 1
    assert said[:4] == ["native", "said", "logged", "\\xffhalfdone"]
    assert said.count("ten bytes") == 30000
    assert said[-1] == "KeyError: 'unexpected'"


def test_cuda_that_is_not_there_is_json(model: Path, tmp_path: Path) -> None:
    done = chexscore(
        "predict", tmp_path, "-m", model, "--device", "cuda", "--log-json", "-o", tmp_path / "o.csv"
    )
    assert texts(done.stderr) if done.returncode == 5 else done.returncode == 4  # a host with a GPU


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
