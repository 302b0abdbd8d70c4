"""What people and log collectors see of a run, on standard error."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from typing import Literal

from chexscore import __version__
from chexscore.classifier import Classifier
from chexscore.messages import counted, log, say
from chexscore.outputs import STDOUT
from chexscore.records import RunRecord
from chexscore.stopping import MAX_DURATION, Stop

__all__ = ["Style", "show"]

Style = Literal["quiet", "text", "json"]

LOG_INTERVAL_S = 30.0
"""Between log lines where there is no terminal."""

Watch = Callable[[RunRecord], None]


@contextmanager
def show(
    style: Style, output: str, classifier: Classifier, count: Callable[[], int] | None, stop: Stop
) -> Iterator[Watch]:
    """Shows a run while it goes, a live bar on a terminal, else a line now and then; and what it came to.

    Args:
        style: "json" writes one JSON object a line, "quiet" nothing unless the run was stopped.
        output: where the rows go; a bar would stand in the way of rows on the same terminal. Standard output
            cannot be gone on with, so nothing is said of that.
        classifier: what scores, and where; told at the start.
        count: counts the images, for the time left; called in a thread, on a terminal only; None if only
            the run itself can take them.
        stop: says why the run was stopped.

    Yields:
        What is to be called with the record after each row.
    """
    if classifier.cuda_fault:
        say(
            f"chexscore: warning: CUDA does not work ({classifier.cuda_fault}); this runs on the CPU.",
            "warning",
        )
    last: RunRecord | None = None
    try:
        with _live(style, output, classifier, count) as live:

            def watch(record: RunRecord) -> None:
                nonlocal last
                last = record
                live(record)

            yield watch
    finally:  # whatever ended it: of a night that is refused there is no other account
        if last is not None and (stop.reason or last.saw_something):
            _closing_words(last, output, stop, style)


def _live(
    style: Style, output: str, classifier: Classifier, count: Callable[[], int] | None
) -> AbstractContextManager[Watch]:
    spec = classifier.spec
    opening = f"chexscore {__version__}: {spec.name} {spec.version} on {classifier.device}"
    if style == "quiet":
        return _quiet()
    if style == "json":
        return _lines(lambda record: log("progress", **_counts(record)), lambda: log("start", text=opening))
    if sys.stderr.isatty() and not (output == STDOUT and sys.stdout and sys.stdout.isatty()):
        return _bar(opening, count)
    return _lines(
        lambda record: say(f"{record.done} done, {record.not_scored} of them not scored"),
        lambda: say(opening),
    )


def _closing_words(record: RunRecord, output: str, stop: Stop, style: Style) -> None:
    """Says at the end what became of the images; a run that was stopped says how to go on even when quiet."""
    overwrites = record.arguments["overwrite"]
    instead = " instead of --overwrite" if overwrites else ""
    go_on, goes_on = f"the same command with --resume{instead}", "goes on from here"
    if overwrites and record.met_nothing:  # the rows that are there are those of an earlier run
        go_on, goes_on = "the same command", "begins anew"
    if style == "json":
        if record.finished:
            log("finished", **asdict(record))
        elif stop.reason:
            log("stopped", reason=stop.reason, go_on=None if output == STDOUT else go_on, **asdict(record))
        else:
            log("refused", **asdict(record))
        return
    if style == "text":
        took = (
            f"; {record.seconds:.1f} s, {record.tried / record.seconds:.0f} images/s"
            if record.seconds
            else ""
        )
        parts = [f"{record.scored:,} scored", f"{record.not_scored:,} not"]
        if record.unchanged:
            parts.append(f"{record.unchanged:,} unchanged")
        others = {"other files ignored": record.ignored, "too young, left for the next run": record.waiting}
        others["of an earlier run gone"] = record.gone
        rest = "".join(f"; {counted(number, what)}" for what, number in others.items() if number)
        say(f"{counted(record.found, 'images')} found: {', '.join(parts)}{rest}{took}")
        for status, number in sorted(record.failed.items()):
            say(f"  {status}: {number:,}, such as {record.examples[status]}")
    if record.batch_size < record.arguments["batch_size"]:
        say(
            f"chexscore: memory was short: batches of {record.batch_size} instead of "
            f"{record.arguments['batch_size']}; --resume scores their images again, --batch-size "
            f"{record.batch_size} would not need to"
        )
    if stop.reason and not record.finished:
        why = "the time is over" if stop.reason == MAX_DURATION else f"stopped by {stop.reason}"
        rest = "" if output == STDOUT else f"; {go_on} {goes_on}"
        say(f"chexscore: {why}: {counted(record.done, 'images')} done{rest}")


@contextmanager
def _quiet() -> Iterator[Watch]:
    yield lambda _: None


@contextmanager
def _lines(line: Watch, opening: Callable[[], None]) -> Iterator[Watch]:
    opening()
    last = time.monotonic()

    def watch(record: RunRecord) -> None:
        nonlocal last
        if time.monotonic() - last >= LOG_INTERVAL_S:
            last = time.monotonic()
            line(record)

    yield watch


@contextmanager
def _bar(opening: str, count: Callable[[], int] | None) -> Iterator[Watch]:
    # Loads half as long as onnxruntime, and nobody sees it at night.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    say(opening)
    columns = (
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.fields[found]}"),
        TextColumn("{task.fields[rate]:.0f} images/s"),
        TextColumn("{task.fields[failures]} not scored"),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None, found="?", rate=0.0, failures=0)

        def count_ahead() -> None:
            total = count() if count is not None else 0
            progress.update(task, total=total, found=str(total))

        if count is not None:
            threading.Thread(target=count_ahead, daemon=True).start()

        def watch(record: RunRecord) -> None:
            rate = record.tried / max(time.monotonic() - began, 1e-3)
            progress.update(task, completed=record.done, rate=rate, failures=record.not_scored)

        yield watch


def _counts(record: RunRecord) -> dict[str, int]:
    return {
        "scored": record.scored,
        "not_scored": record.not_scored,
        "unchanged": record.unchanged,
        "waiting": record.waiting,
    }
