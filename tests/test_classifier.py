import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data

from chexscore import Classifier
from chexscore.classifier import usable_devices
from chexscore.errors import DeviceError, ModelError, UsageError
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
    assert on_cuda == [{"cudnn_conv_algo_search": "HEURISTIC"}] * 2
    monkeypatch.setattr("chexscore.sessions.DRIVER", "no such library")
    assert Classifier(model, device="auto").device == "cpu"
    assert tried[2:] == [["CPUExecutionProvider"]]
    assert usable_devices(classifier) == ["cpu"]


def test_a_cuda_that_breaks_says_why_and_nothing_on_standard_output(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    create = onnxruntime.InferenceSession._create_inference_session  # noqa: SLF001, where a driver's fault shows

    def broken(self: object, providers: list[str], *rest: object) -> None:
        if "CUDAExecutionProvider" in providers:
            raise RuntimeError("CUDA failure 35: the driver is too old")
        create(self, providers, *rest)

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", broken)
    with pytest.raises(DeviceError, match="the driver is too old"):
        Classifier(model, device="cuda")
    assert Classifier(model, device="auto").device == "cpu"
    monkeypatch.setattr("chexscore.sessions.NVIDIA", model)  # a device that is there
    assert "the driver is too old" in Classifier(model, device="auto").cuda_fault
    assert Classifier(model, device="cpu").cuda_fault == ""
    assert capsys.readouterr().out == ""


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
