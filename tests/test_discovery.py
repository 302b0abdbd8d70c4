import errno
import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chexscore import find_images
from chexscore.discovery import read_list
from chexscore.errors import UsageError
from chexscore.formats import SUFFIXES


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_the_walk_is_sorted_in_each_directory_and_descends_in_place(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a/z.PNG", "a/y.jpeg", "c/d/e.dcm", "a.png", "f.jfif")
    found = list(find_images([tmp_path]))
    assert found == [
        f"{tmp_path}/{name}" for name in ("a/y.jpeg", "a/z.PNG", "a.png", "b.png", "c/d/e.dcm", "f.jfif")
    ]


def test_paths_keep_the_form_in_which_they_were_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "images/a.png")
    monkeypatch.chdir(tmp_path)
    given = ["./images", "images/", "images/a.png", "images/../images", "."]
    assert list(find_images(given)) == [
        "./images/a.png",
        "images/a.png",
        "images/a.png",
        "images/../images/a.png",
        "./images/a.png",
    ]


def test_other_files_and_hidden_ones_are_ignored_and_told(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "labels.csv", ".b.png.x7", ".cache/c.png", "empty")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    ignored: list[str] = []
    assert list(find_images([tmp_path], ignored.append)) == [f"{tmp_path}/a.png"]
    assert sorted(os.path.basename(path) for path in ignored) == [
        ".b.png.x7",
        ".cache",
        "DICOMDIR",
        "empty",
        "labels.csv",
    ]


def test_a_path_that_is_named_is_yielded_whatever_it_is(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    named = [f"{tmp_path}/notes.txt", f"{tmp_path}/gone"]
    assert list(find_images(named)) == named


def test_dicom_without_a_suffix_is_found_and_broken_links_are_not_lost(tmp_path: Path) -> None:
    (tmp_path / "1.2.840.113").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    assert list(find_images([tmp_path])) == [f"{tmp_path}/1.2.840.113", f"{tmp_path}/gone.png"]


def test_loops_of_links_end_and_no_link_leads_to_where_the_walk_has_been(tmp_path: Path) -> None:
    touch(tmp_path, "a/b/c.png", "outside/d.png")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "to").symlink_to(tmp_path / "outside")
    (tmp_path / "z").symlink_to(tmp_path / "a")
    found = list(find_images([tmp_path / "a", tmp_path / "z"]))
    assert found == [f"{tmp_path}/{name}" for name in ("a/b/c.png", "a/to/d.png", "z/b/c.png", "z/to/d.png")]
    assert list(find_images(tmp_path)) == [f"{tmp_path}/{name}" for name in ("a/b/c.png", "outside/d.png")]


def test_a_link_out_of_the_folder_leads_to_no_image_twice(tmp_path: Path) -> None:
    touch(tmp_path, "day/a.png", "day/sub/b.png", "other/c.png", "outside/week/d.png")
    (tmp_path / "day" / "above").symlink_to(tmp_path)
    (tmp_path / "day" / "in").symlink_to(tmp_path / "outside" / "week")
    (tmp_path / "day" / "on").symlink_to(tmp_path / "outside")
    expected = [f"{tmp_path}/day/{name}" for name in ("a.png", "above/other/c.png", "sub/b.png")]
    expected.insert(2, f"{tmp_path}/day/above/outside/week/d.png")
    assert list(find_images(tmp_path / "day")) == expected
    (tmp_path / "day" / "above").unlink()
    expected[1:3] = [f"{tmp_path}/day/in/d.png"]
    assert list(find_images(tmp_path / "day")) == expected


def test_what_cannot_be_looked_at_is_not_lost(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "sub/b.png", "other/c.png", "notes.txt", "sub/1.2.840.7")
    (tmp_path / "mount").symlink_to(tmp_path / "nowhere")
    walk = find_images([tmp_path])
    assert next(walk).endswith("a.png")
    (tmp_path / "notes.txt").unlink()
    (tmp_path / "other" / "c.png").unlink()
    (tmp_path / "other").rmdir()
    assert next(walk).endswith("mount")
    assert next(walk).endswith("other")
    (tmp_path / "sub" / "b.png").rename(tmp_path / "sub" / "moved.png")
    assert [os.path.basename(path) for path in walk] == ["moved.png"]


