"""Paths in, predictions out: decoding in threads ahead of the network, in order, in bounded memory."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chexscore.ahead import work_ahead
from chexscore.classifier import Classifier
from chexscore.cores import usable_cores
from chexscore.discovery import find_images
from chexscore.errors import ImageError, NetworkError
from chexscore.images import MAX_PIXELS, load_image
from chexscore.predictions import Prediction, Status
from chexscore.sessions import Device
from chexscore.spec import ImageSpec

__all__ = [
    "BATCH_SIZES",
    "Loaded",
    "Network",
    "load",
    "open_classifier",
    "predict",
    "score_images",
    "score_loaded",
]

BATCH_SIZES = {"cpu": 1, "cuda": 4}
"""Images that go through the network together, by device. With one core to a batch a second image brings no
speed: it takes memory, which no cache holds, and a last batch that is not full costs as much as a full one. A
GPU may do better with more than these."""

MAX_BATCH_SIZE = 1024

BATCHES_AT_ONCE = 16
"""In the network on the CPU, at most, because each takes memory. One core to a batch is the fastest: cores
that share one wait for each other behind each layer, the longer the more decoders or other programs are at
work."""

DECODED_AHEAD = 4
"""Images, at least, so that the network has some left while one that takes long is decoded."""

BATCHES_ON_GPU = 2
"""One is copied to it, or its scores are fetched, while the network runs on the other."""


class Loaded(NamedTuple):
    """What became of a file: uint8 [H, W, 1] of the network's shape or why there are none; and its tags."""

    pixels: NDArray[np.uint8] | ImageError
    tags: Mapping[str, str]


class _Batch(NamedTuple):
    waiting: list[Prediction]
    """In input order; those of status ok wait for their scores."""
    pixels: list[NDArray[np.uint8]]
    """Of those of status ok."""


class _Scored(NamedTuple):
    rows: "list[NDArray[np.float32] | NetworkError]"
    """A row of scores for each image, or what the network said to it."""
    shape: int
    """Images that go through the network together from now on."""


def predict(
    paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    model: Classifier | str | os.PathLike[str] | None = None,
    *,
    device: Device = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Prediction]:
    """Scores files and directories of chest X-rays.

    Args:
        paths: one path or several, as for `find_images`.
        model: an ONNX file, None for the bundled model, or an open Classifier, which gives all cores to one
            batch unless it was opened with threads=1: that is slower for many images.
        device: where the network runs, "auto", "cpu" or "cuda"; not used with an open Classifier.
        batch_size: images that go through the network together; None means that of BATCH_SIZES.
        workers: threads that decode; None means one for each core that this process may use.
        max_pixels: larger images are not decoded; their status is too_large.

    Returns:
        An iterator of one Prediction for each image, in the order of the walk. It never raises for an image:
        one that cannot be scored has a status that says so.

    Raises:
        ModelError: at once, if the model cannot be used.
        DeviceError: at once, if CUDA was asked for and is not there.
        UsageError: at once, if there is no such device.
        ValueError: at once, for a batch size or number of workers that cannot be.
    """
    classifier = model if isinstance(model, Classifier) else open_classifier(model, device)
    found = find_images(paths)
    return score_images(found, classifier, batch_size=batch_size, workers=workers, max_pixels=max_pixels)


def open_classifier(model: str | os.PathLike[str] | None = None, device: Device = "auto") -> Classifier:
    """A Classifier for many images: as few threads to a batch as BATCHES_AT_ONCE allows.

    Raises:
        ModelError: the model cannot be used.
        DeviceError: CUDA was asked for and is not there.
    """
    return Classifier(model, device=device, threads=math.ceil(usable_cores() / BATCHES_AT_ONCE))


def score_images(
    paths: Iterable[str],
    classifier: Classifier,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    tags: Sequence[str] = (),
    shrunk: Callable[[int], object] = int,
) -> Iterator[Prediction]:
    """Scores single images, given by an iterable that may be endless; see `predict`.

    On the CPU as many batches are in the network at once as its threads leave cores for, at most
    BATCHES_AT_ONCE, on a GPU two; each of these is in memory twice. As many again may wait for it. Besides
    these at most three more batches of pixels, or two and DECODED_AHEAD images, and two images for each
    worker are in memory. Every batch is filled up to `batch_size`, because the last digits of a score can
    depend on the shape of its batch.

    Args:
        paths: images.
        classifier: the open model.
        batch_size: as for `predict`.
        workers: as for `predict`.
        max_pixels: as for `predict`.
        tags: DICOM keywords to read from each file.
        shrunk: called with the new batch size before the first row that was scored in a smaller batch,
            because memory is short.

    Raises:
        ValueError: at once, for a batch size outside 1..MAX_BATCH_SIZE or less than one worker.
    """
    batch_size = BATCH_SIZES[classifier.device] if batch_size is None else batch_size
    workers = usable_cores() if workers is None else workers
    if not 1 <= batch_size <= MAX_BATCH_SIZE or workers < 1:
        raise ValueError(f"batch_size must be 1 to {MAX_BATCH_SIZE}, workers at least 1")
    on_gpu = classifier.device == "cuda"
    one_each = min(BATCHES_AT_ONCE, math.ceil(usable_cores() / classifier.threads))
    at_once = BATCHES_ON_GPU if on_gpu else one_each
    decode = partial(load, image=classifier.spec.image, max_pixels=max_pixels, tags=tags)
    # Twice the workers, for what is decoded waits, in order, behind an image that takes longer.
    ahead = max(batch_size, DECODED_AHEAD) + 2 * workers
    loading = work_ahead(paths, decode, workers=workers, ahead=ahead)
    return score_loaded(loading, Network(classifier, batch_size, shrunk, at_once))


