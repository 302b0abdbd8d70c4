import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from chexscore.ahead import work_ahead


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
    working = []

    def work(item: str) -> str:
        working.append(item)
        time.sleep(0.02)
        working.remove(item)
        return item

    results = work_ahead(map(str, range(100)), work, workers=2, ahead=4)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert not working
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("chexscore-ahead")]
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def test_garbage_collection_in_a_thread_that_begins_waits_for_nobody() -> None:
    """Then the thread holds a lock of threading's, which joining another one takes."""
    script = (
        "import threading\nfrom chexscore.ahead import work_ahead\n"
        "results = work_ahead(map(str, range(100)), len, workers=2, ahead=4)\nnext(results)\n"
        "lock = getattr(threading, '_shutdown_locks_lock', threading.Lock())\n"
        "with lock: results.close()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_what_goes_wrong_in_a_thread_is_raised_in_its_turn() -> None:
    results = work_ahead(["1", "x", "2"], int, workers=2, ahead=4)
    assert next(results) == ("1", 1)
    with pytest.raises(ValueError, match="x"):
        next(results)
