"""One run of `predict`: inputs -> an output, and beside it a record of how it came to be."""

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from tempfile import SpooledTemporaryFile
from typing import Any

from chexscore.beside import record_path, store_path
from chexscore.classifier import Classifier
from chexscore.discovery import find_images, none_found
from chexscore.errors import LockedError, NoImageError, OutputError
from chexscore.fingerprints import Fingerprint, leads_to_itself
from chexscore.lock import locked
from chexscore.messages import cannot_hold, counted
from chexscore.options import Options
from chexscore.outputs import STDOUT, check_format, check_target, publish, stream
from chexscore.predictions import Columns, Prediction, Status
from chexscore.records import NONE_OLD_ENOUGH, RunRecord
from chexscore.scoring import score_images
from chexscore.settings import begin_record, columns_of, now, settings_of
from chexscore.stopping import Stop
from chexscore.store import Store

__all__ = ["plan", "run"]

GATHERED_IN_MEMORY = 2**24
"""Bytes of paths that a plan holds there; more go to a temporary file."""


def run(
    paths: Iterable[str],
    output: str,
    classifier: Classifier,
    options: Options | None = None,
    *,
    stop: Stop | None = None,
    watch: Callable[[RunRecord], None] | None = None,
    asked: Mapping[str, Any] | None = None,
) -> RunRecord:
    """Scores everything below `paths` into `output`.

    A stop leaves no output, or the earlier one; what was scored is kept beside it for a run with `resume`.
    Whatever is raised leaves an earlier output, and the record beside it, as they were.

    Args:
        paths: files and directories; taken as they come.
        output: file to write, in one step at the end, in the format of its suffix (.csv, .jsonl, .parquet);
            "-" for the standard output, which gets no record and cannot be resumed.
        classifier: the open model.
        options: see there.
        stop: looked at before each image is begun; the run sets its deadline.
        watch: called after each row with the record so far, and at the end, whatever ends the run.
        asked: what else the run was asked for, to be recorded.

    Raises:
        UsageError: the output is there already, cannot be written, or cannot be resumed.
        NoImageError: there is an earlier output, or rows of one, and now no image at all.
        NetworkError: the network fails on every image; what was scored before is kept for `resume`.
        LockedError: another run writes this output.
        OutputError: the disk is full or gone; or images that an earlier run scored are gone, and
            `forget_gone` is not given: then what is new is kept for `resume`.
    """
    options, stop = options or Options(), stop or Stop()
    if options.max_duration is not None:
        stop.deadline = time.monotonic() + options.max_duration
    columns = columns_of(classifier, options)
    paths = paths if isinstance(paths, Iterator) else list(paths)
    arguments = {
        "paths": paths if isinstance(paths, list) else "a list",
        "output": output,
        **(asked or {}),
    }
    run = _Run(paths, classifier, options, stop, watch, arguments)
    try:
        options.check(output)
        if output == STDOUT:
            _stream(run, columns)
        else:
            _write(run, output, columns)
    finally:
        run.watch(run.record)
    return run.record


def _stream(run: "_Run", columns: Columns) -> None:
    """Scores to standard output."""
    stream(run.predictions(None), columns, jsonl=run.options.jsonl)
    run.record.check()
    if not run.stop.reason:
        run.record.finished = now()


def _write(run: "_Run", output: str, columns: Columns) -> None:
    """Scores into a file, under its lock."""
    options = run.options
    _check_output(output)
    try:
        with (
            locked(output, options.lock_wait, run.stop),
            Store(
                output,
                columns.labels,
                settings_of(run.classifier, options),
                resume=options.resume,
                overwrite=options.overwrite,
            ) as store,
        ):
            _fill(store, run, columns)
    except LockedError:
        if not run.stop.reason:
            raise


def _check_output(output: str) -> None:
    """Raises a UsageError if no predictions can be written there."""
    for target in (output, record_path(output)):
        check_target(target)
    check_format(output)


def _fill(store: Store, run: "_Run", columns: Columns) -> None:
    """Scores into the store, and publishes what it holds unless the run was stopped."""
    for _ in run.predictions(store):
        pass
    run.record.check()
    if run.stop.reason:
        return
    _check_losses(run, store)
    store.settle()
    finished = replace(run.record, finished=now())
    publish(store.output, store.rows(), columns, record_path(store.output), finished.to_json())
    run.record.finished = finished.finished


