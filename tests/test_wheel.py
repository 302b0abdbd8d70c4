"""What people install: the wheel, in an environment that has nothing else."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from chexscore import __version__

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_chexscore_and_the_bundled_model_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"chexscore", f"chexscore-{__version__}.dist-info"}
    for needed in ("py.typed", "cli.py", "report/page.css", "models/kermany.onnx", "models/MODEL_CARD.md"):
        assert f"chexscore/{needed}" in names
    assert wheel.stat().st_size < 10e6


def test_the_wheel_scores_in_an_environment_without_the_extras(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", symlinks=sys.platform != "win32")
    scripts = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    # Our own pip installs into it: one of its own would take seconds to come.
    pip = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "install", "--quiet"]
    options = ["--no-compile", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, *options, str(wheel)], check=True, cwd=tmp_path)
    film = ROOT / "tests" / "radiographs" / "drawn-1.jpg"
    command = [str(scripts / "chexscore"), "predict", str(film)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    header, row = done.stdout.splitlines()
    assert header == "path,status,Pneumonia,Bacterial,Viral,note"
    assert row.startswith(f"{film.as_posix()},ok,0.")
    heavy = "tensorflow keras onnx tf2onnx pydantic sklearn"
    listed = f"import importlib.util as u; print(*[m for m in '{heavy}'.split() if u.find_spec(m)])"
    found = subprocess.run(
        [str(scripts / "python"), "-c", listed], capture_output=True, text=True, check=True
    )
    assert set(found.stdout.split()) <= {"pydantic"}, "pydantic comes with typer"
