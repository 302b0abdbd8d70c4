"""Classifier: a model file, opened to score radiographs."""

import hashlib
import os
import threading

import numpy as np
from numpy.typing import NDArray

from chexscore.cores import usable_cores
from chexscore.errors import DeviceError, ModelError, NetworkError, UsageError, first_line
from chexscore.sessions import PROVIDERS, RUNTIME, Device, DeviceBuffer, cuda_reason, open_session, shows_gpu
from chexscore.spec import INPUT_NAME, OUTPUT_NAME, SPEC_KEY, ModelSpec

__all__ = ["BUNDLED_MODEL", "Classifier", "usable_devices"]

BUNDLED_MODEL = os.path.join(os.path.dirname(__file__), "models", "kermany.onnx")
"""The model that is used when none is given; MODEL_CARD.md beside it says what it is."""

ELSEWHERE = b"\x0a\x08location"
"""How protobuf writes the key under which ONNX names another file that holds weights (external data)."""


class Classifier:
    """A model, ready to score.

    Args:
        model: ONNX file that `python -m export` made; None means the bundled one.
        device: "cpu", "cuda", or "auto": CUDA where it works, else the CPU.
        threads: of one call of `score` on the CPU; None means one for each core that this process may use.

    Attributes:
        path: the model file.
        sha256: of that file, in hex.
        spec: what the model says about itself.
        device: "cpu" or "cuda": what the session really runs on, asked of the session.
        runtime: version of onnxruntime.
        threads: as above.
        cuda_fault: why "auto" took the CPU on a host with an NVIDIA device; else empty.

    Raises:
        ModelError: the file is missing, no ONNX, or breaks the contract of chexscore's models.
        DeviceError: CUDA was asked for and does not work here.
        UsageError: no such device.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        device: Device = "auto",
        threads: int | None = None,
    ) -> None:
        if device not in ("auto", *PROVIDERS):
            raise UsageError(f"{device!r} is no device; auto, cpu and cuda are.")
        self.threads = threads or usable_cores()
        self.path = os.fspath(model) if model is not None else BUNDLED_MODEL
        try:
            with open(self.path, "rb") as file:
                content = file.read()
        except OSError as error:
            raise ModelError(f"{self.path}: the model cannot be read: {error.strerror}.") from error
        self.sha256 = hashlib.sha256(content).hexdigest()
        if ELSEWHERE in content:  # it could name any file, and its sha256 would not be that of the model
            raise ModelError(f"{self.path}: its weights are in other files; store the model in one.")
        try:
            folder = os.path.dirname(os.path.abspath(self.path))
            self._session, fault = open_session(content, device, folder, self.threads)
        except DeviceError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise ModelError(
                f"{self.path}: not a model that onnxruntime can load: {first_line(error)}"
            ) from error
        self.device = "cuda" if PROVIDERS["cuda"] in self._session.get_providers() else "cpu"
        self._turn = threading.Lock()  # of the batch that the network runs on, on a GPU
        self._own = threading.local()  # what each thread that scores on a GPU has for itself
        self.runtime = RUNTIME
        self.cuda_fault = fault if shows_gpu() else ""
        self.spec = self._read_spec()

    def score(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scores a batch.

        Args:
            images: uint8 [N, H, W, 1], as `load_image(path, classifier.spec.image)` gives them, stacked.

        Returns:
            float32 [N, L] in 0..1, the columns in the order of `spec.labels`.

        Raises:
            ValueError: another dtype or shape.
            NetworkError: the network could not be run on this batch.
        """
        shape = (self.spec.image.height, self.spec.image.width, 1)
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            wanted = ", ".join(map(str, shape))
            raise ValueError(f"images are {images.dtype} {images.shape}, the model takes uint8 (N, {wanted})")
        try:
            scores = self._run(images)
        except Exception as error:  # as above: no common base
            raise NetworkError(
                f"the network failed on a batch of {len(images)}: {cuda_reason(error)}"
            ) from error
        return scores

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        scores: NDArray[np.float32]
        if self.device == "cpu":  # where a buffer would only be one copy more
            scores = self._session.run([OUTPUT_NAME], {INPUT_NAME: images})[0]
            return scores
        buffer: DeviceBuffer | None = getattr(self._own, "buffer", None)
        if buffer is None or buffer.shape != images.shape:
            buffer = self._own.buffer = DeviceBuffer(self._session, images.shape, self.device, self._turn)
        return buffer.score(images)

    def _read_spec(self) -> ModelSpec:
        text = self._session.get_modelmeta().custom_metadata_map.get(SPEC_KEY)
        if text is None:
            raise ModelError(
                f"{self.path}: an ONNX file that does not describe itself; make one with `python -m export`."
            )
        try:
            spec = ModelSpec.from_json(text)
        except ModelError as error:
            raise ModelError(f"{self.path}: {error}") from error
        found = [
            (node.name, node.type, list(node.shape[1:]))
            for node in (*self._session.get_inputs(), *self._session.get_outputs())
        ]
        promised = [
            (INPUT_NAME, "tensor(uint8)", [spec.image.height, spec.image.width, 1]),
            (OUTPUT_NAME, "tensor(float)", [len(spec.labels)]),
        ]
        if found != promised:
            raise ModelError(f"{self.path}: its graph has {found}, its description promises {promised}.")
        return spec


def usable_devices(classifier: Classifier) -> tuple[list[str], str]:
    """The devices that can really run a model here, and why CUDA is none of them where that is a surprise.

    onnxruntime claims more, so the model is opened once more.
    """
    tried = Classifier(classifier.path, device="auto")
    return (["cpu"] if tried.device == "cpu" else ["cpu", "cuda"]), tried.cuda_fault
