"""What the predictions to evaluate were made with: the model and its operating points."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from chexscore.beside import RECORD, record_path
from chexscore.errors import ModelError, TableError, UsageError, first_line
from chexscore.predictions import read_predictions

__all__ = ["DEFAULT", "Points", "are_predictions", "points_and_model"]

Points = Mapping[str, Mapping[str, float]]
"""Label -> name of an operating point -> threshold: a score at or above it reads as positive. The first
is the default, under that name, and again under what it was chosen for."""

HEADER = b"path,status,"

WITHOUT = ", and give --model for the operating points"

DEFAULT = "default"
"""Name of the point that a model uses for a label unless it is told otherwise; it comes first."""


def are_predictions(inputs: Sequence[str]) -> bool:
    """Whether these name one CSV of predictions, and not images.

    Raises:
        UsageError: a CSV of predictions among other inputs, or predictions in a format that is not read back.
    """
    for source in inputs:
        _check_format(source)
    found = [source for source in inputs if _is_table(source)]
    if found and len(inputs) > 1:
        raise UsageError(
            f"{found[0]}: one CSV of predictions is evaluated at a time, and without images beside it; name "
            "either alone. --against compares with another CSV."
        )
    return bool(found)


def _check_format(source: str) -> None:
    """Raises a UsageError for predictions in a format that is not read back."""
    if source.lower().endswith((".jsonl", ".parquet")):
        raise UsageError(
            f"{source}: predictions are evaluated as CSV; give predict an output such as out.csv."
        )


def _is_table(source: str) -> bool:
    """Whether this is a CSV, by its name or by how it begins."""
    if source.lower().endswith(".csv"):
        return not os.path.isdir(source)
    if os.path.isfile(source):
        with suppress(OSError), open(source, "rb") as file:
            return file.read(len(HEADER)) == HEADER
    return False


def points_and_model(
    predictions: str, model: str | None = None, *, without: str = WITHOUT
) -> tuple[Points, dict[str, str]]:
    """The operating points to evaluate predictions at, and what is known about the model that made them.

    Without a record nothing tells what made the scores; then the second says under "points" where the points
    are from.

    Args:
        predictions: a CSV; the record beside it says both, if it is there.
        model: an ONNX file to take the points from instead.
        without: what to do once a record that cannot be used is gone, for the error.

    Raises:
        UsageError: the predictions are in a format that is not read back.
        TableError: there is a record, and it cannot be read.
        ModelError: the model cannot be used, it is another one than the record names, or it has not got all
            labels of the predictions.
    """
    _check_format(predictions)
    source = _record_of(predictions)
    record = _read_record(source, without)
    about = {key: str(value) for key, value in (record or {}).get("model", {}).items()}
    if model is None:
        return _recorded_points(record, source, without), about
    from chexscore.classifier import Classifier  # noqa: PLC0415, onnxruntime costs start-up time

    classifier = Classifier(model, device="cpu")
    if about.get("sha256", classifier.sha256) != classifier.sha256:
        raise ModelError(f"{model} is not the model that made {predictions}: their sha256 differ.")
    spec = classifier.spec
    labels, _ = read_predictions(predictions)
    if strange := [label for label in labels if label not in spec.labels]:
        raise ModelError(
            f"{model} is not the model that made {predictions}: it has no label {strange[0]}, but "
            f"{', '.join(spec.labels)}."
        )
    points = _from_default(spec.default_thresholds, spec.named_thresholds)
    if record is None:
        return points, {"points": f"{spec.name} {spec.version}, sha256 {classifier.sha256}"}
    return points, {"name": spec.name, "version": spec.version, "sha256": classifier.sha256}


def _record_of(predictions: str) -> str:
    """Where the record stands: beside what a link points to, or beside the link, if both were put away."""
    source = record_path(predictions)
    return source if os.path.exists(source) else f"{predictions}{RECORD}"


def _read_record(source: str, without: str) -> dict[str, Any] | None:
    if not os.path.exists(source):
        return None
    try:
        with open(source, encoding="utf-8") as file:
            record = json.load(file)
    except OSError as error:
        raise TableError(f"{source}: the record of the run cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise _no_record(source, first_line(error), without) from error
    if not isinstance(record, dict) or not isinstance(record.get("model", {}), dict):
        raise _no_record(source, "it does not say which model it was", without)
    return record


def _recorded_points(record: dict[str, Any] | None, source: str, without: str) -> Points:
    """Those of a record; older ones have the default thresholds alone."""
    if record is None:
        return {}
    try:
        return _from_default(record["thresholds"], record.get("operating_points", {}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_record(source, "its thresholds are missing, or not in 0..1", without) from error


def _no_record(source: str, why: str, without: str) -> TableError:
    return TableError(f"{source}: not the record of a run: {why}; remove it{without}.")


def _from_default(thresholds: Mapping[str, Any], named: Mapping[str, Mapping[str, Any]]) -> Points:
    """The points of each label, its default threshold in front."""
    return {
        str(label): {DEFAULT: _threshold(threshold)}
        | {str(name): _threshold(value) for name, value in named.get(label, {}).items() if name != DEFAULT}
        for label, threshold in thresholds.items()
    }


def _threshold(value: Any) -> float:
    threshold = float(value)
    if not 0 <= threshold <= 1:  # JSON of Python may have NaN
        raise ValueError(f"the threshold {value} lies outside 0..1")
    return threshold
