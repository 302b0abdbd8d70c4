"""A trained network -> an ONNX file under its final name, if and only if it scores as the network does."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
from numpy.typing import NDArray

from chexscore import metrics
from chexscore.errors import ModelError, OutputError, UsageError
from chexscore.outputs import check_target, replacing
from chexscore.spec import ModelSpec, Precision
from export.calibrate import POINTS, Platt, calibrate, logit, sigmoid
from export.convert import check_shapes, convert, predict_logits, tools
from export.files import candidate, check_output, place
from export.lower import lower
from export.measure import describe_calibration, measured
from export.run import TrainedNetwork, Validation, in_precision, open_run
from export.verify import LOGIT_TOLERANCE, TOLERANCE, Proof, Samples, compare, compare_logits

__all__ = ["publish", "publish_run"]

SAME_NETWORK = 1e-2
"""Largest difference of a score between export, on this CPU, and training. On one CPU it is 0; but GPUs
multiply float32 with the 11 bits of TensorFloat-32, and rounding so changed the scores of trained networks by
up to 1e-3."""


def publish_run(
    folder: Path,
    output: Path,
    precision: Precision = "fp32",
    *,
    allow_loss: bool = False,
    defaults: Mapping[str, str] | None = None,
) -> str:
    """Publishes the network of a run folder, and notes its calibration error in the run's metrics.json.

    Returns:
        One line for the user: what was published, and how it compares.

    Raises:
        UsageError: not a finished run folder, the output's folder is missing, or Keras runs on another
            backend than TensorFlow, whose graphs are all that tf2onnx reads.
        ModelError: the network cannot be converted, scores differently, or loses too much in `precision`.
    """
    # Models may stand in a run folder; what training left there may not be lost.
    check_output(output, (file for file in folder.glob("*") if file.suffix != ".onnx"))
    _check_backend()
    trained = replace(open_run(folder), defaults=defaults or {})
    known = _read_metrics(folder / "metrics.json")
    line, errors = publish(trained, output, precision, allow_loss=allow_loss)
    if errors and known:
        known["validation"] |= {name: {"value": value} for name, value in errors.items()}
        try:
            with replacing(str(folder / "metrics.json")) as file:
                file.write(json.dumps(known, indent=1).encode())
        except OutputError as error:  # the run may be somebody else's; the model is there
            line += f"; its calibration error was not noted: {error}"
    return line


def _read_metrics(file: Path) -> dict[str, dict[str, Any]]:
    """What training measured on each side of the split; nothing where its file is gone."""
    if not file.is_file():
        return {}
    try:
        found: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found["validation"], dict):
            raise TypeError("validation")  # noqa: TRY301, one sentence for all of it
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file}: not what training has measured: {error!r}; delete it to go on.") from error
    return found


def publish(
    trained: TrainedNetwork, output: Path, precision: Precision, *, allow_loss: bool
) -> tuple[str, dict[str, float]]:
    """Calibrates, converts, compares, and gives the file its name only if the comparison passed.

    Returns:
        One line for the user, and the network's calibration error before and after, whatever the precision of
        the file: "ece_before/Edema", "ece/Edema" and so on; none without validation scores.

    Raises:
        UsageError: the output cannot be written there.
        ModelError: as for `publish_run`.
    """
    check_target(str(output))
    _check_backend()
    validation, spec = trained.validation, trained.spec
    _check_asked(trained)
    if precision != "fp32" and validation is None and not allow_loss:
        raise ModelError(
            f"{output} was not published: what {precision} loses cannot be measured without the run's "
            "validation images and scores; train again with this version, or give --allow-loss."
        )
    check_shapes(trained.network, spec)
    raw = predict_logits(trained.network, trained.samples.images)
    platt = crossed = Platt.none(len(spec.labels))
    errors = {}
    if validation is not None:
        _check_same_network(raw, trained.samples, validation)
        known = logit(validation.scores)
        own = trained.samples.rows >= 0
        known[trained.samples.rows[own]] = raw[own]  # training may have rounded otherwise, on a GPU
        platt, crossed = calibrate(validation.targets, known, validation.patients)
        spec = describe_calibration(spec, platt, validation)
        spec = measured(spec, validation, known, platt, crossed, trained.defaults)
        _check_given(trained.defaults, spec)
        errors = {name: value for name, value in spec.metrics.items() if name.startswith("ece")}
        measured_on = f"{validation}, {own.sum()} of them with this file's own scores"
        spec = replace(spec, provenance={**spec.provenance, "measured_on": measured_on})
    model = convert(trained.network, spec, platt)
    with candidate(output) as file:
        onnx.save(model, file)
        proof, facts = _prove(trained, raw, platt, file)
        spec = replace(spec, provenance={**spec.provenance, **tools(), **facts})
        said = str(proof)
        if "auc_onnx" in facts:
            said += f", macro AUC {float(facts['auc_keras']):.4f} -> {float(facts['auc_onnx']):.4f}"
        if precision != "fp32":
            reduced = lower(precision, model, proof.scores, trained, spec, (platt, crossed), file)
            if reduced.fault and not allow_loss:
                raise ModelError(
                    f"{output} was not published: {reduced.fault} ({reduced.said}); --allow-loss "
                    "publishes it all the same."
                )
            model, spec, said = reduced.model, reduced.spec, reduced.said
    place(model, spec, output)
    return f"published {output}, {output.stat().st_size / 1e6:.1f} MB: {said}", errors


def _check_asked(trained: TrainedNetwork) -> None:
    """Raises a UsageError if a default operating point is asked for that no file of this network can have."""
    labels = trained.spec.labels
    for label, point in trained.defaults.items():
        if label not in labels or point not in POINTS:
            raise UsageError(
                f"--default {label}={point}: it takes LABEL=POINT; the labels are {', '.join(labels)}, the "
                f"points {', '.join(POINTS)}."
            )
    if trained.defaults and trained.validation is None:
        raise UsageError("--default takes the scores of validation images, which this run does not have.")


def _check_given(defaults: Mapping[str, str], spec: ModelSpec) -> None:
    """Raises a UsageError if the validation images do not have one that was asked for."""
    for label, point in defaults.items():
        if point not in [each.name for each in spec.operating_points.get(label, ())]:
            raise UsageError(f"--default {label}={point}: the validation images have no such point.")


def _check_backend() -> None:
    if keras.backend.backend() != "tensorflow":
        raise UsageError(f"Keras runs on {keras.backend.backend()}; export with KERAS_BACKEND=tensorflow.")


def _check_same_network(raw: NDArray[np.floating], samples: Samples, validation: Validation) -> None:
    """Raises a ModelError if the validation scores, which calibration rests on, are another network's."""
    own = samples.rows >= 0
    difference = np.abs(sigmoid(raw[own]) - validation.scores[samples.rows[own]]).max()
    if difference > SAME_NETWORK:
        raise ModelError(
            f"the network does not give the scores that validation.npz holds: they differ by "
            f"{difference:.2f}; the two are of different runs."
        )


