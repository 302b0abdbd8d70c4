"""A network's graph in fp16 or int8, and what its own scores are worth."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from chexscore import metrics
from chexscore.spec import ModelSpec, Precision
from export.calibrate import Platt
from export.measure import FITTED, measured
from export.quantize import reduce, set_apart
from export.run import TrainedNetwork
from export.verify import PROOF_IMAGES, compare

__all__ = ["MAX_LOSS", "MAX_SHIFT", "Lower", "lower"]

MAX_LOSS = 0.002
"""Macro AUC that fp16 and int8 may lose."""

MAX_SHIFT = 0.02
"""How far the scores of a label may move, as a mean over images: AUC does not see scores that keep their
order, or a label without positives, and thresholds and probabilities rest on the scores themselves."""

PROOF = (
    "compared_on",
    "compared_with",
    "difference_to_keras",
    "difference_of_logits",
    "auc_keras",
    "auc_onnx",
)
"""What `publish` says of the comparison with Keras."""


@dataclass(frozen=True)
class Lower:
    """A graph of lower precision.

    Attributes:
        model: from `image` to `scores`.
        spec: with operating points and measures of its own scores; without those where nothing is known.
        fault: why it is not fit to be published, in words; empty if it is.
        said: the comparison, in words.
    """

    model: onnx.ModelProto
    spec: ModelSpec
    fault: str
    said: str


def lower(
    precision: Precision,
    model: onnx.ModelProto,
    exact: NDArray[np.floating],
    trained: TrainedNetwork,
    spec: ModelSpec,
    calibration: tuple[Platt, Platt],
    file: Path,
) -> Lower:
    """Reduces a graph, and measures it on validation images that int8 has not taken its ranges from.

    Args:
        precision: any but fp32.
        model: in fp32, as it passed.
        exact: [S, L], its scores of the samples.
        trained: the samples and what is known of them.
        spec: of the file in fp32.
        calibration: as `calibrate` gives it.
        file: to write the reduced graph to, to score with it.

    Raises:
        ModelError: there is one validation patient alone, or the reduced graph cannot be run.
    """
    samples, validation = trained.samples, trained.validation
    places, ranges = _divide(trained, precision)
    reduced = reduce(model, precision, samples.images[ranges])
    onnx.save(reduced, file)
    what = f"{len(places)} validation images" if validation is not None else samples.what
    proof = compare(exact[places], file, samples.images[places], what)
    shift = np.abs(exact[places] - proof.scores).mean(axis=0)
    facts = {"difference_after_reduction": f"{proof.difference:.1e}", "auc_lost": "not measured"}
    loss, said = math.nan, str(proof)
    kept = {name: value for name, value in spec.metrics.items() if name.startswith(FITTED)}
    spec = replace(spec, precision=precision, metrics=kept, operating_points={})
    if validation is not None:
        rows, (platt, crossed) = samples.rows[places], calibration
        part = validation.of(rows)
        spec = measured(spec, part, platt.raw(proof.scores), platt, crossed.of(rows), trained.defaults)
        before, after = (metrics.auroc_macro(part.targets, each) for each in (exact[places], proof.scores))
        loss, said = before - after, f"{said}, macro AUC {before:.4f} -> {after:.4f}"
        facts |= {"auc_lost": f"{loss:.6f}", "measured_on": f"{part}, with this file's scores"}
    if precision == "int8":
        facts["int8_ranges"] = f"from {len(ranges)} images" + ", of other patients" * (validation is not None)
        said += f"; ranges {facts['int8_ranges']}"
    spec = replace(spec, provenance={**_of_fp32(spec.provenance), **facts})
    return Lower(
        reduced, spec, _fault(precision, loss, len(places), dict(zip(spec.labels, shift, strict=True))), said
    )


def _fault(precision: Precision, loss: float, images: int, shifts: Mapping[str, float]) -> str:
    if math.isnan(loss) or images < PROOF_IMAGES:
        return (
            f"what {precision} loses cannot be measured: there are {images} validation images for it, of at "
            f"least {PROOF_IMAGES}, and labels with both classes among them are needed"
        )
    if loss > MAX_LOSS:
        return f"{precision} loses {loss:.4f} macro AUC, above {MAX_LOSS}"
    label = max(shifts, key=lambda each: shifts[each])
    if not shifts[label] <= MAX_SHIFT:
        return f"{precision} moves the scores of {label} by {shifts[label]:.3f} on average, above {MAX_SHIFT}"
    return ""


def _of_fp32(provenance: Mapping[str, str]) -> dict[str, str]:
    """The same, with the proof of the file in fp32 under names that say so."""
    return {f"fp32_{name}" if name in PROOF else name: value for name, value in provenance.items()}


def _divide(trained: TrainedNetwork, precision: Precision) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places in the samples: of images to measure on, and of images for the ranges of int8."""
    if trained.validation is None:
        everything = np.arange(len(trained.samples.images))
        return everything, everything
    own = np.flatnonzero(trained.samples.rows >= 0)
    if precision != "int8":
        return own, own
    apart = set_apart(trained.validation.patients[trained.samples.rows[own]])
    return own[~apart], own[apart]
