"""What `info` prints."""

import math

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chexscore import __version__
from chexscore.classifier import Classifier

__all__ = ["info"]


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


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"
