import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from chexscore.ahead import work_ahead
from chexscore.errors import ChexscoreError


def test_many_come_in_order_and_no_further_ahead_than_asked() -> None:
    taken = 0

    def paths() -> Iterator[str]:
        nonlocal taken
        for number in range(40):
            taken += 1
            yield str(number)

    def load(path: str) -> int:
        time.sleep(0.002 * (int(path) % 3))  # later ones are ready before earlier ones
        return 2 * int(path)

    for done, (path, loaded) in enumerate(work_ahead(paths(), load, workers=4, ahead=6)):
        assert (path, loaded) == (str(done), 2 * done)
        assert taken <= done + 7
    assert taken == 40


def test_leaving_early_stops_the_threads() -> None:
    begun = []

    def work(item: str) -> None:
        begun.append(item)
        time.sleep(0.02)

    results = work_ahead(map(str, range(100)), work, workers=2, ahead=4)
    next(results)
    results.close()  # type: ignore[attr-defined]
    known = len(begun)
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("chexscore-ahead")]
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert len(begun) == known, "nothing is begun any more"


BEGINNING = """
results = work_ahead(map(str, range(100)), len, workers=2, ahead=4)
next(results)
with getattr(threading, "_shutdown_locks_lock", threading.Lock()):
    results.close()
"""
"""A thread that begins holds a lock of threading's, which joining another one takes."""

WORKING = """
def work(item):
    time.sleep(0.2)
    if item == "1":
        ready.wait()
        results.close()

ready = threading.Event()
results = work_ahead(map(str, range(100)), work, workers=2, ahead=4)
next(results)
ready.set()
"""
"""A thread that works would wait for itself."""


@pytest.mark.parametrize("script", [BEGINNING, WORKING])
def test_garbage_collection_in_any_thread_waits_for_nobody(script: str) -> None:
    script = f"import threading, time\nfrom chexscore.ahead import work_ahead\n{script}"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_too_many_processes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(ChexscoreError, match=r"can't start new thread: there are too many \(ulimit"):
        next(work_ahead(["1"], int, workers=2, ahead=4))


def test_what_goes_wrong_in_a_thread_is_raised_in_its_turn() -> None:
    results = work_ahead(["1", "x", "2"], int, workers=2, ahead=4)
    assert next(results) == ("1", 1)
    with pytest.raises(ValueError, match="x"):
        next(results)
