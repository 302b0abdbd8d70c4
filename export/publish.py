"""A trained network -> an ONNX file under its final name, if and only if it scores as the network does."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
from numpy.typing import NDArray

from chexscore import metrics
from chexscore.errors import ModelError, UsageError
from chexscore.outputs import check_target, replacing
from chexscore.spec import ModelSpec, Precision
from export.calibrate import Platt, calibrate, calibration_error, logit, operating_points
from export.convert import convert, tools, without_sigmoid
from export.files import candidate, place
from export.quantize import reduce
from export.run import TrainedNetwork, Validation, in_precision, open_run
from export.verify import TOLERANCE, Proof, compare

__all__ = ["MAX_LOSS", "publish", "publish_run"]

MAX_LOSS = 0.002
"""Macro AUC that fp16 and int8 may lose."""

SAME_NETWORK = 0.05
"""Largest difference of a score between export, in float32, and training, perhaps in 16 bits on a GPU."""


def publish_run(
    folder: Path, output: Path, precision: Precision = "fp32", *, allow_loss: bool = False
) -> str:
    """Publishes the network of a run folder, and notes its calibration error in the run's metrics.json.

    Returns:
        One line for the user: what was published, and how it compares.

    Raises:
        UsageError: not a finished run folder, the output's folder is missing, or Keras runs on another
            backend than TensorFlow, whose graphs are all that tf2onnx reads.
        ModelError: the network cannot be converted, scores differently, or loses too much in `precision`.
    """
    check_target(str(output))
    _check_backend()
    trained = open_run(folder)
    measured = _read_measured(folder / "metrics.json")
    line, spec = publish(trained, output, precision, allow_loss=allow_loss)
    found = {name: {"value": value} for name, value in spec.metrics.items() if name.startswith("ece")}
    if found and measured:
        measured["validation"] |= found
        with replacing(str(folder / "metrics.json")) as file:
            file.write(json.dumps(measured, indent=1).encode())
    return line


def _read_measured(file: Path) -> dict[str, dict[str, Any]]:
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
) -> tuple[str, ModelSpec]:
    """Calibrates, converts, compares, and gives the file its name only if the comparison passed.

    Returns:
        One line for the user, and the spec of the file.

    Raises:
        UsageError: the output cannot be written there.
        ModelError: as for `publish_run`.
    """
    check_target(str(output))
    _check_backend()
    if precision != "fp32" and trained.samples.truth is None and not allow_loss:
        raise ModelError(
            f"{output} was not published: what {precision} loses cannot be measured without the run's "
            "validation images and scores; train again with this version, or give --allow-loss."
        )
    platt, spec = _calibrate(trained.spec, trained.validation)
    model = convert(trained.network, spec, platt)
    logits = _predict(without_sigmoid(trained.network), trained.samples.images)
    _check_rebuilt(logits, trained)
    _check_same_network(logits, trained)
    expected = platt.scores(logits)
    with candidate(output) as file:
        onnx.save(model, file)
        exact = compare(expected, file, trained.samples)
        if exact.difference > TOLERANCE:  # Keras rounds too: compare with it in float64
            precise = without_sigmoid(in_precision(trained.network, "float64"))
            expected = platt.scores(_predict(precise, trained.samples.images))
            exact = compare(expected, file, trained.samples)
        proof = exact
        if proof.difference > TOLERANCE:
            raise ModelError(f"{output} was not published: {proof}, above {TOLERANCE:.0e}.")
        if precision != "fp32":
            model = reduce(model, precision, trained.samples.images)
            onnx.save(model, file)
            proof = compare(expected, file, trained.samples)
            if not proof.loss <= MAX_LOSS and not allow_loss:
                raise ModelError(
                    f"{output} was not published: {precision} loses {proof.loss:.4f} macro AUC "
                    f"({proof.auc_expected:.4f} -> {proof.auc:.4f}), above {MAX_LOSS}; --allow-loss "
                    "publishes it all the same."
                )
    spec = replace(
        spec, precision=precision, provenance={**spec.provenance, **tools(), **_facts(exact, proof)}
    )
    place(model, spec, output)
    return f"published {output}, {output.stat().st_size / 1e6:.1f} MB: {proof}{_in_words(proof)}", spec


def _check_backend() -> None:
    if keras.backend.backend() != "tensorflow":
        raise UsageError(f"Keras runs on {keras.backend.backend()}; export with KERAS_BACKEND=tensorflow.")


def _check_rebuilt(logits: NDArray[np.floating], trained: TrainedNetwork) -> None:
    """Raises a ModelError if the network without its sigmoid, which all else rests on, is another one."""
    own = _predict(trained.network, trained.samples.images)
    rebuilt = Platt.none(own.shape[1], "").scores(logits)
    if not (difference := float(np.abs(rebuilt - own).max())) <= TOLERANCE:
        raise ModelError(
            f"the network cannot be taken apart in front of its last sigmoid: its scores differ by "
            f"{difference:.1e}."
        )


def _check_same_network(logits: NDArray[np.floating], trained: TrainedNetwork) -> None:
    """Raises a ModelError if the validation scores, which calibration rests on, are another network's."""
    if trained.validation is None or trained.samples.truth is None:
        return
    given = trained.validation.scores[trained.validation.samples]
    raw = Platt.none(given.shape[1], "").scores(logits)
    if not (difference := float(np.abs(raw - given).max())) <= SAME_NETWORK:
        raise ModelError(
            f"the network does not give the scores that validation.npz holds: they differ by "
            f"{difference:.2f}; the two are of different runs."
        )


