"""What tells a changed file from an unchanged one, and one that may still be growing from a whole one."""

import errno
import os
import stat
import time
from typing import NamedTuple, Self

__all__ = ["Fingerprint", "leads_to_itself"]

CLOCK_SKEW_S = 86400.0
"""A file further in the future than this is not young, its time is wrong."""

EARLIEST, LATEST = -(2**63), 2**63 - 1
"""The numbers that SQLite keeps; in nanoseconds the years 1677 and 2262.

Broken clocks write later ones, and Windows has the year 1601 where no time is known.
"""


class Fingerprint(NamedTuple):
    """A file's size in bytes, and time of modification in nanoseconds since 1970."""

    size: int
    mtime: int

    @classmethod
    def of(cls, path: str) -> Self | None:
        """That of the file which is at a path now; None for a directory, or if there is none to be seen."""
        try:
            status = os.stat(path)
        except (OSError, ValueError):  # a name with a NUL byte is a ValueError
            return None
        mtime = max(EARLIEST, min(status.st_mtime_ns, LATEST))
        return None if stat.S_ISDIR(status.st_mode) else cls(status.st_size, mtime)

    def is_younger(self, age: float) -> bool:
        """Whether it was written less than `age` seconds ago; a clock that is ahead makes that negative."""
        return bool(age) and -CLOCK_SKEW_S < time.time() - self.mtime / 1e9 < age


def leads_to_itself(path: str) -> bool:
    """Whether a link is at a path that can never be followed: unlike one to a share that does not answer."""
    try:
        os.stat(path)
    except (OSError, ValueError) as error:
        return getattr(error, "errno", None) == errno.ELOOP and os.path.islink(path)
    return False
