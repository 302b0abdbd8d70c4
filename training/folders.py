"""Folders that a command fills: made where they are missing, and its own."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from chexscore.errors import LockedError, UsageError
from chexscore.lock import locked
from chexscore.stopping import Stop

__all__ = ["alone", "check_folder", "check_free", "make"]


def check_folder(path: Path) -> None:
    """Raises a UsageError if a file is there that is no folder."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file; give a folder.")


def make(folder: Path) -> None:
    """Makes a folder where it is missing.

    Raises:
        UsageError: a file has that name, or the folder cannot be made.
    """
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror}; give another folder.") from error


def check_free(folder: Path, names: Iterable[str]) -> None:
    """Sees to it that no file of these names is there: it would be replaced.

    Raises:
        UsageError: one is; the text names it.
    """
    for name in names:
        if os.path.lexists(folder / name):
            raise UsageError(f"{folder} holds something else, such as {name}; give another folder.")


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Makes the folder of a file, and holds the file's lock.

    Raises:
        UsageError: another process holds it, or the folder cannot be made or written.
    """
    make(file.parent)
    try:
        with locked(str(file), 0, Stop()):
            yield
    except LockedError as error:
        raise UsageError(f"{file.parent}: another process fills it; wait for its end.") from error
