"""A network from elsewhere: its file, the spec that people write for it, and whether the two agree."""

import tomllib
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Literal, Self

import onnx
from onnx import TensorProto, external_data_helper, inliner
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from chexscore.errors import ModelError, UsageError
from chexscore.spec import SPEC_KEY, ImageSpec, ModelSpec, Resize

__all__ = [
    "PLACEHOLDER",
    "ForeignSpec",
    "batch_of",
    "check",
    "graphs_of",
    "inputs_of",
    "kind_of",
    "last_node",
    "opset_of",
    "read_foreign",
    "shape_of",
    "tensors_of",
]

OLDEST_OPSET = 9
"""The first with today's Scan."""

PASSING = (
    *("Cast", "Flatten", "Gather", "GlobalAveragePool", "Identity", "ReduceMean"),
    *("Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"),
)
"""Operators that make no logits of probabilities, nor probabilities of logits."""

SCALING = ("Add", "BatchNormalization", "Div", "Mul", "Sub")

Kind = Literal["logits", "softmax", "probabilities"]
"""Of what a network gives: "softmax" are logits of classes that exclude each other."""

ENDS: dict[str, Kind] = {
    **dict.fromkeys(("Conv", "Gemm", "MatMul"), "logits"),
    **dict.fromkeys(("Sigmoid", "Softmax"), "probabilities"),
}
"""What an operator gives, whatever it takes."""

PLACEHOLDER = "Label {}"
"""What a template calls an output, until somebody says what it is."""


Value = Annotated[float, Field(allow_inf_nan=False, strict=True)]

LARGEST = 1e38
"""Of what pixels may become; float32 ends at about three times that."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputSpec(_Section):
    """What the foreign network takes."""

    name: str
    """Of the graph's input."""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    height: int = Field(ge=1, le=8192)
    width: int = Field(ge=1, le=8192)
    channels: Literal[1, 3] = 1
    """A grey image is given to each."""
    resize: Resize = Resize.STRETCH
    black: Value = 0.0
    """Value of a black pixel."""
    white: Value = 1.0
    """Value of a white one."""
    mean: tuple[Value, ...] = (0.0,)
    """Subtracted from that, one for each channel or one for all,"""
    std: tuple[Value, ...] = (1.0,)
    """and what the difference is divided by."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image, in its layout."""
        size = (self.height, self.width)
        return (self.channels, *size) if self.layout == "NCHW" else (*size, self.channels)

    @model_validator(mode="after")
    def _fits_channels(self) -> Self:
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise ValueError(f"{name} has {len(getattr(self, name))} values for {self.channels} channels")
        if self.black == self.white or 0 in self.std:
            raise ValueError("black and white must differ, and std must not be 0")
        ends = product((self.black, self.white), self.mean, self.std)
        if not all(abs((end - mean) / std) <= LARGEST for end, mean, std in ends):
            raise ValueError("black, white, mean and std make pixels that are too large for float32")
        return self


