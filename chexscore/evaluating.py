"""What `chexscore eval` does: predictions, or images that it scores first, beside labels."""

import os
import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from chexscore.discovery import check_some_are_there, find_images
from chexscore.errors import OutputError, UsageError
from chexscore.evaluation.cases import Protocol
from chexscore.evaluation.evaluate import check_images
from chexscore.evaluation.evaluate import evaluate as measure
from chexscore.evaluation.points import are_predictions, points_and_model
from chexscore.evaluation.results import Evaluation
from chexscore.evaluation.summary import describe, to_csv, to_json
from chexscore.evaluation.tabulate import print_tables, say_what_was_evaluated
from chexscore.messages import cannot_hold
from chexscore.outputs import STDOUT, check_target, replacing, standard_output

if TYPE_CHECKING:
    from chexscore.sessions import Device

__all__ = ["Outputs", "evaluate"]

PICTURES = 3

AT_HALF = "; without it the two are compared at 0.5 alone"


@dataclass(frozen=True)
class Outputs:
    """What to write.

    Attributes:
        table: .csv or .json; "-" for the standard output; None for none.
        report: a page, .html.
        keep: CSV for the predictions of images; None keeps none.
        overwrite: replace files that are there.
        pictures: mistakes of each kind on the page; None for PICTURES.
    """

    table: str | None
    report: str | None
    keep: str | None
    overwrite: bool
    pictures: int | None

    def check(self, inputs: Sequence[str | None]) -> None:
        """Raises a UsageError for files that have other names, are there, or are read or written already."""
        if self.table not in (None, STDOUT) and not str(self.table).lower().endswith((".csv", ".json")):
            raise UsageError(f"-o {self.table}: the table is CSV or JSON; name it .csv or .json.")
        if self.table == STDOUT and sys.stdout is None:
            raise UsageError("standard output is closed; give --output a file.")
        if self.report is not None and not self.report.lower().endswith((".html", ".htm")):
            raise UsageError(f"--report {self.report}: the page is HTML; name it .html.")
        if self.pictures is not None and self.report is None:
            raise UsageError("--pictures is for the page; it goes with --report.")
        if self.overwrite and all(target in (None, STDOUT) for target in self._named):
            raise UsageError("--overwrite is for files; give --output, --report or --keep one.")
        if self.keep is not None and not self.keep.lower().endswith(".csv"):
            raise UsageError(f"--keep {self.keep}: predictions are kept as CSV; name it .csv.")
        targets = [target for target in self._named if target is not None and target != STDOUT]
        read, written = ([os.path.realpath(file) for file in files if file] for files in (inputs, targets))
        if set(read).intersection(written) or len(set(written)) < len(written):
            raise UsageError(
                "a file that is read or written already is named as an output; give another name."
            )
        if self.keep is not None and os.path.isfile(self.keep) and not self.overwrite:
            raise UsageError(
                f"{self.keep} exists; chexscore eval {self.keep} evaluates it, and --overwrite scores the "
                "images anew."
            )
        for target in targets:
            check_target(target, overwrite=self.overwrite)

    @property
    def _named(self) -> tuple[str | None, ...]:
        return self.table, self.report, self.keep


