"""What `info` prints."""

import math

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chexscore import __version__
from chexscore.classifier import Classifier
from chexscore.messages import visible
from chexscore.spec import ModelSpec

__all__ = ["info"]


def info(classifier: Classifier, devices: list[str], cuda_fault: str) -> None:
    """Prints a model's description of itself, and what chexscore can use here, or why it cannot use a GPU."""
    spec = classifier.spec
    rows = {
        "chexscore": __version__,
        "devices": ", ".join(devices) + (f"; CUDA does not work ({cuda_fault})" if cuda_fault else ""),
        "model": f"{spec.name} {spec.version}",
        "file": classifier.path,
        "sha256": classifier.sha256,
        "image": f"{spec.image.height} x {spec.image.width} grey, resize: {spec.image.resize.value}",
        "precision": spec.precision,
        "calibration": spec.calibration,
        "training data": spec.training_data,
        "licence": spec.licence,
        **{key.replace("_", " "): value for key, value in spec.provenance.items()},
    }
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    for name, value in rows.items():
        console.print(f"[bold]{escape(f'{visible(name):20}')}[/bold] {escape(visible(value))}")
    console.print(_measures(spec))
    if spec.operating_points:
        console.print(_operating_points(spec))
    console.print("Not a medical device: no score may decide about a patient.")


def _measures(spec: ModelSpec) -> Table:
    """What was measured on the validation patients, a row for each label."""
    columns = {"AUC": "auc", "calibration error": "ece", "before calibration": "ece_before"}
    images, patients = (spec.metrics.get(name) for name in ("images", "patients"))
    caption = "on the validation patients" if spec.metrics else None
    if images and patients:
        caption = f"on {images:.0f} images of {patients:.0f} validation patients"
    table = Table(caption=caption, caption_justify="left")
    table.add_column("label", overflow="fold")
    shown = {
        heading: name
        for heading, name in columns.items()
        if any(f"{name}/{label}" in spec.metrics for label in spec.labels)
    }
    for heading in (*shown, "threshold"):
        table.add_column(heading, justify="right")
    for label, threshold in spec.default_thresholds.items():
        found = (spec.metrics.get(f"{name}/{label}", math.nan) for name in shown.values())
        table.add_row(escape(label), *map(_number, found), _number(threshold))
    if shown:
        table.add_section()
        table.add_row(
            "macro", *(_number(spec.metrics.get(f"{name}/macro", math.nan)) for name in shown.values())
        )
    return table


def _operating_points(spec: ModelSpec) -> Table:
    """The thresholds that a user can choose from; the first of each label is the default."""
    table = Table(caption="the first of each label is the default", caption_justify="left")
    table.add_column("label", overflow="fold")
    table.add_column("operating point")
    for heading in ("threshold", "sensitivity", "specificity"):
        table.add_column(heading, justify="right")
    for label, points in spec.operating_points.items():
        table.add_section()
        for number, point in enumerate(points):
            values = (_number(value) for value in (point.threshold, point.sensitivity, point.specificity))
            table.add_row("" if number else escape(label), escape(visible(point.name)), *values)
    return table


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"
