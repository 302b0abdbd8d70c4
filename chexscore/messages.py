"""What is said on standard error: lines for people or, with --log-json, one JSON object a line."""

import json
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import BinaryIO

__all__ = ["json_lines", "log", "open_streams", "say", "visible"]

STDERR = 2

COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
"""Commands that onnxruntime gives a terminal, whether or not there is one; ECMA-48, SGR."""


class _Collected:
    """What others write to standard error, on its way to being JSON."""

    def __init__(self, source: BinaryIO, target: BinaryIO) -> None:
        self._source, self._target, self._begun = source, target, b""

    def write(self, event: str, fields: dict[str, object]) -> None:
        """Writes an event, and before it what was collected until now."""
        for text in self._lines():
            self._target.write(_encode("message", {"text": text}))
        self._target.write(_encode(event, fields))
        self._target.flush()

    def finish(self) -> None:
        """Writes what was collected since the last event, a line without its end too."""
        for text in (*self._lines(), self._begun.decode("utf-8", "backslashreplace")):
            if text:
                self._target.write(_encode("message", {"text": text}))
        self._target.flush()

    def _lines(self) -> Iterator[str]:
        *lines, self._begun = COLOUR.sub(b"", self._begun + self._source.read()).split(b"\n")
        return (line.decode("utf-8", "backslashreplace") for line in lines if line.strip())


_collected: _Collected | None = None


def say(line: str, event: str = "message") -> None:
    """Says one line of text, whose control characters are made visible; as JSON it is an event."""
    if _collected is None:
        print(visible(line), file=sys.stderr, flush=True)  # noqa: T201, this is the place for it
    else:
        log(event, text=line)


def log(event: str, **fields: object) -> None:
    """Writes one JSON object as a line."""
    if _collected is None:
        print(_encode(event, fields).decode(), end="", file=sys.stderr, flush=True)  # noqa: T201, as above
    else:
        _collected.write(event, fields)


def visible(text: str) -> str:
    r"""The text with all that is not printed, and could command a terminal, as \xNN or \uNNNN.

    So are bytes of file names that are no UTF-8.
    """
    return "".join(x if x.isprintable() else _escaped(x) for x in text)


def open_streams() -> None:
    """Opens the standard streams that a scheduler has closed, on nothing.

    The next files to be opened would get their numbers, and take in what libraries write to them.
    """
    for descriptor in range(STDERR + 1):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, until the end


@contextmanager
def json_lines() -> Iterator[None]:
    """Makes every line on standard error a JSON object, whoever writes it.

    Libraries write to the descriptor itself. Until the next event a file takes their words: a pipe would
    block them when it is full, and nobody could empty it while they hold Python's lock.
    """
    global _collected  # noqa: PLW0603, a process has one standard error
    descriptor, path = tempfile.mkstemp()
    with (
        open(descriptor, "ab") as sink,
        open(path, "rb") as source,
        open(os.dup(STDERR), "wb") as target,
    ):
        with suppress(PermissionError):  # Windows removes no open file
            os.unlink(path)
        _collected = _Collected(source, target)
        os.dup2(sink.fileno(), STDERR)
        try:
            yield
        except Exception:  # noqa: BLE001, as the interpreter would do, but before this ends
            traceback.print_exc()
            sys.exit(1)
        finally:
            sys.stderr.flush()
            os.dup2(target.fileno(), STDERR)
            _collected.finish()
            _collected = None
    with suppress(FileNotFoundError):
        os.unlink(path)


def _encode(event: str, fields: dict[str, object]) -> bytes:
    moment = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": moment, "event": event, **fields}).encode() + b"\n"


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte, see PEP 383
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
