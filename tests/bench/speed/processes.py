"""Processes in turn: seconds, processor time and peak memory in each of several rounds."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["MEASURED", "Taken", "in_turn", "median", "python"]

MEASURED = "measured:"
"""How the line begins by which a process that has measured itself tells seconds and processor seconds."""


class Taken(NamedTuple):
    """What a process took."""

    seconds: float
    """Of wall time; or those that it told."""
    processor: float
    """Seconds that the cores worked for it, added up; likewise."""
    megabytes: float
    """Of memory, at the most."""


def python(*arguments: object) -> list[str]:
    """The command that runs this Python."""
    return [sys.executable, *map(str, arguments)]


def in_turn(commands: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[Taken]]:
    """Runs all once a round, so that whatever else the machine does meets all alike."""
    taken: dict[str, list[Taken]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            taken[name].append(_run(command))
    return taken


def median(rounds: Sequence[Taken]) -> Taken:
    """The median of each figure."""
    return Taken(*map(statistics.median, zip(*rounds, strict=True)))


def _run(command: Sequence[str]) -> Taken:
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds, processor = time.perf_counter() - began, usage.ru_utime + usage.ru_stime
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
    told = [line for line in printed.splitlines() if line.startswith(MEASURED)]
    if told:
        seconds, processor = map(float, told[-1].removeprefix(MEASURED).split())
    return Taken(seconds, processor, usage.ru_maxrss / 1024)
