"""A DenseNet121 in torchxrayvision's convention: exported by PyTorch, adopted, and run on real X-rays.

    pip install torch torchxrayvision onnx onnxscript pydantic
    python -m tests.bench.adopted /path/to/xrays

It has random weights, with batch norms that have seen the X-rays. Fails if a score of `chexscore predict`
is more than 1e-4 from PyTorch's, or a row or label stands in another place. PyTorch is no dependency of
chexscore.
"""

import csv
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from chexscore import ImageSpec, find_images, load_image
from chexscore.spec import Resize

TOLERANCE = 1e-4
IMAGE = ImageSpec(224, 224, Resize.CROP)


def main(folder: str) -> None:
    """Runs the line for an open and for a fixed batch size, and prints the largest difference of each."""
    import torch  # type: ignore[import-not-found]  # see above
    import torchxrayvision as xrv  # type: ignore[import-not-found]

    paths = list(find_images([folder]))
    films = np.stack([load_image(path, IMAGE) for path in paths])[..., 0]
    inputs = torch.from_numpy(xrv.utils.normalize(films.astype(np.float32), 255)[:, np.newaxis])
    labels = xrv.datasets.default_pathologies
    network = _network(torch, xrv, inputs, len(labels))
    with torch.no_grad():
        expected = torch.sigmoid(torch.cat([network(part) for part in inputs.split(10)])).numpy()
    print(f"{len(paths)} X-rays, {len(labels)} labels, scores {expected.min():.3f} to {expected.max():.3f}")
    for name, axes in (("open", {"x": {0: "batch"}, "y": {0: "batch"}}), ("fixed", {})):
        with TemporaryDirectory() as place:
            foreign = Path(place) / "foreign.onnx"
            _export(torch, network, foreign, axes)
            found_paths, found_labels, scores = _adopt_and_predict(foreign, labels, folder)
        assert found_paths == paths, "rows stand in another order"
        assert found_labels == list(labels), "labels stand in another order"
        difference = float(np.abs(scores - expected).max())
        print(f"{name} batch size: scores differ by {difference:.1e} at most")
        assert difference <= TOLERANCE


def fill_in(spec: Path) -> None:
    """Gives a template that export has written the range and resize rule of torchxrayvision."""
    text = spec.read_text(encoding="utf-8")
    for old, new in (
        ("black = 0.0", "black = -1024.0"),
        ("white = 1.0", "white = 1024.0"),
        ('resize = "stretch"', 'resize = "crop"'),
    ):
        assert text.count(old) == 1, f"{spec} has another {old}"
        text = text.replace(old, new)
    spec.write_text(text, encoding="utf-8")


def _network(torch: Any, xrv: Any, inputs: Any, labels: int) -> Any:
    torch.manual_seed(0)
    network = xrv.models.DenseNet(weights=None, num_classes=labels, in_channels=1)
    with torch.no_grad():
        for part in inputs[:40].split(10):  # in training mode: batch norms take their statistics from it
            network(part)
        network.eval()
        logits = network(inputs[:40])
        network.classifier.weight *= 1.5 / logits.std()
        network.classifier.bias -= network(inputs[:40]).mean(dim=0)
    return network


def _export(torch: Any, network: Any, foreign: Path, axes: dict[str, dict[int, str]]) -> None:
    torch.onnx.export(
        network,
        torch.zeros(1, 1, IMAGE.height, IMAGE.width),
        str(foreign),
        input_names=["x"],
        output_names=["y"],
        dynamic_axes=axes,
        dynamo=False,
    )


def _adopt_and_predict(foreign: Path, labels: list[str], folder: str) -> tuple[list[str], list[str], Any]:
    spec, model, output = (foreign.with_name(name) for name in ("spec.toml", "model.onnx", "out.csv"))
    _run("export", "template", foreign, "-o", spec)
    fill_in(spec)
    text = spec.read_text(encoding="utf-8")
    start, end = text.index("labels = ["), text.index("]\n", text.index("labels = [")) + 1
    spec.write_text(text[:start] + f"labels = {labels}" + text[end:], encoding="utf-8")
    _run("export", "adopt", foreign, "--spec", spec, "-o", model)
    _run("chexscore", "predict", folder, "--model", model, "-o", output)
    with output.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert {row[1] for row in rows} == {"ok"}
    return [row[0] for row in rows], header[2:-1], np.array([row[2:-1] for row in rows], float)


def _run(module: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=True)


if __name__ == "__main__":
    main(sys.argv[1])
