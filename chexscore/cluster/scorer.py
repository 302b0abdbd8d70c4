"""The second stage on the nodes: pixels -> rows."""

import pickle
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from chexscore.classifier import Classifier
from chexscore.cluster.job import Batch, check_installed, pickled
from chexscore.cluster.parts import Scored
from chexscore.scoring import Loaded, Network, score_loaded
from chexscore.sessions import Device

__all__ = ["Scorer", "rows_of"]


class Scorer:
    """A model on a node.

    Args:
        model: the file's content: only the driver has to have the file.
        device: "cpu", or "cuda" for one GPU.
        batch_size: images that go through the network together.
        versions: that have to be the same everywhere.

    Raises:
        DeviceError: CUDA was asked for and does not work on this node.
        UsageError: other versions are installed on this node.
    """

    def __init__(self, model: bytes, device: Device, batch_size: int, versions: Mapping[str, str]) -> None:
        check_installed(versions)
        with tempfile.NamedTemporaryFile(prefix="chexscore-", suffix=".onnx") as file:
            file.write(model)
            file.flush()
            self.classifier = Classifier(file.name, device=device, threads=1)
        check_installed(versions, self.classifier.runtime)
        self._shape = batch_size
        self._network = Network(self.classifier, batch_size, self._shrink)

    def _shrink(self, shape: int) -> None:
        self._shape = shape

    def __call__(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """Scores a block: "position", and as its "row" what is left to say of each image."""
        rest = [pickle.loads(row) for row in batch["rest"]]  # noqa: S301, from `decode`
        loading = (
            (path, Loaded(pixels if failure is None else failure, tags))
            for pixels, (path, failure, tags) in zip(batch["pixels"], rest, strict=True)
        )
        rows = [(prediction, self._shape) for prediction in score_loaded(loading, self._network)]
        return {"position": batch["position"], "row": pickled(rows)}


def rows_of(batch: Batch) -> Iterator[Scored]:
    """What a Scorer gave."""
    for position, row in zip(batch["position"], batch["row"], strict=True):
        yield Scored(int(position), *pickle.loads(row))  # noqa: S301, as above