class OutputSpec(_Section):
    """What it gives."""

    name: str
    """Of the graph's output, N x labels."""
    kind: Kind
    """A sigmoid is put behind logits, or a softmax over all of them."""
    labels: tuple[str, ...] = Field(min_length=1)
    """In the order of the outputs; "" leaves an output out."""
    thresholds: tuple[Value, ...] = ()
    """One for each label that is named; 0.5 each if there are none."""

    @field_validator("labels")
    @classmethod
    def _is_edited(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        for number, label in enumerate(labels, 1):
            if label == PLACEHOLDER.format(number):
                raise ValueError(f"{label!r} is what the template wrote; name the finding, or leave it out")
        return labels

    @property
    def kept(self) -> list[int]:
        """The columns that have a name."""
        return [column for column, label in enumerate(self.labels) if label]


class ForeignSpec(_Section):
    """What `adopt` has to know, from a TOML file."""

    name: str = Field(min_length=1)
    version: str = "1"
    training_data: str = "not stated"
    licence: str = "not stated"
    input: InputSpec
    output: OutputSpec

    @classmethod
    def from_toml(cls, path: Path) -> "ForeignSpec":
        """Reads a spec.

        Raises:
            UsageError: no such file, no TOML, an unknown or missing field, or a value out of range; the text
                names it.
        """
        try:
            spec = cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
            spec.model  # noqa: B018, raises a ModelError for what cannot be a model's
        except OSError as error:
            raise UsageError(f"{path}: the spec cannot be read: {error.strerror}.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: not a TOML file: {error}.") from error
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise UsageError(f"{path}: {faults}.") from error
        except ModelError as error:
            raise UsageError(f"{path}: {error}") from error
        return spec

    @property
    def model(self) -> ModelSpec:
        """As the wrapped file will carry it."""
        labels = tuple(label for label in self.output.labels if label)
        return ModelSpec(
            name=self.name,
            version=self.version,
            labels=labels,
            image=ImageSpec(self.input.height, self.input.width, self.input.resize),
            thresholds=self.output.thresholds or (0.5,) * len(labels),
            calibration="as it came: not calibrated by chexscore",
            training_data=self.training_data,
            licence=self.licence,
        )


def read_foreign(file: Path) -> onnx.ModelProto:
    """Opens an ONNX file as it came, with functions written out where they are called.

    Raises:
        ModelError: no ONNX file, one with weights in other files or sparse ones, too old, or chexscore's
            already.
    """
    try:
        model = onnx.load(file, load_external_data=False)
    except OSError as error:
        raise ModelError(f"{file}: the model cannot be read: {error.strerror}.") from error
    except Exception as error:  # protobuf's DecodeError, or what else a torn file leads to
        raise ModelError(f"{file}: not an ONNX file.") from error
    if not model.graph.node:
        raise ModelError(f"{file}: not an ONNX file, or one without a graph.")
    if any(map(external_data_helper.uses_external_data, tensors_of(model.graph))):
        raise ModelError(
            f"{file}: its weights lie in other files; store all in one, in PyTorch with "
            "torch.onnx.export(..., external_data=False)."
        )
    if model.graph.sparse_initializer:
        name = model.graph.sparse_initializer[0].values.name
        raise ModelError(f"{file}: its weights {name!r} are stored sparsely; export it with dense ones.")
    if SPEC_KEY in {item.key for item in model.metadata_props}:
        raise ModelError(f"{file}: is a model of chexscore already; `chexscore predict --model` takes it.")
    opset = opset_of(model)
    if opset < OLDEST_OPSET:
        raise ModelError(f"{file}: of opset {opset}; export it again with opset {OLDEST_OPSET} or newer.")
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # functions that call themselves, say
        raise ModelError(f"{file}: its local functions cannot be written out: {error}.") from error


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """It, and those inside it."""
    yield graph
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        for inner in (attribute.g, *attribute.graphs):
            yield from graphs_of(inner)


def tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Weights and constants, those of graphs inside it too."""
    for each in graphs_of(graph):
        yield from each.initializer
        for attribute in (attribute for node in each.node for attribute in node.attribute):
            yield from (attribute.t, *attribute.tensors)


def check(network: onnx.ModelProto, spec: ForeignSpec) -> None:
    """Raises a ModelError, without the files' names, unless the graph takes and gives what the spec says."""
    given, taken = (
        find_value(inputs_of(network), spec.input.name),
        find_value(network.graph.output, spec.output.name),
    )
    if others := [item.name for item in inputs_of(network) if item.name != spec.input.name]:
        raise ModelError(f"it also takes {others[0]!r}, for which there is no value.")
    if not shape_of(given):
        raise ModelError(f"{given.name!r} has no declared shape; export it with one.")
    if batch_of(network, spec) == 0:
        raise ModelError(f"{given.name!r} takes batches of 0 images; export it for 1, or any number.")
    for item, wanted in ((given, spec.input.shape), (taken, (len(spec.output.labels),))):
        kind, found = item.type.tensor_type.elem_type, shape_of(item)[1:]
        if kind != TensorProto.FLOAT:
            raise ModelError(f"{item.name!r} is {TensorProto.DataType.Name(kind)}, not FLOAT.")
        if not shape_of(item):  # what it really gives is looked at when it runs
            continue
        fixed = [size if isinstance(size, int) else want for size, want in zip(found, wanted, strict=False)]
        if len(found) != len(wanted) or tuple(fixed) != tuple(wanted):
            raise ModelError(f"{item.name!r} is N x {_by(found)}, the spec says N x {_by(wanted)}.")


def inputs_of(network: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The real inputs: old files list their weights among them."""
    weights = {item.name for item in network.graph.initializer}
    return [item for item in network.graph.input if item.name not in weights]


def find_value(values: Iterable[onnx.ValueInfoProto], name: str) -> onnx.ValueInfoProto:
    """The input or output of that name; raises a ModelError, without the file's name, if there is none."""
    names = {value.name: value for value in values}
    if name not in names:
        raise ModelError(f"the graph has no {name!r}, but {', '.join(map(repr, names))}.")
    return names[name]


def shape_of(value: onnx.ValueInfoProto) -> list[int | str]:
    """Sizes of the axes; a text for one that is open, and nothing where none are declared."""
    axes = value.type.tensor_type.shape.dim
    return [
        axis.dim_value if axis.HasField("dim_value") and axis.dim_value >= 0 else axis.dim_param or "?"
        for axis in axes
    ]


def last_node(network: onnx.ModelProto, name: str) -> onnx.NodeProto | None:
    """The node that gives a value, Identities passed over; None if it is an input."""
    node = next((node for node in network.graph.node if name in node.output), None)
    return last_node(network, node.input[0]) if node is not None and node.op_type == "Identity" else node


def kind_of(network: onnx.ModelProto, name: str) -> Kind | None:
    """What a value is by the operators that give it: logits can be any number, probabilities cannot.

    Returns:
        None where the operators do not tell.
    """
    node = next((node for node in network.graph.node if name in node.output), None)
    if node is None:
        return None
    if node.op_type in ENDS:
        return ENDS[node.op_type]
    if node.op_type in PASSING:
        return kind_of(network, node.input[0])
    if node.op_type not in (*SCALING, "Concat"):
        return None
    given = {kind_of(network, each) for each in node.input}
    if node.op_type in SCALING:  # of probabilities they make what they like
        return "logits" if "logits" in given else None
    return given.pop() if len(given) == 1 else None


def batch_of(network: onnx.ModelProto, spec: ForeignSpec) -> int | None:
    """Images that the network takes at a time; None if any number."""
    batch = shape_of(find_value(network.graph.input, spec.input.name))[0]
    return batch if isinstance(batch, int) else None


def opset_of(network: onnx.ModelProto) -> int:
    """Version of ONNX's own operators that a file uses; 0 if it does not say."""
    return next((int(item.version) for item in network.opset_import if item.domain in ("", "ai.onnx")), 0)


def _by(sizes: Sequence[int | str]) -> str:
    return " x ".join(map(str, sizes))
