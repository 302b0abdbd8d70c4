"""What no night may lose: the rows of images that are not there just now, and an output's own record."""

import errno
import io
import json
import os
import re
import shutil
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from chexscore import Classifier
from chexscore.beside import record_path, store_path
from chexscore.database import SCHEMA, open_database
from chexscore.errors import LockedError, NetworkError, NoImageError, OutputError, UsageError
from chexscore.fingerprints import leads_to_itself
from chexscore.lock import locked
from chexscore.options import Options
from chexscore.outputs import publish, replacing
from chexscore.records import RunRecord
from chexscore.runs import plan, run
from chexscore.settings import columns_of
from chexscore.stopping import Stop
from chexscore.store import Store
from tests.networks import brightness_model, brightness_spec

Flat = Callable[[str, int], Path]
RESUME, OVERWRITE = Options(resume=True), Options(overwrite=True)
FORGET = Options(resume=True, forget_gone=True)


@pytest.fixture
def images(flat: Flat, tmp_path: Path) -> Path:
    for value in range(20):
        flat(f"images/{'ab'[value // 10]}/{value:02}.png", 10 * value)
    return tmp_path / "images"


@pytest.fixture
def output(classifier: Classifier, images: Path, tmp_path: Path) -> str:
    """A finished one."""
    run([str(images)], str(tmp_path / "out.csv"), classifier)
    return str(tmp_path / "out.csv")


def published(output: str) -> tuple[bytes, bytes]:
    return Path(output).read_bytes(), Path(f"{output}.run.json").read_bytes()


def afresh(images: Path, classifier: Classifier) -> bytes:
    other = images.parent / "afresh.csv"
    run([str(images)], str(other), classifier, OVERWRITE)
    return other.read_bytes()


def test_a_folder_that_vanished_costs_no_row_and_what_is_new_is_kept(
    classifier: Classifier, images: Path, output: str, flat: Flat
) -> None:
    before = published(output)
    (images / "b").rename(images.parent / "away")
    flat("images/a/new.png", 99)
    for scored in (1, 0):
        done: list[RunRecord] = []
        with pytest.raises(OutputError, match=r"not found now: 10, such as .*b/10\.png.*--forget-gone"):
            run([str(images)], output, classifier, RESUME, watch=done.append)
        assert (done[-1].scored, done[-1].found) == (scored, 11)
        assert published(output) == before
    (images.parent / "away").rename(images / "b")
    record = run([str(images)], output, classifier, RESUME)
    assert (record.unchanged, record.scored, record.gone) == (21, 0, 0)
    assert Path(output).read_bytes() == afresh(images, classifier)


def test_a_slip_in_the_inputs_does_not_keep_the_right_ones_from_going_on(
    classifier: Classifier, images: Path, output: str, flat: Flat
) -> None:
    before, other = published(output), Path(flat("other/00.png", 7)).parent
    with pytest.raises(
        OutputError, match=r"there are rows of 20 images, such as .*00\.png, and not one .* spelling"
    ):
        run([str(other)], output, classifier, RESUME)
    assert published(output) == before
    flat("images/a/new.png", 99)
    record = run([str(images)], output, classifier, RESUME)
    assert (record.unchanged, record.scored, record.gone) == (20, 1, 0)
    assert run([str(other)], output, classifier, FORGET).gone == 21


def test_a_slip_that_is_stopped_keeps_nobody_from_going_on_either(
    classifier: Classifier, images: Path, output: str, flat: Flat
) -> None:
    other, stop = Path(flat("other/00.png", 7)).parent, Stop()
    flat("other/01.png", 9)

    def watch(_: RunRecord) -> None:
        stop.reason = "SIGTERM"

    done = run([str(other)], output, classifier, RESUME, stop=stop, watch=watch).done
    assert done
    again: list[RunRecord] = []
    with pytest.raises(OutputError, match=r"there are rows of 20 images, .* nothing new is kept"):
        run([str(other)], output, classifier, RESUME, watch=again.append)
    assert again[-1].unchanged == done, "its rows could be taken over"
    run([str(other)], output, classifier, RESUME, stop=stop)
    flat("images/a/new.png", 99)
    record = run([str(images)], output, classifier, RESUME)
    assert (record.unchanged, record.scored, record.gone) == (20, 1, 0)
    assert Path(output).read_bytes() == afresh(images, classifier)


