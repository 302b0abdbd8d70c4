"""What the README says can be typed can be typed."""

import contextlib
import functools
import io
import os
import pydoc
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import chexscore

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(
    {
        line.strip()
        for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
        for line in block.splitlines()
        if line.strip().startswith(("chexscore ", "python -m "))
    }
)


def test_the_python_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(ROOT)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(example, "README.md", "exec"), {})  # noqa: S102, our own text
    lines = printed.getvalue().splitlines()
    assert len(lines) == 7
    assert lines[0].startswith("tests/radiographs/drawn-1.jpg ok 0.")
    assert "Viral" in lines[-1]


def test_help_lists_the_ten_names() -> None:
    text = pydoc.plain(pydoc.render_doc(chexscore))
    assert len(chexscore.__all__) == 10
    for name in chexscore.__all__:
        assert name in text, name
        assert getattr(chexscore, name) is not None


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_the_options_that_the_readme_gives(command: str) -> None:
    words = shlex.split(command.removeprefix("python -m "))
    commands = ("adopt", "template", "weights")
    run = words[0] == "export" and words[1] not in commands
    shown = _help(words[0], "run" if run else words[1])
    for option in (word for word in words if word.startswith("-")):
        assert re.search(rf"(?<![-\w]){option}(?![-\w])", shown), option


@functools.cache
def _help(module: str, command: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", module, command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
    ).stdout


def test_files_that_the_readme_links_to_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
