"""A run folder -> an ONNX file under its final name, if and only if it scores as Keras does."""

import os
from dataclasses import replace
from pathlib import Path

import keras
import onnx

from chexscore.errors import ModelError, UsageError
from chexscore.outputs import check_target
from chexscore.spec import ModelSpec
from export.convert import convert, describe, tools
from export.verify import BATCH_SIZES, TOLERANCE, compare, radiographs

__all__ = ["publish"]


def publish(run: Path, output: Path) -> str:
    """Converts, compares, and gives the file its name only if the comparison passed.

    Returns:
        One line for the user: what was published, and how it compares.

    Raises:
        UsageError: not a finished run folder, the output's folder is missing, or Keras runs on another
            backend than TensorFlow, whose graphs are all that tf2onnx reads.
        ModelError: the network cannot be converted, or scores differently.
    """
    if not (run / "spec.json").is_file() or not (run / "network.keras").is_file():
        raise UsageError(f"{run} is not the folder of a finished run: no spec.json and network.keras in it.")
    check_target(str(output))
    if keras.backend.backend() != "tensorflow":
        raise UsageError(f"Keras runs on {keras.backend.backend()}; export with KERAS_BACKEND=tensorflow.")

    try:
        spec = ModelSpec.from_json((run / "spec.json").read_text(encoding="utf-8"))
    except ModelError as error:
        raise ModelError(f"{run / 'spec.json'}: {error}") from error
    try:
        network = keras.saving.load_model(run / "network.keras", compile=False)
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{run / 'network.keras'}: Keras cannot load the network: {error}.") from error
    images, what = radiographs(run, spec.image)
    model = convert(network, spec)
    candidate = output.with_name(f"{output.name}.candidate")
    try:
        onnx.save(model, candidate)
        difference = compare(network, candidate, images)
        sizes = " and ".join(map(str, BATCH_SIZES))
        found = f"the scores of {what} at batch sizes {sizes} differ by {difference:.1e} at most"
        if difference > TOLERANCE:
            raise ModelError(f"{output} was not published: {found}, above {TOLERANCE:.0e}.")
        provenance = {**spec.provenance, **tools(), "difference_to_keras": f"{difference:.1e}"}
        onnx.save(describe(model, replace(spec, provenance=provenance)), candidate)
        os.replace(candidate, output)
    finally:
        candidate.unlink(missing_ok=True)
    return f"published {output}, {output.stat().st_size / 1e6:.1f} MB: {found}"
