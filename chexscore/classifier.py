"""Classifier: a model file, opened to score radiographs. The only importer of onnxruntime."""

import hashlib
import os
from importlib.util import find_spec
from typing import Literal

# From version 1.29 on, onnxruntime's official builds report each session to Microsoft unless this is set when
# they are loaded. Whoever scores X-rays offline has agreed to nothing of the kind.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from chexscore.errors import DeviceError, ModelError, NetworkError, UsageError
from chexscore.spec import INPUT_NAME, OUTPUT_NAME, SPEC_KEY, ModelSpec

onnxruntime.disable_telemetry_events()  # in case that an application has loaded it before

__all__ = ["BUNDLED_MODEL", "Classifier", "Device", "open_session", "usable_devices"]

Device = Literal["auto", "cpu", "cuda"]

BUNDLED_MODEL = os.path.join(os.path.dirname(__file__), "models", "kermany.onnx")
"""The model that is used when none is given; MODEL_CARD.md beside it says what it is."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

WARNING, SILENT = 2, 4
"""onnxruntime's severities: its default, and "fatal"."""

ELSEWHERE = b"\x0a\x08location"
"""How protobuf writes the key under which ONNX names another file that holds weights (external data)."""


class Classifier:
    """A model, ready to score.

    Args:
        model: ONNX file that `python -m export` made; None means the bundled one.
        device: "cpu", "cuda", or "auto": CUDA where it works, else the CPU.

    Attributes:
        path: the model file.
        sha256: of that file, in hex.
        spec: what the model says about itself.
        device: "cpu" or "cuda": what the session really runs on, asked of the session.

    Raises:
        ModelError: the file is missing, no ONNX, or breaks the contract of chexscore's models.
        DeviceError: CUDA was asked for and does not work here.
        UsageError: no such device.
    """

    def __init__(self, model: str | os.PathLike[str] | None = None, *, device: Device = "auto") -> None:
        if device not in ("auto", *PROVIDERS):
            raise UsageError(f"{device!r} is no device; auto, cpu and cuda are.")
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
            self._session = open_session(content, device, os.path.dirname(os.path.abspath(self.path)))
        except DeviceError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise ModelError(f"{self.path}: not a model that onnxruntime can load: {_line(error)}") from error
        self.device = "cuda" if PROVIDERS["cuda"] in self._session.get_providers() else "cpu"
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
            raise ValueError(f"images are {images.dtype} {images.shape}, the model takes uint8 [N, *{shape}]")
        try:
            scores: NDArray[np.float32] = self._session.run([OUTPUT_NAME], {INPUT_NAME: images})[0]
        except Exception as error:  # as above: no common base
            raise NetworkError(f"the network failed on a batch of {len(images)}: {_line(error)}") from error
        return scores

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


def usable_devices(classifier: Classifier) -> list[str]:
    """The devices that can really run a model here: onnxruntime claims more, so it is opened once more."""
    return ["cpu"] if Classifier(classifier.path, device="auto").device == "cpu" else ["cpu", "cuda"]


def open_session(content: bytes, device: Device, folder: str = "") -> onnxruntime.InferenceSession:
    """Opens a session; onnxruntime falls back to the CPU in silence, so what it took is looked up.

    Its own fallbacks are switched off: they tell standard output, and a fault in the night is to be heard.

    Raises:
        DeviceError: CUDA was asked for and does not work here.
        Exception: of onnxruntime, which has no common base for them: the content is no model that it can run.
    """
    options = onnxruntime.SessionOptions()
    # Without it x86 chips that lack VNNI cut off sums of 8 bit products: int8 models would score otherwise.
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = SILENT  # what is wrong with a model is in the exception
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)

    def on(*devices: str) -> onnxruntime.InferenceSession:
        providers = [PROVIDERS[name] for name in devices]
        return onnxruntime.InferenceSession(content, options, providers=providers, enable_fallback=0)

    if device == "cpu" or PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        if device == "cuda":
            raise DeviceError("this onnxruntime is built without CUDA; install onnxruntime-gpu.")
        return on("cpu")
    if find_spec("nvidia") is not None:  # CUDA's libraries as Python packages: the extra `cuda`
        onnxruntime.preload_dlls()
    if device == "auto":  # that CUDA is not there is no error then
        onnxruntime.set_default_logger_severity(SILENT)
    reason = "onnxruntime's own words stand above"
    try:
        session = on("cuda", "cpu")
    except Exception as error:  # noqa: BLE001, the model's fault, which the CPU tells too, or CUDA's
        session, reason = on("cpu"), _line(error)
    finally:
        onnxruntime.set_default_logger_severity(WARNING)
    if device == "cuda" and PROVIDERS["cuda"] not in session.get_providers():
        raise DeviceError(
            f"CUDA was asked for and does not work here ({reason}). It needs an NVIDIA driver, CUDA 13 and "
            "cuDNN 9 (pip install 'chexscore[cuda]'); --device cpu runs without."
        )
    return session


def _line(error: Exception) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__
