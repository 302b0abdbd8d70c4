"""The command line: parse, call, print, exit. Long for one reason: every option is declared here."""

import contextlib
import io
import itertools
import logging
import os
import sys
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal

import typer

from chexscore import __version__
from chexscore.errors import ChexscoreError, LockedError, UsageError

if TYPE_CHECKING:
    from chexscore.records import RunRecord
    from chexscore.stopping import Stop

NOT_EVERY_IMAGE, NO_IMAGE = 3, 4
STOPPED = {"SIGINT": 130, "SIGTERM": 143, "--max-duration": NOT_EVERY_IMAGE}

EXIT_CODES = (
    "Exit codes: 0 every image was scored; 1 failed; 2 wrong usage; 3 finished, but some images were not "
    "scored and their rows say why, or --max-duration was over; 4 no image found; 5 the device asked for is "
    "not there; 6 another run writes the same output; 130 or 143 stopped by SIGINT or SIGTERM, for --resume."
)
EVAL_EXIT_CODES = "Exit codes: 0 done; 1 failed, the message says why; 2 wrong usage."
INFO_EXIT_CODES = "Exit codes: 0 done; 1 the model cannot be used; 2 wrong usage."

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="ONNX", help="A model from `python -m export`; by default the bundled one."
    ),
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option(help="Where the network runs; auto takes CUDA where it works."),
]

app = typer.Typer(
    help="Score directories of chest X-rays offline, into a CSV with one row for every image.\n\n"
    "Not a medical device: no score may decide about a patient.",
    epilog=EXIT_CODES,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command(epilog=EXIT_CODES)
def predict(
    paths: Annotated[
        list[str] | None, typer.Argument(help="Images, and directories to search for images.")
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE", help='.csv, .jsonl or .parquet; "-" is standard output.'
        ),
    ] = "-",
    files_from: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help='Take paths from FILE too, a line or NUL each; "-" is standard input.'
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after a stop; in a finished output score what is new.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew, whatever is there.")] = False,
    model: ModelOption = None,
    device: DeviceOption = "auto",
    thresholds: Annotated[
        bool, typer.Option("--thresholds", help="Add a column LABEL_positive, 1 or 0, for each label.")
    ] = False,
    dicom_tag: Annotated[
        list[str] | None, typer.Option(metavar="KEYWORD", help="Add this DICOM tag as a column; repeatable.")
    ] = None,
    min_age: Annotated[
        str, typer.Option(metavar="TIME", help="Leave younger files for the next run.")
    ] = "0s",
    max_failures: Annotated[
        str | None, typer.Option(metavar="N|N%", help="Exit 1 if more images than this are not scored.")
    ] = None,
    max_duration: Annotated[
        str | None, typer.Option(metavar="TIME", help="Stop after this time, such as 6h, for --resume.")
    ] = None,
    lock_wait: Annotated[
        str, typer.Option(metavar="TIME", help="Wait so long for another run of the same output.")
    ] = "0s",
    max_pixels: Annotated[int, typer.Option(min=1, help="Do not decode larger images.")] = 80_000_000,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Images that go through the network together; by default 8."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode images; by default one a core.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Print the images that would be scored, and stop.")
    ] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="JSON lines on standard output.")] = False,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="One JSON object a line on standard error.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on standard error.")] = False,
) -> None:
    """Score X-rays: one row for each image, with its scores or the reason why there are none.

    Beside the output go its record (FILE.run.json: model, device, counts, times) and what --resume needs
    (FILE.state). Times are written 90s, 5m, 6h or 2d.

    Example: chexscore predict ./images -o out.csv
    """
    from chexscore.discovery import find_images, read_list
    from chexscore.stopping import Stop, stop_on_signals
    from chexscore.units import parse_duration, parse_limit

    if not paths and files_from is None:
        raise UsageError("no images are named; give files, directories or --files-from.")
    if dicom_tag:
        _check_tags(dicom_tag)
    parse_limit(max_failures or "0", 0)
    from chexscore.runs import Options, plan, run

    options = Options(
        batch_size=batch_size,
        workers=workers,
        max_pixels=max_pixels,
        min_age=parse_duration(min_age),
        max_duration=parse_duration(max_duration) if max_duration else None,
        thresholds=thresholds,
        tags=tuple(dict.fromkeys(dicom_tag or ())),
        resume=resume,
        overwrite=overwrite,
        lock_wait=parse_duration(lock_wait),
        jsonl=jsonl,
    )
    stop = Stop() if dry_run else stop_on_signals()
    with contextlib.ExitStack() as opened:
        inputs: Iterable[str] = paths or []
        if files_from is not None:
            listed = sys.stdin.buffer if files_from == "-" else opened.enter_context(_open(files_from))
            inputs = itertools.chain(inputs, read_list(listed, stop))
        if dry_run:
            _list_plan(plan(inputs, options))
            return

        from chexscore import progress
        from chexscore.classifier import Classifier

        style: progress.Style = "json" if log_json else "quiet" if quiet else "text"
        classifier = Classifier(model, device=device)
        total = None if files_from else lambda: sum(1 for _ in find_images(paths or []))
        with progress.show(style, classifier, total) as watch:
            try:
                record = run(inputs, output, classifier, options, stop=stop, watch=watch)
            except LockedError as error:
                if stop.reason:
                    raise typer.Exit(STOPPED[stop.reason]) from error
                raise
    progress.closing_words(record, output, stop, style)
    _conclude(record, output, stop, max_failures)


