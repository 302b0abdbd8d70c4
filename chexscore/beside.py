"""What stands beside an output, under its name and a suffix; for a link beside what it points to."""

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from functools import reduce
from operator import and_

from chexscore.errors import OutputError

__all__ = [
    "ASIDE",
    "LOCK",
    "PARTIAL",
    "RECORD",
    "STORE",
    "SUFFIXES",
    "beside",
    "cannot_write",
    "copy_mode",
    "record_path",
    "store_path",
    "take_back",
    "take_back_all",
    "withhold",
]

PARTIAL, LOCK, RECORD, STORE = ".partial", ".lock", ".run.json", ".state"

ASIDE = ".aside"
"""What a file of an earlier output is called for the moment in which the output is replaced."""

SUFFIXES = (PARTIAL, LOCK, RECORD, STORE, f"{STORE}-journal", f"{RECORD}{ASIDE}", f"{STORE}{ASIDE}")
"""Of these files, and what SQLite keeps beside its own."""


def beside(output: str, suffix: str) -> str:
    """The file with this suffix. By whichever link an output is named, it is the same one."""
    return f"{os.path.realpath(output) if os.path.islink(output) else output}{suffix}"


def record_path(output: str) -> str:
    """Where the record of an output stands."""
    return beside(output, RECORD)


def store_path(output: str) -> str:
    """Where the rows of an output are kept."""
    return beside(output, STORE)


def cannot_write(path: str, why: object) -> str:
    """The sentence for one of these files that this user may not write."""
    return f"{path} cannot be written ({why}): is it, or its folder, another user's?"


def take_back(path: str, partial: str) -> None:
    """Gives a file of an earlier output its name back, if it is aside and the new output still partial.

    If that has got its name, or the file's is taken, the one aside goes for good.
    """
    aside = f"{path}{ASIDE}"
    if not os.path.lexists(aside):
        return
    if os.path.lexists(partial) and not os.path.lexists(path):
        os.replace(aside, path)
    else:
        os.unlink(aside)


def take_back_all(output: str) -> None:
    """Ends what a run began that was killed while it replaced an output; before anything new is partial.

    Raises:
        OutputError: it cannot be ended, and by a later run might be for another output.
    """
    for path in (record_path(output), store_path(output)):
        try:
            take_back(path, beside(output, PARTIAL))
        except OSError as error:
            raise OutputError(cannot_write(f"{path}{ASIDE}", error.strerror)) from error


def copy_mode(path: str, *likes: str) -> None:
    """Lets only those use a file, before anything is in it, who may use each of some others that is there."""
    if there := list(filter(os.path.exists, likes)):
        with suppress(OSError):  # its file system knows no such thing
            os.chmod(path, _allowed_by_all(there))


def withhold(path: str, output: str) -> None:
    """Makes a file that is kept for runs to come one that nobody may read who may not read the output.

    It begins empty with the output's mode; one that is there loses what this lacks. It stays ours to write.
    """
    if not os.path.exists(output):
        return
    with suppress(OSError):  # another user's, or its file system knows no such thing
        allowed = _allowed_by_all([output, *filter(os.path.exists, [path])])
        if not os.path.exists(path):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, stat.S_IRUSR | stat.S_IWUSR))
        os.chmod(path, allowed | stat.S_IRUSR | stat.S_IWUSR)


def _allowed_by_all(paths: Iterable[str]) -> int:
    return reduce(and_, (stat.S_IMODE(os.stat(path).st_mode) for path in paths))
