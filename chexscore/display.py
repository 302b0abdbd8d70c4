"""The tables that `eval` and `info` print."""

import math

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chexscore import __version__
from chexscore.classifier import Classifier
from chexscore.evaluation import Evaluation

__all__ = ["evaluation", "info"]


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
    console = Console(stderr=True, highlight=False, soft_wrap=True)
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
    for label, threshold in spec.default_thresholds.items():
        labels.add_row(escape(label), _number(threshold), _number(spec.metrics.get(f"auc/{label}", math.nan)))
    console.print(labels)
    console.print("Not a medical device: no score may decide about a patient.")


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"
