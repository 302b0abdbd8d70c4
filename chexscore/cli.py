"""The command line: parse, call, print, exit."""

import signal
import sys
from typing import Annotated, Literal, NoReturn

import typer

from chexscore import __version__
from chexscore.errors import ChexscoreError

NOT_EVERY_IMAGE, NO_IMAGE, INTERRUPTED, TERMINATED = 3, 4, 130, 143

EXIT_CODES = (
    "Exit codes: 0 every image was scored; 1 failed; 2 wrong usage; 3 finished, but some images were not "
    "scored and their rows say why; 4 no image found; 5 the device asked for is not there; 130 or 143 "
    "interrupted."
)

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="ONNX", help="A model that `python -m export` made.  [bundled one]"
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
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command(epilog=EXIT_CODES)
def predict(
    paths: Annotated[list[str], typer.Argument(help="Images, and directories to search for images.")],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="CSV", help='The CSV to write; "-" is standard output.')
    ] = "-",
    model: ModelOption = None,
    device: DeviceOption = "auto",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images that go through the network together.  [8]")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode images.  [one a core]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on standard error.")] = False,
) -> None:
    """Score X-rays: one row for each image, with its scores or the reason why there are none.

    Beside the CSV goes its record, CSV.run.json: model, device, counts and times.

    Example: chexscore predict ./images -o out.csv
    """
    from chexscore import display, runs
    from chexscore.classifier import Classifier

    signal.signal(signal.SIGTERM, _terminate)
    classifier = Classifier(model, device=device)
    try:
        with display.progress(classifier, quiet=quiet) as watch:
            record = runs.run(
                paths,
                output,
                classifier,
                batch_size=batch_size,
                workers=workers,
                overwrite=overwrite,
                watch=watch,
            )
    except KeyboardInterrupt as stop:
        _say(f"chexscore: interrupted; {output} was not written.")
        raise typer.Exit(TERMINATED if isinstance(stop, _Terminated) else INTERRUPTED) from stop
    display.summary(record, output, quiet=quiet)
    if not record.found:
        raise typer.Exit(NO_IMAGE)
    if record.failed:
        raise typer.Exit(NOT_EVERY_IMAGE)


@app.command(name="eval", epilog=EXIT_CODES)
def evaluate(
    predictions: Annotated[str, typer.Argument(help="A CSV that `chexscore predict` wrote.")],
    labels: Annotated[
        str, typer.Option(help="A CSV with a column path, and for each label one of 1, 0, blank or -1.")
    ],
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="CSV", help="Write the table as CSV too.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="ONNX", help="Take the thresholds from this model.  [the one recorded]"
        ),
    ] = None,
) -> None:
    """Compare scores with labels: AUC for each label, macro and micro means, accuracy at the thresholds.

    An image belongs to the line of labels with the same path, or one that its path ends with or that ends
    with its path. Blank and -1 labels are left out.

    Example: chexscore eval out.csv --labels labels.csv
    """
    from chexscore import display, evaluation
    from chexscore.runs import recorded_thresholds

    if model is None:
        thresholds = recorded_thresholds(predictions)
    else:
        from chexscore.classifier import Classifier

        thresholds = Classifier(model, device="cpu").spec.operating_points
    table = evaluation.evaluate(predictions, labels, thresholds)
    display.evaluation(table)
    if output is not None:
        evaluation.write_csv(table, output)


@app.command(epilog=EXIT_CODES)
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
    try:
        app()
    except ChexscoreError as error:
        _say(f"chexscore: error: {error}")
        sys.exit(error.exit_code)


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


class _Terminated(KeyboardInterrupt):
    """SIGTERM; the way out is the same as for SIGINT."""


def _terminate(*_: object) -> NoReturn:
    raise _Terminated


def _say(line: str) -> None:
    typer.echo(line, err=True)
