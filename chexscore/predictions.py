"""Predictions, and the CSV that carries them: `path,status,<a column for each label>,note`."""

import csv
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TextIO

from chexscore.errors import TableError, UsageError

__all__ = ["Prediction", "Status", "open_output", "read_predictions"]

DECIMALS = 6
STDOUT = "-"


class Status(StrEnum):
    """What became of one image."""

    OK = "ok"
    """It was scored."""
    MISSING = "missing"
    """Nothing is at that path, or not any more."""
    UNREADABLE = "unreadable"
    """Empty, damaged, truncated, not an image, or no permission to read it."""
    UNSUPPORTED = "unsupported"
    """A sound file of a kind that is not scored: several frames, an encoding without a decoder."""
    TOO_LARGE = "too_large"
    """More pixels than any radiograph has; not decoded."""
    FAILED = "failed"
    """The network failed on it."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The result for one image.

    Attributes:
        path: the image, as `find_images` gives it.
        status: whether it was scored, and why not.
        scores: label -> score in 0..1, in the model's order; empty unless the status is ok.
        note: the reason in words; empty when the status is ok.
    """

    path: str
    status: Status
    scores: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@contextmanager
def open_output(
    target: str, labels: tuple[str, ...], *, overwrite: bool = False
) -> Iterator[Callable[[Prediction], None]]:
    """Opens a CSV of predictions; gives a function that writes one row.

    The file grows as `<target>.partial` and gets its name in one step when the block ends without an
    exception. The target "-" is the standard output, written as it comes.

    Raises:
        UsageError: the target is there and `overwrite` is false, is a directory, or its folder is missing or
            not ours to write.
    """
    if target == STDOUT:
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")  # type: ignore[union-attr]
        yield _writer(sys.stdout, labels)
        sys.stdout.flush()
        return
    if os.path.isdir(target):
        raise UsageError(f"{target} is a directory; name a file for the output, such as {target}/out.csv.")
    if os.path.exists(target) and not overwrite:
        raise UsageError(f"{target} exists; give --overwrite to replace it, or another name.")
    partial = f"{target}.partial"
    try:
        file = open(partial, "w", encoding="utf-8", errors="surrogateescape", newline="")  # noqa: SIM115
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}.") from error
    with file:
        yield _writer(file, labels)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, target)


def _writer(file: TextIO, labels: tuple[str, ...]) -> Callable[[Prediction], None]:
    rows = csv.writer(file)
    rows.writerow(["path", "status", *labels, "note"])

    def write(prediction: Prediction) -> None:
        scores = [f"{prediction.scores[x]:.{DECIMALS}f}" if prediction.scores else "" for x in labels]
        rows.writerow([prediction.path, prediction.status, *scores, prediction.note])

    return write


def read_predictions(source: str) -> tuple[tuple[str, ...], Iterator[Prediction]]:
    """Reads a CSV that `open_output` wrote, row by row.

    Returns:
        The labels, and the predictions in the order of the file; columns behind `note` are passed over.

    Raises:
        TableError: no such file, not a CSV of predictions, or (while iterating) a row that breaks the
            contract; the text names file and line.
    """
    try:
        file = open(source, encoding="utf-8-sig", errors="surrogateescape", newline="")  # noqa: SIM115
    except OSError as error:
        raise TableError(f"{source}: the predictions cannot be read: {error.strerror}.") from error
    rows = csv.reader(file)
    header = next(rows, [])
    if header[:2] != ["path", "status"] or "note" not in header[3:]:
        file.close()
        raise TableError(f"{source}: not a CSV of predictions: its first line is not path,status,...,note.")
    labels = tuple(header[2 : header.index("note")])
    return labels, _predictions(file, rows, labels, source)


def _predictions(
    file: TextIO, rows: "Iterator[list[str]]", labels: tuple[str, ...], source: str
) -> Iterator[Prediction]:
    with file:
        for number, row in enumerate(rows, start=2):
            try:
                path, status, cells, note = (
                    row[0],
                    Status(row[1]),
                    row[2 : 2 + len(labels)],
                    row[2 + len(labels)],
                )
                scores = dict(zip(labels, map(float, cells), strict=True)) if status is Status.OK else {}
            except (ValueError, IndexError) as error:
                raise TableError(f"{source}: row {number} is not a row of predictions: {error}.") from error
            if not all(0 <= score <= 1 for score in scores.values()):
                raise TableError(f"{source}: row {number} has a score outside 0..1.")
            yield Prediction(path, status, scores, note)
