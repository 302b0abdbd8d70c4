"""Classifier: a model file, opened to score radiographs. The only importer of onnxruntime."""

import ctypes
import hashlib
import os
import threading
from importlib.util import find_spec
from typing import Literal

# From version 1.29 on, onnxruntime's official builds report each session to Microsoft unless this is set when
# they are loaded. Whoever scores X-rays offline has agreed to nothing of the kind.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from chexscore.cores import has_vnni, usable_cores
from chexscore.errors import DeviceError, ModelError, NetworkError, UsageError, first_line
from chexscore.spec import INPUT_NAME, OUTPUT_NAME, SPEC_KEY, ModelSpec

onnxruntime.disable_telemetry_events()  # in case that an application has loaded it before

__all__ = ["BUNDLED_MODEL", "ELSEWHERE", "Classifier", "Device", "open_session", "usable_devices"]

Device = Literal["auto", "cpu", "cuda"]

BUNDLED_MODEL = os.path.join(os.path.dirname(__file__), "models", "kermany.onnx")
"""The model that is used when none is given; MODEL_CARD.md beside it says what it is."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

PROVIDER_OPTIONS: dict[str, dict[str, str]] = {
    "cpu": {},
    # Searching exhaustively, the default, may choose other algorithms in another run, with other last digits:
    # https://github.com/microsoft/onnxruntime/issues/19822. A resumed output would not be what it is without
    # the stop. What this costs has not been measured.
    "cuda": {"cudnn_conv_algo_search": "HEURISTIC"},
}
"""No CUDA graphs: a session that replays one may not run in two threads, which keep two batches in flight."""

NVIDIA = "/dev/nvidiactl"
"""What NVIDIA's driver shows of itself on Linux."""

DRIVER = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
"""The library that comes with NVIDIA's driver."""

WARNING, SILENT = 2, 4
"""onnxruntime's severities: its default, and "fatal"."""

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
        self._own = threading.local()  # what each thread that scores on a GPU has for itself
        self.runtime: str = onnxruntime.__version__
        self.cuda_fault = fault if os.path.exists(NVIDIA) else ""
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
            scores = self._run(images)
        except Exception as error:  # as above: no common base
            raise NetworkError(
                f"the network failed on a batch of {len(images)}: {first_line(error)}"
            ) from error
        return scores

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        scores: NDArray[np.float32]
        if self.device == "cpu":  # where a buffer would only be one copy more
            scores = self._session.run([OUTPUT_NAME], {INPUT_NAME: images})[0]
            return scores
        buffer: _DeviceBuffer | None = getattr(self._own, "buffer", None)
        if buffer is None or buffer.shape != images.shape:
            buffer = self._own.buffer = _DeviceBuffer(self._session, images.shape, self.device)
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


class _DeviceBuffer:
    """Memory on a device that batches of one shape go through one after the other; for one thread at a time.

    onnxruntime would else ask for it anew for each batch. With one for each of two threads the pixels of a
    batch reach the device while the network runs on the one before. The host's side is not pinned: that saved
    1 ms, 2 % of a run whose batch was 50 MB (https://github.com/pykeio/ort/issues/88), and four images of
    512 x 512 are 1 MB; it has not been measured here.
    """

    def __init__(self, session: onnxruntime.InferenceSession, shape: tuple[int, ...], device: str) -> None:
        self.shape, self._session, self._binding = shape, session, session.io_binding()
        self._images = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.uint8, device)
        self._binding.bind_ortvalue_input(INPUT_NAME, self._images)
        self._binding.bind_output(OUTPUT_NAME, "cpu")

    def score(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._images.update_inplace(np.ascontiguousarray(images))
        self._session.run_with_iobinding(self._binding)
        scores: NDArray[np.float32] = self._binding.copy_outputs_to_cpu()[0]
        return scores


def usable_devices(classifier: Classifier) -> list[str]:
    """The devices that can really run a model here: onnxruntime claims more, so it is opened once more."""
    return ["cpu"] if Classifier(classifier.path, device="auto").device == "cpu" else ["cpu", "cuda"]


def open_session(
    content: bytes, device: Device, folder: str = "", threads: int = 0
) -> tuple[onnxruntime.InferenceSession, str]:
    """Opens a session, and says why not on CUDA; onnxruntime falls back in silence, so that is looked up.

    Its own fallbacks are switched off: they tell standard output, and a fault in the night is to be heard.

    Raises:
        DeviceError: CUDA was asked for and does not work here.
        Exception: of onnxruntime, which has no common base for them: the content is no model that it can run.
    """
    options = onnxruntime.SessionOptions()
    # x86 chips that lack VNNI cut off sums of 8 bit products, so that int8 models would score otherwise; with
    # this they do not. On chips that have VNNI it would change no score, and take twice as long.
    options.add_session_config_entry("session.x64quantprecision", str(int(not has_vnni())))
    options.intra_op_num_threads = threads
    options.log_severity_level = SILENT  # what is wrong with a model is in the exception
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)

    def on(*devices: str) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(
            content,
            options,
            providers=[PROVIDERS[name] for name in devices],
            provider_options=[PROVIDER_OPTIONS[name] for name in devices],
            enable_fallback=0,
        )

    if device == "cpu" or PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        if device == "cuda":
            raise DeviceError("this onnxruntime is built without CUDA; install onnxruntime-gpu.")
        return on("cpu"), ""
    if device == "auto" and not os.path.exists(NVIDIA) and not _has_driver():
        return on("cpu"), ""  # a fraction of a second earlier than onnxruntime finds that out
    if find_spec("nvidia") is not None:  # CUDA's libraries as Python packages: the extra `cuda`
        onnxruntime.preload_dlls()
    onnxruntime.set_default_logger_severity(SILENT)  # its words are those of `_cuda_fault`, on standard error
    reason = ""
    try:
        session = on("cuda", "cpu")
    except Exception as error:  # noqa: BLE001, the model's fault, which the CPU tells too, or CUDA's
        session, reason = on("cpu"), first_line(error)
    finally:
        onnxruntime.set_default_logger_severity(WARNING)
    if PROVIDERS["cuda"] in session.get_providers():
        return session, ""
    reason = reason or _cuda_fault()
    if device == "cuda":
        raise DeviceError(
            f"CUDA was asked for and does not work here ({reason}). It needs an NVIDIA driver, CUDA 13 and "
            "cuDNN 9 (pip install 'chexscore[cuda]'); --device cpu runs without."
        )
    return session, reason


def _has_driver() -> bool:
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return False
    return True


def _cuda_fault() -> str:
    """Why onnxruntime's CUDA provider is not there: the driver, or else the provider, is loaded once more."""
    folder = os.path.join(os.path.dirname(onnxruntime.__file__), "capi")
    provider = "onnxruntime_providers_{}.dll" if os.name == "nt" else "libonnxruntime_providers_{}.so"
    try:
        ctypes.CDLL(DRIVER)
        for part in ("shared", "cuda"):
            ctypes.CDLL(os.path.join(folder, provider.format(part)), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        return first_line(error)
    return "its libraries load, but no device works; nvidia-smi says more"
