"""Paths in, predictions out: decoding in threads ahead of the network, in order, in bounded memory."""

import os
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from chexscore.classifier import Classifier, Device
from chexscore.discovery import find_images
from chexscore.errors import ImageError, NetworkError
from chexscore.images import load_images
from chexscore.predictions import Prediction, Status

__all__ = ["BATCH_SIZE", "predict", "score_images", "usable_cores"]

BATCH_SIZE = 8
"""Images that go through the network together; a last batch that is not full costs as much as a full one."""


def predict(
    paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    model: Classifier | str | os.PathLike[str] | None = None,
    *,
    device: Device = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
) -> Iterator[Prediction]:
    """Scores files and directories of chest X-rays.

    Args:
        paths: one path or several, as for `find_images`.
        model: an open Classifier, an ONNX file, or None for the bundled model.
        device: where the network runs, "auto", "cpu" or "cuda"; not used with an open Classifier.
        batch_size: images that go through the network together; None means BATCH_SIZE.
        workers: threads that decode; None means one for each core that this process may use.

    Returns:
        An iterator of one Prediction for each image, in the order of the walk. It never raises for an image:
        one that cannot be scored has a status that says so.

    Raises:
        ModelError: at once, if the model cannot be used.
        DeviceError: at once, if CUDA was asked for and is not there.
    """
    classifier = model if isinstance(model, Classifier) else Classifier(model, device=device)
    found = find_images([paths] if isinstance(paths, str | os.PathLike) else paths)
    return score_images(found, classifier, batch_size=batch_size, workers=workers)


def score_images(
    paths: Iterable[str], classifier: Classifier, *, batch_size: int | None = None, workers: int | None = None
) -> Iterator[Prediction]:
    """Scores single images, given by an iterable that may be endless; see `predict`.

    About three batches of pixels are in memory at a time. Every batch is filled up to `batch_size`, because
    the last digits of a score can depend on the shape of its batch.
    """
    batch_size, workers = batch_size or BATCH_SIZE, workers or usable_cores()
    decoded = load_images(paths, classifier.spec.image, workers=workers, ahead=2 * batch_size)
    waiting: list[Prediction | str] = []  # in input order; a path stands for an image of the batch
    batch: list[NDArray[np.uint8]] = []
    for path, result in decoded:
        if isinstance(result, ImageError):
            waiting.append(Prediction(path, Status(result.status), note=result.reason))
        else:
            waiting.append(path)
            batch.append(result)
        # Failures are not counted into a batch, but must not pile up behind a half-full one for ever.
        if len(batch) == batch_size or not batch or len(waiting) > 100 * batch_size:
            yield from _settle(waiting, batch, classifier, batch_size)
            waiting, batch = [], []
    yield from _settle(waiting, batch, classifier, batch_size)


def usable_cores() -> int:
    """Cores that this process may run on: its affinity, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _settle(
    waiting: list[Prediction | str], batch: list[NDArray[np.uint8]], classifier: Classifier, batch_size: int
) -> Iterator[Prediction]:
    """Puts the scores of a batch into the places where its images wait."""
    scored = iter(_score(batch, classifier, batch_size))
    for entry in waiting:
        if isinstance(entry, Prediction):
            yield entry
            continue
        scores = next(scored)
        if isinstance(scores, NetworkError):
            yield Prediction(entry, Status.FAILED, note=str(scores))
        elif not np.isfinite(scores).all():
            yield Prediction(entry, Status.FAILED, note="the network gave a score that is no number")
        else:
            yield Prediction(
                entry, Status.OK, dict(zip(classifier.spec.labels, map(float, scores), strict=True))
            )


def _score(
    batch: list[NDArray[np.uint8]], classifier: Classifier, batch_size: int
) -> Iterable[NDArray[np.float32] | NetworkError]:
    """A row of scores for each image; if the batch fails, each image by itself, so that one fails alone."""
    if not batch:
        return []
    padded = np.zeros((batch_size, *batch[0].shape), dtype=np.uint8)
    padded[: len(batch)] = batch
    try:
        return list(classifier.score(padded)[: len(batch)])
    except NetworkError as error:
        if len(batch) == 1:
            return [error]
        return [scores for image in batch for scores in _score([image], classifier, batch_size)]
