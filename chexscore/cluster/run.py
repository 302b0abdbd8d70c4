"""One run of `predict --engine ray`: inputs -> a folder of parts; and `merge`: the folder -> one file."""

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

from chexscore.beside import record_path, store_path
from chexscore.classifier import Classifier
from chexscore.cluster.connection import connected
from chexscore.cluster.job import Job
from chexscore.cluster.listing import LISTING, Inputs, Listing, read_paths, take_list
from chexscore.cluster.parts import SUCCESS, Parts, Scored, clear, merged, names_in
from chexscore.cluster.pipeline import Ray
from chexscore.cluster.storage import Folder, find, is_there, is_uri
from chexscore.discovery import is_image_by_name, none_found
from chexscore.errors import LockedError, NoImageError, OutputError, UsageError
from chexscore.lock import locked
from chexscore.options import Options
from chexscore.outputs import STDOUT, check_format, check_target, publish, stream
from chexscore.predictions import Prediction, Status
from chexscore.records import RunRecord
from chexscore.sessions import Device
from chexscore.settings import begin_record, columns_of, installed, now, settings_of
from chexscore.stopping import Stop, StoppedError
from chexscore.store import check_settings

__all__ = ["Engine", "merge", "on_ray", "plan", "run"]

LOOKED_AT = 1000
"""Inputs at the start, of which one has to be there."""

NONE_OF_FIRST = f"none of the first {LOOKED_AT} inputs is there"
NONE_LEFT = f"none of the first {LOOKED_AT} inputs is there, nor of the first {LOOKED_AT} left to score"


class Engine(Protocol):
    """What scores the places of a list."""

    @property
    def classifier(self) -> Classifier:
        """The model, to be asked; its device is where it really runs."""

    def score(self, job: Job, stop: Stop) -> Iterator[Scored]:
        """Scores a job; the rows come in the order of the list, until a stop."""


def run(
    paths: Iterable[str],
    output: str,
    engine: Engine,
    options: Options,
    *,
    stop: Stop | None = None,
    watch: Callable[[RunRecord], None] = lambda _: None,
    asked: Mapping[str, Any] | None = None,
) -> RunRecord:
    """Scores everything below `paths` into a folder of parts, under its lock (see `on_ray`).

    The inputs are listed once. A run that goes on scores what has no row of status ok in the parts that are
    there; what has come to the inputs since is for another folder.

    Args:
        paths: files, directories and URIs; taken as they come. A run that goes on has to be given the same.
        output: the folder, a path that every node sees, or a URI.
        engine: what scores.
        options: as for one machine; see `chexscore.runs`.
        stop: looked at before each row; the run sets its deadline.
        watch: called after each row with the record so far, and at the end, whatever ends the run.
        asked: what else the run was asked for, to be recorded.

    Raises:
        UsageError: the output is there already, cannot be written, or cannot be resumed.
        NoImageError: there is no image at all, or none is there any more; an output is left as it was.
        OutputError: the storage is full or gone.
        ChexscoreError: the engine failed; what was scored before is kept for `resume`.
    """
    stop = stop or Stop()
    _set_deadline(stop, options)
    began = time.monotonic()
    asked = {"output": output, "paths": paths if isinstance(paths, list) else "a list", **(asked or {})}
    record = begin_record(engine.classifier, options, asked)
    try:
        folder = _check(output, options)
        columns = columns_of(engine.classifier, options)
        settings = {**settings_of(engine.classifier, options), "columns": ", ".join(columns.names)}
        inputs = Inputs(paths, stop)
        earlier = _earlier(folder, inputs, settings, stop) if options.resume else None
        listing = earlier or _take_list(folder, inputs, settings, stop)
        if listing is None:
            return record
        parts = Parts(folder, listing, columns, record.batch_size)
        spans = tuple(parts.missing(stop))
        if stop.asked():
            return record
        if earlier and spans:  # what was there when the list was taken may not be there tonight
            first, left = read_paths(folder, 0), _left(folder, listing, spans, stop)
            looked_at = chain(first[:LOOKED_AT], islice(left, LOOKED_AT))
            _check_some_are_there(folder, looked_at, NONE_LEFT, stop)
            if stop.asked():
                return record
        record.found, record.ignored = listing.found, listing.ignored
        record.unchanged = listing.found - sum(end - begin for begin, end in spans)
        job = Job(
            folder=folder.place,
            images_a_part=listing.images_a_part,
            spans=spans,
            base=os.getcwd(),
            image=engine.classifier.spec.image,
            max_pixels=options.max_pixels,
            tags=options.tags,
            installed=installed(),
        )
        for row in parts.fill(engine.score(job, stop), spans):
            record.batch_size = min(record.batch_size, row.batch_size)
            record.count(row.prediction, seen=_is_seen(row.prediction))
            record.seconds = round(time.monotonic() - began, 3)
            watch(record)
        if not stop.reason:
            record.check()
            finished = replace(record, finished=now())
            parts.publish(finished)
            record.finished = finished.finished
    finally:
        record.seconds = round(time.monotonic() - began, 3)
        watch(record)
    return record