def _calibrate(spec: ModelSpec, validation: Validation | None) -> tuple[Platt, ModelSpec]:
    """Calibration and operating points, and the spec that tells of them."""
    if validation is None:
        platt = Platt.none(len(spec.labels), "no validation scores")
        return platt, replace(spec, calibration="none: the run has no validation scores")
    truth = validation.targets
    platt, held_out = calibrate(truth, validation.scores, validation.patients)
    scores = platt.scores(logit(validation.scores))
    found: dict[str, float] = {}
    points = {}
    for column, label in enumerate(spec.labels):
        found[f"ece_before/{label}"] = calibration_error(truth[:, column], validation.scores[:, column])
        found[f"ece/{label}"] = calibration_error(truth[:, column], held_out[:, column])
        if column not in platt.left_out:
            found[f"calibration_slope/{label}"] = platt.slopes[column]
            found[f"calibration_intercept/{label}"] = platt.intercepts[column]
        if chosen := operating_points(truth[:, column], scores[:, column]):
            points[label] = chosen
    for name in ("ece_before", "ece"):
        found[f"{name}/macro"] = metrics.mean_of_known([found[f"{name}/{label}"] for label in spec.labels])
    left_out = [f"{spec.labels[column]} ({reason})" for column, reason in platt.left_out.items()]
    if len(left_out) == len(spec.labels):
        calibration = "none: "
    else:
        calibration = f"Platt scaling of each label's logit, fitted on {validation}"
        calibration += "; left as they are: " if left_out else ""
    return platt, replace(
        spec,
        calibration=calibration + ", ".join(left_out),
        thresholds=tuple(points[label][0].threshold if label in points else 0.5 for label in spec.labels),
        operating_points=points,
        metrics={**spec.metrics, **{name: value for name, value in found.items() if math.isfinite(value)}},
    )


def _predict(network: keras.Model, images: NDArray[np.uint8]) -> NDArray[np.floating]:
    """What Keras gives for images [S, H, W, 1], 8 at a time; the first images fill up the last batch."""
    rows = np.resize(np.arange(len(images)), (-(-len(images) // 8), 8))
    batches = [np.asarray(network.predict_on_batch(images[chunk])) for chunk in rows]
    return np.concatenate(batches)[: len(images)]


def _facts(exact: Proof, proof: Proof) -> dict[str, str]:
    """What the comparison found, for the provenance: as fp32, and in the precision that was asked for."""
    facts = {"compared_on": exact.what, "difference_to_keras": f"{exact.difference:.1e}"}
    if not math.isnan(exact.auc):
        facts |= {"auc_keras": f"{exact.auc_expected:.6f}", "auc_onnx": f"{exact.auc:.6f}"}
    if proof is not exact:
        facts["difference_after_reduction"] = f"{proof.difference:.1e}"
        facts["auc_lost"] = "not measured" if math.isnan(proof.loss) else f"{proof.loss:.6f}"
    return facts


def _in_words(proof: Proof) -> str:
    return "" if math.isnan(proof.auc) else f", macro AUC {proof.auc_expected:.4f} -> {proof.auc:.4f}"
