"""What chexscore is measured beside, each as a process that prints the seconds that it took.

    python -m tests.bench.speed.runners decode   FILES SIDE
    python -m tests.bench.speed.runners network  FILES SIDE MODEL.onnx DEVICE
    python -m tests.bench.speed.runners loop     FILES SIDE MODEL.onnx DEVICE
    python -m tests.bench.speed.runners keras    FILES SIDE MODEL.keras
    python -m tests.bench.speed.runners torchxrayvision FILES SIDE

FILES is a folder of X-rays. Imports, opening the network and a first batch are not counted: that flatters all
of these, and not chexscore, whose whole process is measured.
"""

import math
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chexscore import find_images
from chexscore.cores import usable_cores
from chexscore.images import OVERSAMPLING
from chexscore.sessions import Device, open_session
from tests.bench.speed.processes import MEASURED

__all__ = ["BATCHES"]

BATCHES = {"cpu": (1, 8), "cuda": (4, 32)}
"""Images to a batch for the network alone; the fastest counts."""

Work = Callable[[], object]


def decode(files: list[str], side: int) -> Work:
    """What gives the network its pixels by few bare calls of Pillow or pydicom, with all threads."""

    def one(file: str) -> NDArray[np.uint8]:
        if file.endswith(".dcm"):
            import pydicom

            picture = Image.fromarray((pydicom.dcmread(file).pixel_array >> 4).astype(np.uint8))
            return np.asarray(
                picture.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=OVERSAMPLING)
            )
        with Image.open(file) as opened:
            opened.draft("L", (math.ceil(OVERSAMPLING * side),) * 2)
            return np.asarray(opened.convert("L").resize((side, side), Image.Resampling.BILINEAR))

    def work() -> None:
        with ThreadPoolExecutor(usable_cores()) as pool:
            for _ in pool.map(one, files):
                pass

    one(files[0])
    return work


def network(files: list[str], side: int, model: str, device: Device) -> Work:
    """onnxruntime on batches that are ready, in the fastest of several ways, each tried on a few of them.

    One batch at a time on all cores, as onnxruntime does by itself, or on a CPU also a batch on each core.
    """

    def way(session: Any, at_once: int, size: int, images: int) -> Work:
        batch = np.random.default_rng(0).integers(0, 256, (size, side, side, 1), dtype=np.uint8)
        batches = -(-images // size)

        def work() -> None:
            with ThreadPoolExecutor(at_once) as pool:
                for _ in pool.map(lambda _: session.run(None, {"image": batch}), range(batches)):
                    pass

        return work

    cores = usable_cores()
    sessions = [(_session(model, device), 1)]
    if device == "cpu" and cores > 1:
        sessions.append((_session(model, device, threads=1), cores))
    ways = [(*each, size) for each in sessions for size in BATCHES[device]]
    few = 2 * cores * max(BATCHES[device])
    for each in ways:
        way(*each, images=few)()
    took = [_seconds(way(*each, images=few)) for each in ways]
    return way(*ways[took.index(min(took))], images=len(files))


def loop(files: list[str], side: int, model: str, device: Device) -> Work:
    """A script that loads, scores and goes on to the next."""
    session = _session(model, device)

    def one(file: str) -> Any:
        if file.endswith(".dcm"):
            import pydicom

            picture = Image.fromarray((pydicom.dcmread(file).pixel_array >> 4).astype(np.uint8))
        else:
            picture = Image.open(file).convert("L")
        pixels = np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))
        return session.run(None, {"image": pixels[np.newaxis, ..., np.newaxis]})

    one(files[0])
    return lambda: [one(file) for file in files]


def keras(files: list[str], side: int, model: str) -> Work:
    """The reference's way: tf.data decodes in parallel, and model.predict scores."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras as k
    import tensorflow as tf

    loaded = k.saving.load_model(model, compile=False)

    def read(path: Any) -> Any:
        image = tf.io.decode_image(tf.io.read_file(path), channels=1, expand_animations=False)
        return tf.image.resize(image, (side, side))

    def batches(some: list[str]) -> Any:
        paths = tf.data.Dataset.from_tensor_slices(some)
        images = paths.map(read, num_parallel_calls=tf.data.AUTOTUNE)
        return images.batch(32).prefetch(tf.data.AUTOTUNE)

    loaded.predict(batches(files[:32]), verbose=0)
    return lambda: loaded.predict(batches(files), verbose=0)


def torchxrayvision(files: list[str], side: int) -> Work:
    """Its DenseNet121, as its script process_batch.py goes through a folder."""
    import torch  # type: ignore[import-not-found]  # no dependency of chexscore
    import torchxrayvision as xrv  # type: ignore[import-not-found]

    model = xrv.models.DenseNet(weights=None, num_classes=18, in_channels=1).eval()
    crop, resize = xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(side)

    def one(file: str) -> Any:
        pixels = xrv.datasets.normalize(np.asarray(Image.open(file).convert("L")), 255)
        image = torch.from_numpy(resize(crop(pixels[np.newaxis])))
        with torch.no_grad():
            return model(image[np.newaxis]).numpy()

    one(files[0])
    return lambda: [one(file) for file in files]


def foreign(_: list[str], side: int, target: str) -> Work:
    """No measurement: torchxrayvision's network as PyTorch exports it."""
    import torch
    import torchxrayvision as xrv

    model = xrv.models.DenseNet(weights=None, num_classes=18, in_channels=1).eval()
    model.classifier.weight.data /= 1000  # logits of hundreds, as by chance, differ by more than adopt allows
    names, axes = {"input_names": ["x"], "output_names": ["y"]}, {"x": {0: "batch"}, "y": {0: "batch"}}
    example = torch.zeros(1, 1, side, side)
    torch.onnx.export(model, example, target, dynamic_axes=axes, dynamo=False, **names)
    return list


def _session(model: str, device: Device, threads: int = 0) -> Any:
    return open_session(Path(model).read_bytes(), device, threads=threads)[0]


def _seconds(work: Work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    name, folder, side, *rest = sys.argv[1:]
    runner: Callable[..., Work] = globals()[name]
    ready = runner(list(find_images([folder])), int(side), *rest)
    worked = time.process_time()
    seconds = _seconds(ready)
    print(MEASURED, seconds, time.process_time() - worked)
