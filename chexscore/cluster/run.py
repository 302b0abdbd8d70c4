"""One run of `predict --engine ray`: inputs -> a folder of parts; and `merge`: the folder -> one file."""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from typing import Any, Protocol

from chexscore.classifier import Classifier, Device
from chexscore.cluster.connection import connected
from chexscore.cluster.job import Job
from chexscore.cluster.listing import Listing, take_list
from chexscore.cluster.parts import SUCCESS, Parts, Scored, clear, merged, names_in
from chexscore.cluster.pipeline import Ray
from chexscore.cluster.storage import Folder, find
from chexscore.errors import NoImageError, UsageError
from chexscore.fingerprints import Fingerprint
from chexscore.lock import locked
from chexscore.options import Options
from chexscore.outputs import STDOUT, check_target, publish, stream
from chexscore.records import RunRecord, record_path
from chexscore.runs import begin_record, columns_of, installed, now, settings_of
from chexscore.scoring import BATCH_SIZE
from chexscore.stopping import Stop
from chexscore.store import check_settings

__all__ = ["Engine", "merge", "on_ray", "plan", "run"]


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
    """Scores everything below `paths` into a folder of parts.

    The inputs are listed once. A run that goes on scores what has no row of status ok in the parts that are
    there; what has come to the inputs since is for another folder.

    Args:
        paths: files, directories and URIs; taken as they come.
        output: the folder, a path that every node sees, or a URI.
        engine: what scores.
        options: as for one machine; see `chexscore.runs`.
        stop: looked at before each row; the run sets its deadline.
        watch: called after each row with the record so far, and at the end, whatever ends the run.
        asked: what else the run was asked for, to be recorded; "paths" and "files_from", the file that more
            paths come from, have to be the same, and that file unchanged, for a run that goes on.

    Raises:
        UsageError: the output is there already, cannot be written, or cannot be resumed.
        NoImageError: there is an earlier output, and now no image at all.
        LockedError: another run writes this output.
        OutputError: the storage is full or gone.
        ChexscoreError: the engine failed; what was scored before is kept for `resume`.
    """
    stop = stop or Stop()
    if options.max_duration is not None:
        stop.deadline = time.monotonic() + options.max_duration
    began = time.monotonic()
    asked = {"output": output, "paths": paths if isinstance(paths, list) else "a list", **(asked or {})}
    record = begin_record(engine.classifier, options, asked)
    try:
        with ExitStack() as held:
            folder = _check(output, options)
            if folder.is_local:
                held.enter_context(locked(folder.name, options.lock_wait, stop))
            settings = settings_of(engine.classifier, options)
            listing = _earlier(folder, asked, settings) if options.resume else None
            if listing is None:
                others: Counter[str] = Counter()
                found = _found(paths, options, stop, others)
                listing = _take_list(folder, found, others, asked, settings)
                if stop.asked():
                    return record
                listing.write(folder)
            columns = columns_of(engine.classifier, options)
            parts = Parts(folder, listing, columns, record.batch_size)
            spans = tuple(parts.missing())
            record.found, record.ignored, record.waiting = listing.found, listing.ignored, listing.waiting
            record.unchanged = listing.found - sum(end - begin for begin, end in spans)
            if spans:
                folder.delete(SUCCESS)
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
            for row in parts.fill(engine.score(job, stop)):
                record.batch_size = min(record.batch_size, row.batch_size)
                record.count(row.prediction)
                record.seconds = round(time.monotonic() - began, 3)
                watch(record)
            if not stop.reason:
                record.check()
                record.finished = now()
                parts.publish(record)
    finally:
        record.seconds = round(time.monotonic() - began, 3)
        watch(record)
    return record


@contextmanager
def on_ray(
    output: str, options: Options, address: str | None, model: str | None, device: Device
) -> Iterator[Ray]:
    """A Ray cluster to run on, for as long as the context; what is wrong with the output is said before.

    Raises:
        UsageError: as `run` does; or see `Ray`.
    """
    _check(output, options)
    with connected(address):
        yield Ray(model, device, options.batch_size or BATCH_SIZE, options.workers)


