"""How a run is asked to stop."""

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["MAX_DURATION", "Stop", "StoppedError", "stop_on_signals", "stopped_by_signals"]

MAX_DURATION = "--max-duration"


class StoppedError(Exception):
    """The stop came before the run had begun."""


@dataclass
class Stop:
    """A request to stop: nothing new is begun, what was begun is finished.

    Whatever may take long before the next image is begun (the wait for the lock, a silent list, a directory
    of other files) calls `asked`, which looks at the clock.

    Attributes:
        reason: the name of a signal, or MAX_DURATION; empty until there is one.
        deadline: the moment of `time.monotonic()` at which the time is over.
    """

    reason: str = ""
    deadline: float = math.inf

    def asked(self) -> bool:
        """Whether to stop now."""
        if not self.reason and time.monotonic() >= self.deadline:
            self.reason = MAX_DURATION
        return bool(self.reason)


def stop_on_signals() -> Stop:
    """A Stop that the first SIGINT or SIGTERM sets; a second SIGINT is a KeyboardInterrupt.

    What other threads have begun is waited for all the same.
    """
    stop = Stop()

    def request(number: int, _: object) -> None:
        stop.reason = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, request)
    signal.signal(signal.SIGTERM, request)
    return stop


@contextmanager
def stopped_by_signals() -> Iterator[Stop]:
    """`stop_on_signals` for as long as the context; behind it signals do what they did before it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop_on_signals()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
