"""What a run makes of its model and options: columns, what decides its rows, and how its record begins."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from chexscore import __version__
from chexscore.classifier import Classifier
from chexscore.images import READING
from chexscore.options import Options
from chexscore.predictions import Columns
from chexscore.records import RunRecord

__all__ = ["begin_record", "columns_of", "installed", "now", "settings_of"]

DECODERS = ("numpy", "pillow", "pydicom", "python-gdcm")
"""Packages; the last one is not for every platform."""

CUDNN = "nvidia-cudnn-cu13"
"""The package, where cuDNN is not the system's own: another version may choose other algorithms."""


def columns_of(classifier: Classifier, options: Options) -> Columns:
    """What an output says of each image; raises a UsageError if two columns would have one name."""
    return Columns(
        classifier.spec.labels,
        thresholds=classifier.spec.default_thresholds if options.thresholds else {},
        tags=options.tags,
    )


def begin_record(classifier: Classifier, options: Options, asked: Mapping[str, Any]) -> RunRecord:
    """The record of a run that begins now; `asked` is what was asked for besides the options."""
    spec = classifier.spec
    return RunRecord(
        chexscore=__version__,
        model={
            "path": classifier.path,
            "name": spec.name,
            "version": spec.version,
            "sha256": classifier.sha256,
        },
        thresholds=spec.default_thresholds,
        operating_points=spec.named_thresholds,
        arguments={**options.in_force(classifier.device), **asked},
        device=classifier.device,
        batch_size=options.images_together(classifier.device),
        started=now(),
    )


def settings_of(classifier: Classifier, options: Options) -> dict[str, str]:
    """All that decides what stands in a row; a new version of a decoder may change a last digit."""
    return {
        **installed(),
        "onnxruntime": classifier.runtime,
        "model sha256": classifier.sha256,
        "device": classifier.device,
        "cuDNN": _cudnn(classifier.device),
        "batch size": str(options.images_together(classifier.device)),
        "max pixels": str(options.max_pixels),
        "DICOM tags": ", ".join(options.tags) or "none",
    }


def _cudnn(device: str) -> str:
    """The version that is used here; on a cluster that of its nodes counts, which nobody asks."""
    return (", ".join(_versions(CUDNN)) or "the system's") if device == "cuda" else "none"


def installed() -> dict[str, str]:
    """The versions of chexscore and of what decodes images here."""
    decoders = ", ".join(_versions(*DECODERS))
    return {"chexscore": __version__, "reading of images": str(READING), "decoders": decoders}


def _versions(*packages: str) -> Iterator[str]:
    for name in packages:
        with suppress(PackageNotFoundError):
            yield f"{name} {version(name)}"


def now() -> str:
    """This moment: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
