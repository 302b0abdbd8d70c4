"""What people see: progress and summaries on standard error, tables on standard output."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from chexscore import __version__
from chexscore.classifier import Classifier
from chexscore.evaluation import Evaluation
from chexscore.predictions import STDOUT
from chexscore.runs import RunRecord

__all__ = ["evaluation", "info", "progress", "summary"]

LOG_INTERVAL_S = 60


@contextmanager
def progress(classifier: Classifier, *, quiet: bool) -> Iterator[Callable[[RunRecord], None]]:
    """Shows a run: a live line on a terminal, else a log line now and then.

    Yields:
        A function to call with the record after each row.
    """
    console = _words()
    if quiet:
        yield lambda _: None
        return
    spec = classifier.spec
    console.print(
        f"chexscore {__version__}: {escape(spec.name)} {escape(spec.version)} on {classifier.device}"
    )
    if not console.is_terminal:
        yield _log(console)
        return
    columns = (
        BarColumn(),
        TextColumn("{task.completed} images, {task.fields[rate]:.0f}/s, {task.fields[failures]} not scored"),
        TimeElapsedColumn(),
    )
    started = time.monotonic()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None, rate=0.0, failures=0)

        def watch(record: RunRecord) -> None:
            done = record.scored + record.not_scored
            rate = done / max(time.monotonic() - started, 1e-3)
            bar.update(task, completed=done, rate=rate, failures=record.not_scored)

        yield watch


def _log(console: Console) -> Callable[[RunRecord], None]:
    last = time.monotonic()

    def watch(record: RunRecord) -> None:
        nonlocal last
        if time.monotonic() - last >= LOG_INTERVAL_S:
            last = time.monotonic()
            console.print(f"{record.scored} scored, {record.not_scored} not scored so far")

    return watch


def summary(record: RunRecord, output: str, *, quiet: bool) -> None:
    """Says at the end of a run what became of the images."""
    if quiet:
        return
    console = _words()
    if not record.found:
        console.print(f"no image found; {record.ignored} other files ignored")
        return
    rate = record.found / max(record.seconds, 1e-3)
    console.print(
        f"{record.found} images found: {record.scored} scored, {record.not_scored} not; "
        f"{record.ignored} other files ignored; {record.seconds:.1f} s, {rate:.0f} images/s"
    )
    for status, count in sorted(record.failed.items()):
        console.print(f"  {status}: {count}")
    if output != STDOUT:
        console.print(f"written: {escape(output)}")


def evaluation(result: Evaluation) -> None:
    """Prints the table of an evaluation, and on standard error what did not take part in it."""
    table = Table()
    table.add_column("label", overflow="fold")
    for heading in ("images", "positive", "negative", "AUC", "threshold", "accuracy"):
        table.add_column(heading, justify="right")
    for row in result.rows:
        if row.label == "macro":
            table.add_section()
        measures = (_number(value) for value in (row.auc, row.threshold, row.accuracy))
        table.add_row(escape(row.label), str(row.images), str(row.positives), str(row.negatives), *measures)
    Console(highlight=False).print(table)
    left_over = {
        "predictions without a score": result.not_scored,
        "scored images without labels": result.without_labels,
        "lines of labels without a prediction": result.without_predictions,
    }
    notes = [f"{count} {what}" for what, count in left_over.items() if count]
    if result.only_predicted:
        notes.append(f"no labels for {', '.join(result.only_predicted)}")
    if result.assumed_thresholds:
        notes.append("no thresholds known, accuracy is at 0.5 (give --model)")
    console = _words()
    console.print(f"{result.joined} images evaluated" + "".join(f"; {escape(note)}" for note in notes))


def info(classifier: Classifier, devices: list[str]) -> None:
    """Prints a model's description of itself, and what chexscore can use here."""
    spec = classifier.spec
    rows = {
        "chexscore": __version__,
        "devices": ", ".join(devices),
        "model": f"{spec.name} {spec.version}",
        "file": classifier.path,
        "sha256": classifier.sha256,
        "image": f"{spec.image.height} x {spec.image.width} grey, resize: {spec.image.resize.value}",
        "calibration": spec.calibration,
        "training data": spec.training_data,
        "licence": spec.licence,
        **{key.replace("_", " "): value for key, value in spec.provenance.items()},
    }
    console = Console(highlight=False, soft_wrap=True)
    for name, value in rows.items():
        console.print(f"[bold]{name:20}[/bold] {escape(value)}")
    labels = Table()
    labels.add_column("label", overflow="fold")
    for heading in ("threshold", "validation AUC"):
        labels.add_column(heading, justify="right")
    for label, threshold in spec.operating_points.items():
        labels.add_row(escape(label), _number(threshold), _number(spec.metrics.get(f"auc/{label}", math.nan)))
    console.print(labels)
    console.print("Not a medical device: no score may decide about a patient.")


def _words() -> Console:
    """Standard error; lines are never broken, so that logs can be searched."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"