def plan(paths: Iterable[str], output: str, options: Options) -> Iterator[str]:
    """The images that a run would list now.

    Raises:
        UsageError: for a run that goes on; its list is in its folder.
    """
    if options.resume:
        raise UsageError(f"{output}: --dry-run lists what a new run would score; leave --resume out.")
    return _found(paths, options, Stop(), Counter())


def _check(output: str, options: Options) -> Folder:
    """The folder of the output; refuses what it cannot be, or what is not for a cluster."""
    if output == STDOUT or re.search(r"\.(csv|jsonl|parquet)/?$", output.lower()):
        raise UsageError(
            f"{output}: --engine ray writes a folder of parts; name one, and `chexscore merge` makes a file "
            "of it."
        )
    options.check(output)
    if options.forget_gone:
        raise UsageError("--forget-gone is not for --engine ray, which lists its inputs once.")
    folder = Folder(output)
    if folder.is_local:
        if not output or not os.path.isdir(os.path.dirname(folder.place)):
            raise UsageError(f"{output or 'the output'} cannot be written: there is no folder for it.")
        if os.path.exists(folder.place) and not os.path.isdir(folder.place):
            raise UsageError(f"{output} is a file; --engine ray writes a folder of parts.")
    there = names_in(folder)
    if there and not (options.resume or options.overwrite):
        whole = "exists" if SUCCESS in there else "holds what an earlier run left"
        raise UsageError(f"{output} {whole}; --resume goes on with it, --overwrite begins anew.")
    return folder


def _earlier(folder: Folder, asked: Mapping[str, Any], settings: Mapping[str, str]) -> Listing | None:
    """The list of the run that goes on, if it came to an end."""
    try:
        listing = Listing.read(folder)
    except FileNotFoundError:
        return None
    check_settings(folder.name, listing.settings, settings)
    if listing.asked != _source(asked):
        raise UsageError(
            f"{folder.name} was begun with other inputs, or their list has changed; --overwrite begins anew."
        )
    return listing


def _source(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Where the inputs come from, as JSON has it."""
    listed = asked.get("files_from")
    fingerprint = Fingerprint.of(listed) if listed else None
    return {
        "paths": asked["paths"],
        "files_from": listed,
        "size and time of the list": list(fingerprint) if fingerprint else None,
    }


def _found(paths: Iterable[str], options: Options, stop: Stop, others: Counter[str]) -> Iterator[str]:
    """The images that are old enough; counts the others."""

    def ignored(_: str) -> None:
        others["ignored"] += 1

    for path in find(paths, ignored, stop):
        fingerprint = Fingerprint.of(path) if options.min_age else None
        if fingerprint is not None and fingerprint.is_younger(options.min_age):
            others["waiting"] += 1
        else:
            yield path


def _take_list(
    folder: Folder,
    found: Iterator[str],
    others: Counter[str],
    asked: Mapping[str, Any],
    settings: Mapping[str, str],
) -> Listing:
    """A new list in a folder that is cleared once there is something to list."""
    first = list(islice(found, 1))
    if not first and names_in(folder):
        raise NoImageError(f"no image found; {folder.name} is left as it was.")
    clear(folder)
    return take_list(folder, chain(first, found), others, _source(asked), settings)


def merge(source: str, output: str, *, overwrite: bool = False) -> None:
    """Makes of a folder of parts the file that one machine would have written, and its record.

    Args:
        source: the folder.
        output: file, in the format of its suffix; "-" for standard output.
        overwrite: replace it.

    Raises:
        UsageError: the folder is not whole, or the output is there or cannot be written.
        OutputError: a part is damaged, or the disk is full.
    """
    parts, record = merged(Folder(source))
    if output == STDOUT:
        stream(parts.rows(), parts.columns, jsonl=False)
        return
    for target in (output, record_path(output)):
        check_target(target, overwrite=overwrite)
    with locked(output, 0, Stop()):
        publish(
            output, parts.rows(), parts.columns, record_path(output), json.dumps(record, indent=1).encode()
        )
