"""Signals that wait for the end of a step."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["held"]


@contextmanager
def held() -> Iterator[Callable[[], None]]:
    """Holds SIGINT and SIGTERM back in the main thread, which alone gets them; a second one is not held.

    What a handler raises in a destructor or a callback of TensorFlow or JAX is printed there and dropped, and
    the work would go on.

    Yields:
        A function to call between steps: one that came does now what it would have done then, as it does at
        the end, unless that is an error.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    came = list[int]()

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def hold(number: int, _: object) -> None:
        came.append(number)
        put_back()

    def look() -> None:
        if came:
            put_back()
            signal.raise_signal(came.pop())

    for number in before:
        signal.signal(number, hold)
    try:
        yield look
    finally:
        put_back()
    look()