def _check_losses(run: "_Run", store: Store) -> None:
    """Refuses to publish what would lose the rows of an earlier run, or of this one."""
    output = store.output
    if run.record.found_nothing and (store.left_before or os.path.exists(output)):
        why = f" ({run.record.examples[Status.UNREADABLE]})" if run.record.unseen else ""
        raise NoImageError(f"no image found{why}; {output} and its rows are left as they were.")
    if run.record.none_old_enough:
        raise NoImageError(f"{NONE_OLD_ENOUGH}; {output} is left for the next run.")
    run.record.gone, example = store.gone()
    lost = (
        f"images of an earlier run that are not found now: {run.record.gone}, such as {example}; {output} is "
        "left as it was, and what is new is kept beside it"
    )
    if run.record.gone and run.record.unseen:
        raise OutputError(
            f"{counted(run.record.unseen, 'inputs')} cannot be looked into "
            f"({run.record.examples[Status.UNREADABLE]}); {lost}, for --resume."
        )
    if run.record.gone and not run.options.forget_gone:
        if not store.met_before:
            store.forget()  # or the right inputs would lack these images from now on
            raise OutputError(
                f"there are rows of {run.record.gone} images, such as {example}, and not one of them is "
                "found: another folder, another spelling, or a list of new images alone? --resume takes all "
                f"of them. {output} is left as it was, and nothing new is kept; --forget-gone lets those "
                "rows go."
            )
        raise OutputError(
            f"{lost}. --resume goes on once they are back, and named with the others; --forget-gone lets "
            "their rows go."
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
        arguments: Mapping[str, Any],
    ) -> None:
        self.paths, self.classifier, self.options, self.stop = paths, classifier, options, stop
        self.watch = watch or (lambda _: None)
        self.began = time.monotonic()
        self.fed: deque[tuple[int, Fingerprint | None]] = deque()
        self.shrunk = False
        self.record = begin_record(classifier, options, arguments)

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
            shrunk=self._shrink,
        )
        for prediction in scored:
            position, fingerprint = self.fed.popleft()
            if store is not None:
                # A resumed output has the bytes of one batch size, whenever memory was short.
                store.add(position, prediction, fingerprint, provisional=self.shrunk)
            self.record.count(prediction, seen=fingerprint is not None or leads_to_itself(prediction.path))
            self._tell()
            yield prediction

    def _feed(self, store: Store | None) -> Iterator[str]:
        """The images to score; takes over the rows of those that an earlier run scored.

        An image that has changed and is too young keeps its earlier row, with the fingerprint of then.
        """
        for path in find_images(self.paths, self._ignored, self.stop):
            fingerprint = Fingerprint.of(path)
            earlier = store.earlier(path) if store is not None and fingerprint is not None else None
            holds = earlier is not None and earlier[1] == fingerprint
            if not holds and fingerprint is not None and fingerprint.is_younger(self.options.min_age):
                self.record.waiting += 1
                if earlier is None:
                    continue
                holds = True  # until then: its row would else be out of the output for a night
            self.record.found += 1
            position = store.place() if store is not None else 0
            if store is not None and earlier is not None and holds:
                store.add(position, *earlier)
                self.record.unchanged += 1
                self._tell()
            else:
                self.fed.append((position, fingerprint))
                yield path

    def _tell(self) -> None:
        self.record.seconds = round(time.monotonic() - self.began, 3)
        self.watch(self.record)

    def _shrink(self, batch_size: int) -> None:
        self.shrunk, self.record.batch_size = True, batch_size

    def _ignored(self, _: str) -> None:
        self.record.ignored += 1


def plan(paths: Iterable[str], output: str, options: Options, files_from: str | None = None) -> Iterator[str]:
    """The images that a run would score now: none too young and, with `resume`, none that it would take over.

    Whether the output is there already, and whether an earlier run's model and settings allow a resume, is
    not looked at. With `resume` the lock is held until the images are gathered, not while they are read: a
    pager that is left open keeps no run out.

    Args:
        paths: as for `run`.
        output: as for `run`.
        options: as for `run`.
        files_from: where paths that come from a list came from; it is named if there is no image.

    Raises:
        UsageError: the output cannot be written or resumed, or the options exclude each other.
        LockedError: another run writes this output.
        OutputError: what is kept of earlier runs is damaged, or the folder for temporary files full or gone.
        NoImageError: behind the last path, that no image is there at all, or none that is old enough and
            none that an earlier run scored.
    """
    options.check(output)
    paths = paths if isinstance(paths, Iterator) else list(paths)
    if output != STDOUT:
        _check_output(output)
    if not options.resume or not (os.path.exists(output) or os.path.exists(store_path(output))):
        yield from _to_score(paths, options, None, files_from)
    else:
        yield from _gathered(paths, output, options, files_from)


def _gathered(paths: Iterable[str], output: str, options: Options, files_from: str | None) -> Iterator[str]:
    """Holds the lock until the images are gathered."""
    none_there: NoImageError | None = None
    with _in_temporary_folder(), SpooledTemporaryFile(GATHERED_IN_MEMORY) as gathered:
        with (
            locked(output, options.lock_wait, Stop()),
            Store(output, (), {}, resume=True) as store,
        ):
            try:
                for path in _to_score(paths, options, store, files_from):
                    gathered.write(json.dumps(path).encode() + b"\n")  # a name may hold any byte
            except NoImageError as error:
                none_there = error
        gathered.seek(0)
        yield from map(json.loads, gathered)
    if none_there is not None:
        raise none_there


@contextmanager
def _in_temporary_folder() -> Iterator[None]:
    """Says where there is no room; else it would seem to be on standard output, where the images go."""
    try:
        yield
    except OSError as error:
        raise OutputError(cannot_hold("the images to score")) from error


def _to_score(
    paths: Iterable[str], options: Options, store: Store | None, files_from: str | None
) -> Iterator[str]:
    any_waits = any_other = False
    for path in find_images(paths):
        fingerprint = Fingerprint.of(path)
        earlier = store.fingerprint(path) if store is not None and fingerprint is not None else None
        holds = earlier is not None and earlier == fingerprint
        if not holds and fingerprint is not None and fingerprint.is_younger(options.min_age):
            any_waits = True
            any_other = any_other or earlier is not None  # whose row stays until it is old enough
            continue
        any_other = any_other or fingerprint is not None or leads_to_itself(path)
        if not holds:
            yield path
    if not any_other and not any_waits:
        raise none_found(paths, files_from)
    if not any_other:
        raise NoImageError(f"{NONE_OLD_ENOUGH}.")
