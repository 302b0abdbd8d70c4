"""The record of a run, which stands beside its output: model, device, counts, times."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from chexscore.discovery import is_image_by_name
from chexscore.errors import OutputError
from chexscore.predictions import Prediction, Status

__all__ = ["NONE_OLD_ENOUGH", "RunRecord"]

NONE_OLD_ENOUGH = "no image is older than --min-age"


@dataclass
class RunRecord:
    """What a run did; written as JSON to `<output>.run.json`.

    Attributes:
        chexscore: version of chexscore.
        model: path, name, version and sha256 of the model.
        thresholds: label -> the model's default operating point.
        arguments: what the run was asked for: paths, output, Options as they were in force and, from the
            command line, model, device, max_failures and files_from.
        device: where the network really ran.
        batch_size: images that went through it together at the end; fewer than asked for if memory was short.
        started: UTC, ISO 8601.
        finished: the same, when the output got its name; empty if the run was stopped before.
        seconds: wall time.
        found: images found; always the sum of scored, failed and unchanged.
        scored: rows with status ok that this run scored.
        failed: other statuses -> rows.
        unchanged: rows with status ok taken over from an earlier run, those of images that wait among them.
        ignored: files in the directories that are not images.
        unseen: of the failed, folders that cannot be listed, and paths where nobody can tell what there is: a
            share that does not answer, or a folder above that may not be entered.
        unlisted: of the unseen, folders, and what may be one: any number of images may be in there.
        waiting: images left for the next run because they are younger than the least age; without a row
            unless an earlier run scored what was at their path then.
        gone: rows of an earlier run whose files were not found any more, and are not in the output.
        examples: other statuses -> the first such path, and its note; of the unreadable, one that is unlisted
            comes before the others, and then one that is unseen.
        operating_points: label -> name of each of the model's operating points -> threshold; "default" for a
            label that has none.
    """

    chexscore: str
    model: Mapping[str, str]
    thresholds: Mapping[str, float]
    arguments: Mapping[str, Any]
    device: str
    batch_size: int
    started: str
    finished: str = ""
    seconds: float = 0.0
    found: int = 0
    scored: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    unchanged: int = 0
    ignored: int = 0
    unseen: int = 0
    unlisted: int = 0
    waiting: int = 0
    gone: int = 0
    examples: dict[str, str] = field(default_factory=dict)
    operating_points: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def count(self, prediction: Prediction, *, seen: bool = True) -> None:
        """Counts the row of an image that this run tried; `seen` if something is known to be there."""
        status = prediction.status.value
        unseen = prediction.status is Status.UNREADABLE and not seen
        unlisted = unseen and _may_be_folder(prediction.path)
        if prediction.status is Status.OK:
            self.scored += 1
            return
        self.failed[status] = self.failed.get(status, 0) + 1
        better = (unseen and not self.unseen) or (unlisted and not self.unlisted)
        if better or status not in self.examples:
            self.examples[status] = f"{prediction.path}: {prediction.note}"
        self.unseen += unseen
        self.unlisted += unlisted

    @property
    def not_scored(self) -> int:
        """Rows whose status is not ok."""
        return sum(self.failed.values())

    @property
    def tried(self) -> int:
        """Images that this run read."""
        return self.scored + self.not_scored

    @property
    def done(self) -> int:
        """Images that have their row."""
        return self.tried + self.unchanged

    @property
    def found_nothing(self) -> bool:
        """Whether there was no image at all: none found, or only names that nothing is to be seen at."""
        return not self.waiting and self._none_is_there(self.found)

    @property
    def saw_something(self) -> bool:
        """Whether the walk came upon any file at all."""
        return bool(self.found or self.waiting or self.ignored)

    @property
    def none_old_enough(self) -> bool:
        """Whether the images that are there all wait, and none of them has an earlier row."""
        return self.waiting > 0 and self._none_is_there(self.found)

    @property
    def met_nothing(self) -> bool:
        """Whether no image that is there has its row yet."""
        return self._none_is_there(self.done)

    def _none_is_there(self, number: int) -> bool:
        """Whether so many are names that nothing is to be seen at."""
        return number == self.failed.get(Status.MISSING.value, 0) + self.unseen

    def to_json(self) -> bytes:
        """The record as it stands in its file."""
        return json.dumps(asdict(self), indent=1).encode()

    def check(self) -> None:
        """Raises an OutputError if an image that was found has no row: that would be a fault of chexscore."""
        if self.found != self.done:
            raise OutputError(
                f"of {self.found} images found only {self.done} have a row; please report this."
            )


def _may_be_folder(path: str) -> bool:
    """Whether what cannot be looked into is a folder, or has the name of no image."""
    return os.path.isdir(path) or not is_image_by_name(os.path.basename(path))
