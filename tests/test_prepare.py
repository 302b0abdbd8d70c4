"""Images -> the pixels that are trained on."""

import errno
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from chexscore.errors import TableError, UsageError
from chexscore.images import load_image
from chexscore.lock import locked
from chexscore.spec import ImageSpec
from chexscore.stopping import Stop
from tests.phantoms import write_dataset
from tests.trained import recipe
from training import examples
from training import prepare as prepare_module
from training.config import DataConfig, ImageConfig
from training.prepare import prepare


def paths_of(folder: Path) -> list[str]:
    return list(pd.read_csv(folder / "labels.csv")["path"])


def test_prepare_leaves_out_what_cannot_be_read_and_does_nothing_twice(tmp_path: Path) -> None:
    write_dataset(tmp_path, 4, size=16)
    paths = paths_of(tmp_path)
    (tmp_path / paths[1]).write_text("no image")
    said: list[str] = []
    image, cache = ImageSpec(16, 16), tmp_path / "cache"
    first = prepare(tmp_path, paths, image, cache, 2, said.append)
    assert first.usable.tolist() == [i != 1 for i in range(len(paths))]
    assert sum(line.startswith("left out") for line in said) == 1
    assert "(1 of them unreadable and left out; a new folder tries them again)" in said[-1]
    (tmp_path / paths[0]).unlink()  # would be noticed if anything were read again
    again = prepare(tmp_path, paths, image, cache, 2, said.append)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(first.usable, again.usable)
    with pytest.raises(TableError, match="another image size or resize rule"):
        prepare(tmp_path, paths, ImageSpec(16, 17), cache, 2, said.append)
    with pytest.raises(TableError, match="another table"):
        prepare(tmp_path, paths[1:], image, cache, 2, said.append)
    rule = json.loads((cache / "image.json").read_text())
    earlier = {name: value for name, value in rule.items() if name != "reading"}
    for other in (earlier, {**rule, "reading": rule["reading"] + 1}):
        (cache / "image.json").write_text(json.dumps(other))
        with pytest.raises(TableError, match="by a chexscore that read images otherwise; use another folder"):
            prepare(tmp_path, paths, image, cache, 2, said.append)
    (cache / "image.json").write_text(json.dumps(rule))
    for _ in range(2):
        with pytest.raises(TableError, match="not one of 1 images could be read"):
            prepare(tmp_path, paths[1:2], image, tmp_path / "none", 2, said.append)
    with locked(str(cache / "pixels.npy"), 0, Stop()):
        prepare(tmp_path, paths, image, cache, 2, said.append)  # a finished one is only read
    (tmp_path / "busy").mkdir()
    with (
        locked(str(tmp_path / "busy" / "pixels.npy"), 0, Stop()),
        pytest.raises(UsageError, match="another process fills it"),
    ):
        prepare(tmp_path, paths[1:], image, tmp_path / "busy", 2, said.append)
    (cache / "pixels.npy").write_bytes((cache / "pixels.npy").read_bytes()[:200])
    with pytest.raises(TableError, match=r"pixels\.npy: damaged"):
        prepare(tmp_path, paths, image, cache, 2, said.append)


def test_images_that_go_away_while_they_are_prepared_are_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "share", 10, size=16)
    paths, image = paths_of(tmp_path / "share"), ImageSpec(16, 16)
    monkeypatch.setattr(prepare_module, "KEEP_EVERY", 4)

    def unmount(path: str, image: ImageSpec) -> object:
        if path.endswith(paths[10]):
            (tmp_path / "share").rename(tmp_path / "gone")
        return load_image(path, image)

    monkeypatch.setattr(prepare_module, "load_image", unmount)
    with pytest.raises(TableError, match="was there a while ago"):
        prepare(tmp_path / "share", paths, image, tmp_path / "cache", 1, print)
    monkeypatch.setattr(prepare_module, "load_image", load_image)
    with pytest.raises(TableError, match="more than 1%; check --data"):
        prepare(tmp_path / "share", paths, image, tmp_path / "cache", 1, print)
    (tmp_path / "gone").rename(tmp_path / "share")
    assert prepare(tmp_path / "share", paths, image, tmp_path / "cache", 1, print).usable.all()


