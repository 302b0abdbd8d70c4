"""Runs that go on after a stop, share an output, or meet a full disk."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chexscore import Classifier
from chexscore.errors import LockedError, NoImageError, OutputError, UsageError
from chexscore.images import READING
from chexscore.lock import locked
from chexscore.options import Options
from chexscore.predictions import Columns
from chexscore.records import RunRecord
from chexscore.runs import run
from chexscore.settings import settings_of
from chexscore.stopping import Stop
from chexscore.store import can_be_resumed
from tests.networks import brightness_model, brightness_spec

Flat = Callable[[str, int], Path]
RESUME, OVERWRITE = Options(resume=True), Options(overwrite=True)
FORGET = Options(resume=True, forget_gone=True)


@pytest.fixture
def images(flat: Flat, tmp_path: Path) -> Path:
    for value in range(40):
        flat(f"images/{value:03}.png", 5 * value)
    (tmp_path / "images" / "013.bad.png").write_text("no image")
    return tmp_path / "images"


@pytest.fixture
def whole(classifier: Classifier, images: Path, tmp_path: Path) -> bytes:
    """What a run that nobody stops writes."""
    run([str(images)], str(tmp_path / "whole.csv"), classifier)
    return (tmp_path / "whole.csv").read_bytes()


def stop_after(rows: int, stop: Stop) -> Callable[[RunRecord], None]:
    def watch(record: RunRecord) -> None:
        if record.done >= rows:
            stop.reason = "SIGTERM"

    return watch


def test_a_stopped_run_leaves_no_output_and_goes_on_to_the_same_bytes(
    classifier: Classifier, images: Path, tmp_path: Path, whole: bytes
) -> None:
    output, stop = tmp_path / "out.csv", Stop()
    record = run([str(images)], str(output), classifier, stop=stop, watch=stop_after(9, stop))
    assert 9 <= record.done < 41
    assert not output.exists()
    with pytest.raises(UsageError, match=f"rows of {record.done} images"):
        run([str(images)], str(output), classifier)
    again = run([str(images)], str(output), classifier, RESUME)
    assert again.unchanged == record.scored
    assert again.found == 41 == again.scored + again.not_scored + again.unchanged
    assert output.read_bytes() == whole


def test_resume_of_a_finished_output_scores_what_is_new_or_changed(
    classifier: Classifier, images: Path, flat: Flat, tmp_path: Path
) -> None:
    output = tmp_path / "out.csv"
    run([str(images)], str(output), classifier)
    flat("images/000a.png", 77)
    when = os.stat(images / "005.png").st_mtime_ns
    (images / "005.png").write_bytes((images / "008.png").read_bytes() + b"another size, at the same time")
    os.utime(images / "005.png", ns=(when, when))
    os.utime(images / "006.png", (1, 1))
    (images / "007.png").unlink()
    (images / "013.bad.png").unlink()
    flat("images/013.bad.png", 3)
    record = run([str(images)], str(output), classifier, FORGET)
    assert (record.scored, record.unchanged, record.gone) == (4, 37, 1)
    afresh = tmp_path / "afresh.csv"
    run([str(images)], str(afresh), classifier)
    assert output.read_bytes() == afresh.read_bytes()
    assert run([str(images)], str(output), classifier, RESUME).scored == 0
    assert output.read_bytes() == afresh.read_bytes()


def test_failures_are_tried_again(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    run([str(images)], str(output), classifier)
    assert run([str(images)], str(output), classifier, RESUME).failed == {"unreadable": 1}


def test_an_output_is_not_touched_without_a_word(
    classifier: Classifier, images: Path, tmp_path: Path, whole: bytes
) -> None:
    output = tmp_path / "out.csv"
    output.write_text("precious")
    with pytest.raises(UsageError, match="--overwrite begins anew"):
        run([str(images)], str(output), classifier)
    with pytest.raises(UsageError, match="cannot be resumed"):
        run([str(images)], str(output), classifier, RESUME)
    assert output.read_text() == "precious"
    run([str(images)], str(output), classifier, OVERWRITE)
    assert output.read_bytes() == whole


def test_rows_of_another_model_or_other_settings_are_not_mixed_in(
    classifier: Classifier, images: Path, tmp_path: Path
) -> None:
    output = str(tmp_path / "out.csv")
    run([str(images)], output, classifier)
    with pytest.raises(UsageError, match="max pixels 80000000 then and 1000 now"):
        run([str(images)], output, classifier, Options(resume=True, max_pixels=1000))
    other = Classifier(
        brightness_model(tmp_path / "o.onnx", replace(brightness_spec(), version="2")), device="cpu"
    )
    with pytest.raises(UsageError, match="batch size"):
        run([str(images)], output, classifier, Options(resume=True, batch_size=2))
    with pytest.raises(UsageError, match="model sha256"):
        run([str(images)], output, other, RESUME)
    run([str(images)], output, other, OVERWRITE)


def test_one_run_at_a_time_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    output = str(tmp_path / "out.csv")
    code = (
        "import time\nfrom chexscore.discovery import find_images\nfrom chexscore.lock import locked\n"
        "from chexscore.stopping import Stop\nfrom chexscore.store import Store\n"
        f"with locked({output!r}, 0, Stop()), Store({output!r}, ('A',), {{}}):\n"
        f"    print(*find_images({str(tmp_path)!r}), 'held', flush=True); time.sleep(60)\n"
    )  # the walk meets the lock and the state themselves
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    began, stop = time.monotonic(), Stop()
    with pytest.raises(LockedError, match="another run is writing"), locked(output, 0, stop):
        pass
    assert time.monotonic() - began < 1
    with pytest.raises(LockedError), locked(output, 0.5, stop):
        pass
    assert time.monotonic() - began >= 0.5
    with pytest.raises(LockedError), locked(output, 10**9, Stop("SIGTERM")):
        pass
    holder.kill()
    holder.communicate()
    with locked(output, 0, stop):
        pass


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(UsageError, match="cannot be locked, on this file system: No locks available"),
        locked(str(tmp_path / "out.csv"), 0, Stop()),
    ):
        pass


def test_a_lock_of_another_user_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a patch, because root may open any file."""

    def refuse(path: str, *_: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("builtins.open", refuse)
    with (
        pytest.raises(UsageError, match=r"out\.csv\.lock cannot be written \(Permission denied\): is it, or"),
        locked(str(tmp_path / "out.csv"), 0, Stop()),
    ):
        pass


def test_an_output_inside_the_folder_that_is_scored(
    classifier: Classifier, images: Path, whole: bytes
) -> None:
    output = images / "out.csv"
    (images / "other.csv.state.aside").write_bytes(bytes(128) + b"DICM")  # whatever is in it
    for options in (Options(), RESUME, RESUME):
        record = run([str(images)], str(output), classifier, options)
        assert output.read_bytes() == whole
    assert record.unchanged == 40


def test_an_input_that_is_not_there_tonight_costs_no_row(
    classifier: Classifier, images: Path, tmp_path: Path, whole: bytes
) -> None:
    output = tmp_path / "out.csv"
    run([str(images)], str(output), classifier)
    images.rename(tmp_path / "unmounted")
    for there in (False, True):
        if there:
            images.mkdir()
        with pytest.raises(NoImageError, match="left as they were"):
            run([str(images)], str(output), classifier, RESUME)
        assert output.read_bytes() == whole
    images.rmdir()
    (tmp_path / "unmounted").rename(images)
    again = run([str(images)], str(output), classifier, RESUME)
    assert (again.unchanged, again.gone) == (40, 0)


def test_a_directory_that_cannot_be_listed_tonight_costs_no_row(
    classifier: Classifier, images: Path, tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, scandir = tmp_path / "out.csv", os.scandir
    run([str(images)], str(output), classifier)

    def refuse(path: str) -> Any:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    for options in (RESUME, OVERWRITE):
        with pytest.raises(NoImageError, match=r"images: a directory that cannot be listed\); .* left as"):
            run([str(images)], str(output), classifier, options)
    assert output.read_bytes() == whole
    monkeypatch.setattr(os, "scandir", scandir)
    assert run([str(images)], str(output), classifier, RESUME).unchanged == 40
    assert output.read_bytes() == whole


def test_a_young_file_keeps_its_row_until_it_is_old_enough(
    classifier: Classifier, images: Path, tmp_path: Path, flat: Flat, whole: bytes
) -> None:
    """Also if it has changed: it may be being copied, and would else leave the output for a night."""
    output, careful = tmp_path / "out.csv", Options(resume=True, min_age=3600)
    run([str(images)], str(output), classifier)
    flat("images/003.png", 99)
    flat("images/new.png", 7)
    for _ in range(2):
        record = run([str(images)], str(output), classifier, careful)
        assert (record.found, record.unchanged, record.waiting, record.gone) == (40, 40, 3, 0)
        assert output.read_bytes() == b"".join(x for x in whole.splitlines(keepends=True) if b".bad" not in x)
    old = time.time() - 4000
    for name in ("003.png", "new.png", "013.bad.png"):
        os.utime(images / name, (old, old))
    record = run([str(images)], str(output), classifier, careful)
    assert (record.scored, record.unchanged, record.not_scored, record.waiting) == (2, 39, 1, 0)
    run([str(images)], str(tmp_path / "afresh.csv"), classifier)
    assert output.read_bytes() == (tmp_path / "afresh.csv").read_bytes()


def test_an_image_that_is_named_twice_keeps_both_rows(
    classifier: Classifier, images: Path, tmp_path: Path, flat: Flat
) -> None:
    output, inputs = tmp_path / "out.csv", [str(images / "003.png"), str(images / "003.png")]
    run(inputs, str(output), classifier)
    whole = output.read_bytes()
    assert run(inputs, str(output), classifier, RESUME).unchanged == 2
    flat("images/003.png", 99)
    record = run(inputs, str(output), classifier, Options(resume=True, min_age=3600))
    assert (record.unchanged, record.waiting) == (2, 2)
    assert output.read_bytes() == whole


def test_files_from_a_clock_that_is_ahead_are_young(
    classifier: Classifier, images: Path, tmp_path: Path
) -> None:
    ahead = time.time() + 30
    for path in images.iterdir():
        os.utime(path, (ahead, ahead))
    with pytest.raises(NoImageError, match=r"no image is older than --min-age"):
        run([str(images)], str(tmp_path / "out.csv"), classifier, Options(min_age=60))
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("when", [2**63 + 10**17, -(2**63) - 10**17])  # the years 2265 and 1674
def test_a_file_from_beyond_what_sqlite_counts_is_scored_and_resumed(
    classifier: Classifier, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    stat = os.stat

    def of_that_year(path: Any, **options: Any) -> os.stat_result:
        found = stat(path, **options)
        return os.stat_result(found[:10], {"st_mtime_ns": when}) if str(path).endswith("003.png") else found

    monkeypatch.setattr(os, "stat", of_that_year)  # not every file system keeps such times
    run([str(images)], str(tmp_path / "out.csv"), classifier)
    assert run([str(images)], str(tmp_path / "out.csv"), classifier, RESUME).unchanged == 40


def test_a_link_stays_one(classifier: Classifier, images: Path, tmp_path: Path, whole: bytes) -> None:
    (tmp_path / "there").mkdir()
    output, real = tmp_path / "out.csv", tmp_path / "there" / "tonight.csv"
    output.symlink_to(real)
    for options in (Options(), RESUME, OVERWRITE):
        run([str(images)], str(output), classifier, options)
        assert output.is_symlink()
        assert real.read_bytes() == whole
    with locked(str(output), 0, Stop()), pytest.raises(LockedError):
        run([str(images)], str(real), classifier, OVERWRITE)
    assert run([str(images)], str(real), classifier, RESUME).unchanged == 40, "it has one state and record"
    assert sorted(path.name for path in tmp_path.glob("out.csv*")) == ["out.csv"]
    assert Path(f"{real}.run.json").exists()


def test_who_may_read_an_output_stays(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    run([str(images)], str(output), classifier)
    modes = {output: 0o640, Path(f"{output}.run.json"): 0o600, Path(f"{output}.state"): 0o600}
    for path, mode in modes.items():
        path.chmod(mode)
    run([str(images)], str(output), classifier, OVERWRITE)
    assert modes_of(output) == {path.name: mode for path, mode in modes.items()}


@pytest.mark.parametrize("begun", [True, False])
def test_nobody_else_may_read_what_becomes_an_output_either(
    classifier: Classifier, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, begun: bool
) -> None:
    """Whatever stands beside it, from its first byte on, and whatever stood there before."""
    output, fsync, seen = tmp_path / "out.csv", os.fsync, dict[str, int]()
    if begun:
        run([str(images)], str(output), classifier)
        Path(f"{output}.run.json").chmod(0o644)
    else:
        output.touch()
    output.chmod(0o400)  # which keeps no run from replacing it
    Path(f"{output}.partial").touch(0o444)

    def look(*_: object) -> None:
        seen.update(modes_of(output))

    def fsync_seen(file: int) -> None:
        look()
        fsync(file)

    monkeypatch.setattr(os, "fsync", fsync_seen)
    run([str(images)], str(output), classifier, OVERWRITE, watch=look)
    look()
    assert seen == {
        "out.csv": 0o400,
        "out.csv.partial": 0o400,
        "out.csv.run.json": 0o400,
        "out.csv.run.json.partial": 0o400,
        "out.csv.state": 0o600,
        "out.csv.state-journal": 0o600,
    }


def modes_of(output: Path) -> dict[str, int]:
    """Of an output and what stands beside it, but for the lock, which is empty."""
    there = (path for path in output.parent.glob(f"{output.name}*") if path.suffix != ".lock")
    return {path.name: path.stat().st_mode & 0o777 for path in there}


def test_columns_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="two columns would be called X_positive"):
        Columns(("X", "X_positive"), thresholds={"X": 0.5})


def test_new_versions_of_decoders_are_other_settings(
    classifier: Classifier, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = str(tmp_path / "out.csv")
    run([str(images)], output, classifier)
    monkeypatch.setattr("chexscore.settings.version", lambda _: "99")
    with pytest.raises(UsageError, match=r"decoders .* then and numpy 99, pillow 99"):
        run([str(images)], output, classifier, RESUME)
    monkeypatch.undo()
    monkeypatch.setattr("chexscore.settings.READING", 99)
    with pytest.raises(UsageError, match=f"reading of images {READING} then and 99 now"):
        run([str(images)], output, classifier, RESUME)


def test_resume_and_overwrite_exclude_each_other(classifier: Classifier, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exclude"):
        run([], str(tmp_path / "out.csv"), classifier, Options(resume=True, overwrite=True))
    with pytest.raises(UsageError, match="goes with --resume"):
        run([], str(tmp_path / "out.csv"), classifier, Options(forget_gone=True))


def test_a_list_with_names_that_cannot_be_is_no_end(
    classifier: Classifier, images: Path, tmp_path: Path
) -> None:
    paths = [str(images / "000.png"), "a\0b.png", "x" * 5000, str(images / "001.png")]
    record = run(paths, str(tmp_path / "out.csv"), classifier)
    assert (record.scored, record.not_scored) == (2, 2)


SLOWLY = """
import sys, time
from chexscore import scoring, store
from chexscore.cli import main

load, store.COMMIT_INTERVAL_S = scoring.load_image, 0

def slow(*arguments, **options):
    time.sleep(0.1)
    return load(*arguments, **options)

scoring.load_image = slow
main()
"""


def kept_rows(output: Path) -> int:
    state = Path(f"{output}.state")
    with (
        suppress(sqlite3.OperationalError),
        closing(sqlite3.connect(f"file:{state}?mode=ro", uri=True)) as rows,
    ):
        return int(rows.execute("SELECT count(DISTINCT path) FROM rows").fetchone()[0])
    return 0


def test_a_run_killed_whenever_it_has_new_rows_goes_on_to_the_same_bytes(
    model: Path, images: Path, tmp_path: Path, whole: bytes
) -> None:
    output, kills, kept = tmp_path / "out.csv", 0, 0
    command = [sys.executable, "-c", SLOWLY, "predict", images, "-o", output, "-m", model, "--resume", "-q"]
    for _ in range(2):
        with subprocess.Popen(list(map(str, command))) as running:
            while running.poll() is None and kept_rows(output) <= kept:
                time.sleep(0.01)
            running.kill()
        kills += running.returncode == -signal.SIGKILL
        kept = kept_rows(output)
        assert not output.exists()
    assert kills == 2
    assert 0 < kept < 41
    assert subprocess.run(list(map(str, command)), check=False).returncode == 3
    assert output.read_bytes() == whole
    assert (
        json.loads(Path(f"{output}.run.json").read_text())["unchanged"] >= kept - 1
    )  # the bad one is tried again


def test_young_files_wait_for_the_next_run(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    old = time.time() - 100
    for path in sorted(images.iterdir())[:30]:
        os.utime(path, (old, old))
    record = run([str(images)], str(tmp_path / "out.csv"), classifier, Options(min_age=60))
    assert (record.found, record.waiting) == (30, 11)
    assert len((tmp_path / "out.csv").read_bytes().splitlines()) == 31


def test_the_time_limit_stops_a_run_that_goes_on_later(
    classifier: Classifier, images: Path, tmp_path: Path, whole: bytes
) -> None:
    stop, output = Stop(), tmp_path / "out.csv"
    limited = Options(max_duration=0.5)
    done = run([str(images)], str(output), classifier, limited, stop=stop, watch=lambda _: time.sleep(0.1))
    assert stop.reason == "--max-duration"
    assert 0 < done.done < 41
    assert not output.exists()
    assert run([str(images)], str(output), classifier, RESUME).unchanged == done.scored
    assert output.read_bytes() == whole


def test_a_row_that_is_lost_is_noticed() -> None:
    record = RunRecord("0", {}, {}, {}, "cpu", 8, "", found=2, scored=1)
    with pytest.raises(OutputError, match="of 2 images found only 1"):
        record.check()


def test_a_full_disk_keeps_what_there_is(
    classifier: Classifier, images: Path, tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.csv"
    fsync = os.fsync

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    told = list[RunRecord]()
    with pytest.raises(OutputError, match=r"out\.csv cannot be written: No space left on device"):
        run([str(images)], str(output), classifier, watch=told.append)
    assert not told[-1].finished
    monkeypatch.setattr(os, "fsync", fsync)
    assert not output.exists()
    assert run([str(images)], str(output), classifier, RESUME).unchanged == 40
    assert output.read_bytes() == whole


def test_a_damaged_state_is_told_and_can_be_begun_anew(
    classifier: Classifier, images: Path, tmp_path: Path, whole: bytes
) -> None:
    output, state = tmp_path / "out.csv", tmp_path / "out.csv.state"
    state.write_text("this is no database, and long enough to be noticed " * 100)
    with pytest.raises(OutputError, match="is damaged"):
        run([str(images)], str(output), classifier, RESUME)
    run([str(images)], str(output), classifier, OVERWRITE)
    assert output.read_bytes() == whole
    pages = bytearray(state.read_bytes())
    pages[4096:] = os.urandom(len(pages) - 4096)
    state.write_bytes(pages)
    with pytest.raises(OutputError, match="--overwrite begins anew"):
        run([str(images)], str(output), classifier, RESUME)
    assert output.read_bytes() == whole
    run([str(images)], str(output), classifier, OVERWRITE)
    assert output.read_bytes() == whole


def test_rows_can_be_resumed_that_are_whole_and_of_the_same_settings(
    classifier: Classifier, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, state, now = (
        str(tmp_path / "out.csv"),
        tmp_path / "out.csv.state",
        settings_of(classifier, RESUME),
    )
    assert not can_be_resumed(output, now)
    assert not state.exists(), "to look leaves nothing"
    stop = Stop()
    run([str(images)], output, classifier, stop=stop, watch=stop_after(2, stop))
    assert can_be_resumed(output, now)
    assert not can_be_resumed(output, settings_of(classifier, replace(RESUME, max_pixels=7)))
    with closing(sqlite3.connect(state)) as database:
        database.execute("DROP VIEW certain")  # states were made without it before
    assert can_be_resumed(output, now)
    assert run([str(images)], output, classifier, RESUME).unchanged
    Path(output).unlink()
    whole = state.read_bytes()
    with closing(sqlite3.connect(state)) as database:
        database.execute("UPDATE rows SET note = 'something else'")
        database.commit()
    assert not can_be_resumed(output, now)
    for content in (b"", b"no database" * 1000):
        state.write_bytes(content)
        assert not can_be_resumed(output, now)
    state.write_bytes(whole)

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(sqlite3, "connect", fail)
    assert can_be_resumed(output, now), "or --overwrite would throw away what is there"


def connecting_with(pragma: str) -> Callable[..., sqlite3.Connection]:
    """What opens a database as sqlite3.connect does now, under a restriction."""
    connect = sqlite3.connect

    def restricted(path: str, **options: Any) -> sqlite3.Connection:
        database: sqlite3.Connection = connect(path, **options)
        database.execute(f"PRAGMA {pragma}")
        return database

    return restricted


def test_a_state_of_another_user_is_not_taken_for_a_full_disk(
    classifier: Classifier, images: Path, tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.csv"
    run([str(images)], str(output), classifier)
    monkeypatch.setattr(sqlite3, "connect", connecting_with("query_only = 1"))
    with pytest.raises(OutputError, match=r"out\.csv\.state cannot be written .*another user's\?$"):
        run([str(images)], str(output), classifier, RESUME)
    assert output.read_bytes() == whole


def test_a_state_that_finds_no_room_leaves_the_earlier_output(
    classifier: Classifier, images: Path, tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, connect = tmp_path / "out.csv", sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", connecting_with("max_page_count = 6"))
    for options in (Options(), RESUME):
        with pytest.raises(OutputError, match=r"disk is full\); once there is room, --resume goes on with"):
            run([str(images)], str(output), classifier, options)
        assert not output.exists()
    monkeypatch.setattr(sqlite3, "connect", connect)
    run([str(images)], str(output), classifier, RESUME)
    assert output.read_bytes() == whole


def test_an_overwrite_without_room_for_its_first_rows_begins_anew(
    classifier: Classifier, images: Path, tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.csv"
    run([str(images)], str(output), classifier)
    monkeypatch.setattr(sqlite3, "connect", connecting_with("max_page_count = 6"))
    for seconds, said in (
        (3600, "the same command begins anew"),
        (0, "--resume instead of --overwrite goes on"),
    ):
        monkeypatch.setattr("chexscore.store.COMMIT_INTERVAL_S", seconds)
        with pytest.raises(OutputError, match=rf"is full\); once there is room, {said}"):
            run([str(images)] * 10, str(output), classifier, OVERWRITE)
    assert output.read_bytes() == whole


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SQLITE_BUSY", r"out\.csv\.state cannot be used \(.*\): another program has it open"),
        (
            "SQLITE_IOERR_WRITE",
            r"rows cannot be read or kept \(.*\): .* a quota used up; .*, --resume goes on with what",
        ),
        ("SQLITE_ERROR", r"out\.csv\.state cannot be read or written \(.*\): look at its disk\.$"),
    ],
)
def test_what_room_on_the_disk_does_not_mend_is_not_put_down_to_it_alone(
    classifier: Classifier,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    said: str,
) -> None:
    def broken(*_: object, **__: object) -> None:
        error = sqlite3.OperationalError("as SQLite puts it")
        error.sqlite_errorname = name
        raise error

    monkeypatch.setattr(sqlite3, "connect", broken)
    with pytest.raises(OutputError, match=said):
        run([str(images)], str(tmp_path / "out.csv"), classifier)


def test_a_place_that_cannot_be_written_is_told(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    for output, said in (
        (tmp_path, "is a directory"),
        (tmp_path / "none" / "out.csv", "cannot be written"),
    ):
        with pytest.raises(UsageError, match=said):
            run([str(images)], str(output), classifier)


def test_json_lines_and_parquet_hold_the_same(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    options = Options(thresholds=True)
    run([str(images)], str(tmp_path / "out.jsonl"), classifier, options)
    run([str(images)], str(tmp_path / "out.parquet"), classifier, options)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines == parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert lines[1] == {
        "path": f"{images}/001.png",
        "status": "ok",
        "Bright": 0.019608,
        "Dark": 0.980392,
        "note": "",
        "Bright_positive": 0,
        "Dark_positive": 1,
    }
    assert lines[13]["status"] == "unreadable"
    assert lines[13]["Bright"] is None


def test_the_state_holds_one_row_for_each_image_after_many_runs(
    classifier: Classifier, images: Path, tmp_path: Path
) -> None:
    for _ in range(3):
        run([str(images)], str(tmp_path / "out.csv"), classifier, RESUME)
    with sqlite3.connect(tmp_path / "out.csv.state") as database:
        assert database.execute("SELECT count(*) FROM rows").fetchone() == (41,)
    database.close()


def test_a_list_of_new_images_alone_is_told_that_all_are_to_be_named(
    classifier: Classifier, images: Path, tmp_path: Path
) -> None:
    output, every = str(tmp_path / "out.csv"), sorted(map(str, images.glob("*.png")))
    run(every[:4], output, classifier)
    for named, said in ((every[4:5], "new images alone"), (every[3:5], "once they are back, and named with")):
        with pytest.raises(OutputError, match=said):
            run(named, output, classifier, RESUME)
