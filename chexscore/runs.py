"""One run of `predict`: inputs -> an output, and beside it a record of how it came to be."""

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from chexscore import __version__
from chexscore.classifier import Classifier
from chexscore.discovery import find_images
from chexscore.errors import NoImageError, OutputError, UsageError
from chexscore.images import MAX_PIXELS
from chexscore.lock import locked
from chexscore.outputs import STDOUT, check_format, check_target, publish, replacing, stream
from chexscore.predictions import Columns, Prediction, Status
from chexscore.records import RunRecord, record_path
from chexscore.scoring import BATCH_SIZE, score_images, usable_cores
from chexscore.stopping import Stop
from chexscore.store import Fingerprint, Store

__all__ = ["Options", "plan", "run"]

MAX_DURATION = "--max-duration"

CLOCK_SKEW_S = 86400.0
"""A file further in the future than this is not young, its time is wrong."""


@dataclass(frozen=True)
class Options:
    """How to run.

    Attributes:
        batch_size: images that go through the network together; None means BATCH_SIZE.
        workers: threads that decode; None means one for each usable core.
        max_pixels: larger images are not decoded.
        min_age: seconds; younger files are left for the next run.
        max_duration: seconds after which the run stops, to be resumed.
        thresholds: add a column of 1 and 0 for each label.
        tags: DICOM keywords to add, a column each.
        resume: go on where an earlier run stopped; in a finished output score what is new or has changed.
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
    overwrite: bool = False
    lock_wait: float = 0.0
    jsonl: bool = False


def run(
    paths: Iterable[str],
    output: str,
    classifier: Classifier,
    options: Options | None = None,
    *,
    stop: Stop | None = None,
    watch: Callable[[RunRecord], None] | None = None,
) -> RunRecord:
    """Scores everything below `paths` into `output`.

    A stop leaves no output, or the earlier one; what was scored is kept beside it for a run with `resume`.

    Args:
        paths: files and directories; taken as they come.
        output: file to write, in one step at the end, in the format of its suffix (.csv, .jsonl, .parquet);
            "-" for the standard output, which gets no record and cannot be resumed.
        classifier: the open model.
        options: see there.
        stop: looked at before each image is begun.
        watch: called after each row with the record so far.

    Raises:
        UsageError: the output is there already, cannot be written, or cannot be resumed.
        NoImageError: there is an earlier output, and now no image at all; nothing is touched.
        NetworkError: the network fails on every image; what was scored before is kept for `resume`.
        LockedError: another run writes this output.
        OutputError: the disk is full or gone.
    """
    options, stop = options or Options(), stop or Stop()
    columns = Columns(
        classifier.spec.labels,
        thresholds=classifier.spec.default_thresholds if options.thresholds else {},
        tags=options.tags,
    )
    paths = paths if isinstance(paths, Iterator) else list(paths)
    run = _Run(paths, classifier, options, stop, watch)
    if output == STDOUT:
        if options.resume:
            raise UsageError("standard output cannot be resumed; give --output a file.")
        stream(run.predictions(None), columns, jsonl=options.jsonl)
        run.record.check()
        if not stop.reason:
            run.record.finished = _now()
        return run.record
    check_format(output)
    for target in (output, record_path(output)):
        check_target(target)
    if options.resume and options.overwrite:
        raise UsageError("--resume and --overwrite exclude each other.")
    with (
        locked(output, options.lock_wait, stop),
        Store(
            output,
            columns.labels,
            _settings(classifier, options),
            resume=options.resume,
            overwrite=options.overwrite,
        ) as store,
    ):
        for _ in run.predictions(store):
            pass
        store.commit()
        run.record.check()
        if stop.reason:
            return run.record
        _check_losses(run, store, output)
        with suppress(FileNotFoundError):
            os.unlink(record_path(output))  # that of an earlier output must not stand beside this one
        publish(output, store.rows(), columns)
        run.record.gone = store.settle()
        run.record.finished = _now()
        with replacing(record_path(output)) as file:
            file.write(json.dumps(asdict(run.record), indent=1).encode())
    return run.record


def _check_losses(run: "_Run", store: Store, output: str) -> None:
    """Refuses to publish what would lose the rows of an earlier run, or of this one."""
    if run.record.found_nothing and store.left_before:
        raise NoImageError(f"no image found; {output} and its rows are left as they were.")
    if run.unlisted and store.left_before:
        raise OutputError(
            f"{run.unlisted} directories could not be listed; {output} is left as it was, and --resume goes "
            "on once they can."
        )
    if store.count() != run.record.done:
        raise OutputError(f"{run.record.done} images, but {store.count()} rows; please report this.")


class _Run:
    """The state of one run while it goes: what was fed to the network, and waits for its row."""

    def __init__(
        self,
        paths: Iterable[str],
        classifier: Classifier,
        options: Options,
        stop: Stop,
        watch: Callable[[RunRecord], None] | None,
    ) -> None:
        self.paths, self.classifier, self.options, self.stop = paths, classifier, options, stop
        self.watch = watch or (lambda _: None)
        self.began = time.monotonic()
        self.fed: deque[tuple[int, Fingerprint | None]] = deque()
        self.unlisted = 0
        spec = classifier.spec
        self.record = RunRecord(
            chexscore=__version__,
            model={
                "path": classifier.path,
                "name": spec.name,
                "version": spec.version,
                "sha256": classifier.sha256,
            },
            thresholds=spec.default_thresholds,
            operating_points=spec.named_thresholds,
            arguments={"paths": paths if isinstance(paths, list) else "a list", **_in_force(options)},
            device=classifier.device,
            started=_now(),
        )

    def predictions(self, store: Store | None) -> Iterator[Prediction]:
        """Scores, keeps the rows in the store if there is one, and counts; yields what this run tried."""
        options = self.options
        scored = score_images(
            self._feed(store),
            self.classifier,
            batch_size=options.batch_size,
            workers=options.workers,
            max_pixels=options.max_pixels,
            tags=options.tags,
        )
        for prediction in scored:
            position, fingerprint = self.fed.popleft()
            if store is not None:
                store.add(position, prediction, fingerprint)
            self.record.count(prediction)
            if prediction.status is Status.UNREADABLE and os.path.isdir(prediction.path):
                self.unlisted += 1
            self.record.seconds = round(time.monotonic() - self.began, 3)
            self.watch(self.record)
            yield prediction

    def _feed(self, store: Store | None) -> Iterator[str]:
        """The images to score; takes over the rows of those that an earlier run scored."""
        for path in find_images(self.paths, self._ignored):
            if self._is_over():
                return
            fingerprint = _fingerprint(path)
            earlier = store.earlier(path, fingerprint) if store is not None and fingerprint else None
            if earlier is None and _is_young(fingerprint, self.options.min_age):
                self.record.waiting += 1
                if store is not None:
                    store.forget(path)
                continue
            self.record.found += 1
            position = store.place() if store is not None else 0
            if store is not None and earlier is not None:
                store.add(position, earlier, fingerprint)
                self.record.unchanged += 1
                self.watch(self.record)
            else:
                self.fed.append((position, fingerprint))
                yield path

    def _is_over(self) -> bool:
        limit = self.options.max_duration
        if limit is not None and time.monotonic() - self.began >= limit and not self.stop.reason:
            self.stop.reason = MAX_DURATION
        return bool(self.stop.reason)

    def _ignored(self, _: str) -> None:
        self.record.ignored += 1


def plan(paths: Iterable[str], options: Options) -> Iterator[str]:
    """The images that a run would find now, without those that are too young."""
    for path in find_images(paths):
        if not _is_young(_fingerprint(path), options.min_age):
            yield path


def _settings(classifier: Classifier, options: Options) -> dict[str, str]:
    """All that decides what stands in a row."""
    return {
        "chexscore": __version__,
        "model sha256": classifier.sha256,
        "device": classifier.device,
        "batch size": str(options.batch_size or BATCH_SIZE),
        "max pixels": str(options.max_pixels),
        "DICOM tags": ", ".join(options.tags) or "none",
    }


def _in_force(options: Options) -> dict[str, Any]:
    return {
        **asdict(options),
        "batch_size": options.batch_size or BATCH_SIZE,
        "workers": options.workers or usable_cores(),
    }


def _is_young(fingerprint: Fingerprint | None, min_age: float) -> bool:
    """Whether a file may still be growing; a clock that is ahead makes its age negative."""
    if fingerprint is None or not min_age:
        return False
    age = time.time() - fingerprint.mtime / 1e9
    return -CLOCK_SKEW_S < age < min_age


def _fingerprint(path: str) -> Fingerprint | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # a name with a NUL byte is a ValueError
        return None
    return Fingerprint(status.st_size, status.st_mtime_ns)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