@pytest.mark.parametrize(
    "failure", [OSError(errno.ESTALE, "Stale"), MemoryError(), OSError("out of memory error when reading")]
)
def test_what_a_share_or_the_memory_fails_on_is_not_left_out_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    write_dataset(tmp_path, 4, size=16)
    paths, image, cache = paths_of(tmp_path), ImageSpec(16, 16), tmp_path / "cache"

    def fail(*_: object) -> None:
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr("chexscore.images._open", fail)
        with pytest.raises(TableError, match=f"{paths[0]}: .*; the same command goes on when it can be read"):
            prepare(tmp_path, paths, image, cache, 1, print)
    assert prepare(tmp_path, paths, image, cache, 1, print).usable.all()


def test_prepared_pixels_are_held_against_the_images_that_have_their_paths(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_dataset(tmp_path / name, 4, size=16)
    paths, image, cache = paths_of(tmp_path / "first"), ImageSpec(16, 16), tmp_path / "cache"
    prepare(tmp_path / "first", paths, image, cache, 1, print)
    prepare(tmp_path / "second", paths, image, cache, 1, print)  # copies of the same
    for path in paths[1:]:
        Image.new("L", (16, 16), 200).save(tmp_path / "second" / path)
    with pytest.raises(TableError, match=r"prepared from other images: .*second.* is not what it was"):
        prepare(tmp_path / "second", paths, image, cache, 1, print)


@pytest.mark.parametrize("images", [1, 20, 39, 100])
def test_the_images_that_are_looked_at_again_lie_all_over_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int
) -> None:
    for row in range(images):
        Image.new("L", (16, 16)).save(tmp_path / f"{row}.png")
    paths, image, read = [f"{row}.png" for row in range(images)], ImageSpec(16, 16), list[int]()
    prepare(tmp_path, paths, image, tmp_path / "cache", 1, list[str]().append)

    def load(path: str, image: ImageSpec) -> object:
        read.append(int(Path(path).stem))
        return load_image(path, image)

    monkeypatch.setattr(prepare_module, "load_image", load)
    prepare(tmp_path, paths, image, tmp_path / "cache", 1, list[str]().append)
    assert len(read) == len(set(read)) == min(images, 20)
    assert (read[0], read[-1]) == (0, images - 1)
    assert np.ptp(np.diff(read)) <= 1 if images > 1 else True


def test_a_name_that_is_too_long_is_that_of_an_image_that_is_missing(tmp_path: Path) -> None:
    write_dataset(tmp_path, 60, size=8)
    paths = [*paths_of(tmp_path)[:100], f"{'a' * 300}.png"]
    found = prepare(tmp_path, paths, ImageSpec(8, 8), tmp_path / "cache", 2, list[str]().append)
    assert found.usable.tolist() == [True] * 100 + [False]


def test_labels_without_both_classes_are_told_and_nothing_to_learn_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path, 8, size=16)
    table = pd.read_csv(tmp_path / "labels.csv", dtype=str)
    table["Opacity"], table["Some"] = table["Opacity"].where(table["patient"] < "p0006", ""), "-1"
    held_out = table["patient"] >= "p0006"
    table[held_out].to_csv(tmp_path / "held-out.csv", index=False)
    table.to_csv(tmp_path / "labels.csv", index=False)
    data = DataConfig(
        labels=("Opacity", "Some"),
        uncertain={"default": "ignore"},
        blank={"default": "ignore"},
        validation_list="held-out.csv",
    )
    config, said = recipe(data=data, image=ImageConfig(height=16, width=16)), list[str]()
    examples.load(config, tmp_path, tmp_path / "cache", 1, said.append)
    assert "training has no images with, or none without: Some" in said
    assert "validation has no images with, or none without: Opacity, Some" in said
    nothing = config.model_copy(update={"data": data.model_copy(update={"labels": ("Some",)})})
    with pytest.raises(TableError, match="no label has images with and without it to train on"):
        examples.load(nothing, tmp_path, tmp_path / "cache", 1, said.append)


