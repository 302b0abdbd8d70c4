"""What a model says about itself: ModelSpec, carried as JSON in the ONNX file's metadata."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal, Self, get_args

from chexscore.errors import ModelError

__all__ = [
    "INPUT_NAME",
    "OUTPUT_NAME",
    "SPEC_KEY",
    "ImageSpec",
    "ModelSpec",
    "OperatingPoint",
    "Precision",
    "Resize",
    "check_labels",
]

INPUT_NAME = "image"
"""Name of the graph's input: uint8 [N, H, W, 1]."""

OUTPUT_NAME = "scores"
"""Name of the graph's output: float32 [N, L], each in 0..1."""

SPEC_KEY = "chexscore.spec"
"""Key of the JSON in the ONNX file's `metadata_props`."""

Precision = Literal["fp32", "fp16-weights", "fp16", "int8"]
"""Of a graph: 32 or 16 bit floating point, or 8 bit integers in its convolutions;
fp16-weights stores its weights in 16 bits and computes in 32."""

RESERVED_COLUMNS = frozenset({"path", "status", "note"})


def check_labels(labels: tuple[str, ...]) -> None:
    """Raises a ModelError if these cannot be the labels of a model: columns of a CSV beside its own."""
    if not labels or any(not label.strip() for label in labels):
        raise ModelError("a model needs at least one label, and none may be blank.")
    if len(set(labels)) < len(labels):
        raise ModelError(f"a label is named twice: {', '.join(labels)}.")
    if taken := RESERVED_COLUMNS.intersection(labels):
        raise ModelError(f"a label cannot be called {min(taken)!r}: the CSV has a column of that name.")
    if unprinted := [label for label in labels if not label.isprintable()]:
        raise ModelError(f"the label {unprinted[0]!r} has characters that are not printed.")
    if formulas := [label for label in labels if label.startswith(("=", "+", "-", "@"))]:
        raise ModelError(f"a label cannot be called {formulas[0]!r}: spreadsheets take it for a formula.")


class Resize(StrEnum):
    """How an image of any shape becomes one of the network's shape."""

    STRETCH = "stretch"
    """Each side scaled on its own; the aspect ratio is lost."""
    CROP = "crop"
    """Scaled until the network's shape is covered, then cropped around the centre."""
    PAD = "pad"
    """Scaled until it fits into the network's shape, then centred on black."""


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """The image that a network expects.

    Attributes:
        height: rows in pixels, at least 1.
        width: columns in pixels, at least 1.
        resize: how other shapes are brought to this one.
    """

    height: int
    width: int
    resize: Resize = Resize.STRETCH

    def __post_init__(self) -> None:
        if not all(isinstance(side, int) and side > 0 for side in (self.height, self.width)):
            raise ModelError(f"an image of {self.height} x {self.width} pixels cannot be scored.")
        object.__setattr__(self, "resize", Resize(self.resize))


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold for one label, and how it did on the validation patients.

    Attributes:
        name: what it was chosen for: "youden", "sensitivity 90 %", "sensitivity 95 %", "sensitivity 97.5 %",
            "specificity 90 %" or "best accuracy".
        threshold: a score at or above it reads as positive.
        sensitivity: share of the positives that did, 0..1.
        specificity: share of the negatives that did not, 0..1.
    """

    name: str
    threshold: float
    sensitivity: float
    specificity: float

    def __post_init__(self) -> None:
        if not all(0 <= value <= 1 for value in (self.threshold, self.sensitivity, self.specificity)):
            raise ModelError(f"the operating point {self.name!r} has a value outside 0..1.")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything that a user of a model has to know, and all that chexscore knows about it.

    Attributes:
        name: short name of the model.
        version: version of the model, not of chexscore.
        labels: the findings, in the order of the scores; none may be called path, status or note.
        image: the image that the network expects.
        thresholds: for each label the default operating point: a score at or above it reads as positive.
        operating_points: label -> the thresholds to choose from, the default one first; labels whose
            validation patients were all positive or all negative have none.
        calibration: how scores were calibrated; "none" means plain sigmoid outputs.
        precision: arithmetic of the graph; input and output are the same for each.
        training_data: what the network was trained on.
        licence: terms under which the model may be used.
        metrics: figures measured on patients that the network was not trained on, such as "auc/macro" or
            "ece/macro".
        provenance: how the file came to be: recipe, commit, tool versions, largest difference to Keras.
    """

    name: str
    version: str
    labels: tuple[str, ...]
    image: ImageSpec
    thresholds: tuple[float, ...]
    operating_points: Mapping[str, tuple[OperatingPoint, ...]] = field(default_factory=dict)
    calibration: str = "none"
    precision: Precision = "fp32"
    training_data: str = "not stated"
    licence: str = "not stated"
    metrics: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_labels(self.labels)
        if len(self.thresholds) != len(self.labels):
            raise ModelError(
                f"the model has {len(self.labels)} labels but {len(self.thresholds)} thresholds."
            )
        if not all(0 <= threshold <= 1 for threshold in self.thresholds):
            raise ModelError("a threshold lies outside 0..1.")
        if self.precision not in get_args(Precision):
            raise ModelError(f"{self.precision!r} is no precision; {', '.join(get_args(Precision))} are.")
        if unknown := sorted(set(self.operating_points) - set(self.labels)):
            raise ModelError(f"the model has operating points for {unknown[0]!r}, which is no label of it.")
        for name, value in self.metrics.items():
            if not math.isfinite(value):
                raise ModelError(f"the metric {name} is no number; leave out what is not defined.")

    @property
    def default_thresholds(self) -> dict[str, float]:
        """Label -> threshold of its default operating point."""
        return dict(zip(self.labels, self.thresholds, strict=True))

    @property
    def named_thresholds(self) -> dict[str, dict[str, float]]:
        """Label -> name of each of its operating points -> threshold; a label without any has "default"."""
        return {
            label: {point.name: point.threshold for point in self.operating_points.get(label, ())}
            or {"default": threshold}
            for label, threshold in self.default_thresholds.items()
        }

    def to_json(self) -> str:
        """The spec as JSON, keys in the order of the attributes."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote; keys that a later version added are passed over.

        Raises:
            ModelError: the text is no JSON, lacks a field, or a field has the wrong type or range.
        """
        try:
            content: dict[str, Any] = json.loads(text)
            known = {key: content[key] for key in cls.__slots__ if key in content}
            texts = ("name", "version", "calibration", "training_data", "licence")
            known |= {key: str(known[key]) for key in texts if key in known}
            known["image"] = ImageSpec(**known["image"])
            known["labels"] = tuple(str(label) for label in known["labels"])
            known["thresholds"] = tuple(float(threshold) for threshold in known["thresholds"])
            known["operating_points"] = {
                str(label): tuple(map(_point, points))
                for label, points in known.get("operating_points", {}).items()
            }
            known["metrics"] = {str(key): float(value) for key, value in known.get("metrics", {}).items()}
            known["provenance"] = {str(key): str(value) for key, value in known.get("provenance", {}).items()}
            return cls(**known)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
            raise ModelError(f"the model's description of itself cannot be read: {error!r}.") from error


def _point(content: dict[str, Any]) -> OperatingPoint:
    """An operating point from JSON, its fields of the right types."""
    numbers = {key: float(value) for key, value in content.items() if key != "name"}
    return OperatingPoint(str(content["name"]), **numbers)
