"""The command line: parse, call, print, exit. Long for one reason: every option is declared here."""

import contextlib
import gc
import io
import itertools
import os
import sys
import warnings
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal, cast

import typer

from chexscore import __version__
from chexscore.errors import ChexscoreError, UsageError
from chexscore.messages import counted, open_streams, say, speak_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from chexscore.options import Options

EXIT_CODES = (
    "Exit codes: 0 every image was scored; 1 failed, the message says why; 2 wrong usage; 3 finished, but "
    "some images were not scored and their rows say why, or --max-duration was over; 4 no image found, or "
    "none older than --min-age; 5 the device asked for is not there; 6 another run writes the same output; "
    "130 or 143 stopped by SIGINT or SIGTERM, for --resume."
)
EVAL_EXIT_CODES = (
    "Exit codes: 0 done; 1 failed, the message says why; 2 wrong usage. For images also 4 no image found; "
    "5 the device asked for is not there; 6 another run writes what --keep names; 130 or 143 stopped by "
    "SIGINT or SIGTERM."
)
MERGE_EXIT_CODES = (
    "Exit codes: 0 done; 1 failed, the message says why; 2 wrong usage; 6 another run writes the same output."
)
INFO_EXIT_CODES = "Exit codes: 0 done; 1 the model cannot be used; 2 wrong usage."

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="ONNX", help="A model from `python -m export`; by default the bundled one."
    ),
]
Device = Literal["auto", "cpu", "cuda"]
DeviceOption = Annotated[
    Device,
    typer.Option(help="Where the network runs; auto takes CUDA where it works."),
]

MOST_PIXELS = 178_956_970
"""That Pillow decodes: twice its MAX_IMAGE_PIXELS."""

FEWEST_RESAMPLES = 200
"""Draws that a standard error can be taken from (Efron and Tibshirani 1993, section 6.4)."""

WrongUsage = cast("type[typer.BadParameter]", typer.BadParameter.__base__)
"""Typer's base of all wrong usage, which its versions keep in different places."""

app = typer.Typer(
    help="Score directories of chest X-rays offline, into a CSV with one row for every image.\n\n"
    "Not a medical device: no score may decide about a patient.",
    epilog=EXIT_CODES,
    rich_markup_mode=None,  # its page takes longer to load than to read
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
            "--output",
            "-o",
            metavar="FILE",
            help='.csv, .jsonl or .parquet; "-" is standard output. With --engine ray a folder.',
        ),
    ] = "-",
    files_from: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help='Take paths from FILE too, a line or NUL each; "-" is standard input.'
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on after a stop; in a finished output score what is new or has changed."
        ),
    ] = False,
    forget_gone: Annotated[
        bool,
        typer.Option(
            "--forget-gone",
            help="With --resume: let the rows of images go that are not found any more; else exit 1.",
        ),
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
        str | None,
        typer.Option(
            metavar="N|N%",
            help="Exit 1 if more images than this, or than this share of all, are not scored, or what "
            "may be a folder cannot be looked into.",
        ),
    ] = None,
    max_duration: Annotated[
        str | None, typer.Option(metavar="TIME", help="Stop after this time, such as 6h, for --resume.")
    ] = None,
    lock_wait: Annotated[
        str, typer.Option(metavar="TIME", help="Wait so long for another run of the same output.")
    ] = "0s",
    max_pixels: Annotated[
        int, typer.Option(min=1, max=MOST_PIXELS, help="Do not decode larger images.")
    ] = 80_000_000,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="Images that go through the network together; by default 1, on a GPU 4."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads that decode images; by default one a core. With --engine ray networks that score.",
        ),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="This machine; or a Ray cluster, whose output is for `chexscore merge`."),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="The Ray cluster, or auto; by default Ray finds it, or starts one here."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            "-n",
            help="Print the images that would be scored; with --resume, what it would if the settings agree.",
        ),
    ] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="JSON lines on standard output.")] = False,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="One JSON object a line on standard error, with --quiet too.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on standard error.")] = False,
) -> None:
    """Score X-rays: one row for each image, with its scores or the reason why there are none.

    Beside the output go its record (FILE.run.json: model, device, counts, times) and what --resume needs
    (FILE.state). Times are written 90s, 5m, 6h or 2d.

    With --engine ray all of that is in the folder; its inputs are listed once, and --resume scores what of
    them is missing or failed, and nothing new. There --dry-run is for new runs, --device auto the CPU.

    Example: chexscore predict ./images -o out.csv
    """
    from chexscore.discovery import check_some_are_there, find_images, read_list
    from chexscore.exits import STOPPED, exit_code
    from chexscore.stopping import Stop, StoppedError, stop_on_signals
    from chexscore.units import parse_duration, parse_limit

    if not paths and files_from is None:
        raise UsageError("no images are named; give files, directories or --files-from.")
    _check_paths(paths or [])
    if address is not None and engine != "ray":
        raise UsageError("--address is that of a Ray cluster; it goes with --engine ray.")
    _check_tags(dicom_tag or [], quiet=quiet and not log_json)
    limit = None if max_failures is None else parse_limit("--max-failures", max_failures)
    from chexscore.options import Options
    from chexscore.runs import run

    _freeze_imports()
    options = Options(
        batch_size=batch_size,
        workers=workers,
        max_pixels=max_pixels,
        min_age=parse_duration("--min-age", min_age),
        max_duration=None if max_duration is None else parse_duration("--max-duration", max_duration),
        thresholds=thresholds,
        tags=tuple(dict.fromkeys(dicom_tag or ())),
        resume=resume,
        forget_gone=forget_gone,
        overwrite=overwrite,
        lock_wait=parse_duration("--lock-wait", lock_wait),
        jsonl=jsonl,
    )
    with contextlib.ExitStack() as opened:
        listed = None if files_from is None else opened.enter_context(_list(files_from))
        stop = Stop() if dry_run else stop_on_signals()  # not before: opening a pipe may take for ever
        inputs: Iterable[str] = paths or []
        if listed is not None:
            inputs = itertools.chain(inputs, read_list(listed, stop))
        if dry_run:
            if engine != "ray" and files_from is None:
                check_some_are_there(paths or [])
            _print_plan(_plan(engine, inputs, output, options, files_from), quiet=quiet)
            return

        from chexscore import progress
        from chexscore.scoring import open_classifier

        style: progress.Style = "json" if log_json else "quiet" if quiet else "text"
        asked: dict[str, object] = {
            "model": model,
            "device": device,
            "max_failures": max_failures,
            "files_from": files_from,
        }
        if engine == "ray":
            from chexscore.cluster.run import on_ray
            from chexscore.cluster.run import run as run_on_cluster

            try:
                ray = opened.enter_context(on_ray(output, options, address, model, device, stop))
            except StoppedError as error:
                say(f"chexscore: stopped by {stop.reason} before the first image")
                raise typer.Exit(STOPPED[stop.reason]) from error
            asked |= {"engine": engine, "workers": ray.workers}
            with progress.show(style, output, ray.classifier, None, stop) as watch:
                record = run_on_cluster(inputs, output, ray, options, stop=stop, watch=watch, asked=asked)
        else:
            classifier = open_classifier(model, device)
            total = None if files_from else lambda: sum(1 for _ in find_images(paths or []))
            with progress.show(style, output, classifier, total, stop) as watch:
                record = run(inputs, output, classifier, options, stop=stop, watch=watch, asked=asked)
    raise typer.Exit(exit_code(record, output, stop, limit))


