"""onnxruntime's sessions, on the device that is asked for. The only importer of onnxruntime."""

import contextlib
import ctypes
import io
import os
import re
import threading
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

__all__ = [
    "PROVIDERS",
    "RUNTIME",
    "SILENT",
    "Device",
    "DeviceBuffer",
    "cuda_reason",
    "open_session",
    "shows_gpu",
]

Device = Literal["auto", "cpu", "cuda"]

RUNTIME: str = onnxruntime.__version__

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

HALVES = b'"precision": "fp16"'
"""How a model that was exported to compute in 16 bits says so (`chexscore.spec.ModelSpec.to_json`)."""

NVIDIA = ("/dev/nvidiactl", "/dev/dxg")
"""What shows of a GPU on Linux with NVIDIA's driver, and on Linux within Windows."""

DRIVER = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
"""The library that comes with NVIDIA's driver."""

CUDA_SAYS = re.compile(
    r"((CUDA|CUDNN|CUBLAS)\w* failure|cuDNN is|cuFFT is|Failed to allocate).*?(?= ; |\n|$)"
)
"""What is worth reading of onnxruntime's words for what fails on a GPU, behind signatures in C++."""

WARNING, SILENT = 2, 4
"""onnxruntime's severities: its default, and "fatal"."""


def open_session(
    content: bytes, device: Device, folder: str = "", threads: int = 0
) -> tuple[onnxruntime.InferenceSession, str]:
    """Opens a session, and says why not on CUDA; onnxruntime falls back in silence, so that is looked up.

    Its own fallbacks are switched off: they tell standard output, and a fault in the night is to be heard.

    Args:
        content: of an ONNX file.
        device: as for `Classifier`.
        folder: of that file.
        threads: of one run on the CPU; 0 means one for each core.

    Returns:
        The session, and why it is not on CUDA where "auto" tried; else empty.

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
            provider_options=[_cuda_options(content) if name == "cuda" else {} for name in devices],
            enable_fallback=0,
        )

    if device == "cpu" or PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        if device == "cuda":
            raise DeviceError("this onnxruntime is built without CUDA; install onnxruntime-gpu.")
        return on("cpu"), ""
    if device == "auto" and not shows_gpu() and not _has_driver():
        return on("cpu"), ""  # a fraction of a second earlier than onnxruntime finds that out
    if find_spec("nvidia") is not None:  # CUDA's libraries as Python packages: the extra `cuda`
        with contextlib.redirect_stdout(io.StringIO()):  # where it tells what it does not find
            onnxruntime.preload_dlls()
    onnxruntime.set_default_logger_severity(SILENT)  # its words are those of `_cuda_fault`, on standard error
    reason = ""
    try:
        session = on("cuda", "cpu")
        if PROVIDERS["cuda"] in session.get_providers():
            _score_blank(session)
    except Exception as error:  # noqa: BLE001, the model's fault, which the CPU tells too, or CUDA's
        session, reason = on("cpu"), cuda_reason(error)
    finally:
        onnxruntime.set_default_logger_severity(WARNING)
    if PROVIDERS["cuda"] in session.get_providers():
        return session, ""
    reason = reason or _cuda_fault()
    if device == "cuda":
        raise DeviceError(
            f"CUDA was asked for and does not work here ({reason}). It needs a GPU of compute capability 7.5 "
            "or more, NVIDIA's driver 580 or later, CUDA 13 and cuDNN 9 (pip install 'chexscore[cuda]'); "
            "--device cpu runs without."
        )
    return session, reason


def _cuda_options(content: bytes) -> dict[str, str]:
    """How the network runs on a GPU; without CUDA graphs, for a session with one is for a single thread."""
    return {
        # By rules, the same in another run, as a resumed output needs it; of two kinds of rules those that
        # take less time to choose: https://github.com/microsoft/onnxruntime/issues/22705.
        "cudnn_conv_algo_search": "HEURISTIC",
        # TensorFloat-32 keeps 10 bits of each number: export has proved, calibrated and chosen thresholds in
        # 32. Without it networks of 16 bits would lose their cores for these, too.
        "use_tf32": str(int(HALVES in content)),
    }


def _score_blank(session: onnxruntime.InferenceSession) -> None:
    """Raises what a first image would: a GPU that is too old, and cuDNN that is missing, show no earlier.

    A network that takes something else than images is not tried: that is no fault of the GPU.
    """
    first, *others = session.get_inputs()
    if (
        first.type == "tensor(uint8)"
        and not others
        and all(isinstance(each, int) for each in first.shape[1:])
    ):
        session.run(None, {first.name: np.zeros((1, *first.shape[1:]), np.uint8)})


def cuda_reason(error: Exception) -> str:
    """What an exception says of a GPU, in one line."""
    found = CUDA_SAYS.search(str(error))
    return found[0].strip() if found else first_line(error)


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
    """Whether the host shows a GPU, so that somebody may expect it to be used; Windows shows a driver."""
    return any(map(os.path.exists, NVIDIA)) or (os.name == "nt" and _has_driver())


class DeviceBuffer:
    """Memory on a device that batches of one shape go through one after the other; for one thread at a time.

    With one for each of two threads the pixels of a batch reach the device while the network runs on the one
    before; it runs on one at a time, for runs of one session at the same time have failed with illegal memory
    accesses (https://github.com/pykeio/ort/issues/348), and nobody would see a score that another wrote over.
    The host's side is not pinned: that saved 1 ms, 2 % of a run whose batch was 50 MB
    (https://github.com/pykeio/ort/issues/88), and four images of 512 x 512 are 1 MB. None of this has been
    measured here.

    Args:
        session: on the device.
        shape: of the batches, [N, H, W, 1].
        device: "cuda".
        turn: the session's, held while the network runs.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        shape: tuple[int, ...],
        device: str,
        turn: threading.Lock,
    ) -> None:
        self.shape, self._turn = shape, turn
        self._session, self._binding = session, session.io_binding()
        self._images = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.uint8, device)
        self._binding.bind_ortvalue_input(INPUT_NAME, self._images)
        self._binding.bind_output(OUTPUT_NAME, "cpu")

    def score(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scores [N, L] of uint8 images [N, H, W, 1], of the shape that it was made for."""
        self._images.update_inplace(np.ascontiguousarray(images))
        with self._turn:
            self._session.run_with_iobinding(self._binding)
        scores: NDArray[np.float32] = self._binding.copy_outputs_to_cpu()[0]
        return scores