def _is_seen(prediction: Prediction) -> bool:
    """Whether something is known to be there, or would be no folder."""
    return prediction.status is not Status.UNREADABLE or _is_there(prediction.path, unclear=False)


def _is_there(path: str, *, unclear: bool) -> bool:
    """As `is_there`, but asks no store of images by name: one that does not answer takes seconds for each."""
    return (is_uri(path) and is_image_by_name(os.path.basename(path))) or is_there(path, unclear=unclear)


@contextmanager
def on_ray(
    output: str,
    options: Options,
    address: str | None,
    model: str | None,
    device: Device,
    stop: Stop | None = None,
) -> Iterator[Ray]:
    """A Ray cluster to run on, and the lock of an output that is a path, for as long as the context.

    What is wrong with the output is said before Ray starts.

    Raises:
        UsageError: as `run` does; or see `Ray`.
        LockedError: another run writes this output.
        StoppedError: the stop came first.
    """
    stop = stop or Stop()
    _set_deadline(stop, options)
    folder = _folder_of(output, options)
    names_in(folder)  # refuses the folder of something else, before a lock stands beside it
    with ExitStack() as held:
        if folder.is_local:
            try:
                held.enter_context(locked(folder.name, options.lock_wait, stop))
            except LockedError as error:
                if stop.reason:
                    raise StoppedError from error
                raise
        _check(output, options)
        held.enter_context(connected(address))
        together = options.images_together("cuda" if device == "cuda" else "cpu")  # auto is the CPU there
        yield Ray(model, device, together, options.workers, stop)


def plan(paths: Iterable[str], output: str, options: Options, files_from: str | None = None) -> Iterator[str]:
    """The images that a run would list now.

    Args:
        paths: as for `run`.
        output: as for `run`.
        options: as for `run`.
        files_from: where paths that come from a list came from; it is named if there is no image.

    Raises:
        UsageError: for a run that goes on, whose list is in its folder; for what is not for a cluster; or for
            an output that a run would refuse.
        NoImageError: behind the last path, that no image is there at all.
    """
    if options.resume:
        raise UsageError(f"{output}: --dry-run lists what a new run would score; leave --resume out.")
    if output == STDOUT:
        _check_options(options)
    else:
        _check(output, options)
    return _to_list(paths, files_from)


def _to_list(paths: Iterable[str], files_from: str | None) -> Iterator[str]:
    found = find(paths)
    first = list(islice(found, LOOKED_AT))
    yield from chain(first, found)
    are_all = len(first) < LOOKED_AT  # else there may be images behind those that cannot be looked into
    if not any(_is_there(path, unclear=not are_all) for path in first):
        raise none_found(paths, files_from) if are_all else NoImageError(f"{NONE_OF_FIRST}.")


def _set_deadline(stop: Stop, options: Options) -> None:
    if options.max_duration is not None:
        stop.deadline = min(stop.deadline, time.monotonic() + options.max_duration)


def _check(output: str, options: Options) -> Folder:
    """The folder of the output; refuses what `_folder_of` does, and what is not to be gone on with."""
    folder = _folder_of(output, options)
    there = names_in(folder)
    if there and not (options.resume or options.overwrite):
        whole = "exists" if SUCCESS in there else "holds what an earlier run left"
        raise UsageError(f"{output} {whole}; --resume goes on with it, --overwrite begins anew.")
    return folder


def _folder_of(output: str, options: Options) -> Folder:
    """The folder of the output; refuses what it cannot be, or what is not for a cluster."""
    if output == STDOUT or re.search(r"\.(csv|jsonl|parquet)/?$", output.lower()):
        raise UsageError(
            f"{output}: --engine ray writes a folder of parts; name one, and `chexscore merge` makes a file "
            "of it."
        )
    options.check(output)
    _check_options(options)
    folder = Folder(output)
    if folder.is_local:
        if not output or not os.path.isdir(os.path.dirname(folder.place)):
            raise UsageError(f"{output or 'the output'} cannot be written: there is no folder for it.")
        if os.path.exists(folder.place) and not os.path.isdir(folder.place):
            raise UsageError(f"{output} is a file; --engine ray writes a folder of parts.")
    return folder


