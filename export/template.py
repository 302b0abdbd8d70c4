"""A first spec for a network from elsewhere, with what its file says filled in."""

import json
from pathlib import Path

from onnx import TensorProto

from chexscore.errors import ModelError, UsageError
from chexscore.messages import visible
from chexscore.outputs import check_target, replacing
from export.foreign import PLACEHOLDER, inputs_of, kind_of, read_foreign, shape_of

__all__ = ["write_template"]

TEMPLATE = """\
# What a network from elsewhere takes and gives, for `python -m export adopt`.
name = {name}
version = "1"
training_data = "not stated"
licence = "not stated"

[input]
name = {input}
layout = "{layout}"
channels = {channels}
height = {height}
width = {width}
# How an image of another shape is brought to this one: stretch, crop (around the centre) or pad (with black).
resize = "stretch"
# What black and white pixels become, and what is then subtracted and divided by, for each channel or for all:
# (value - mean) / std. torchxrayvision: black = -1024, white = 1024. Networks trained on ImageNet: black = 0,
# white = 1, mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225].
black = 0.0
white = 1.0
mean = [0.0]
std = [1.0]

[output]
name = {output}
# logits (a sigmoid is put behind them), softmax (logits of classes that exclude each other, such as normal
# and pneumonia: a softmax is put behind them) or probabilities.
kind = "{kind}"{doubt}
# In the order of the outputs; an output called "" is left out.
labels = [
{labels}]
# A score at or above it reads as positive: one for each label that has a name; without the line 0.5 for all.
# thresholds = [0.5]
"""


DOUBT = "  # the file does not tell which"


def write_template(foreign: Path, output: Path) -> str:
    """Writes a spec for a foreign network, with what the file itself says filled in, and says what to edit.

    Raises:
        UsageError: the output exists already, or cannot be written there.
        ModelError: the file cannot be used, or does not take one batch of images and give one of scores.
    """
    check_target(str(output))
    if output.exists():
        raise UsageError(f"{output} exists already; give another -o.")
    network = read_foreign(foreign)
    images = [item for item in inputs_of(network) if len(shape_of(item)) == 4]  # noqa: PLR2004, N x C x H x W
    scores = [item for item in network.graph.output if len(shape_of(item)) in (0, 2)]  # not told, N x labels
    if len(inputs_of(network)) != 1 or not images or not scores:
        raise ModelError(f"{foreign} does not go from one batch of images to one of scores, N x labels.")
    if (pixels := images[0].type.tensor_type.elem_type) != TensorProto.FLOAT:
        name = TensorProto.DataType.Name(pixels)
        raise ModelError(
            f"{foreign}: its input {images[0].name!r} is {name}; export it with a float32 input."
        )
    _, *rest = shape_of(images[0])
    layout = "NHWC" if rest[2] in (1, 3) and rest[0] not in (1, 3) else "NCHW"
    channels, height, width = rest if layout == "NCHW" else (rest[2], rest[0], rest[1])
    _, count = shape_of(scores[0]) or ("N", "labels")
    labels = count if isinstance(count, int) else 1
    kind = kind_of(network, scores[0].name)
    content = TEMPLATE.format(
        name=_quoted(visible(foreign.stem)),
        input=_quoted(images[0].name),
        layout=layout,
        channels=_known(channels),
        height=_known(height),
        width=_known(width),
        output=_quoted(scores[0].name),
        kind=kind or "",
        doubt="" if kind else DOUBT,
        labels="".join(f'  "{PLACEHOLDER.format(i + 1)}",\n' for i in range(labels)),
    )
    with replacing(str(output)) as file:
        file.write(content.encode())
    return f"wrote {output}: edit the labels, the range of pixel values and what is in doubt, then adopt"


def _known(size: int | str) -> str:
    """A size of the input as TOML; adopting refuses 0."""
    return str(size) if isinstance(size, int) and size else f"0{DOUBT}"


def _quoted(text: str) -> str:
    """A string of TOML, whose escapes JSON has too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
