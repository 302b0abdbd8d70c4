"""What is said on standard error: lines for people or, with --log-json, one JSON object a line."""

import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TextIO, cast

__all__ = ["cannot_hold", "counted", "in_short", "log", "open_streams", "say", "speak_json", "visible"]

STDERR = 2

ONE = {
    "images": "image",
    "files": "file",
    "studies": "study",
    "patients": "patient",
    "cases": "case",
    "lines": "line",
    "predictions": "prediction",
    "comparisons": "comparison",
    "values": "value",
    "inputs": "input",
}
"""Of what is counted."""


class _Undaunted:
    """A stream that goes on when its disk is full or nobody reads it any more: words never end a run."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


_as_json = False


def speak_json() -> None:
    """Makes each line that is said from here on a JSON object."""
    global _as_json  # noqa: PLW0603, a process has one standard error
    _as_json = True


def say(line: str, event: str = "message") -> None:
    """Says one line of text, whose control characters are made visible; as JSON it is an event."""
    if _as_json:
        log(event, text=line)
    else:
        print(visible(line), file=sys.stderr, flush=True)  # noqa: T201, this is the place for it


def log(event: str, **fields: object) -> None:
    """Writes one JSON object as a line."""
    moment = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"time": moment, "event": event, **fields})
    print(line, file=sys.stderr, flush=True)  # noqa: T201, as above


def counted(number: int, what: str) -> str:
    """A number before words of which the first noun that is counted here, in the plural, goes by it."""
    if number == 1:
        what = re.sub("|".join(ONE), lambda found: ONE[found[0]], what, count=1)
    return f"{number:,} {what}"


def in_short(paths: Sequence[str]) -> str:
    """The first of some paths, and how many others there are."""
    return "".join(paths) if len(paths) <= 1 else f"{paths[0]} and {len(paths) - 1} more"


def cannot_hold(what: str, otherwise: str = "") -> str:
    """What to say when something finds no room in the folder for temporary files.

    Args:
        what: was to be held there.
        otherwise: what helps as well as another folder, up to "or".
    """
    from tempfile import gettempdir  # noqa: PLC0415, most commands need nothing of it

    try:
        where = f"the folder for temporary files, {gettempdir()}"
    except FileNotFoundError:  # of those that Python tries none can be written
        where = "any folder for temporary files"
    return f"{what} cannot be held in {where}; {otherwise}set TMPDIR."


def visible(text: str) -> str:
    r"""The text with all that is not printed, and could command a terminal, as \xNN or \uNNNN.

    So are bytes of file names that are no UTF-8.
    """
    return "".join(x if x.isprintable() else _escaped(x) for x in text)


def open_streams() -> None:
    """Opens the standard streams that a scheduler has closed, on nothing, and keeps words from ending a run.

    The next files to be opened would get their numbers, and take in what libraries write to them.
    """
    for descriptor in range(STDERR + 1):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, until the end
    sys.stderr = cast("TextIO", _Undaunted(sys.stderr))


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte, see PEP 383
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