def _prove(
    trained: TrainedNetwork, raw: NDArray[np.floating], platt: Platt, file: Path
) -> tuple[Proof, dict[str, str]]:
    """Compares scores and logits with Keras: in float64, if they differ, because Keras rounds too.

    Args:
        trained: the network and the samples.
        raw: [S, L], its logits of them in float32, not calibrated.
        platt: the calibration in the file.
        file: in fp32.

    Returns:
        The comparison that passed, and what to say of it in the provenance.

    Raises:
        ModelError: none passed.
    """
    samples, validation = trained.samples, trained.validation
    for arithmetic in ("float32", "float64"):
        if arithmetic == "float64":
            raw = predict_logits(in_precision(trained.network, "float64"), samples.images)
        logits = platt.logits(raw)
        proof = compare(sigmoid(logits), file, samples.images, samples.what)
        apart = compare_logits(logits, onnx.load(file), samples.images)
        if proof.difference <= TOLERANCE and apart <= LOGIT_TOLERANCE:
            break
    else:
        raise ModelError(
            f"{file}: {proof}, their logits by {apart:.1e} of their size; the tolerances are "
            f"{TOLERANCE:.0e} and {LOGIT_TOLERANCE:.0e}."
        )
    facts = {
        "compared_on": proof.what,
        "compared_with": f"Keras in {arithmetic}",
        "difference_to_keras": f"{proof.difference:.1e}",
        "difference_of_logits": f"{apart:.1e}",
    }
    if validation is not None:
        own = samples.rows >= 0
        truth = validation.targets[samples.rows[own]]
        for name, scores in (("auc_keras", sigmoid(logits)), ("auc_onnx", proof.scores)):
            if np.isfinite(auc := metrics.auroc_macro(truth, scores[own])):
                facts[name] = f"{auc:.6f}"
    return proof, facts
