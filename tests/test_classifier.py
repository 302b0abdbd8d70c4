import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data

from chexscore import Classifier
from chexscore.classifier import usable_devices
from chexscore.errors import DeviceError, ModelError, NetworkError, UsageError
from chexscore.options import Options
from chexscore.settings import settings_of
from chexscore.spec import ImageSpec, ModelSpec
from tests.networks import brightness_model, brightness_spec


def test_it_scores_and_knows_itself(model: Path) -> None:
    classifier = Classifier(model, device="cpu")
    assert classifier.spec == brightness_spec()
    assert classifier.sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert classifier.device == "cpu"
    images = np.stack([np.full((8, 8, 1), value, dtype=np.uint8) for value in (0, 51, 255)])
    assert classifier.score(images).ravel().tolist() == pytest.approx([0, 1, 0.2, 0.8, 1, 0], abs=1e-6)


def test_images_of_another_kind_are_refused(model: Path) -> None:
    classifier = Classifier(model, device="cpu")
    for images in (np.zeros((1, 8, 8, 1)), np.zeros((1, 9, 8, 1), np.uint8), np.zeros((8, 8, 1), np.uint8)):
        with pytest.raises(ValueError, match="the model takes uint8"):
            classifier.score(images)  # type: ignore[arg-type]


def test_what_is_no_model_is_a_model_error(tmp_path: Path) -> None:
    text = tmp_path / "text.onnx"
    text.write_text("not a model")
    silent = brightness_model(tmp_path / "silent.onnx", describe=False)
    wrong = ModelSpec("x", "1", ("A", "B", "C"), ImageSpec(8, 8), (0.5, 0.5, 0.5))
    lying = brightness_model(tmp_path / "lying.onnx", wrong)
    for path, said in (
        (tmp_path / "none.onnx", "cannot be read"),
        (tmp_path, "cannot be read"),
        (text, "not a model that onnxruntime can load"),
        (silent, "does not describe itself"),
        (lying, "its description promises"),
    ):
        with pytest.raises(ModelError, match=said) as caught:
            Classifier(path)
        assert str(path) in str(caught.value)


def test_cuda_without_a_build_for_it_is_a_device_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="without CUDA"):
        Classifier(model, device="cuda")


def test_a_device_that_does_not_exist_is_refused(model: Path) -> None:
    with pytest.raises(UsageError, match="'gpu' is no device"):
        Classifier(model, device="gpu")  # type: ignore[arg-type]  # what a caller without types may do


