"""One training recipe: TrainConfig <-> TOML. The recipes that the project ships stand in `configs/`."""

import tomllib
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from chexscore.errors import ModelError, UsageError
from chexscore.labels import Policy
from chexscore.spec import ImageSpec, Resize, check_labels

__all__ = ["AugmentConfig", "DataConfig", "NetworkConfig", "TrainConfig"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(_Section):
    """Where images, patients and labels are found, below the folder given as --data."""

    layout: Literal["plain", "chexpert"] = "plain"
    """plain: columns path and patient; chexpert: CheXpert's own CSV, patients read from the paths."""
    table: str = "labels.csv"
    """The CSV, relative to the data folder, as are the paths in it."""
    labels: tuple[str, ...] = Field(min_length=1)
    """Columns to learn, in the order of the model's scores."""
    uncertain: dict[str, Policy] = {}
    """What -1 is taken for: label -> policy; "default" serves the other labels, and is negative if absent."""
    blank: dict[str, Policy] = {}
    """What an empty cell is taken for, in the same way."""
    validation: float = Field(default=0.15, gt=0, lt=1)
    """Share of the patients that is held out."""
    split_seed: int = 0
    """Decides which patients."""

    @model_validator(mode="after")
    def _labels_are_labels(self) -> Self:
        """Now, not after days of training."""
        try:
            check_labels(self.labels)
        except ModelError as error:
            raise ValueError(str(error)) from error
        for policies in (self.uncertain, self.blank):
            if unknown := sorted(set(policies) - {*self.labels, "default"}):
                raise ValueError(f"a policy for {unknown[0]!r}, which is no label of the recipe")
        return self


class ImageConfig(_Section):
    """The network's input; see chexscore.spec.ImageSpec."""

    height: int = Field(512, ge=8)
    width: int = Field(512, ge=8)
    resize: Resize = Resize.STRETCH

    @property
    def spec(self) -> ImageSpec:
        """The same as the model will carry it."""
        return ImageSpec(self.height, self.width, self.resize)


class NetworkConfig(_Section):
    """Which network, and what can be varied in it."""

    name: Literal["reference", "compact"] = "reference"
    width: int = Field(32, ge=1)
    """Filters of the first block; the others are multiples of it."""
    dropout: float = Field(0.1, ge=0, lt=1)
    l2: float = Field(1e-3, ge=0)
    """Weight decay as an L2 term of the loss, on every kernel but that of the output layer."""


class AugmentConfig(_Section):
    """Random changes of the training images; 0 or false switches one off."""

    flip: bool = True
    """Left for right."""
    rotation: float = Field(0.04, ge=0, le=0.5)
    """Largest angle to either side, in turns."""
    brightness: float = Field(0.2, ge=0, le=1)
    """Largest shift up or down, as a share of the full scale."""
    contrast: float = Field(0.0, ge=0, lt=1)
    """Largest relative change of the distance from the image's mean."""
    zoom: float = Field(0.0, ge=0, lt=1)
    """Largest relative change of the image's size, in or out."""


class TrainConfig(_Section):
    """A recipe, frozen; fields that a TOML file leaves out have the values below."""

    name: str
    """Name of the model that comes out."""
    version: str = "0.1.0"
    """Version of that model."""
    training_data: str = "not stated"
    """Data, with its source, for the model's description of itself."""
    licence: str = "not stated"
    """Terms of use of the model."""
    data: DataConfig
    image: ImageConfig = ImageConfig()
    network: NetworkConfig = NetworkConfig()
    augment: AugmentConfig = AugmentConfig()
    epochs: int = Field(60, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    """Of Adam, at the start; it falls along half a cosine."""
    final_learning_rate: float = Field(1e-5, ge=0)
    """At the end."""
    seed: int = 0
    """Of initial weights, order of images and augmentation."""

    @classmethod
    def from_toml(cls, path: Path) -> "TrainConfig":
        """Reads a recipe.

        Raises:
            UsageError: no such file, no TOML, an unknown field or a value out of range; the text names it.
        """
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise UsageError(f"{path}: the recipe cannot be read: {error.strerror}.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: not a TOML file: {error}.") from error
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise UsageError(f"{path}: {faults}.") from error