def _check_options(options: Options) -> None:
    if options.forget_gone or options.min_age:
        name = "--forget-gone" if options.forget_gone else "--min-age"
        raise UsageError(f"{name} is not for --engine ray, which lists its inputs once.")


def _earlier(folder: Folder, inputs: Inputs, settings: Mapping[str, str], stop: Stop) -> Listing | None:
    """The list of the run that goes on, if it came to an end."""
    try:
        listing = Listing.read(folder)
    except FileNotFoundError as error:
        if any(name.startswith("part-") for name in names_in(folder)):
            raise UsageError(
                f"{folder.name} has parts and no {LISTING}, so it cannot be resumed; --overwrite begins anew."
            ) from error
        return None
    check_settings(folder.name, listing.settings, settings)
    if listing.given != inputs.fingerprint() and not stop.asked():
        raise UsageError(
            f"{folder.name} was begun with other inputs, or with relative paths in another directory; "
            "--overwrite begins anew."
        )
    return listing


def _take_list(folder: Folder, inputs: Inputs, settings: Mapping[str, str], stop: Stop) -> Listing | None:
    """A new list, in a folder that is cleared once something is seen that is there; None after a stop.

    Raises:
        NoImageError: nothing is there: an archive that is not mounted tonight costs no earlier output, and
            is not fixed as the list of a run that goes on.
    """
    first = list(islice(inputs.images, LOOKED_AT))
    what = NONE_OF_FIRST if len(first) == LOOKED_AT else "no image found"
    _check_some_are_there(folder, first, what, stop)
    if stop.asked():
        return None
    clear(folder)
    listing = take_list(folder, chain(first, inputs.images), inputs, settings)
    if stop.asked():
        return None
    listing.write(folder)
    return listing


def _left(folder: Folder, listing: Listing, spans: Iterable[tuple[int, int]], stop: Stop) -> Iterator[str]:
    """The paths that are left to score; an end of them where a stop is asked for."""
    for begin, end in spans:
        for part in range(begin // listing.images_a_part, (end - 1) // listing.images_a_part + 1):
            if stop.asked():
                return
            start, _ = listing.span(part)
            yield from read_paths(folder, part)[max(begin - start, 0) : end - start]


def _check_some_are_there(folder: Folder, paths: Iterable[str], none: str, stop: Stop) -> None:
    """Raises a NoImageError if none is; after a stop, which may have cut them short, nothing is known."""
    unclear = not names_in(folder)  # a row will say why, but not in place of those of an earlier run
    if not any(is_there(path, unclear=unclear) for path in paths) and not stop.asked():
        raise NoImageError(f"{none}; {folder.name} is left as it was.")


def merge(source: str, output: str, *, overwrite: bool = False) -> None:
    """Makes of a folder of parts the file that one machine would have written, and its record.

    Args:
        source: the folder.
        output: file, in the format of its suffix; "-" for standard output.
        overwrite: replace it.

    Raises:
        UsageError: the folder is not whole, or the output is there or cannot be written.
        OutputError: a part is damaged, the disk is full, or a run wrote the folder meanwhile.
    """
    if os.path.isfile(source):
        raise UsageError(f"{source} is a file; give the folder that --engine ray wrote.")
    folder = Folder(source)
    parts, record = merged(folder)
    rows = _rows_of_one_run(parts, record)
    if output == STDOUT:
        stream(rows, parts.columns, jsonl=False)
        return
    kept = store_path(output)
    for target in (output, record_path(output), kept):
        check_target(target, overwrite=overwrite)
    check_format(output)
    if folder.is_local and os.path.realpath(folder.place) in map(str, Path(output).resolve().parents):
        raise UsageError(f"{output} would stand among the parts; name a file outside {folder.name}.")
    with locked(output, 0, Stop()):
        check_target(kept, overwrite=overwrite)  # the lock may have brought it back, from a killed merge
        publish(
            output,
            rows,
            parts.columns,
            record_path(output),
            json.dumps(record, indent=1).encode(),
            outdated=[kept],
        )


def _rows_of_one_run(parts: Parts, record: Mapping[str, Any]) -> Iterator[Prediction]:
    """The rows of a folder, unless a run has gone on with it by then: not all may be those of the record."""
    yield from parts.rows()
    if merged(parts.folder)[1] != record:
        raise OutputError(f"a run has gone on with {parts.folder.name} meanwhile; merge it again.")
