"""How a run is asked to stop."""

import signal
from dataclasses import dataclass

__all__ = ["Stop", "stop_on_signals"]


@dataclass
class Stop:
    """A request to stop: nothing new is begun, what was begun is finished. `reason` is empty until then."""

    reason: str = ""


def stop_on_signals() -> Stop:
    """A Stop that the first SIGINT or SIGTERM sets; a second SIGINT ends the process at once."""
    stop = Stop()

    def request(number: int, _: object) -> None:
        stop.reason = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, request)
    signal.signal(signal.SIGTERM, request)
    return stop