def test_a_run_that_is_stopped_before_the_first_earlier_image_keeps_its_progress(
    classifier: Classifier, images: Path, output: str, flat: Flat
) -> None:
    stop, new = Stop(), [str(flat(f"images/0/{number}.png", number)) for number in range(5)]

    def named() -> Iterator[str]:
        yield from new
        stop.reason = "SIGTERM"

    assert run(named(), output, classifier, RESUME, stop=stop).scored == 5
    assert run([str(images)], output, classifier, RESUME).unchanged == 25
    assert Path(output).read_bytes() == afresh(images, classifier)
    (images / "0").rename(images.parent / "away")
    with pytest.raises(OutputError, match="not found now: 5, such as"):
        run([str(images)], output, classifier, RESUME)


def test_a_run_that_is_stopped_behind_the_first_earlier_image_loses_no_score(
    classifier: Classifier, images: Path, output: str, flat: Flat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows of before are no longer tentative then, nor are those that it took over."""
    new, stop = [str(flat(f"images/0/{number:02}.png", number)) for number in range(60)], Stop()
    marks: list[set[int]] = []

    def named() -> Iterator[str]:
        yield from new
        marks.append(tentative(output))
        yield str(images / "a")
        stop.reason = "SIGTERM"

    monkeypatch.setattr("chexscore.store.COMMIT_INTERVAL_S", 0)
    small = replace(RESUME, batch_size=1, workers=1)  # so that no more images than these are read ahead
    assert run(named(), output, classifier, small, stop=stop).done == 70
    assert marks == [{2}], "rows were added before"
    (images / "a" / "03.png").unlink()
    with pytest.raises(OutputError, match=r"not found now: 1, such as .*a/03\.png"):
        run([str(images)], output, classifier, RESUME)


@pytest.mark.parametrize("stopped", [True, False])
def test_rows_of_an_overwrite_count_whatever_slip_came_before(
    classifier: Classifier, images: Path, output: str, flat: Flat, *, stopped: bool
) -> None:
    """It gets the number of a run that has left no rows."""
    slip, stop = [str(flat("slip/00.png", 7))], Stop()

    def stop_soon(_: RunRecord) -> None:
        stop.reason = "SIGTERM"

    if stopped:
        run(slip, output, classifier, RESUME, stop=stop, watch=stop_soon)
    with pytest.raises(OutputError, match="nothing new is kept"):
        run(slip, output, classifier, RESUME)
    assert tentative(output) == ({2} if stopped else set())
    stop.reason = ""

    def named() -> Iterator[str]:
        yield str(images / "a")
        stop.reason = "SIGTERM"

    assert run(named(), output, classifier, OVERWRITE, stop=stop).scored == 10
    (images / "a" / "03.png").unlink()
    with pytest.raises(OutputError, match=r"not found now: 1, such as .*a/03\.png"):
        run([str(images)], output, classifier, RESUME)


def tentative(output: str) -> set[int]:
    """The runs whose rows nobody misses."""
    with closing(sqlite3.connect(f"{output}.state")) as database:
        query = "SELECT value FROM settings WHERE name LIKE 'tentative run %'"
        return {int(number) for (number,) in database.execute(query)}


def test_rows_of_images_that_are_gone_leave_when_that_is_asked_for(
    classifier: Classifier, images: Path, output: str
) -> None:
    for path in (images / "b").iterdir():
        path.unlink()
    assert run([str(images)], output, classifier, FORGET).gone == 10
    assert Path(output).read_bytes() == afresh(images, classifier)
    assert run([str(images)], output, classifier, RESUME).gone == 0


def test_a_named_image_that_is_missing_or_out_of_sight_keeps_its_row_too(
    classifier: Classifier, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, paths = str(tmp_path / "out.csv"), [str(path) for path in sorted(images.rglob("*.png"))]
    run(paths, output, classifier)
    before, stat = published(output), os.stat

    def dead(path: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("07.png"):
            raise OSError(5, "Input/output error")
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", dead)
    with pytest.raises(OutputError, match=r"not found now: 1, such as .*07\.png"):
        run(paths, output, classifier, RESUME)
    monkeypatch.undo()
    Path(paths[3]).unlink()
    with pytest.raises(OutputError, match=r"not found now: 1, such as .*03\.png"):
        run(paths, output, classifier, RESUME)
    assert published(output) == before
    record = run(paths, output, classifier, FORGET)
    assert (record.unchanged, record.failed, record.gone) == (19, {"missing": 1}, 1)


def test_a_directory_that_cannot_be_listed_is_not_gone(
    classifier: Classifier, images: Path, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, scandir = published(output), os.scandir

    def refuse(path: str) -> Any:
        if path.endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    Path(f"{images}/a/0.png").write_bytes(b"damaged")  # the first that is unreadable, and was looked into
    with pytest.raises(OutputError, match=r"1 input cannot be looked into \(.*/b: .*\); .*not found now: 10"):
        run([str(images)], output, classifier, FORGET)
    assert published(output) == before


@pytest.mark.parametrize("there", [True, False])
def test_overwriting_with_inputs_that_are_not_there_costs_nothing(
    classifier: Classifier,
    images: Path,
    output: str,
    monkeypatch: pytest.MonkeyPatch,
    there: bool,  # noqa: FBT001, the folder itself
) -> None:
    monkeypatch.setattr("chexscore.store.COMMIT_INTERVAL_S", 0)
    before = published(output)
    images.rename(images.parent / "unmounted")
    if there:
        images.mkdir()
    for options in (OVERWRITE, FORGET):
        with pytest.raises(NoImageError, match="left as they were"):
            run([str(images), f"{images}/x.png"], output, classifier, options)
        assert published(output) == before
    if there:
        images.rmdir()
    (images.parent / "unmounted").rename(images)
    assert run([str(images)], output, classifier, RESUME).unchanged == 20


@pytest.mark.parametrize("options", [OVERWRITE, FORGET, RESUME])
def test_a_share_that_does_not_answer_costs_no_row(
    classifier: Classifier,
    images: Path,
    output: str,
    flat: Flat,
    monkeypatch: pytest.MonkeyPatch,
    options: Options,
) -> None:
    """Below a link that leads to itself nothing can be looked at, as below a stale mount."""
    monkeypatch.setattr("chexscore.store.COMMIT_INTERVAL_S", 0)
    run([str(images / "a"), str(images / "b")], output, classifier, OVERWRITE)
    before = published(output)
    images.rename(images.parent / "away")
    images.symlink_to(images)
    with pytest.raises(NoImageError, match=r"no image found \(.*images/a: .*left as they were"):
        run([str(images / "a"), str(images / "b")], output, classifier, options)
    other = str(flat("other/new.png", 7))
    if options is not OVERWRITE:
        with pytest.raises(OutputError, match=r"2 inputs cannot be looked into \(.*/a: .*not found now: 20"):
            run([str(images / "a"), str(images / "b"), other], output, classifier, options)
    assert published(output) == before
    images.unlink()
    (images.parent / "away").rename(images)
    record = run([str(images / "a"), str(images / "b"), other], output, classifier, RESUME)
    assert (record.unchanged >= 20, record.done, record.gone, record.unseen) == (True, 21, 0, 0)


def test_only_a_link_that_leads_to_itself_is_known_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, link = tmp_path / "loop", tmp_path / "link"
    loop.symlink_to(loop)
    link.symlink_to(tmp_path)
    assert leads_to_itself(str(loop))
    assert not leads_to_itself(str(link))
    assert not leads_to_itself(str(loop / "below"))

    stat = os.stat

    def refuse(path: Any, **how: Any) -> os.stat_result:
        if path == str(link):
            raise OSError(errno.ESTALE, "Stale file handle", path)
        return stat(path, **how)

    monkeypatch.setattr(os, "stat", refuse)
    assert not leads_to_itself(str(link))


@pytest.mark.parametrize("options", [OVERWRITE, FORGET])
def test_a_link_to_a_share_is_no_image_either(
    classifier: Classifier, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Options
) -> None:
    link, output, scandir = tmp_path / "link", str(tmp_path / "out.csv"), os.scandir
    link.symlink_to(images)
    (images / "loop.png").symlink_to("loop.png")
    run([str(link)], output, classifier)
    before = published(output)

    def refuse(path: str) -> Any:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(NoImageError, match="left as they were"):
        run([str(link)], output, classifier, options)
    assert published(output) == before
    monkeypatch.setattr(os, "scandir", scandir)
    (images / "a" / "00.png").unlink()
    record = run([str(link)], output, classifier, options)
    assert (record.done, record.unseen) == (20, 0), "a link that leads to itself keeps nothing from going on"


def test_images_that_are_all_being_copied_again_cost_no_row(
    classifier: Classifier, images: Path, output: str
) -> None:
    """As after an rsync that keeps no times."""
    before, careful = published(output), replace(RESUME, min_age=3600)
    for path in images.rglob("*.png"):
        os.utime(path)
    with pytest.raises(NoImageError, match="older than --min-age"):
        run([str(images)], output, classifier, replace(OVERWRITE, min_age=3600))
    assert published(output) == before
    assert list(plan([str(images)], output, careful)) == [], "all of them have earlier rows"
    others = images.parent / "others"
    others.mkdir()
    shutil.copy(images / "a" / "03.png", others)
    with pytest.raises(NoImageError, match="older than --min-age"):
        run([str(others)], output, classifier, careful)
    with pytest.raises(NoImageError, match="older than --min-age"):
        list(plan([str(others)], output, careful))
    with pytest.raises(NoImageError, match="older than --min-age"):
        list(plan([str(images)], output, replace(OVERWRITE, min_age=3600)))
    record = run([str(images)], output, classifier, careful)
    assert (record.found, record.unchanged, record.waiting) == (20, 20, 20)
    assert published(output)[0] == before[0]
    (images / "a" / "03.png").unlink()
    os.utime(images / "b" / "15.png", (1, 1))
    assert list(plan([str(images)], output, careful)) == [f"{images}/b/15.png"]
    with pytest.raises(OutputError, match=r"not found now: 1, such as .*03\.png"):
        run([str(images)], output, classifier, careful)
    with pytest.raises(OutputError, match="not found now: 1"):  # the state still knows the one that is gone
        run([str(images)], output, classifier, RESUME)


def test_an_overwrite_that_is_stopped_goes_on_with_its_own_rows(
    images: Path, output: str, tmp_path: Path
) -> None:
    spec = replace(brightness_spec(), version="2")
    other, stop = Classifier(brightness_model(tmp_path / "o.onnx", spec), device="cpu"), Stop()

    def watch(_: RunRecord) -> None:
        stop.reason = "SIGTERM"

    before, small = published(output), Options(batch_size=2, overwrite=True)
    done = run([str(images)], output, other, small, stop=stop, watch=watch).done
    assert published(output) == before
    assert run([str(images)], output, other, replace(small, overwrite=False, resume=True)).unchanged == done
    assert json.loads(published(output)[1])["model"]["version"] == "2"


def test_a_digit_that_changed_in_the_state_is_noticed(
    classifier: Classifier, images: Path, output: str
) -> None:
    before, state = published(output), Path(f"{output}.state")
    content = state.read_bytes()
    assert content.count(b"0.039216,0.960784") == 1
    state.write_bytes(content.replace(b"0.039216,", b"0.139216,"))
    with pytest.raises(OutputError, match=r"is damaged .*--overwrite begins anew"):
        run([str(images)], output, classifier, RESUME)
    assert published(output) == before
    run([str(images)], output, classifier, OVERWRITE)
    assert Path(output).read_bytes() == before[0]


def test_pages_that_no_row_shows_are_checked(classifier: Classifier, images: Path, output: str) -> None:
    state = Path(f"{output}.state")
    with sqlite3.connect(state) as database:
        page = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'rows_by_path'").fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    database.close()
    content = bytearray(state.read_bytes())
    content[(page[0] - 1) * size + 3] ^= 0xFF  # the number of its cells
    state.write_bytes(content)
    with pytest.raises(OutputError, match="is damaged"):
        run([str(images)], output, classifier, RESUME)
    run([str(images)], output, classifier, OVERWRITE)


def test_a_state_of_another_version_is_begun_anew(classifier: Classifier, images: Path, output: str) -> None:
    with sqlite3.connect(f"{output}.state") as database:
        database.execute("PRAGMA user_version = 0")
        database.execute("ALTER TABLE rows DROP COLUMN checksum")
    database.close()
    with pytest.raises(OutputError, match=r"another version of chexscore.*--overwrite begins anew"):
        run([str(images)], output, classifier, RESUME)
    run([str(images)], output, classifier, OVERWRITE)
    assert run([str(images)], output, classifier, RESUME).unchanged == 20


class Dying:
    """A process that is killed after so many steps that change files, and does nothing more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = sys.maxsize
        for name in ("fsync", "replace", "unlink"):
            monkeypatch.setattr(os, name, self._step(getattr(os, name)))

    def _step(self, do: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise SystemExit
            return do(*arguments)

        return counted

    @contextmanager
    def after(self, steps: int) -> Iterator[None]:
        self.left = steps
        with suppress(SystemExit):
            yield
        self.left = sys.maxsize


def test_no_crash_leaves_an_output_beside_the_record_of_another(
    classifier: Classifier, images: Path, output: str, flat: Flat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stops at each step by which the output becomes that of a later night."""
    old = published(output)
    flat("images/a/new.png", 99)
    seen: set[tuple[bool, bool | None]] = set()
    dying = Dying(monkeypatch)
    for steps in range(20):
        with dying.after(steps):
            run([str(images)], output, classifier, RESUME)
        rows, record = Path(output).read_bytes(), Path(f"{output}.run.json")
        seen.add((rows == old[0], record.read_bytes() == old[1] if record.exists() else None))
    monkeypatch.undo()
    assert (False, True) not in seen
    assert (True, False) not in seen
    assert {(True, True), (False, False)} < seen
    assert Path(output).read_bytes() == afresh(images, classifier)
    assert json.loads(published(output)[1])["found"] == 21
    Path(f"{output}.run.json").rename(f"{output}.run.json.aside")  # by a run that was killed then
    run([str(images)], output, classifier, RESUME)
    assert not list(Path(output).parent.glob("out.csv*.aside"))


def test_what_a_killed_merge_put_aside_comes_back_or_is_gone(
    classifier: Classifier, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes back as long as the merged output has not got its name, whatever else is killed by then."""
    paths = [Path(output), Path(record_path(output)), Path(store_path(output))]
    columns, old = columns_of(classifier, Options()), [path.read_bytes() for path in paths]
    dying, seen = Dying(monkeypatch), set[tuple[bytes | None, ...]]()
    for steps, again in product(range(14), range(3)):
        for path, content in zip(paths, old, strict=True):
            path.write_bytes(content)
        with dying.after(steps):
            publish(output, [], columns, str(paths[1]), b"merged", outdated=[str(paths[2])])
        with dying.after(again), locked(output, 0, Stop()):
            pass
        with locked(output, 0, Stop()):
            seen.add(tuple(path.read_bytes() if path.exists() else None for path in paths))
        assert not list(Path(output).parent.glob("out.csv*.aside"))
    (merged,) = {rows for rows, *_ in seen} - {old[0]}
    assert seen == {tuple(old), (merged, None, None), (merged, b"merged", None)}
    for name, content in (
        ("out.csv.partial", b""),
        ("out.csv.state", b"new"),
        ("out.csv.state.aside", b"old"),
    ):
        (paths[0].parent / name).write_bytes(content)
    with locked(output, 0, Stop()):
        assert paths[2].read_bytes() == b"new", "what has come to be since stays"
    assert not list(paths[0].parent.glob("out.csv*.aside"))


def test_what_is_aside_and_cannot_be_taken_back_ends_a_run_early(
    classifier: Classifier, images: Path, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would come back beside another output."""
    Path(f"{output}.run.json").rename(f"{output}.run.json.aside")

    def refuse(_: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(OutputError, match=r"run\.json\.aside cannot be written .* another user's\?$"):
        run([str(images)], output, classifier, RESUME)


@pytest.mark.parametrize("refused", ["out.csv", "out.csv.run.json"])
def test_rows_that_cannot_be_named_leave_the_earlier_output_and_its_record(
    classifier: Classifier,
    images: Path,
    output: str,
    flat: Flat,
    monkeypatch: pytest.MonkeyPatch,
    refused: str,
) -> None:
    """As in a folder like /tmp, where one of them is another user's."""
    before, rename = published(output), os.replace
    flat("images/a/new.png", 99)

    def refuse(source: str, to: str) -> None:
        if os.path.basename(source if refused.endswith(".json") else to) == refused:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        rename(source, to)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", refuse)
        said = rf"^\S+/{re.escape(refused)} cannot be written: Operation not permitted\.$"
        with pytest.raises(OutputError, match=said):
            run([str(images)], output, classifier, RESUME)
    assert published(output) == before
    run([str(images)], output, classifier, RESUME)
    assert Path(output).read_bytes() == afresh(images, classifier)
    assert not list(Path(output).parent.glob("out.csv*.aside"))


def test_a_state_that_breaks_late_leaves_output_and_record(
    classifier: Classifier, images: Path, output: str, flat: Flat, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = published(output)
    flat("images/a/new.png", 99)

    def broken(_: object) -> None:
        raise OutputError("the state is damaged")

    monkeypatch.setattr("chexscore.store.Store.settle", broken)
    with pytest.raises(OutputError):
        run([str(images)], output, classifier, RESUME)
    assert published(output) == before


def test_scores_of_smaller_batches_are_not_mixed_into_a_resumed_output(
    model: Path, images: Path, tmp_path: Path
) -> None:
    class Short(Classifier):
        """Short of memory, and its scores betray the batch they come from."""

        room = 2

        def score(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            if len(images) > self.room:
                raise MemoryError
            return super().score(images) * np.float32(1 - 0.001 * len(images))

    short, output, stop = Short(model, device="cpu"), str(tmp_path / "short.csv"), Stop()
    done: list[RunRecord] = []

    def watch(record: RunRecord) -> None:
        done.append(record)
        stop.reason = "SIGTERM" if record.done == 10 else stop.reason

    run([str(images)], output, short, Options(batch_size=4), stop=stop, watch=watch)
    assert done[-1].batch_size == 2
    short.room = 4
    again = run([str(images)], output, short, Options(batch_size=4, resume=True))
    assert (again.unchanged, again.scored, again.batch_size) == (0, 20, 4)
    run([str(images)], str(tmp_path / "whole.csv"), short, Options(batch_size=4))
    assert Path(output).read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_device_that_dies_blames_no_image(model: Path, images: Path, tmp_path: Path) -> None:
    class Dying(Classifier):
        """Cannot stand one image, and is gone soon after."""

        runs = 0

        def score(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            self.runs += 1
            if self.runs > 4 or (images == 50).all(axis=(1, 2, 3)).any():
                raise NetworkError("the device is gone")
            return super().score(images)

    output = str(tmp_path / "dying.csv")
    with pytest.raises(NetworkError):
        run([str(images)], output, Dying(model, device="cpu"), Options(batch_size=8))
    assert run([str(images)], output, Classifier(model, device="cpu"), RESUME).scored == 20
    assert b"failed" not in Path(output).read_bytes()


def test_a_dry_run_says_what_a_resume_would_score(
    classifier: Classifier, images: Path, output: str, flat: Flat
) -> None:
    flat("images/a/new.png", 99)
    os.utime(images / "b" / "15.png", (1, 1))
    assert [os.path.basename(path) for path in plan([str(images)], output, RESUME)] == ["new.png", "15.png"]
    assert len(list(plan([str(images)], output, Options()))) == 21
    unborn = f"{output}.other.csv"
    assert len(list(plan([str(images)], unborn, RESUME))) == 21
    assert not os.path.exists(f"{unborn}.state")
    assert run([str(images)], output, classifier, RESUME).scored == 2
    assert list(plan([str(images)], output, RESUME)) == [], "all of them are scored"
    images.rename(images.parent / "away")
    images.mkdir()
    gone = f"{images}/a/00.png"
    listed: list[str] = []
    for options in (RESUME, Options()):
        with pytest.raises(NoImageError, match=r"no image found in .*images"):
            listed += plan([str(images), gone], output, options)
    assert listed == [gone, gone], "behind the last path"


def test_a_dry_run_that_is_read_slowly_keeps_no_run_out(
    classifier: Classifier, images: Path, output: str, flat: Flat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chexscore.runs.GATHERED_IN_MEMORY", 1)
    names = ["a\nb.png", os.fsdecode(b"\xff.png"), "new.png"]
    for name in names:
        flat(f"images/a/{name}", 99)
    planned = plan([str(images)], output, RESUME)
    first = next(planned)
    assert run([str(images)], output, classifier, RESUME).scored == 3
    assert {os.path.basename(path) for path in (first, *planned)} == set(names)


def test_a_dry_run_names_the_folder_that_has_no_room_for_it(
    images: Path, output: str, flat: Flat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat("images/a/new.png", 99)
    monkeypatch.setattr("chexscore.runs.GATHERED_IN_MEMORY", 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    said = f"cannot be held in the folder for temporary files, {tmp_path}/gone; set TMPDIR"
    with pytest.raises(OutputError, match=said):
        list(plan([str(images)], output, RESUME))
    if os.path.exists("/dev/full"):
        with monkeypatch.context() as patched, open("/dev/full", "w+b", buffering=0) as full:
            patched.setattr("chexscore.runs.SpooledTemporaryFile", lambda _: io.BufferedRandom(full))
            with pytest.raises(OutputError, match=said):
                list(plan([str(images)], output, RESUME))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", list)
    with pytest.raises(OutputError, match="cannot be held in any folder for temporary files; set TMPDIR"):
        list(plan([str(images)], output, RESUME))


def test_a_dry_run_waits_for_another_run_as_long_as_it_is_told_to(images: Path, output: str) -> None:
    held = ExitStack()
    held.enter_context(locked(output, 0, Stop()))
    with pytest.raises(LockedError):
        list(plan([str(images)], output, RESUME))
    end = threading.Timer(0.3, held.close)
    end.start()
    assert list(plan([str(images)], output, Options(resume=True, lock_wait=60))) == []
    end.join()


def test_a_store_is_made_whole_or_not_at_all_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = str(tmp_path / "out.csv")
    state = Path(store_path(output))
    with monkeypatch.context() as patched:
        patched.setattr("chexscore.database.SCHEMA", (*SCHEMA[:-1], "no SQL"))
        with pytest.raises(OutputError):
            Store(output, ("A",), {})
    assert not state.read_bytes()
    Path(output).touch()
    with pytest.raises(UsageError, match="is not there, or empty"):
        Store(output, ("A",), {}, resume=True)
    Path(output).unlink()
    with Store(output, ("A",), {}):
        pass
    made, then = state.read_bytes(), state.stat().st_mtime_ns
    assert made
    open_database(str(state), discard_damaged=False).close()  # as --dry-run and --resume do
    assert (state.read_bytes(), state.stat().st_mtime_ns) == (made, then)


def test_of_two_that_write_one_file_the_first_publishes_nothing_and_spoils_nothing(tmp_path: Path) -> None:
    """The second takes the first one's partial file for what a killed run left."""
    target, partial = tmp_path / "out", tmp_path / "out.partial"
    target.write_bytes(b"old")
    for second_is_done in (False, True):
        first, second = ExitStack(), ExitStack()
        first.enter_context(replacing(str(target))).write(b"first")
        second.enter_context(replacing(str(target))).write(b"second")
        if second_is_done:
            second.close()
        before = target.read_bytes()
        with pytest.raises(OutputError, match=r"out cannot be written: another process writes it at the sa"):
            first.close()
        assert (target.read_bytes(), partial.exists()) == (before, not second_is_done)
        second.close()
        assert (target.read_bytes(), partial.exists()) == (b"second", False)
        target.write_bytes(b"old")