def load(path: str, image: ImageSpec, *, max_pixels: int = MAX_PIXELS, tags: Sequence[str] = ()) -> Loaded:
    """Decodes one image for the network; one that cannot be is no exception."""
    found = _read_tags(path, tags)
    try:
        return Loaded(load_image(path, image, max_pixels=max_pixels), found)
    except ImageError as error:
        return Loaded(error, found)


def score_loaded(loading: Iterable[tuple[str, Loaded]], network: "Network") -> Iterator[Prediction]:
    """Scores what was decoded, in its order, in threads that wait for no path and for no row to be kept."""
    batches = _batches(loading, network.asked)
    # Twice what runs at once, for the same reason: cores go on behind a batch that takes longer.
    ahead = 2 * network.at_once
    for batch, result in work_ahead(batches, network.score, workers=network.at_once, ahead=ahead):
        network.tell(result.shape)
        yield from _settle(batch.waiting, result.rows, network.labels)


def _batches(loaded: Iterable[tuple[str, Loaded]], size: int) -> Iterator[_Batch]:
    batch = _Batch([], [])
    for path, (pixels, tags) in loaded:
        if isinstance(pixels, ImageError):
            batch.waiting.append(Prediction(path, Status(pixels.status), note=pixels.reason, tags=tags))
        else:
            batch.waiting.append(Prediction(path, Status.OK, tags=tags))
            batch.pixels.append(pixels)
        # Failures are not counted into a batch, but must not pile up behind a half-full one for ever.
        if len(batch.pixels) == size or not batch.pixels or len(batch.waiting) > 100 * size:
            yield batch
            batch = _Batch([], [])
    yield batch


def _read_tags(path: str, tags: Sequence[str]) -> Mapping[str, str]:
    if not tags:
        return {}
    from chexscore.tags import read_tags  # noqa: PLC0415, pydicom costs start-up time

    return read_tags(path, tags)


def _settle(
    waiting: list[Prediction], rows: list[NDArray[np.float32] | NetworkError], labels: tuple[str, ...]
) -> Iterator[Prediction]:
    """Gives the images of a batch their scores; failures stay as they are."""
    rest = iter(rows)
    for prediction in waiting:
        if prediction.status is not Status.OK:
            yield prediction
            continue
        scores = next(rest)
        if isinstance(scores, NetworkError):
            yield replace(prediction, status=Status.FAILED, note=str(scores))
        elif not np.all((scores >= 0) & (scores <= 1)):
            note = "the network gave a score that is no number in 0..1"
            yield replace(prediction, status=Status.FAILED, note=note)
        else:
            yield replace(prediction, scores=dict(zip(labels, map(float, scores), strict=True)))


class Network:
    """Runs batches of one fixed shape, in any thread, and copes with those that fail.

    Attributes:
        asked: images of a full batch, before any failed.
        at_once: batches that are run at the same time.
        labels: of the scores.
    """

    def __init__(
        self, classifier: Classifier, shape: int, shrunk: Callable[[int], object], at_once: int = 1
    ) -> None:
        self._classifier, self._shape, self._shrunk = classifier, shape, shrunk
        self.asked, self.at_once, self.labels = shape, at_once, classifier.spec.labels
        self._told = shape

    def tell(self, shape: int) -> None:
        """Says so, before the first row that was scored in a smaller batch."""
        if shape < self._told:
            self._told = shape
            self._shrunk(shape)

    def score(self, batch: _Batch) -> _Scored:
        """Scores the images of a batch, whatever their number.

        Whenever something fails, a blank image is tried in the same shape. Where that works, an image is to
        blame: each image of the batch is run by itself, and one that fails a second time once more, in the
        same shape, so that its neighbours' scores stay what they are to the last digit. Where it fails too,
        no image is blamed, and the shape is halved for the rest of the run, in case that memory is short.

        Raises:
            NetworkError: even one blank image fails: the network, or its device, is of no use any more.
        """
        scored: list[NDArray[np.float32] | NetworkError] = []
        suspects = 0  # images before this one are run by themselves
        while len(scored) < len(batch.pixels):
            start, shape = len(scored), self._shape
            part = batch.pixels[start : start + (1 if start < suspects else shape)]
            try:
                scored.extend(self._run(part, shape))
            except NetworkError:
                if self._blank_fails(part[0], shape):
                    if shape == 1:
                        raise
                    self._shape = min(self._shape, shape // 2)  # another thread may have come to it as well
                elif len(part) > 1:
                    suspects = start + len(part)
                else:
                    scored.append(self._once_more(part, shape))
        return _Scored(scored, self._shape)

    def _once_more(self, part: list[NDArray[np.uint8]], shape: int) -> NDArray[np.float32] | NetworkError:
        """For an image that failed before a blank one did not: memory may have been short meanwhile."""
        try:
            return self._run(part, shape)[0]
        except NetworkError as error:
            return error

    def _blank_fails(self, like: NDArray[np.uint8], shape: int) -> bool:
        try:
            self._run([np.zeros_like(like)], shape)
        except NetworkError:
            return True
        return False

    def _run(self, part: list[NDArray[np.uint8]], shape: int) -> list[NDArray[np.float32]]:
        try:
            padded = np.zeros((shape, *part[0].shape), dtype=np.uint8)
            padded[: len(part)] = part
            return list(self._classifier.score(padded)[: len(part)])
        except MemoryError as error:
            raise NetworkError(f"not enough memory for a batch of {shape}") from error
