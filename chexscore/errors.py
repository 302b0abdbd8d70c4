"""The exceptions that chexscore raises.

ChexscoreError                  anything below; `exit_code` is what the command line ends with
├── UsageError                  the request cannot be carried out as it was put (exit 2)
├── ModelError                  the file is no model that chexscore can run (exit 1)
├── NetworkError                the network could not be run on a batch (exit 1)
├── DeviceError                 a device was asked for by name and is not there (exit 5)
├── NoImageError                no image is there, or none that is old enough (exit 4)
├── LockedError                 another run writes the same output (exit 6)
├── OutputError                 the output cannot be written, or not to its end (exit 1)
├── TableError                  a CSV of predictions or labels cannot be used (exit 1)
└── ImageError                  one image cannot be scored; `status` is what its row says
    ├── MissingImageError       nothing is at that path (any more)
    ├── UnreadableImageError    damaged, truncated, or not ours to read
    ├── UnsupportedImageError   sound, but not a kind of image that is scored
    └── TooLargeImageError      more pixels than the limit

During a run an ImageError never stops anything: it becomes the row of its image.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

__all__ = [
    "ChexscoreError",
    "DeviceError",
    "ImageError",
    "LockedError",
    "MissingImageError",
    "ModelError",
    "NetworkError",
    "NoImageError",
    "OutputError",
    "TableError",
    "TooLargeImageError",
    "UnreadableImageError",
    "UnsupportedImageError",
    "UsageError",
    "exit_on_error",
    "first_line",
]

LONGEST_LINE = 300

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes of what SIGINT or SIGTERM has stopped, as shells have it: 128 and the signal's number."""


class ChexscoreError(Exception):
    """Base of every exception that chexscore raises on purpose; its text is one sentence for the user."""

    exit_code: ClassVar[int] = 1


class UsageError(ChexscoreError):
    """The request cannot be carried out as it was put."""

    exit_code = 2


class ModelError(ChexscoreError):
    """The file is no model that chexscore can run."""


class NetworkError(ChexscoreError):
    """The network could not be run on a batch."""


class DeviceError(ChexscoreError):
    """A device was asked for by name and is not there."""

    exit_code = 5


class LockedError(ChexscoreError):
    """Another run writes the same output."""

    exit_code = 6


class NoImageError(ChexscoreError):
    """No image is there, or none that is old enough."""

    exit_code = 4


class OutputError(ChexscoreError):
    """The output cannot be written, or not to its end."""


class TableError(ChexscoreError):
    """A CSV of predictions or labels cannot be used."""


class ImageError(ChexscoreError):
    """One image cannot be scored.

    Attributes:
        status: the value of its row's status column.
        path: the file, as it was given.
        reason: why, without the path: the row's note.
    """

    status: ClassVar[str] = "unreadable"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        """Makes it fit for other processes."""
        return type(self), (self.path, self.reason)


class MissingImageError(ImageError):
    """Nothing is at that path (any more)."""

    status = "missing"


class UnreadableImageError(ImageError):
    """The file is damaged, truncated, or not ours to read."""


class UnsupportedImageError(ImageError):
    """The file is sound, but not a kind of image that is scored."""

    status = "unsupported"


class TooLargeImageError(ImageError):
    """The image has more pixels than the limit."""

    status = "too_large"


def first_line(error: BaseException) -> str:
    """What an exception of another library says, in one line; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:LONGEST_LINE]


@contextmanager
def exit_on_error(program: str, stopped: str) -> Iterator[None]:
    """Ends the process with one sentence and the right exit code if what it encloses fails or is interrupted.

    Args:
        program: how the sentence begins.
        stopped: how it goes on after a signal.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, ImportError, ChexscoreError) as error:
        if code := _stopped_with(error):
            _end(f"{program}: {stopped}", code)
        if not isinstance(error, ChexscoreError):
            raise
        _end(f"{program}: error: {error}", error.exit_code)
    except OSError as error:  # a full disk, a folder that is not ours
        told = filter(None, (str(error.filename or ""), error.strerror or str(error)))
        _end(f"{program}: error: {' '.join(told)}.", 1)


def _stopped_with(error: BaseException | None) -> int:
    """The exit code if it is an interrupt, or what became of one in an extension module that was loading.

    Typer ends with that code what SIGINT stops, and so does a handler of SIGTERM. Else 0.
    """
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return INTERRUPTED
        if isinstance(error, SystemExit) and error.code in (INTERRUPTED, TERMINATED):
            return int(error.code)
        error = error.__cause__ or error.__context__
    return 0


def _end(sentence: str, code: int) -> None:
    print(sentence, file=sys.stderr, flush=True)  # noqa: T201, this is the command's output for people
    sys.exit(code)