def test_a_silent_fallback_to_the_cpu_is_noticed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, tried = onnxruntime.InferenceSession, []
    on_cuda: list[dict[str, str]] = []

    def fallback(
        content: bytes,
        options: object,
        providers: list[str],
        provider_options: list[dict[str, str]],
        **_: int,
    ) -> object:
        tried.append(providers)
        on_cuda.extend(provider_options[:-1])
        return real(content, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", fallback)
    with pytest.raises(DeviceError, match="does not work here"):
        Classifier(model, device="cuda")
    monkeypatch.setattr("chexscore.sessions.DRIVER", None)  # this process, which can be loaded
    classifier = Classifier(model, device="auto")
    assert (classifier.device, classifier.cuda_fault) == ("cpu", "")
    assert tried == [["CUDAExecutionProvider", "CPUExecutionProvider"]] * 2
    assert on_cuda == [{"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}] * 2
    monkeypatch.setattr("chexscore.sessions.DRIVER", "no such library")
    assert Classifier(model, device="auto").device == "cpu"
    assert tried[2:] == [["CPUExecutionProvider"]]
    assert usable_devices(classifier) == (["cpu"], "")
    monkeypatch.setattr("chexscore.sessions.DRIVER", None)
    halves = replace(brightness_spec(), precision="fp16")
    Classifier(brightness_model(model.with_name("halves.onnx"), halves), device="auto")
    assert on_cuda[-1]["use_tf32"] == "1", "or networks of 16 bits would not use the cores that are for them"


def test_a_cuda_that_breaks_says_why_and_nothing_on_standard_output(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    create = onnxruntime.InferenceSession._create_inference_session  # noqa: SLF001, where a driver's fault shows

    def broken(self: object, providers: list[str], *rest: object) -> None:
        if "CUDAExecutionProvider" in providers:
            raise RuntimeError(OLD_DRIVER)
        create(self, providers, *rest)

    def preload() -> None:
        sys.stdout.write("Failed to load libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", broken)
    monkeypatch.setattr("chexscore.sessions.find_spec", lambda _: "NVIDIA's packages, of another version")
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload)
    why = "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version"
    with pytest.raises(DeviceError, match=rf"does not work here \({why}\)\. It needs"):
        Classifier(model, device="cuda")
    monkeypatch.setattr("chexscore.sessions.DRIVER", None)
    monkeypatch.setattr("chexscore.sessions.NVIDIA", [])
    assert (Classifier(model, device="auto").device, Classifier(model, device="auto").cuda_fault) == (
        "cpu",
        "",
    )
    monkeypatch.setattr("chexscore.sessions.NVIDIA", [model])  # a device that is there
    assert Classifier(model, device="auto").cuda_fault == why
    assert Classifier(model, device="cpu").cuda_fault == ""
    assert capsys.readouterr().out == ""


OLD_DRIVER = (
    "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:129 "
    "std::conditional_t<THRW, void, onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, "
    "const char*, SUCCTYPE, const char*, const char*, int) [with ERRTYPE = cudaError; bool THRW = true; "
    "SUCCTYPE = cudaError; std::conditional_t<THRW, void, onnxruntime::common::Status> = void] "
    "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=-1 ; "
    "hostname=ward-7 ; file=/onnxruntime_src/cuda_execution_provider.cc ; line=280 ; expr=cudaSetDevice(0); "
)
"""In onnxruntime's manner, which names the host, too."""


def test_a_cuda_that_opens_and_cannot_run_is_none(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where cuDNN is missing, or the GPU is older than what CUDA is built for."""
    real = onnxruntime.InferenceSession

    class Opens(real):  # type: ignore[misc, valid-type]  # it has no types
        def __init__(self, content: bytes, options: object, providers: list[str], **_: object) -> None:
            super().__init__(content, options, providers=["CPUExecutionProvider"])
            self.asked = providers

        def get_providers(self) -> list[str]:
            return self.asked

        def run(self, *arguments: object) -> object:
            if "CUDAExecutionProvider" in self.asked:
                raise RuntimeError("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : cuDNN is not available")
            return super().run(*arguments)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Opens)
    monkeypatch.setattr("chexscore.sessions.NVIDIA", [model])
    with pytest.raises(DeviceError, match=r"does not work here \(cuDNN is not available\)"):
        Classifier(model, device="cuda")
    classifier = Classifier(model)
    assert (classifier.device, classifier.cuda_fault) == ("cpu", "cuDNN is not available")
    assert classifier.score(np.zeros((1, 8, 8, 1), np.uint8)).tolist() == [[0, 1]]
    assert usable_devices(classifier) == (["cpu"], "cuDNN is not available")
    foreign = brightness_model(model.with_name("foreign.onnx"), describe=False)
    network = onnx.load(foreign)
    network.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save(network, foreign)
    with pytest.raises(ModelError, match="does not describe itself"):
        Classifier(foreign, device="cuda")


def test_what_a_gpu_says_of_a_batch_is_told_without_its_host(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(OLD_DRIVER)

    classifier = Classifier(model, device="cpu")
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", broken)
    with pytest.raises(NetworkError, match=r"batch of 2: CUDA failure 35: .* CUDA runtime version$"):
        classifier.score(np.zeros((2, 8, 8, 1), np.uint8))


def test_a_resume_on_a_gpu_asks_for_the_same_cudnn(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = Classifier(model, device="cpu")
    assert settings_of(classifier, Options())["cuDNN"] == "none"
    classifier.device = "cuda"
    assert settings_of(classifier, Options())["cuDNN"] == "the system's"
    monkeypatch.setattr("chexscore.settings.version", lambda name: f"9.{len(name)}")
    assert settings_of(classifier, Options())["cuDNN"] == "nvidia-cudnn-cu13 9.17"


def test_a_model_reads_no_other_file(model: Path) -> None:
    network = onnx.load(model)
    weight = network.graph.initializer[0]
    weight.raw_data = numpy_helper.to_array(weight).tobytes()
    weight.ClearField("float_data")
    weights = model.parent / "weights.bin"
    weights.write_bytes(weight.raw_data)
    for place in (weights.name, str(weights), f"../{model.parent.name}/{weights.name}"):
        set_external_data(weight, location=place)
        bare = onnx.ModelProto()
        bare.CopyFrom(network)
        bare.graph.initializer[0].ClearField("raw_data")
        model.write_bytes(bare.SerializeToString())
        with pytest.raises(ModelError, match="weights are in other files"):
            Classifier(model)
