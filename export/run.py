"""What `python -m training fit` left in its run folder, read and checked."""

import csv
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import keras
import numpy as np
from numpy.typing import NDArray

from chexscore.errors import ModelError, UsageError, first_line
from chexscore.spec import ModelSpec
from export.verify import PROOF_IMAGES, Samples, draw, draw_samples

__all__ = ["TrainedNetwork", "Validation", "in_precision", "load_network", "open_run"]


@dataclass(frozen=True)
class Validation:
    """Scores on the patients that were held out.

    Attributes:
        patients: str [N], the patient of each image.
        targets: float32 [N, L], 0, 1 or NaN for unknown.
        scores: float32 [N, L] in 0..1, as the network gave them.
    """

    patients: NDArray[np.str_]
    targets: NDArray[np.float32]
    scores: NDArray[np.float32]

    def of(self, rows: NDArray[np.intp]) -> "Validation":
        """That of some images alone."""
        return Validation(self.patients[rows], self.targets[rows], self.scores[rows])

    def __str__(self) -> str:
        return f"{len(self.patients)} images of {np.unique(self.patients).size} validation patients"


@dataclass(frozen=True)
class TrainedNetwork:
    """All that export needs.

    Attributes:
        network: float32 [N, H, W, 1] in 0..255 -> scores [N, L].
        spec: what training said about it.
        samples: images to compare on.
        validation: scores to calibrate on; None where there are none that `samples` can be held against.
        defaults: label -> its default operating point, where that is not Youden's.
    """

    network: keras.Model
    spec: ModelSpec
    samples: Samples
    validation: Validation | None = None
    defaults: Mapping[str, str] = field(default_factory=dict)


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
    _check_order(spec.labels, folder / "validation.csv")
    images = _read_images(folder / "samples.npy", spec)
    if images is None:
        spec = replace(spec, calibration="none: the images are gone that its scores could be checked on")
        drawn = draw_samples(spec.image)
        samples = replace(drawn, what=f"{drawn.what} (the run's own are gone)")
        return TrainedNetwork(load_network(folder / "network.keras"), spec, samples)
    validation, rows = _read_validation(folder / "validation.npz", len(spec.labels))
    if validation is None:
        spec = replace(spec, calibration="none: the run has no validation scores")
        rows = np.full(len(images), -1, np.intp)
    elif len(rows) != len(images):
        raise ModelError(
            f"{folder / 'samples.npy'}: holds {len(images)} images, validation.npz speaks of {len(rows)}."
        )
    what = f"{len(images)} validation images"
    if missing := max(0, PROOF_IMAGES - len(images)):
        images, rows = np.concatenate([images, draw(spec.image, missing)]), np.append(rows, [-1] * missing)
        what += f" and {missing} drawn ones"
    network = load_network(folder / "network.keras")
    return TrainedNetwork(network, spec, Samples(images, rows, what), validation)


def _check_order(labels: tuple[str, ...], table: Path) -> None:
    """Raises a ModelError if the labels of the spec are not those that training wrote, in its order."""
    if not table.is_file():
        return
    try:
        with table.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            written = tuple(column for column in next(csv.reader(file), []) if column in labels)
    except csv.Error as error:
        raise ModelError(f"{table}: damaged: {error}.") from error
    if written != labels:
        raise ModelError(
            f"{table}: its columns of labels are {', '.join(written)}, where spec.json has "
            f"{', '.join(labels)}; one of the two was changed."
        )


def load_network(file: Path) -> keras.Model:
    """Opens a .keras file, in float32 whatever it was trained in.

    Raises:
        ModelError: it cannot be opened.
    """
    if not zipfile.is_zipfile(file):  # of which Keras says that it is not there
        raise ModelError(f"{file}: Keras cannot load the network: the file is damaged.")
    try:
        network = keras.saving.load_model(file, compile=False)
        return in_precision(network, "float32") if "mixed_" in network.to_json() else network
    except Exception as error:  # Keras raises what it happens to meet
        raise ModelError(
            f"{file}: Keras cannot load the network: {type(error).__name__}: {first_line(error)}"
        ) from error


def in_precision(network: keras.Model, dtype: Literal["float32", "float64"]) -> keras.Model:
    """The same network with the same weights, each layer computing in `dtype`."""
    layers = network.to_json()
    for policy in ("mixed_bfloat16", "mixed_float16", "float32"):
        layers = layers.replace(policy, dtype)
    cast = keras.models.model_from_json(layers)
    cast.set_weights(network.get_weights())
    return cast


def _read_validation(file: Path, labels: int) -> tuple[Validation | None, NDArray[np.intp]]:
    """The scores, and the rows of them whose pixels are kept; None and no rows without the file."""
    if not file.exists():
        return None, np.empty(0, np.intp)
    try:
        with file.open("rb") as content, np.load(content, allow_pickle=False) as arrays:
            rows = arrays["samples"].astype(np.intp)
            targets, scores = arrays["targets"].astype(np.float32), arrays["scores"].astype(np.float32)
            validation = Validation(arrays["patients"], targets, scores)
    except Exception as error:  # numpy and zipfile raise what damage happens to lead to
        raise ModelError(
            f"{file}: damaged, or not written by this version of training: {first_line(error)}."
        ) from error
    shape = (len(validation.patients), labels)
    if targets.shape != shape or scores.shape != shape or validation.patients.ndim != 1:
        raise ModelError(f"{file}: has scores of shape {scores.shape}, the run promises {shape}.")
    if not (np.isnan(targets) | (targets == 0) | (targets == 1)).all():
        raise ModelError(f"{file}: has targets that are not 0, 1 or unknown; train again.")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ModelError(f"{file}: has scores that are no numbers from 0 to 1; train again.")
    if rows.ndim != 1 or not np.isin(rows, np.arange(shape[0])).all() or np.unique(rows).size < rows.size:
        raise ModelError(f"{file}: its samples are not rows of its {shape[0]} images, each named once.")
    return validation, rows


def _read_images(file: Path, spec: ModelSpec) -> NDArray[np.uint8] | None:
    """The run's own validation images; None where they are gone."""
    if not file.exists():
        return None
    try:
        images: NDArray[np.uint8] = np.load(file)
    except Exception as error:  # as above
        raise ModelError(
            f"{file}: cannot be read ({first_line(error)}); delete it to compare drawn images."
        ) from error
    if not isinstance(images, np.ndarray):
        raise ModelError(f"{file}: no array of images; delete it to compare drawn images.")
    shape = (spec.image.height, spec.image.width, 1)
    if images.shape[1:] != shape or images.dtype != np.uint8 or not len(images):
        raise ModelError(
            f"{file}: holds {images.dtype} {images.shape}, the run promises uint8 {('N', *shape)}; delete it "
            "to compare drawn images."
        )
    return images
