"""How one run of `predict` is to go, and what of that goes together."""

from dataclasses import asdict, dataclass
from typing import Any

from chexscore.cores import usable_cores
from chexscore.errors import UsageError
from chexscore.images import MAX_PIXELS
from chexscore.outputs import STDOUT
from chexscore.scoring import BATCH_SIZES

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    """How to run.

    Attributes:
        batch_size: images that go through the network together; None means that of BATCH_SIZES.
        workers: threads that decode; None means one for each usable core.
        max_pixels: larger images are not decoded.
        min_age: seconds; younger files are left for the next run.
        max_duration: seconds after which the run stops, to be resumed.
        thresholds: add a column of 1 and 0 for each label.
        tags: DICOM keywords to add, a column each.
        resume: go on where an earlier run stopped; in a finished output score what is new or has changed.
        forget_gone: publish although images that an earlier run scored are not found any more.
        overwrite: begin anew in spite of an earlier output.
        lock_wait: seconds to wait for another run of the same output.
        jsonl: JSON lines on standard output.
    """

    batch_size: int | None = None
    workers: int | None = None
    max_pixels: int = MAX_PIXELS
    min_age: float = 0.0
    max_duration: float | None = None
    thresholds: bool = False
    tags: tuple[str, ...] = ()
    resume: bool = False
    forget_gone: bool = False
    overwrite: bool = False
    lock_wait: float = 0.0
    jsonl: bool = False

    def check(self, output: str) -> None:
        """Raises a UsageError where these exclude each other, or are not for such an output."""
        if output == STDOUT:
            if self.resume or self.forget_gone:
                raise UsageError("standard output cannot be resumed; give --output a file.")
            if self.overwrite or self.lock_wait:
                raise UsageError("--overwrite and --lock-wait are for files; give --output one.")
        elif self.jsonl:
            raise UsageError("--jsonl is for standard output; a file's format is that of its suffix.")
        if self.resume and self.overwrite:
            raise UsageError("--resume and --overwrite exclude each other.")
        if self.forget_gone and not self.resume:
            raise UsageError("--forget-gone goes with --resume; without it there are no earlier rows.")

    def images_together(self, device: str) -> int:
        """Those that go through the network together on a device."""
        return self.batch_size or BATCH_SIZES[device]

    def in_force(self, device: str) -> dict[str, Any]:
        """All of it for the record, with what None stands for on a device."""
        return {
            **asdict(self),
            "batch_size": self.images_together(device),
            "workers": self.workers or usable_cores(),
        }
