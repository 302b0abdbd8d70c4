"""Calls in a process of their own: on damaged input native decoders abort their process, or never end."""

import faulthandler
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from chexscore.errors import ChexscoreError

__all__ = ["LIMIT_S", "LostCallError", "call"]

LIMIT_S = 30.0
"""What a call may take: the largest radiographs decode in two seconds, on a busy machine perhaps in ten."""

LIFETIME = 100
"""Calls that a process answers before another takes over: decoders leak what damaged files made them take."""

SERVE = "from chexscore.isolation import serve; serve()"

TIME_IS_OVER = 1
"""What a process ends with when faulthandler ends it."""

Result = TypeVar("Result")


class LostCallError(Exception):
    """A call never gave an answer; the text says what became of it."""


class _Child:
    """A process that answers calls; ends with this object or, as its input ends then, with this process."""

    def __init__(self) -> None:
        self.owner, self.calls = os.getpid(), 0
        self._process = _start()
        weakref.finalize(self, _end, self._process)
        try:
            self.ask(None)
        except LostCallError as error:
            raise ChexscoreError("no process for decoding can be started; reinstall chexscore.") from error

    def ask(self, request: object) -> Any:
        """The answer to a request; a LostCallError, after which there are no more, if it dies instead."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None  # noqa: S101, for mypy
        assert answers is not None  # noqa: S101
        try:
            pickle.dump(request, requests, pickle.HIGHEST_PROTOCOL)
            requests.flush()
            return pickle.load(answers)  # noqa: S301, our own words
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            late = self._process.wait() == TIME_IS_OVER
            raise LostCallError(f"took longer than {LIMIT_S:g} s" if late else "crashed") from error


_own = threading.local()
"""The child of each thread that calls: no two wait for each other, and it ends with its thread."""


def call(function: Callable[..., Result], *arguments: object) -> Result:
    """Calls a function in another process, which is there for the next call of this thread, too.

    Args:
        function: one that can be imported.
        arguments: what can be pickled, as its result and what it raises have to be.

    Raises:
        LostCallError: the call took longer than LIMIT_S, or killed its process; the next one gets another.
        ChexscoreError: no process can be started.
        Exception: whatever the function raises.
    """
    child = vars(_own).pop("child", None)  # back only after a whole answer
    if child is None or child.owner != os.getpid():  # a fork must not speak with the child of its parent
        child = _Child()
    error, result = child.ask((function, arguments, LIMIT_S))
    child.calls += 1
    if child.calls < LIFETIME:
        _own.child = child
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]  # as the function says


def serve() -> None:
    """Answers calls from standard input until it ends."""
    requests, answers = sys.stdin.buffer, open(os.dup(sys.stdout.fileno()), "wb")  # noqa: SIM115, to the end
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a decoder may print

    def answer(what: object) -> None:
        pickle.dump(what, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()

    while True:
        try:
            request = pickle.load(requests)  # noqa: S301, as above
        except EOFError:
            return
        if request is None:
            answer(None)
            continue
        function, arguments, limit = request
        faulthandler.dump_traceback_later(limit, exit=True)  # by a thread that needs nothing of Python
        outcome: tuple[Exception | None, Any]
        try:
            outcome = None, function(*arguments)
        except Exception as error:  # noqa: BLE001, it is the caller's
            outcome = error, None
        faulthandler.cancel_dump_traceback_later()
        answer(outcome)


def _start() -> "subprocess.Popen[bytes]":
    """Terminals and systemd send signals that ask to stop to children too; these are to finish first."""
    blocks = hasattr(signal, "pthread_sigmask")  # not on Windows
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM}) if blocks else ()
    try:
        return subprocess.Popen(  # noqa: S603, this Python
            [sys.executable, "-P", "-c", SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
    except OSError as error:
        raise ChexscoreError(f"no process for decoding can be started: {error.strerror}.") from error
    finally:
        if blocks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(process: "subprocess.Popen[bytes]") -> None:
    with suppress(OSError), process:
        process.kill()  # it may be in the middle of a call that nobody waits for