def evaluate(
    inputs: list[str],
    labels: str,
    protocol: Protocol,
    outputs: Outputs,
    *,
    model: str | None,
    device: "Device",
    against: str | None,
) -> int:
    """Evaluates, writes what is asked for and shows the rest.

    Args:
        inputs: a CSV of predictions, or images and directories.
        labels: CSV of labels.
        protocol: how to count.
        outputs: what to write.
        model: ONNX file that scores images, or has the operating points of predictions.
        device: where it scores.
        against: CSV of another model's predictions, or None.

    Returns:
        What the command ends with: 0, or what a run ends with that was stopped.

    Raises:
        UsageError: files or options that exclude each other, or an output that is there.
        NoImageError: there is no image.
        TableError: predictions or labels cannot be used.
        OutputError: a file cannot be written.
    """
    predicted = are_predictions(inputs)
    if predicted and outputs.keep is not None:
        raise UsageError("--keep is for images; these are predictions already.")
    if predicted and device != "auto":
        raise UsageError("--device is for images; these are predictions already.")
    if protocol.strict and not predicted and outputs.keep is None:
        raise UsageError("--strict for images goes with --keep, or the scores are lost if an image fails.")
    outputs.check([*inputs, labels, against, model])
    if outputs.report is not None:
        from chexscore.report.page import check_plots  # noqa: PLC0415, plots take a second to import

        check_plots()
    other_points, other_model = points_and_model(against, without=AT_HALF) if against else ({}, {})
    with ExitStack() as opened:
        if predicted:
            predictions = name = inputs[0]
            points, about_model = points_and_model(predictions, model)
        else:
            name = outputs.keep or "scored by this command"
            predictions = outputs.keep or os.path.join(opened.enter_context(TemporaryDirectory()), "out.csv")
            try:
                code = _score(
                    inputs,
                    predictions,
                    lambda images, names: check_images(images, names, labels, protocol, against),
                    model=model,
                    device=device,
                    overwrite=outputs.overwrite,
                )
            except OutputError as error:
                if outputs.keep is not None or not isinstance(error.__cause__, sqlite3.Error | OSError):
                    raise
                raise OutputError(cannot_hold("the scores", "give --keep a file elsewhere, or ")) from error
            if code is not None:
                return code
            points, about_model = points_and_model(predictions)
        found = measure(predictions, labels, points, protocol, against=against, other_points=other_points)
    about = describe(found, name, about_model, against, other_model)
    text = to_json(found, about) if (outputs.table or "").lower().endswith(".json") else to_csv(found)
    # Files first: nobody may read the terminal to its end.
    try:
        _write(found, about, text, outputs)
    except OutputError:
        with suppress(OutputError):
            _show(found, about, text, outputs)
        raise
    _show(found, about, text, outputs)
    return 0


def _write(found: Evaluation, about: Mapping[str, str], text: str, outputs: Outputs) -> None:
    if outputs.table is not None and outputs.table != STDOUT:
        with replacing(outputs.table) as file:
            file.write(text.encode(errors="surrogateescape"))
    if outputs.report is not None:
        from chexscore.report.page import to_html  # noqa: PLC0415, as above

        page = to_html(found, about, pictures=PICTURES if outputs.pictures is None else outputs.pictures)
        with replacing(outputs.report) as file:
            file.write(page.encode())


def _show(found: Evaluation, about: Mapping[str, str], text: str, outputs: Outputs) -> None:
    say_what_was_evaluated(found, about)
    if outputs.table == STDOUT:
        with standard_output() as file:
            file.write(text.encode(errors="surrogateescape"))
    elif sys.stdout is not None:  # as a scheduler may close it
        with standard_output():
            print_tables(found)


def _score(
    paths: list[str],
    output: str,
    check: Callable[[list[str], tuple[str, ...]], None],
    *,
    model: str | None,
    device: "Device",
    overwrite: bool,
) -> int | None:
    """Scores images into a CSV; what else is asked for is checked before, not after hours.

    Returns:
        What the command ends with if the run was stopped, else None.
    """
    from chexscore import progress  # noqa: PLC0415, for predictions nothing of this is needed
    from chexscore.exits import STOPPED, exit_code  # noqa: PLC0415
    from chexscore.options import Options  # noqa: PLC0415
    from chexscore.runs import run  # noqa: PLC0415
    from chexscore.scoring import open_classifier  # noqa: PLC0415
    from chexscore.settings import settings_of  # noqa: PLC0415
    from chexscore.stopping import stopped_by_signals  # noqa: PLC0415
    from chexscore.store import can_be_resumed  # noqa: PLC0415

    classifier = open_classifier(model, device)
    # What a stopped one left is gone on with, where there is no output yet that could lose rows: --overwrite
    # may be for a report of earlier.
    settings = settings_of(classifier, Options())
    resume = not overwrite or (not os.path.exists(output) and can_be_resumed(output, settings))
    options = Options(overwrite=not resume, resume=resume, forget_gone=resume)
    with stopped_by_signals() as stop:
        check_some_are_there(paths)
        found = list(find_images(paths, stop=stop))
        if any(map(os.path.exists, found)):
            check(found, classifier.spec.labels)
        # As for standard output: there is no --resume to name.
        with progress.show("text", STDOUT, classifier, lambda: len(found), stop) as watch:
            record = run(paths, output, classifier, options, stop=stop, watch=watch)
    if stop.reason:
        return STOPPED[stop.reason]
    exit_code(record, output, stop, None)
    return None
