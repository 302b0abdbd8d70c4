"""ONNX files: what they say about themselves, and how they get their name."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from chexscore.errors import ModelError, OutputError, UsageError
from chexscore.messages import cannot_hold
from chexscore.outputs import check_target, replacing
from chexscore.spec import SPEC_KEY, ModelSpec

__all__ = ["candidate", "check_output", "describe", "place", "temporary_folder"]


def describe(model: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """Writes the spec into the file's metadata, in place of an earlier one; changes and returns `model`."""
    onnx.helper.set_model_props(model, {SPEC_KEY: spec.to_json()})
    return model


def check_output(output: Path, inputs: Iterable[Path]) -> None:
    """Raises a UsageError if no file can be put there, or one of the inputs is what stands there."""
    check_target(str(output))
    if output.exists() and any(output.samefile(each) for each in inputs if each.exists()):
        raise UsageError(f"{output} is what this reads; give --output another name.")


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for a network, gone at the end.

    Raises:
        OutputError: there is no room for it.
    """
    try:
        with TemporaryDirectory(prefix="chexscore-") as folder:
            yield Path(folder)
    except OSError as error:
        raise OutputError(cannot_hold("the network")) from error


@contextmanager
def candidate(output: Path) -> Iterator[Path]:
    """A name for what has not passed yet, in a folder of its own; gone at the end, and in no message.

    Raises:
        OutputError: there is no room for it.
    """
    with temporary_folder() as folder:
        file = folder / output.name
        try:
            yield file
        except ModelError as error:
            raise ModelError(str(error).replace(str(file), f"{output} was not published")) from error


def place(model: onnx.ModelProto, spec: ModelSpec, output: Path) -> None:
    """Writes the spec into a model that has passed and gives it its final name, in one step."""
    with replacing(str(output)) as file:
        file.write(describe(model, spec).SerializeToString())