@app.command(name="eval", epilog=EVAL_EXIT_CODES)
def evaluate(
    predictions: Annotated[str, typer.Argument(help="A CSV that `chexscore predict` wrote.")],
    labels: Annotated[
        str, typer.Option(help="A CSV with a column path, and for each label one of 1, 0, blank or -1.")
    ],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="CSV", help='Write the table as CSV; "-" is standard output.'),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a table that exists.")] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="ONNX",
            help="Take the thresholds from this model; by default those recorded beside the predictions.",
        ),
    ] = None,
) -> None:
    """Compare scores with labels: AUC for each label, macro and micro means, accuracy at the thresholds.

    An image belongs to the line of labels with the same path, or one that its path ends with or that ends
    with its path. Blank and -1 labels are left out.

    Example: chexscore eval out.csv --labels labels.csv
    """
    from chexscore import display, evaluation
    from chexscore.outputs import STDOUT, check_target, replacing
    from chexscore.records import recorded_thresholds

    if output not in (None, STDOUT):
        check_target(output, overwrite=overwrite)
    if model is None:
        thresholds = recorded_thresholds(predictions)
    else:
        from chexscore.classifier import Classifier

        thresholds = Classifier(model, device="cpu").spec.default_thresholds
    table = evaluation.evaluate(predictions, labels, thresholds)
    if output == STDOUT:
        typer.echo(evaluation.to_csv(table), nl=False)
    else:
        display.evaluation(table)
        if output is not None:
            with replacing(output) as file:
                file.write(evaluation.to_csv(table).encode())


@app.command(epilog=INFO_EXIT_CODES)
def info(model: ModelOption = None) -> None:
    """Show what a model says about itself, and the devices that can be used here.

    Example: chexscore info
    """
    from chexscore import display
    from chexscore.classifier import Classifier, usable_devices

    classifier = Classifier(model, device="cpu")
    display.info(classifier, usable_devices(classifier))


def main() -> None:
    """Entry point of the `chexscore` command."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)  # it quotes what stands in headers
    warnings.simplefilter("ignore")  # a decoder's words about one file; its row says what matters
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # file names may be any bytes
    try:
        app()
    except ChexscoreError as error:
        _say(f"chexscore: error: {error}")
        sys.exit(error.exit_code)
    except OSError as error:  # the standard output is full, say
        _say(f"chexscore: error: {error.strerror}.")
        sys.exit(1)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"chexscore {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _conclude(record: "RunRecord", output: str, stop: "Stop", max_failures: str | None) -> None:
    """Ends with the exit code that the counts call for."""
    from chexscore.units import parse_limit

    if not record.finished:
        raise typer.Exit(STOPPED[stop.reason])
    if record.found_nothing:
        _say("chexscore: no image found.")
        raise typer.Exit(NO_IMAGE)
    if max_failures is not None and record.not_scored > parse_limit(max_failures, record.found):
        raise ChexscoreError(
            f"{record.not_scored} of {record.found} images were not scored, more than --max-failures "
            f"{max_failures}; {output} is complete."
        )
    if record.failed:
        raise typer.Exit(NOT_EVERY_IMAGE)


def _check_tags(keywords: list[str]) -> None:
    from chexscore.dicom import check_keywords, names_people

    check_keywords(keywords)
    if naming := [keyword for keyword in keywords if names_people(keyword)]:
        _say(f"chexscore: warning: {', '.join(naming)} leads to people; the output will too.")


def _open(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise UsageError(f"{path}: the list of images cannot be read: {error.strerror}.") from error


def _list_plan(found: Iterable[str]) -> None:
    number = 0
    for path in found:
        sys.stdout.buffer.write(os.fsencode(path) + b"\n")
        number += 1
    sys.stdout.flush()
    _say(f"{number} images found; what an earlier run scored of them is not looked at")


def _say(line: str) -> None:
    if "--log-json" in sys.argv:
        from chexscore.progress import log

        log("message", text=line)
    else:
        typer.echo(line, err=True)
