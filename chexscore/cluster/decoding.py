"""The first stage on the nodes: places of the list -> pixels."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chexscore.ahead import work_ahead
from chexscore.cluster.job import Batch, Job, check_installed, pickled
from chexscore.cluster.storage import fetched
from chexscore.errors import ImageError, UnreadableImageError
from chexscore.isolation import LostCallError, call
from chexscore.scoring import Loaded, load

__all__ = ["IMAGES_A_BLOCK", "decode"]

IMAGES_A_BLOCK = 128
"""What goes from a task that decodes to an actor that scores: 33 MB at 512 x 512 pixels."""

THREADS = 2
"""Of a task that decodes: one waits for storage while the other decodes."""


def decode(batch: Batch, job: Job, *, apart: bool = False) -> Iterator[dict[str, NDArray[Any]]]:
    """Decodes images: "id", their numbers, to blocks of "position", "pixels" and "rest", what has no array.

    What cannot be decoded has black pixels and, as its rest, the reason.

    Args:
        batch: the numbers.
        job: what they are of.
        apart: decode in processes of their own; an image that kills its process then has a reason, too.
    """
    check_installed(job.installed)

    def load_one(path: str) -> Loaded:
        try:
            with fetched(path, job.base) as local:
                decoding = partial(load, local, job.image, max_pixels=job.max_pixels, tags=job.tags)
                return call(decoding) if apart else decoding()
        except LostCallError as error:
            return Loaded(UnreadableImageError(path, f"its decoder {error}"), {})
        except ImageError as error:
            return Loaded(error, {})

    positions, paths = zip(*job.paths(batch["id"]), strict=True)
    loading = work_ahead(paths, load_one, workers=THREADS, ahead=2 * THREADS)
    rest = zip(positions, loading, strict=True)
    black = np.zeros((job.image.height, job.image.width, 1), dtype=np.uint8)
    while block := list(islice(rest, IMAGES_A_BLOCK)):
        failures = [
            loaded.pixels if isinstance(loaded.pixels, ImageError) else None for _, (_, loaded) in block
        ]
        yield {
            "position": np.array([position for position, _ in block]),
            "pixels": np.stack(
                [
                    black if isinstance(loaded.pixels, ImageError) else loaded.pixels
                    for _, (_, loaded) in block
                ]
            ),
            "rest": pickled(
                (path, failure, loaded.tags)
                for failure, (_, (path, loaded)) in zip(failures, block, strict=True)
            ),
        }
