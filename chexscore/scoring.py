"""Paths in, predictions out: decoding in threads ahead of the network, in order, in bounded memory."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chexscore.ahead import load_ahead
from chexscore.classifier import Classifier, Device
from chexscore.discovery import find_images
from chexscore.errors import ImageError, NetworkError
from chexscore.images import MAX_PIXELS, load_image
from chexscore.predictions import Prediction, Status
from chexscore.spec import ImageSpec

__all__ = [
    "BATCH_SIZE",
    "Loaded",
    "Network",
    "load",
    "predict",
    "score_images",
    "score_loaded",
    "usable_cores",
]

BATCH_SIZE = 8
"""Images that go through the network together; a last batch that is not full costs as much as a full one."""


MAX_BATCH_SIZE = 1024


class Loaded(NamedTuple):
    """What became of a file: uint8 [H, W, 1] of the network's shape or why there are none; and its tags."""

    pixels: NDArray[np.uint8] | ImageError
    tags: Mapping[str, str]


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
        model: an open Classifier, an ONNX file, or None for the bundled model.
        device: where the network runs, "auto", "cpu" or "cuda"; not used with an open Classifier.
        batch_size: images that go through the network together; None means BATCH_SIZE.
        workers: threads that decode; None means one for each core that this process may use.
        max_pixels: larger images are not decoded; their status is too_large.

    Returns:
        An iterator of one Prediction for each image, in the order of the walk. It never raises for an image:
        one that cannot be scored has a status that says so.

    Raises:
        ModelError: at once, if the model cannot be used.
        DeviceError: at once, if CUDA was asked for and is not there.
        ValueError: at once, for a batch size or number of workers that cannot be.
    """
    classifier = model if isinstance(model, Classifier) else Classifier(model, device=device)
    found = find_images(paths)
    return score_images(found, classifier, batch_size=batch_size, workers=workers, max_pixels=max_pixels)


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

    About three batches of pixels are in memory at a time. Every batch is filled up to `batch_size`, because
    the last digits of a score can depend on the shape of its batch.

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
    batch_size, workers = batch_size or BATCH_SIZE, workers or usable_cores()
    if not 1 <= batch_size <= MAX_BATCH_SIZE or workers < 1:
        raise ValueError(f"batch_size must be 1 to {MAX_BATCH_SIZE}, workers at least 1")
    decode = partial(load, image=classifier.spec.image, max_pixels=max_pixels, tags=tags)
    loading = load_ahead(paths, decode, workers=workers, ahead=2 * batch_size)
    return score_loaded(loading, Network(classifier, batch_size, shrunk))


def load(path: str, image: ImageSpec, *, max_pixels: int = MAX_PIXELS, tags: Sequence[str] = ()) -> Loaded:
    """Decodes one image for the network; one that cannot be is no exception."""
    found = _read_tags(path, tags)
    try:
        return Loaded(load_image(path, image, max_pixels=max_pixels), found)
    except ImageError as error:
        return Loaded(error, found)


def score_loaded(loading: Iterable[tuple[str, Loaded]], network: "Network") -> Iterator[Prediction]:
    """Scores what was decoded, in its order."""
    batch_size, labels = network.asked, network.labels
    waiting: list[Prediction] = []  # in input order; one of status ok waits for its scores
    batch: list[NDArray[np.uint8]] = []
    for path, loaded in loading:
        if isinstance(loaded.pixels, ImageError):
            status, note = Status(loaded.pixels.status), loaded.pixels.reason
            waiting.append(Prediction(path, status, note=note, tags=loaded.tags))
        else:
            waiting.append(Prediction(path, Status.OK, tags=loaded.tags))
            batch.append(loaded.pixels)
        # Failures are not counted into a batch, but must not pile up behind a half-full one for ever.
        if len(batch) == batch_size or not batch or len(waiting) > 100 * batch_size:
            yield from _settle(waiting, network.score(batch), labels)
            waiting, batch = [], []
    yield from _settle(waiting, network.score(batch), labels)


def usable_cores() -> int:
    """Cores that this process may run on: its affinity, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read_tags(path: str, tags: Sequence[str]) -> Mapping[str, str]:
    if not tags:
        return {}
    from chexscore.dicom import read_tags  # noqa: PLC0415, pydicom costs start-up time

    return read_tags(path, tags)


def _settle(
    waiting: list[Prediction], scored: "list[NDArray[np.float32] | NetworkError]", labels: tuple[str, ...]
) -> Iterator[Prediction]:
    """Gives the images of a batch their scores; failures stay as they are."""
    rest = iter(scored)
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
    """Runs batches of one fixed shape, and copes with those that fail.

    Attributes:
        asked: images of a full batch, before any failed.
        labels: of the scores.
    """

    def __init__(self, classifier: Classifier, shape: int, shrunk: Callable[[int], object]) -> None:
        self._classifier, self._shape, self._shrunk = classifier, shape, shrunk
        self.asked, self.labels = shape, classifier.spec.labels

    def score(self, batch: list[NDArray[np.uint8]]) -> list[NDArray[np.float32] | NetworkError]:
        """A row of scores for each image, or what the network said to it.

        Whenever something fails, a blank image is tried in the same shape. Where that works, an image is to
        blame: each of its batch is run by itself, in the same shape, so that its neighbours' scores stay what
        they are to the last digit. Where it fails too, no image is blamed, and the shape is halved for the
        rest of the run, in case that memory is short.

        Raises:
            NetworkError: even one blank image fails: the network, or its device, is of no use any more.
        """
        scored: list[NDArray[np.float32] | NetworkError] = []
        suspects = 0  # images before this one are run by themselves
        while len(scored) < len(batch):
            start = len(scored)
            part = batch[start : start + (1 if start < suspects else self._shape)]
            try:
                scored.extend(self._run(part))
            except NetworkError as error:
                if self._blank_fails(part[0]):
                    if self._shape == 1:
                        raise
                    self._shape //= 2
                    self._shrunk(self._shape)
                elif len(part) > 1:
                    suspects = start + len(part)
                else:
                    scored.append(error)
        return scored

    def _blank_fails(self, like: NDArray[np.uint8]) -> bool:
        try:
            self._run([np.zeros_like(like)])
        except NetworkError:
            return True
        return False

    def _run(self, part: list[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        try:
            padded = np.zeros((self._shape, *part[0].shape), dtype=np.uint8)
            padded[: len(part)] = part
            return list(self._classifier.score(padded)[: len(part)])
        except MemoryError as error:
            raise NetworkError(f"not enough memory for a batch of {self._shape}") from error
