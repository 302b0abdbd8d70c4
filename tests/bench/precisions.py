"""What lower precisions cost and bring on this CPU: size, images/s and AUC of a run and of reference.

    python -m tests.bench.precisions runs/kermany DIR

The first argument is a finished run. DIR holds X-rays and their labels.csv (path, patient,
labels), on which a reference of full size is made in minutes: its convolutions stay random, its batch norms
see some X-rays, and only its last layer is fitted. So its AUC is real, but not what training would reach. The
speeds are measured in turns, so that whatever else the machine does meets all files alike. AUC and difference
are those of validation patients whose images int8 did not take its ranges from. The table goes to standard
output, as it stands in the README.
"""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pandas as pd
from numpy.typing import NDArray

from chexscore import Classifier, ImageSpec, ModelSpec, load_image, metrics
from chexscore.spec import Precision

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16-weights", "fp16", "int8")
BATCH, ROUNDS = 8, 20
FITTED, HELD_OUT = 160, 96
"""Images that the reference's last layer is fitted on, and that it is measured on; of other patients."""


def main(trained: Path, data: Path) -> None:
    """Prints the table, as Markdown."""
    from export.publish import publish_run
    from export.quantize import reduce, set_apart
    from export.verify import score

    print(
        "| network | precision | MB | images/s | macro AUC | largest difference of a score |\n|"
        + " --- |" * 6
    )
    with TemporaryDirectory() as place:
        for name, run in (
            (ModelSpec.from_json((trained / "spec.json").read_text()).provenance["network"], trained),
            ("reference", _make_reference(data, Path(place) / "reference")),
        ):
            films = np.load(run / "samples.npy")
            with np.load(run / "validation.npz") as arrays:
                truth, patients = (arrays[key][arrays["samples"]] for key in ("targets", "patients"))
            apart = set_apart(patients)
            images, truth = films[~apart], truth[~apart]
            exact = Path(place) / f"{name}-fp32.onnx"
            print(publish_run(run, exact), file=sys.stderr)
            classifiers = {}
            for precision in PRECISIONS:
                file = exact.with_name(f"{name}-{precision}.onnx")
                onnx.save(reduce(onnx.load(exact), precision, films[apart]), file)
                classifiers[precision] = Classifier(file, device="cpu")
            speeds = _speeds(classifiers, images[:BATCH])
            scores = {precision: score(item, images, BATCH) for precision, item in classifiers.items()}
            for precision, item in classifiers.items():
                row = (
                    f"`{name}`, {images.shape[1]} px" if precision == "fp32" else "",
                    precision,
                    f"{Path(item.path).stat().st_size / 1e6:.1f}",
                    f"{speeds[precision]:.1f}",
                    _digits(metrics.auroc_macro(truth, scores[precision])),
                    _digits(float(np.abs(scores[precision] - scores["fp32"]).max())) * (precision != "fp32"),
                )
                print("|" + "|".join(f" {cell} ".replace("  ", " ") for cell in row) + "|", flush=True)
            print(f"{name} was measured on {len(images)} images", file=sys.stderr)


def _digits(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def _speeds(classifiers: dict[Precision, Classifier], images: NDArray[np.uint8]) -> dict[Precision, float]:
    """Images per second of each: the best of ROUNDS, batch by batch in turns."""
    best = dict.fromkeys(classifiers, 0.0)
    for _ in range(ROUNDS):
        for precision, classifier in classifiers.items():
            started = time.perf_counter()
            classifier.score(images)
            best[precision] = max(best[precision], len(images) / (time.perf_counter() - started))
    return best


def _make_reference(data: Path, run: Path) -> Path:
    """A run folder as training would leave it."""
    import keras
    from sklearn.linear_model import LogisticRegression

    from training.config import NetworkConfig
    from training.networks import build

    image = ImageSpec(512, 512)
    table = pd.read_csv(data / "labels.csv").sample(frac=1, random_state=0)
    patients = table["patient"].unique()
    held_out = table["patient"].isin(set(patients[: len(patients) // 3]))
    table = pd.concat([table[~held_out][:FITTED], table[held_out][:HELD_OUT]])
    labels = tuple(name for name in table.columns if name not in ("path", "patient"))
    films = np.stack([load_image(data / path, image) for path in table["path"]])
    targets = table[list(labels)].to_numpy(np.float32)

    keras.utils.set_random_seed(0)
    network = build(NetworkConfig(name="reference"), image, len(labels))
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.0  # one look is enough
    network(films[:16].astype(np.float32), training=True)
    body = keras.Model(network.inputs, network.layers[-1].input)
    features: Any = body.predict(films, batch_size=BATCH, verbose=0)
    mean, deviation = features[:FITTED].mean(axis=0), features[:FITTED].std(axis=0) + 1e-3
    heads = [
        LogisticRegression(C=1e-3).fit((features[:FITTED] - mean) / deviation, targets[:FITTED, column])
        for column in range(len(labels))
    ]
    kernel = np.stack([head.coef_[0] / deviation for head in heads], axis=1)
    bias = np.array([head.intercept_[0] for head in heads]) - mean @ kernel
    network.layers[-1].set_weights([kernel, bias])

    run.mkdir()
    network.save(run / "network.keras")
    spec = ModelSpec("reference", "0", labels, image, (0.5,) * len(labels))
    (run / "spec.json").write_text(spec.to_json())
    np.save(run / "samples.npy", films[FITTED:])
    logits = features[FITTED:] @ kernel + bias
    np.savez(
        run / "validation.npz",
        paths=table["path"].to_numpy(str)[FITTED:],
        patients=table["patient"].to_numpy(str)[FITTED:],
        targets=targets[FITTED:],
        scores=(1 / (1 + np.exp(-logits))).astype(np.float32),
        samples=np.arange(len(logits)),
    )
    return run


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
