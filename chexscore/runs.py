"""One run of `predict`: inputs -> a CSV, and beside it a record of how it came to be."""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from chexscore import __version__
from chexscore.classifier import Classifier
from chexscore.discovery import find_images
from chexscore.errors import TableError
from chexscore.predictions import STDOUT, Prediction, Status, open_output
from chexscore.scoring import score_images

__all__ = ["RunRecord", "record_path", "recorded_thresholds", "run"]


@dataclass
class RunRecord:
    """What a run did; written as JSON to `<output>.run.json`.

    Attributes:
        chexscore: version of chexscore.
        model: path, name, version and sha256 of the model.
        thresholds: label -> the model's default operating point.
        arguments: what decided the result: the paths, batch size and workers.
        device: where the network really ran.
        started: UTC, ISO 8601.
        seconds: wall time, without the opening of the model.
        found: images found; always the sum of scored and failed.
        scored: rows with status ok.
        failed: other statuses -> rows.
        ignored: files in the directories that are not images.
    """

    chexscore: str
    model: Mapping[str, str]
    thresholds: Mapping[str, float]
    arguments: Mapping[str, Any]
    device: str
    started: str
    seconds: float = 0.0
    found: int = 0
    scored: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    ignored: int = 0

    def count(self, prediction: Prediction) -> None:
        """Takes one row into the counts."""
        if prediction.status is Status.OK:
            self.scored += 1
        else:
            self.failed[prediction.status.value] = self.failed.get(prediction.status.value, 0) + 1

    @property
    def not_scored(self) -> int:
        """Rows whose status is not ok."""
        return sum(self.failed.values())


def run(
    paths: Iterable[str],
    output: str,
    classifier: Classifier,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    watch: Callable[[RunRecord], None] | None = None,
) -> RunRecord:
    """Scores everything below `paths` into `output`.

    Args:
        paths: files and directories.
        output: CSV to write, in one step at the end; "-" for the standard output, which gets no record.
        classifier: the open model.
        batch_size: as for `score_images`.
        workers: as for `score_images`.
        overwrite: replace an output that is there.
        watch: called after each row with the record so far.

    Raises:
        UsageError: the output cannot be written or is there already.
    """
    paths = list(paths)
    spec = classifier.spec
    record = RunRecord(
        chexscore=__version__,
        model={
            "path": classifier.path,
            "name": spec.name,
            "version": spec.version,
            "sha256": classifier.sha256,
        },
        thresholds=spec.operating_points,
        arguments={"paths": paths, "batch_size": batch_size, "workers": workers},
        device=classifier.device,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )

    def found() -> Iterable[str]:
        for path in find_images(paths, ignored):
            record.found += 1
            yield path

    def ignored(_: str) -> None:
        record.ignored += 1

    started = time.monotonic()
    with open_output(output, spec.labels, overwrite=overwrite) as write:
        for prediction in score_images(found(), classifier, batch_size=batch_size, workers=workers):
            write(prediction)
            record.count(prediction)
            if watch is not None:
                watch(record)
        record.seconds = round(time.monotonic() - started, 3)
        if record.found != record.scored + record.not_scored:
            raise AssertionError(f"rows were lost: {record}")
        if output != STDOUT:
            _write_record(record, record_path(output))
    return record


def record_path(output: str) -> str:
    """Where the record of an output stands."""
    return f"{output}.run.json"


def recorded_thresholds(output: str) -> dict[str, float]:
    """The model's operating points from the record beside a CSV; empty where there is no record.

    Raises:
        TableError: there is one, and it cannot be read.
    """
    record = record_path(output)
    if not os.path.exists(record):
        return {}
    try:
        with open(record, encoding="utf-8") as file:
            return {str(label): float(value) for label, value in json.load(file)["thresholds"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableError(f"{record}: not the record of a run: {error!r}.") from error


def _write_record(record: RunRecord, target: str) -> None:
    partial = f"{target}.partial"
    with open(partial, "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(asdict(record), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, target)