def test_a_tree_may_be_deeper_than_pythons_stack(tmp_path: Path) -> None:
    touch(tmp_path, "d/" * 300 + "x.png")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 150)
    try:
        found = list(find_images(tmp_path))
    finally:
        sys.setrecursionlimit(limit)
    assert len(found) == 1


def test_a_directory_that_cannot_be_listed_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/x.png", "b/y.png")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("/a"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list(find_images([tmp_path])) == [f"{tmp_path}/a", f"{tmp_path}/b/y.png"]


def test_an_entry_that_cannot_be_asked_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that does not say in its directories what is a file."""
    touch(tmp_path, "a.png", "b.png", "c.png")
    scandir, stat = os.scandir, os.stat

    class Entry:
        def __init__(self, entry: "os.DirEntry[str]") -> None:
            self.name, self._entry = entry.name, entry

        def is_file(self, *, follow_symlinks: bool) -> bool:
            if self.name == "b.png":
                raise OSError(errno.EIO, "Input/output error")
            return self._entry.is_file(follow_symlinks=follow_symlinks)

    @contextmanager
    def listed(path: str) -> Iterator[list[Entry]]:
        with scandir(path) as entries:
            yield [Entry(entry) for entry in entries]

    monkeypatch.setattr(os, "scandir", listed)
    assert list(find_images(tmp_path)) == [f"{tmp_path}/{name}.png" for name in "abc"]

    def broken(path: str, **options: Any) -> os.stat_result:
        if str(path).endswith("b.png"):
            raise OSError(errno.EIO, "Input/output error")
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", broken)
    assert list(find_images(tmp_path)) == [f"{tmp_path}/{name}.png" for name in "abc"]


def test_one_path_may_come_by_itself(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    assert list(find_images(str(tmp_path))) == list(find_images(tmp_path)) == [f"{tmp_path}/a.png"]


def test_the_walk_is_lazy(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.png", "b/y.png")
    walk = find_images([tmp_path])
    assert next(walk).endswith("a/x.png")
    touch(tmp_path, "b/z.png")
    assert [os.path.basename(path) for path in walk] == ["y.png", "z.png"]


def test_suffixes_are_lower_case() -> None:
    assert {suffix.lower() for suffix in SUFFIXES} == SUFFIXES


def test_a_link_is_no_second_name_of_what_the_walk_comes_to_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever its name stands among the others; but of what is hidden it is the only one."""
    touch(tmp_path, "day1/a.png", "day2/b.png", ".kept/c.png")
    (tmp_path / "current").symlink_to("day2")
    (tmp_path / "latest").symlink_to("day2")
    (tmp_path / "old").symlink_to(".kept")
    expected = [f"{tmp_path}/{name}" for name in ("day1/a.png", "day2/b.png", "old/c.png")]
    assert list(find_images(tmp_path)) == expected
    assert list(find_images(tmp_path / "current")) == [f"{tmp_path}/current/b.png"]
    monkeypatch.setattr(
        os, "access", lambda folder, _: Path(folder) != tmp_path
    )  # which cannot be listed, say
    shown = [*expected[:1], f"{tmp_path}/current/b.png"]
    assert set(shown) <= set(find_images(tmp_path))


def test_thumbnails_of_a_storage_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg")
    ignored: list[str] = []
    assert list(find_images(tmp_path, ignored.append)) == [f"{tmp_path}/a.png"]
    assert ignored == [f"{tmp_path}/@eaDir"]


@pytest.mark.parametrize("begin", [b"\x89PNG\r\n", b"\xff\xd8\xff\xe0", bytes(128) + b"DICM"])
def test_an_image_is_no_list(tmp_path: Path, begin: bytes) -> None:
    (tmp_path / "x").write_bytes(begin + bytes(100))
    with (tmp_path / "x").open("rb") as file, pytest.raises(UsageError, match="not a list"):
        list(read_list(file))
