"""Predictions, and the CSV that carries them: `path,status,<a column for each label>,note`, then extras."""

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TextIO

from chexscore.errors import TableError, UsageError
from chexscore.tables import check_cells, read_rows

__all__ = [
    "Columns",
    "Prediction",
    "Status",
    "decode_scores",
    "encode_scores",
    "in_locale",
    "in_utf8",
    "read_predictions",
    "write_csv",
]

DECIMALS = 6

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What spreadsheets take for the beginning of a formula (OWASP, CSV injection)."""


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
        tags: DICOM keyword -> value, for those that were asked for and are there.
    """

    path: str
    status: Status
    scores: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Columns:
    """What an output says about each image, besides path, status and note.

    Attributes:
        labels: of the model, in its order.
        thresholds: label -> operating point, for a column `<label>_positive` of 1 and 0; or empty.
        tags: DICOM keywords, a column each.
    """

    labels: tuple[str, ...]
    thresholds: Mapping[str, float] = field(default_factory=dict)
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises a UsageError if two columns would have one name, as those of labels X and X_positive."""
        twice = [name for name, number in Counter(self.names).items() if number > 1]
        if twice:
            raise UsageError(
                f"two columns would be called {twice[0]}; leave --thresholds or --dicom-tag out."
            )

    @property
    def names(self) -> list[str]:
        """The header of the table."""
        positive = [f"{label}_positive" for label in self.thresholds]
        return ["path", "status", *self.labels, "note", *positive, *self.tags]

    def positives(self, prediction: Prediction) -> dict[str, int]:
        """Column -> 1 where the score, as it is written, reaches the threshold; empty for failures."""
        if not prediction.scores:
            return {}
        return {
            f"{label}_positive": int(round(prediction.scores[label], DECIMALS) >= threshold)
            for label, threshold in self.thresholds.items()
        }


def encode_scores(scores: Mapping[str, float], labels: Sequence[str]) -> list[str]:
    """A cell for each label: six decimals, or nothing where there is no score."""
    return [f"{scores[label]:.{DECIMALS}f}" if scores else "" for label in labels]


def decode_scores(cells: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """What `encode_scores` wrote.

    Raises:
        ValueError: another number of cells, or one that is no number in 0..1.
    """
    scores = dict(zip(labels, map(float, cells), strict=True))
    if not all(0 <= score <= 1 for score in scores.values()):
        raise ValueError("a score outside 0..1")
    return scores


def in_utf8(path: str) -> str:
    """A path whose bytes are read as UTF-8, whatever the locale has taken them for; others are surrogates."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def in_locale(path: str) -> str:
    """What `in_utf8` was given: the name that opens the file."""
    return os.fsdecode(path.encode("utf-8", "surrogateescape"))


def write_csv(file: TextIO, predictions: Iterable[Prediction], columns: Columns) -> None:
    """Writes header and rows (RFC 4180) as the predictions come.

    A path that a spreadsheet would take for a formula gets "./" in front, which names the same file; a tag
    of that kind gets an apostrophe.
    """
    rows = csv.writer(file)
    rows.writerow(columns.names)
    for prediction in predictions:
        path = in_utf8(prediction.path)
        positives = columns.positives(prediction)
        tags = [prediction.tags.get(tag, "") for tag in columns.tags]
        rows.writerow(
            [
                f"./{path}" if path.startswith(FORMULA_STARTS) else path,
                prediction.status,
                *encode_scores(prediction.scores, columns.labels),
                prediction.note,
                *(positives.get(f"{label}_positive", "") for label in columns.thresholds),
                *(f"'{tag}" if tag.startswith(FORMULA_STARTS) else tag for tag in tags),
            ]
        )


def read_predictions(source: str) -> tuple[tuple[str, ...], list[Prediction]]:
    """Reads a CSV that `write_csv` wrote.

    Returns:
        The labels, and the predictions in the order of the file; columns behind `note` are passed over.

    Raises:
        TableError: no such file, not a CSV of predictions, a label twice, or a row that breaks the contract;
            the text names file and line.
    """
    try:
        with open(source, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = read_rows(file, source)
            header = next((row for _, row in rows if row), [])
            labels = _read_labels(header, source)
            return labels, [
                _read_row(row, labels, len(header), f"{source}: line {line}") for line, row in rows if row
            ]
    except OSError as error:
        raise TableError(f"{source}: the predictions cannot be read: {error.strerror}.") from error


def _read_labels(header: list[str], source: str) -> tuple[str, ...]:
    if header[:2] != ["path", "status"] or "note" not in header[3:]:
        raise TableError(f"{source}: not a CSV of predictions: its first line is not path,status,...,note.")
    labels = tuple(header[2 : header.index("note")])
    if twice := [name for name, number in Counter(labels).items() if number > 1]:
        raise TableError(f"{source}: two columns are called {twice[0]!r}.")
    return labels


def _read_row(row: list[str], labels: tuple[str, ...], width: int, place: str) -> Prediction:
    check_cells(row, width, place)  # 0,8 for 0.8 would read as a score of 0, and a note
    path, status, *cells = row[: 2 + len(labels)]
    try:
        known = Status(status)
        return Prediction(
            path, known, decode_scores(cells, labels) if known is Status.OK else {}, row[2 + len(labels)]
        )
    except ValueError as error:
        raise TableError(f"{place} is not a row of predictions: {error}.") from error
