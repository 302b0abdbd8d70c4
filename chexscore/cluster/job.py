"""What each node of a cluster has to know, and to have installed."""

import os
import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chexscore.cluster.listing import read_paths
from chexscore.cluster.storage import Folder
from chexscore.errors import UsageError
from chexscore.settings import installed
from chexscore.spec import ImageSpec

__all__ = ["Batch", "Job", "check_installed", "pickled"]

Batch = Mapping[str, NDArray[Any]]
"""What goes from node to node: columns."""


@dataclass(frozen=True)
class Job:
    """What the nodes have to know.

    Attributes:
        folder: of the output, which has the list.
        images_a_part: inputs in each file of the list.
        spans: the places in the list to score, as ranges: first, and first behind.
        base: the directory that relative paths were given in.
        image: what the network takes.
        max_pixels: larger images are not decoded.
        tags: DICOM keywords to read.
        installed: versions of what decodes, which have to be the same everywhere.
    """

    folder: str
    images_a_part: int
    spans: tuple[tuple[int, int], ...]
    base: str
    image: ImageSpec
    max_pixels: int
    tags: tuple[str, ...]
    installed: Mapping[str, str]

    @property
    def count(self) -> int:
        """How many images that are."""
        return sum(end - begin for begin, end in self.spans)

    def paths(self, numbers: NDArray[np.int64]) -> Iterator[tuple[int, str]]:
        """The place in the list and the path of the images with these numbers, counted through the spans."""
        starts = np.cumsum([0, *(end - begin for begin, end in self.spans)])
        folder, part, names = Folder(self.folder), -1, [""]
        for number in numbers:
            span = int(np.searchsorted(starts, number, side="right")) - 1
            position = self.spans[span][0] + int(number - starts[span])
            if position // self.images_a_part != part:
                part = position // self.images_a_part
                names = read_paths(folder, part)
            yield position, names[position % self.images_a_part]


@lru_cache(maxsize=1)
def _here() -> dict[str, str]:
    return installed()


def check_installed(wanted: Mapping[str, str], runtime: str | None = None) -> None:
    """Refuses a node that would score otherwise.

    Args:
        wanted: versions of chexscore, decoders and onnxruntime, as the driver has them.
        runtime: the version of onnxruntime here; None where it is not used.

    Raises:
        UsageError: another version is installed here.
    """
    found = _here() if runtime is None else {**_here(), "onnxruntime": runtime}
    if differences := [
        f"{name} {found[name]}, not {wanted[name]}" for name in found if found[name] != wanted[name]
    ]:
        raise UsageError(
            f"node {os.uname().nodename} would score otherwise: it has {', '.join(differences)}."
        )


def pickled(rows: Iterable[object]) -> NDArray[np.object_]:
    """Predictions and errors as Arrow can carry them, whatever the bytes of their paths."""
    return np.array([pickle.dumps(row, pickle.HIGHEST_PROTOCOL) for row in rows], dtype=object)
