"""The time limit holds wherever a run can wait."""

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from chexscore import Classifier, find_images
from chexscore.__main__ import main
from chexscore.discovery import read_list
from chexscore.errors import UsageError
from chexscore.lock import locked
from chexscore.options import Options
from chexscore.runs import run
from chexscore.stopping import MAX_DURATION, Stop, stopped_by_signals

SOON = Options(max_duration=0.3)


def stopped_in_time(
    paths: list[str] | Iterator[str], output: Path, classifier: Classifier, stop: Stop
) -> bool:
    began = time.monotonic()
    record = run(paths, str(output), classifier, SOON, stop=stop)
    assert time.monotonic() - began < 5
    return not record.finished and stop.reason == MAX_DURATION


def test_a_silent_list(classifier: Classifier, tmp_path: Path) -> None:
    read, write = os.pipe()
    with open(read, "rb") as silent, open(write, "wb") as other_end:
        stop, end = Stop(), threading.Timer(5, other_end.close)
        end.start()
        assert stopped_in_time(read_list(silent, stop), tmp_path / "out.csv", classifier, stop)
        end.cancel()


def test_another_run_that_holds_the_lock(classifier: Classifier, tmp_path: Path) -> None:
    output, stop = tmp_path / "out.csv", Stop()
    patient = Options(max_duration=0.3, lock_wait=5, resume=True)
    with locked(str(output), 0, Stop()):
        record = run([], str(output), classifier, patient, stop=stop)
    assert stop.reason == MAX_DURATION
    assert not record.finished


def test_files_that_are_no_images(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, looked = tmp_path / "many", 0
    folder.mkdir()
    for number in range(100):
        (folder / f"{number}.txt").touch()
    splitext = os.path.splitext

    def slow(name: str) -> tuple[str, str]:
        nonlocal looked
        looked += 1
        time.sleep(0.02)
        return splitext(name)

    stop = Stop()
    with monkeypatch.context() as patched:
        patched.setattr("chexscore.discovery.os.path.splitext", slow)
        assert stopped_in_time([str(folder)], tmp_path / "out.csv", classifier, stop)
    assert 0 < looked < 50


def test_named_paths(tmp_path: Path) -> None:
    stop = Stop()
    walk = find_images([str(tmp_path / "a"), str(tmp_path / "b")], stop=stop)
    assert next(walk).endswith("a")
    stop.deadline = 0
    assert list(walk) == []


def test_a_time_that_ends_behind_the_last_image_is_no_stop(classifier: Classifier, tmp_path: Path) -> None:
    """Everything has its row then, and waiting for another run would gain nothing."""
    stop = Stop()

    def paths() -> Iterator[str]:
        yield str(tmp_path / "gone.png")

    def late(_: object) -> None:
        stop.deadline = 0

    record = run(
        paths(), str(tmp_path / "out.csv"), classifier, Options(max_duration=60), stop=stop, watch=late
    )
    assert record.finished


def test_signals_do_again_what_they_did_before() -> None:
    def handler(_: int, __: object) -> None:
        """Another one than Python's own."""

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        with stopped_by_signals() as stop:
            signal.raise_signal(signal.SIGTERM)
            assert stop.reason == "SIGTERM"
        assert [signal.getsignal(number) for number in numbers] == [handler, handler]
    finally:
        for number, earlier in zip(numbers, before, strict=True):
            signal.signal(number, earlier)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_modules_are_loaded_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, sent: signal.Signals, code: int
) -> None:
    class Loading:
        @property
        def main(self) -> None:
            signal.raise_signal(sent)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setitem(sys.modules, "chexscore.cli", Loading())
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert ended.value.code == code


def test_a_signal_comes_before_the_clock() -> None:
    stop = Stop("SIGTERM", deadline=0)
    assert stop.asked()
    assert stop.reason == "SIGTERM"
    assert list(read_list(io.BytesIO(b"a"), stop)) == []


@pytest.mark.parametrize("at_once", [1, 100])
def test_a_byte_order_mark_is_no_part_of_the_first_path(at_once: int) -> None:
    assert listed(b"\xef\xbb\xbfa.png\r\n\r\nb.png\r\n", at_once) == ["a.png", "b.png"]
    assert listed(b"a\n", at_once) == ["a"]
    assert listed(b"a\0b\nc\0", at_once) == ["a", "b\nc"]
    for encoding in ("utf-16-le", "utf-16-be"):
        with pytest.raises(UsageError, match="the list is UTF-16; save it as UTF-8"):
            listed("\ufeffa/b.png\n".encode(encoding), at_once)


def test_a_path_does_not_wait_for_the_next_one() -> None:
    reading, writing = os.pipe()
    seen = threading.Event()

    def bring() -> None:
        for part in (b"a.png", b"\n"):
            os.write(writing, part)
            time.sleep(0.05)
        seen.wait(10)
        os.close(writing)

    thread = threading.Thread(target=bring)
    thread.start()
    with open(reading, "rb") as pipe:
        stop = Stop(deadline=time.monotonic() + 5)
        assert next(read_list(pipe, stop)) == "a.png"
        assert not stop.reason, "it came by itself"
        seen.set()
        thread.join()


def listed(content: bytes, at_once: int) -> list[str]:
    """What is read of a pipe that brings a few bytes at once."""
    reading, writing = os.pipe()

    def bring() -> None:
        with open(writing, "wb", buffering=0) as pipe, suppress(BrokenPipeError):
            for begin in range(0, len(content), at_once):
                pipe.write(content[begin : begin + at_once])
                time.sleep(0.002)

    thread = threading.Thread(target=bring)
    thread.start()
    try:
        with open(reading, "rb") as pipe:
            return list(read_list(pipe))
    finally:
        thread.join()
