"""Processes in turn: seconds and peak memory, the median of several rounds."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

__all__ = ["Taken", "in_turn", "python"]


class Taken(NamedTuple):
    """What a process took."""

    seconds: float
    """Of its wall time; or those that it printed."""
    megabytes: float
    """Of memory, at the most."""


def python(*arguments: object) -> list[str]:
    """The command that runs this Python."""
    return [sys.executable, *map(str, arguments)]


def in_turn(commands: Mapping[str, Sequence[str]], rounds: int) -> dict[str, Taken]:
    """Runs all once a round, so that whatever else the machine does meets all alike.

    A command that prints a number has measured itself.
    """
    taken: dict[str, list[Taken]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            taken[name].append(_run(command))
    return {
        name: Taken(*(statistics.median(values) for values in zip(*each, strict=True)))
        for name, each in taken.items()
    }


def _run(command: Sequence[str]) -> Taken:
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
    with suppress(ValueError, IndexError):  # most print nothing
        seconds = float(printed.strip().splitlines()[-1])
    return Taken(seconds, usage.ru_maxrss / 1024)