def test_the_plot_of_frequencies_says_where_no_label_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.axes import Axes

    from training.plots import frequencies

    said = list[str]()
    monkeypatch.setattr(Axes, "bar_label", lambda _, __, texts: said.extend(texts))
    truth = np.array([[1, np.nan], [0, np.nan], [0, np.nan]], np.float32)
    frequencies(tmp_path / "findings.png", ("A", "B"), {"training": truth})
    assert said == [" 33.3 % of 3", " none known"]


@pytest.mark.parametrize("torn", [",", ',"not an image of a known format, or'])
def test_a_stopped_prepare_goes_on_behind_what_it_has_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: str
) -> None:
    write_dataset(tmp_path, 10, size=16)
    paths, image, cache = paths_of(tmp_path), ImageSpec(16, 16), tmp_path / "cache"
    whole = prepare(tmp_path, paths, image, tmp_path / "whole", 2, print)
    monkeypatch.setattr(prepare_module, "KEEP_EVERY", 4)
    read = list[str]()

    def stop_at_ten(path: str, image: ImageSpec) -> object:
        read.append(path)
        if len(read) == 10:
            raise KeyboardInterrupt
        return load_image(path, image)

    monkeypatch.setattr(prepare_module, "load_image", stop_at_ten)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, paths, image, cache, 1, print)
    with (cache / "images.csv").open("a") as file:
        file.write(paths[8] + torn)  # the beginning of a block that power cut off
    monkeypatch.setattr(prepare_module, "load_image", load_image)
    (tmp_path / paths[0]).write_text("no image")  # is not looked at again
    said: list[str] = []
    found = prepare(tmp_path, paths, image, cache, 1, said.append)
    assert any(line.startswith(f"going on after 8 of {len(paths)}") for line in said)
    np.testing.assert_array_equal(found.pixels, whole.pixels)
    assert pd.read_csv(cache / "images.csv")["path"].tolist() == paths
    (cache / "images.csv").write_text('path,note\n"a\n')
    with pytest.raises(TableError, match=r"cache: damaged: .*; delete it to prepare again"):
        prepare(tmp_path, paths, image, cache, 1, said.append)
    (cache / "images.csv").write_text("file,size\na.png,3\n")
    with pytest.raises(UsageError, match=r"cache holds something else in image\.json or images\.csv"):
        prepare(tmp_path, paths, image, cache, 1, said.append)
    for other in ("[]", "3"):
        (cache / "image.json").write_text(other)
        with pytest.raises(UsageError, match="cache holds something else"):
            prepare(tmp_path, paths, image, cache, 1, said.append)


def test_the_last_image_is_looked_at_again_if_its_line_was_torn(tmp_path: Path) -> None:
    write_dataset(tmp_path, 4, size=16)
    paths, image, cache = paths_of(tmp_path), ImageSpec(16, 16), tmp_path / "cache"
    (tmp_path / paths[-1]).write_text("no image")
    prepare(tmp_path, paths, image, cache, 1, print)
    index = (cache / "images.csv").read_text()
    (cache / "images.csv").write_text(index[: index.rindex(paths[-1]) + len(paths[-1])])
    assert not prepare(tmp_path, paths, image, cache, 1, print).usable[-1]


def test_a_folder_without_the_images_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    write_dataset(tmp_path, 4, size=16)
    paths = paths_of(tmp_path)
    (tmp_path / paths[2]).unlink()
    with pytest.raises(TableError, match=f"1 of {len(paths)} images .* such as {paths[2]}: more than 1%"):
        prepare(tmp_path, paths, ImageSpec(16, 16), tmp_path / "cache", 2, print)
    assert not (tmp_path / "cache").exists()


def test_a_disk_without_room_is_told_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path, 4, size=16)
    paths = paths_of(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(OSError, match="No space left on device"):
        prepare(tmp_path, paths, ImageSpec(16, 16), tmp_path / "cache", 2, print)
    assert f"{len(paths)} images need" in capsys.readouterr().out
    assert not (tmp_path / "cache" / "pixels.npy").exists()
