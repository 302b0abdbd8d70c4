"""onnxruntime's sessions, on the device that is asked for. The only importer of onnxruntime."""

import ctypes
import os
from importlib.util import find_spec
from typing import Literal

# From version 1.29 on, onnxruntime's official builds report each session to Microsoft unless this is set when
# they are loaded. Whoever scores X-rays offline has agreed to nothing of the kind.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from chexscore.cores import has_vnni
from chexscore.errors import DeviceError, first_line
from chexscore.spec import INPUT_NAME, OUTPUT_NAME

onnxruntime.disable_telemetry_events()  # in case that an application has loaded it before

__all__ = ["PROVIDERS", "RUNTIME", "SILENT", "Device", "DeviceBuffer", "open_session", "shows_gpu"]

Device = Literal["auto", "cpu", "cuda"]

RUNTIME: str = onnxruntime.__version__

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


def shows_gpu() -> bool:
    """Whether the host shows a device of NVIDIA's, so that somebody may expect it to be used."""
    return os.path.exists(NVIDIA)


class DeviceBuffer:
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
        """Scores [N, L] of uint8 images [N, H, W, 1], of the shape that it was made for."""
        self._images.update_inplace(np.ascontiguousarray(images))
        self._session.run_with_iobinding(self._binding)
        scores: NDArray[np.float32] = self._binding.copy_outputs_to_cpu()[0]
        return scores
