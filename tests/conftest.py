import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chexscore import Classifier
from tests.networks import brightness_model

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tests import onnxruntime themselves


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    return brightness_model(folder / "brightness.onnx")


@pytest.fixture
def classifier(model: Path) -> Classifier:
    return Classifier(model, device="cpu")


@pytest.fixture
def flat(tmp_path: Path) -> Callable[[str, int], Path]:
    """Writes a PNG of one grey value, so that its brightness is known."""

    def write(name: str, value: int) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16), value, dtype=np.uint8)).save(path)
        return path

    return write


@pytest.fixture
def draws() -> None:
    """The same in each run: Keras' layers, the random ones of augmentation too, seed themselves from this."""
    random.seed(0)


@pytest.fixture(scope="session")
def xrays() -> Path:
    """Real X-rays, where they are."""
    default = Path(__file__).parents[2] / "shared" / "xrays"
    folder = Path(os.environ.get("CHEXSCORE_XRAYS") or default)
    if not folder.is_dir():
        pytest.skip("real X-rays are not here; CHEXSCORE_XRAYS names their folder")
    return folder
