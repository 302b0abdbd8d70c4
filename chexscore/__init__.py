"""Score chest X-rays offline, on your own machine.

    from chexscore import predict

    for prediction in predict(["./images"]):
        print(prediction.path, prediction.status, prediction.scores)

Everything that an application needs stands here: predict, Classifier, load_image, find_images; Prediction,
Status, ModelSpec, ImageSpec; ChexscoreError; __version__. Nothing heavy is imported before it is used. Not a
medical device: no score may decide about a patient.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chexscore.classifier import Classifier
    from chexscore.discovery import find_images
    from chexscore.errors import ChexscoreError
    from chexscore.images import load_image
    from chexscore.predictions import Prediction, Status
    from chexscore.scoring import predict
    from chexscore.spec import ImageSpec, ModelSpec

__version__ = "0.1.0"

__all__ = [
    "ChexscoreError",
    "Classifier",
    "ImageSpec",
    "ModelSpec",
    "Prediction",
    "Status",
    "__version__",
    "find_images",
    "load_image",
    "predict",
]

_HOMES = {
    "ChexscoreError": "errors",
    "Classifier": "classifier",
    "ImageSpec": "spec",
    "ModelSpec": "spec",
    "Prediction": "predictions",
    "Status": "predictions",
    "find_images": "discovery",
    "load_image": "images",
    "predict": "scoring",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'chexscore' has no attribute {name!r}")
    return getattr(import_module(f"chexscore.{_HOMES[name]}"), name)
