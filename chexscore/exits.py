"""What the command line ends with after a run of `predict`."""

from chexscore.discovery import none_found
from chexscore.errors import INTERRUPTED, TERMINATED, ChexscoreError, NoImageError
from chexscore.messages import counted
from chexscore.predictions import Status
from chexscore.records import NONE_OLD_ENOUGH, RunRecord
from chexscore.stopping import MAX_DURATION, Stop
from chexscore.units import Limit

__all__ = ["STOPPED", "exit_code"]

ALL_SCORED, NOT_EVERY_IMAGE = 0, 3
STOPPED = {"SIGINT": INTERRUPTED, "SIGTERM": TERMINATED, MAX_DURATION: NOT_EVERY_IMAGE}
"""The reason of a stop -> what the command line ends with."""


def exit_code(record: RunRecord, output: str, stop: Stop, max_failures: Limit | None) -> int:
    """What a run ends with that was stopped, or has published its output.

    Raises:
        NoImageError: there was no image at all, or none that was old enough.
        ChexscoreError: more images were not scored than `max_failures` allows; or it is given, and nobody
            knows how many there are, because what is a folder, or may be, could not be looked into.
    """
    if not record.finished:
        return STOPPED[stop.reason]
    if record.found_nothing:
        raise none_found(record.arguments["paths"], record.arguments.get("files_from"))
    if record.none_old_enough:
        raise NoImageError(f"{NONE_OLD_ENOUGH}.")
    if max_failures is not None and record.unlisted:  # it counts as one image, and may hold most of them
        raise ChexscoreError(
            f"{counted(record.unlisted, 'inputs')} cannot be looked into "
            f"({record.examples[Status.UNREADABLE]}), so that nobody knows whether --max-failures "
            f"{max_failures.text} was kept; {output} is written without what is in there."
        )
    if max_failures is not None and record.not_scored > max_failures.of(record.found):
        raise ChexscoreError(
            f"{record.not_scored} of {record.found} images were not scored, more than --max-failures "
            f"{max_failures.text}; {output} is complete."
        )
    return NOT_EVERY_IMAGE if record.failed else ALL_SCORED
