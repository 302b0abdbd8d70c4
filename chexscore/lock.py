"""One run at a time for each output: a lock that the kernel holds, and drops when its process dies."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from chexscore.beside import LOCK, beside, cannot_write, take_back_all
from chexscore.errors import LockedError, UsageError
from chexscore.stopping import Stop

__all__ = ["locked"]

POLL_S = 0.1


@contextmanager
def locked(output: str, wait: float, stop: Stop) -> Iterator[None]:
    """Holds the lock of an output; the empty file `<output>.lock` that it is held on stays behind.

    What stands beside the output is as the last run meant it to be, also where that was killed.

    Args:
        output: the file to write.
        wait: seconds to wait for another run.
        stop: ends the waiting.

    Raises:
        LockedError: another run holds it, and did to the end of the waiting.
        UsageError: the place cannot be written, or its file system has no locks.
        OutputError: what a run left that was killed cannot be put right.
    """
    deadline = time.monotonic() + wait
    path = beside(output, LOCK)
    try:
        file = open(path, "ab")  # noqa: SIM115, closed below, with everything that is done in between
    except PermissionError as error:
        raise UsageError(cannot_write(path, error.strerror)) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
    with file:
        while not _take(file, output):
            if stop.asked() or time.monotonic() >= deadline:
                raise LockedError(
                    f"another run is writing {output}; wait for its end, as predict --lock-wait 5m does."
                )
            time.sleep(POLL_S)
        take_back_all(output)
        yield


if sys.platform == "win32":
    import msvcrt

    def _take(file: BinaryIO, _: str) -> bool:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _take(file: BinaryIO, output: str) -> bool:
        """By flock: unlike the other kind it is not lost when the file is opened and closed elsewhere."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise UsageError(f"{output} cannot be locked, on this file system: {error.strerror}.") from error
        return True