@app.command(epilog=MERGE_EXIT_CODES)
def merge(
    source: Annotated[str, typer.Argument(metavar="FOLDER", help="What `predict --engine ray` wrote.")],
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE", help='.csv, .jsonl or .parquet; "-" is standard output.'
        ),
    ] = "-",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Make of a Ray cluster's output the file that one machine would have written, and its record.

    Example: chexscore merge scores -o out.csv
    """
    from chexscore.cluster.run import merge as merge_parts

    _freeze_imports()
    _check_paths([source])
    merge_parts(source, output, overwrite=overwrite)


@app.command(name="eval", epilog=EVAL_EXIT_CODES)
def evaluate(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="PREDICTIONS|IMAGES...",
            help="A CSV that `chexscore predict` wrote; or images and directories, which are scored first.",
        ),
    ],
    labels: Annotated[
        str, typer.Option(metavar="CSV", help="Labels: CheXpert's CSV, NIH's, or columns path, LABEL, ...")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help='Write the table, .csv or .json; "-" is standard output.'
        ),
    ] = None,
    report: Annotated[
        str | None, typer.Option(metavar="HTML", help="Write a page with plots and pictures, to be read.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="ONNX",
            help="For images: what scores them, by default the bundled model. For predictions: take the "
            "operating points from it; by default those recorded beside them.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    keep: Annotated[
        str | None,
        typer.Option(metavar="CSV", help="For images: keep their predictions here, as `predict -o` does."),
    ] = None,
    uncertain: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[LABEL=]POLICY",
            help="What labels of -1 are taken for: ignore, positive or negative; repeatable.",
        ),
    ] = None,
    blank: Annotated[
        list[str] | None, typer.Option(metavar="[LABEL=]POLICY", help="What blank labels are taken for.")
    ] = None,
    by: Annotated[
        Literal["image", "study"], typer.Option(help="Count images, or take a study's views together.")
    ] = "image",
    views: Annotated[
        Literal["max", "mean"], typer.Option(help="The score of a study: the largest or mean of its views.")
    ] = "max",
    group: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="What intervals draw: patient, study, image or a column; by default patients, if known.",
        ),
    ] = None,
    subgroup: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN[:EDGES]", help="Evaluate apart, by Sex or Age:40,60; repeatable."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="CSV", help="Predictions of another model for the same images, to compare with."
        ),
    ] = None,
    resamples: Annotated[
        int, typer.Option(min=0, help="Draws for the intervals, 200 or more; 0 for none.")
    ] = 1000,
    pictures: Annotated[
        int | None,
        typer.Option(
            min=0, help="The most confident mistakes to show in the report, of each kind; by default 3."
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail if a prediction or a line of labels is left over.")
    ] = False,
) -> None:
    """Compare scores with labels, with 95 % intervals: how good is it, and where not?

    An image belongs to the line of labels with the same path, or one that its path ends with or that ends
    with its path. Labels are 1, 0, -1 for uncertain, or blank.

    Example: chexscore eval out.csv --labels labels.csv --subgroup Sex --report report.html
    """
    from chexscore.evaluating import Outputs
    from chexscore.evaluating import evaluate as run
    from chexscore.evaluation.cases import Protocol
    from chexscore.labels import read_policies

    _freeze_imports()
    named = (*inputs, labels, output, report, model, keep, against)
    _check_paths([path for path in named if path is not None])
    if 0 < resamples < FEWEST_RESAMPLES:
        raise UsageError(
            f"--resamples {resamples}: too few to tell how wide an interval is; give {FEWEST_RESAMPLES} or "
            "more, or 0 for none."
        )
    if views != "max" and by != "study":
        raise UsageError("--views is for the views of a study; it goes with --by study.")
    taken, blanks = (read_policies(words or ()) for words in (uncertain, blank))
    protocol = Protocol(
        taken, blanks, by, views, group, tuple(dict.fromkeys(subgroup or ())), resamples, strict
    )
    code = run(
        inputs,
        labels,
        protocol,
        Outputs(output, report, keep, overwrite, pictures),
        model=model,
        device=device,
        against=against,
    )
    raise typer.Exit(code)


@app.command(epilog=INFO_EXIT_CODES)
def info(model: ModelOption = None) -> None:
    """Show what a model says about itself, and the devices that can be used here.

    Example: chexscore info
    """
    from chexscore import display
    from chexscore.classifier import Classifier, usable_devices
    from chexscore.outputs import standard_output

    _freeze_imports()
    classifier = Classifier(model, device="cpu")
    with standard_output():
        display.info(classifier, *usable_devices(classifier))


def main() -> None:
    """Entry point of the `chexscore` command."""
    gc.disable()  # until `_freeze_imports`: imports make many thousands of objects, and hardly any garbage
    # NumPy's OpenBLAS would start a thread for each core, which spins for a while; there is no work for them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    open_streams()
    warnings.simplefilter("ignore")  # a decoder's words about one file; its row says what matters
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # labels may be what its encoding lacks
    as_json = "--log-json" in sys.argv  # wrong usage is to be JSON, too
    if as_json:
        speak_json()
    try:
        sys.exit(app(standalone_mode=not as_json))
    except WrongUsage as error:  # in JSON only, else Typer says it
        say(error.format_message(), "error")
        sys.exit(error.exit_code)
    except ChexscoreError as error:
        say(f"chexscore: error: {error}", "error")
        sys.exit(error.exit_code)
    except OSError as error:  # the standard output is full, say
        say(f"chexscore: error: {error.filename or 'standard output'}: {error.strerror}.", "error")
        sys.exit(1)
    finally:
        _freeze_imports()  # or Python looks through all of it several times before it ends


def _freeze_imports() -> None:
    """Lets Python look for garbage from here on, but never among what is there already: mostly imports."""
    gc.freeze()
    gc.enable()


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


def _check_paths(paths: list[str]) -> None:
    if "" in paths:
        raise UsageError("an empty path is named; is a variable not set?")


def _check_tags(keywords: list[str], *, quiet: bool) -> None:
    if not keywords:
        return
    from chexscore.tags import check_keywords, names_people

    check_keywords(keywords)
    naming = [keyword for keyword in keywords if names_people(keyword)]
    if naming and not quiet:
        lead = "leads" if len(naming) == 1 else "lead"
        say(f"chexscore: warning: {', '.join(naming)} {lead} to people; the output will too.", "warning")


def _plan(
    engine: str, inputs: "Iterable[str]", output: str, options: "Options", files_from: str | None
) -> "Iterable[str]":
    if engine == "ray":
        from chexscore.cluster.run import plan as plan_on_cluster

        return plan_on_cluster(inputs, output, options, files_from)
    from chexscore.runs import plan

    return plan(inputs, output, options, files_from)


def _print_plan(paths: "Iterable[str]", *, quiet: bool) -> None:
    """What `--dry-run` prints."""
    from chexscore.outputs import list_paths

    number = list_paths(paths)
    if not quiet:
        say(f"{counted(number, 'images')} would be scored")


def _list(source: str) -> contextlib.AbstractContextManager[BinaryIO]:
    """The list of images that `--files-from` names."""
    if source == "-":
        if sys.stdin is None:
            raise UsageError("standard input is closed; give --files-from a file.")
        return contextlib.nullcontext(sys.stdin.buffer)
    try:
        return open(source, "rb")
    except OSError as error:
        raise UsageError(f"{source}: the list of images cannot be read: {error.strerror}.") from error
