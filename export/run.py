"""What `python -m training fit` left in its run folder, read and checked."""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import keras
import numpy as np
from numpy.typing import NDArray

from chexscore.errors import ModelError, UsageError
from chexscore.spec import ModelSpec
from export.verify import Samples, draw_samples

__all__ = ["TrainedNetwork", "Validation", "in_precision", "load_network", "open_run"]


@dataclass(frozen=True)
class Validation:
    """Scores on the patients that were held out.

    Attributes:
        patients: str [N], the patient of each image.
        targets: float32 [N, L], 0, 1 or NaN for unknown.
        scores: float32 [N, L] in 0..1, as the network gave them.
        samples: intp [S], the rows of them whose pixels are kept.
    """

    patients: NDArray[np.str_]
    targets: NDArray[np.float32]
    scores: NDArray[np.float32]
    samples: NDArray[np.intp]

    def __str__(self) -> str:
        return f"{len(self.patients)} images of {np.unique(self.patients).size} validation patients"


@dataclass(frozen=True)
class TrainedNetwork:
    """All that export needs.

    Attributes:
        network: float32 [N, H, W, 1] in 0..255 -> scores [N, L].
        spec: what training said about it.
        samples: images to compare on.
        validation: scores to calibrate on; None where there are none.
    """

    network: keras.Model
    spec: ModelSpec
    samples: Samples
    validation: Validation | None = None


def open_run(folder: Path) -> TrainedNetwork:
    """Reads a run folder; one without validation.npz or samples.npy, too, for a poorer export.

    Raises:
        UsageError: not the folder of a finished run.
        ModelError: a file in it is damaged, or belongs to another run.
    """
    if not (folder / "spec.json").is_file() or not (folder / "network.keras").is_file():
        raise UsageError(
            f"{folder} is not the folder of a finished run: no spec.json and network.keras in it."
        )
    try:
        spec = ModelSpec.from_json((folder / "spec.json").read_text(encoding="utf-8"))
    except (ModelError, UnicodeDecodeError) as error:
        raise ModelError(f"{folder / 'spec.json'}: {error}") from error
    network = load_network(folder / "network.keras")
    validation = _read_validation(folder / "validation.npz", len(spec.labels))
    truth = validation.targets[validation.samples] if validation is not None else None
    return TrainedNetwork(network, spec, _read_samples(folder / "samples.npy", spec, truth), validation)


def load_network(file: Path) -> keras.Model:
    """Opens a .keras file, in float32 whatever it was trained in.

    Raises:
        ModelError: it cannot be opened.
    """
    try:
        network = keras.saving.load_model(file, compile=False)
        return in_precision(network, "float32") if "mixed_" in network.to_json() else network
    except Exception as error:  # Keras raises what it happens to meet
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ModelError(
            f"{file}: Keras cannot load the network: {type(error).__name__}: {reason}"
        ) from error


def in_precision(network: keras.Model, dtype: Literal["float32", "float64"]) -> keras.Model:
    """The same network with the same weights, each layer computing in `dtype`."""
    layers = network.to_json()
    for policy in ("mixed_bfloat16", "mixed_float16", "float32"):
        layers = layers.replace(policy, dtype)
    cast = keras.models.model_from_json(layers)
    cast.set_weights(network.get_weights())
    return cast


def _read_validation(file: Path, labels: int) -> Validation | None:
    if not file.exists():
        return None
    try:
        with file.open("rb") as content, np.load(content, allow_pickle=False) as arrays:
            samples = arrays["samples"].astype(np.intp)
            validation = Validation(arrays["patients"], arrays["targets"], arrays["scores"], samples)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"{file}: damaged, or not written by this version of training: {error}.") from error
    shape = (len(validation.patients), labels)
    if validation.targets.shape != shape or validation.scores.shape != shape or not len(samples) <= shape[0]:
        raise ModelError(f"{file}: has scores of shape {validation.scores.shape}, the run promises {shape}.")
    return validation


def _read_samples(file: Path, spec: ModelSpec, truth: NDArray[np.float32] | None) -> Samples:
    """The run's own validation images, or drawn ones where they are gone or were prepared otherwise."""
    try:
        images: NDArray[np.uint8] = np.load(file)
    except (OSError, ValueError, EOFError):
        images = np.empty((0,), np.uint8)
    if (
        images.shape[1:] != (spec.image.height, spec.image.width, 1)
        or images.dtype != np.uint8
        or not len(images)
    ):
        drawn = draw_samples(spec.image)
        return replace(drawn, what=f"{drawn.what} (the run's own are gone)")
    if truth is not None and len(truth) != len(images):
        raise ModelError(f"{file}: holds {len(images)} images, validation.npz speaks of {len(truth)}.")
    return Samples(images, truth, f"{len(images)} validation images")
