"""What stands in a folder that a command is given to fill, and is not the command's, is left as it is."""

from pathlib import Path

import pytest

from chexscore.errors import UsageError
from chexscore.spec import ImageSpec
from tests.phantoms import write_dataset
from training import cli
from training import prepare as prepare_module
from training.config import DataConfig, ImageConfig, NetworkConfig, TrainConfig
from training.prepare import prepare

SMOKE = Path(__file__).parents[1] / "training" / "configs" / "smoke.toml"
IMAGE = ImageSpec(16, 16)


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def write_images(folder: Path) -> list[str]:
    write_dataset(folder, 4, size=16)
    return [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*.png"))]


@pytest.mark.parametrize("name", ["images.csv", "pixels.npy"])
def test_prepare_replaces_no_file_of_the_user(tmp_path: Path, name: str) -> None:
    paths = write_images(tmp_path)
    (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    for _ in range(2):
        with pytest.raises(UsageError, match=f"holds something else, such as {name}; give another folder"):
            prepare(tmp_path, paths, IMAGE, tmp_path, 1, print)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("content", ['{"tool": "x"}', "[]", "no JSON"])
def test_prepare_does_not_call_files_of_another_tool_damaged(tmp_path: Path, content: str) -> None:
    paths, folder = write_images(tmp_path), tmp_path / "mine"
    folder.mkdir()
    (folder / "image.json").write_text(content)
    with pytest.raises(UsageError, match=r"mine holds something else in image\.json or images\.csv; give"):
        prepare(tmp_path, paths, IMAGE, folder, 1, print)
    assert contents(folder) == {folder / "image.json": content.encode()}


def test_prepare_goes_on_where_it_was_stopped_before_its_first_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, cache = write_images(tmp_path), tmp_path / "cache"

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in ("replacing", "json.dumps"):  # behind pixels.npy, and behind images.csv
        with monkeypatch.context() as patched:
            patched.setattr(f"{prepare_module.__name__}.{name}", stop)
            with pytest.raises(KeyboardInterrupt):
                prepare(tmp_path, paths, IMAGE, cache, 1, print)
        assert (cache / "pixels.npy").exists()
        assert not (cache / "image.json").exists()
    assert prepare(tmp_path, paths, IMAGE, cache, 1, print).usable.all()


@pytest.mark.parametrize("option", ["--data", "--out", "--cache"])
def test_an_empty_name_is_not_the_present_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"--data": str(tmp_path), "--out": "out", "--cache": "cache"} | {option: ""}
    with pytest.raises(UsageError, match=f"{option} is empty; name a folder"):
        cli.app(["fit", str(SMOKE), *(word for pair in options.items() for word in pair)])
    assert not list(tmp_path.iterdir())


def test_fit_replaces_no_file_of_the_user_and_takes_none_for_a_finished_run(tmp_path: Path) -> None:
    pytest.importorskip("keras")
    from training import outcome
    from training.fit import fit

    write_dataset(tmp_path, 4, size=64)
    config = TrainConfig(
        name="made",
        data=DataConfig(labels=("Opacity",)),
        image=ImageConfig(height=32, width=32),
        network=NetworkConfig(blocks=2, width=4),
    )
    run = tmp_path / "run"
    run.mkdir()
    for name in (*outcome.FILES, "history.csv", "epochs.png"):
        (run / name).write_text("{}")
        with pytest.raises(UsageError, match=f"run holds something else, such as {name}; give another"):
            fit(config, tmp_path, run, report=lambda _: None)
        assert contents(run) == {run / name: b"{}"}
        (run / name).unlink()


def test_a_folder_that_cannot_be_made_is_wrong_usage(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "file").touch()
    for command in ("prepare", "split"):
        for out, said in (
            ("file", "file is a file; give a folder"),
            ("file/out", "cannot be made: Not a dir"),
        ):
            with pytest.raises(UsageError, match=said):
                cli.app([command, str(SMOKE), "--data", str(tmp_path), "--out", str(tmp_path / out)])
