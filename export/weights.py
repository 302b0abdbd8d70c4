"""The weights file of an old training -> a network, which is then published like any other."""

from pathlib import Path

import h5py
import keras
from keras import layers

from chexscore.errors import ModelError, UsageError
from chexscore.messages import visible
from chexscore.spec import ImageSpec, ModelSpec, check_labels
from export.files import check_output
from export.publish import publish
from export.run import TrainedNetwork
from export.verify import draw_samples

__all__ = ["CHEXPERT", "publish_weights"]

CHEXPERT = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""CheXpert's findings in the order of its CSV, without No Finding."""


def publish_weights(file: Path, output: Path, *, network: str, labels: str, size: int) -> str:
    """Builds the network, loads the weights, and publishes it on drawn images; see `export.publish`.

    Args:
        file: weights alone, as Keras 2's `save_weights` wrote them.
        output: the ONNX file.
        network: "reference".
        labels: names separated by commas, in the order of the outputs, or "chexpert".
        size: height and width of its images in pixels.

    Returns:
        One line for the user.

    Raises:
        UsageError: no such network, or labels that no model can have.
        ModelError: no file of weights, or weights of another network, size or number of labels.
    """
    if network != "reference":
        raise UsageError(f"{network!r} is no network whose old weights are known; reference is.")
    names = CHEXPERT if labels == "chexpert" else tuple(label.strip() for label in labels.split(","))
    try:
        check_labels(names)
    except ModelError as error:
        raise UsageError(f"--labels {labels}: {error}") from error
    spec = ModelSpec(
        name=visible(file.stem),
        version="0",
        labels=names,
        image=ImageSpec(size, size),
        thresholds=(0.5,) * len(names),
        calibration="none: the weights came without validation scores",
        provenance={"weights": visible(file.name), "network": network},
    )
    check_output(output, [file])
    model = reference(size, _filters(file), len(names))
    _load(model, file, spec)
    return publish(TrainedNetwork(model, spec, draw_samples(spec.image)), output, "fp32", allow_loss=False)[0]


def reference(size: int, filters: int, labels: int) -> keras.Model:
    """The plain CNN that chexscore's `reference` repeats: seven convolutions, two dense layers.

    It stands here once more because training and export do not know each other; a test compares the two.

    Args:
        size: height and width of its images, in pixels, at least 508.
        filters: of the first convolution; each further one has twice as many.
        labels: outputs.

    Raises:
        UsageError: the images are too small.
    """
    inputs = keras.Input((size, size, 1), name="image")
    x = layers.Rescaling(1 / 255)(inputs)
    for block in range(7):
        kernel = 5 if block < 6 else 3  # noqa: PLR2004, the last map is smaller
        if x.shape[1] <= kernel:
            raise UsageError(f"the reference network needs images of at least 508 x 508 pixels, not {size}.")
        x = layers.Conv2D(filters * 2**block, kernel, activation="relu")(x)
        x = layers.MaxPooling2D()(layers.BatchNormalization()(x))
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.BatchNormalization()(layers.Dense(filters * 64, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(labels, activation="sigmoid", name="scores")(x))


def _filters(file: Path) -> int:
    """Filters of the first convolution, from the shape of its kernel."""
    shapes: list[tuple[int, ...]] = []
    try:
        with h5py.File(file, "r") as content:
            if "model_weights" in content:
                raise ModelError(f"{file}: a whole model, not weights alone; save_weights writes those.")
            content.visititems(lambda _, item: shapes.append(getattr(item, "shape", ())))
    except OSError as error:
        raise ModelError(
            f"{file}: no HDF5 file that can be read, as Keras 2's save_weights writes."
        ) from error
    kernels = [shape for shape in shapes if len(shape) == 4]  # noqa: PLR2004, height, width, in, out
    first = [shape[3] for shape in kernels if shape[2] == 1 and shape[3]]
    if not first:
        raise ModelError(
            f"{file}: no weights of the reference network: it has no convolution of grey images."
        )
    return first[0]


def _load(model: keras.Model, file: Path, spec: ModelSpec) -> None:
    try:
        model.load_weights(file)
    except Exception as error:  # Keras raises what it happens to meet
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{file}: not the weights of the reference network for {spec.image.height} x {spec.image.width} "
            f"pixels and {len(spec.labels)} labels: {reason}"
        ) from error
