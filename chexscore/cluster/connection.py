"""The way to a Ray cluster, and what Ray says, in one sentence."""

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from chexscore.errors import ChexscoreError, UsageError

__all__ = ["connected", "told"]

# Ray reports each cluster to its makers unless this is set when it starts. Nobody has agreed to that.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # what a stop leaves waiting would else start another cluster

CONNECT_S = 10.0


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connects to a cluster for as long as the context.

    Args:
        address: of a cluster; "auto" for the one on this machine; None for the one of `ray job submit`, of
            RAY_ADDRESS or on this machine and, if there is none, one of this process.

    Raises:
        UsageError: Ray is not installed, or no cluster answers.
        ChexscoreError: Ray cannot be started on this machine.
    """
    try:
        import ray  # noqa: PLC0415, an extra
        import ray.data  # noqa: PLC0415
    except ImportError as error:
        raise UsageError("--engine ray needs Ray: pip install 'chexscore[ray]'.") from error
    _check_address(address or os.environ.get("RAY_ADDRESS"))
    logging.getLogger("ray.data").handlers.clear()  # its words are for those who write pipelines
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="critical")
    except Exception as error:  # Ray has no kind of its own for a node that does not start in time
        where = address or os.environ.get("RAY_ADDRESS")
        token = "" if "RAY_AUTH_MODE" in os.environ else " (RAY_AUTH_MODE=token for a cluster with tokens)"
        if not where or where == "local":
            said = f"Ray can be neither reached nor started on this machine{token}: {_line(error)}"
            raise ChexscoreError(said) from error
        raise UsageError(f"no Ray cluster answers at {where}{token}: {_line(error)}") from error
    for number, handler in kept.items():  # Ray's own would end the process at once
        signal.signal(number, handler)
    try:
        yield
    finally:
        # What a stop leaves waiting would else write a traceback about a log that is closed.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        ray.shutdown()


def _check_address(address: str | None) -> None:
    """Tries what Ray would try for minutes."""
    if not address or address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(
            f"no Ray cluster answers at {address}; give auto, or host:port of its head, such as HEAD:6379."
        ) from error


@contextmanager
def told() -> Iterator[None]:
    """Makes what Ray raises the ChexscoreError that it began with, or one sentence."""
    try:
        yield
    except ChexscoreError:
        raise
    except Exception as error:  # Ray wraps what a node raised, in kinds that have no common base
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ChexscoreError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is not None:
            raise cause from None
        raise ChexscoreError(f"the Ray cluster failed: {_line(error)}; --resume goes on.") from error


def _line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip()[:300] if lines else 'it says no more'}"
