"""Files that a stop leaves whole: the old one or the new one, never a part."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from chexscore.errors import UsageError

__all__ = ["Progress", "replace", "restore", "save"]

Weights = Sequence[NDArray[Any]]


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
        history: a line of history.csv for each epoch done.
        best: weights of the network of the best of them.
    """

    history: list[dict[str, Any]]
    best: Weights


def replace(target: Path, write: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Calls `write` with a path beside the target, and gives the file its name when it is complete.

    Raises:
        OSError: it cannot be written, on a full disk, say; names the target and leaves nothing beside it.
    """
    partial = target.with_name(f"partial-{target.name}")
    try:
        write(partial, *arguments, **options)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(target)) from error
    finally:
        partial.unlink(missing_ok=True)


def save(file: Path, trainer: keras.Model, progress: Progress) -> None:
    """Writes all variables of a trainer, its optimizer and its random layers, and how far it is."""
    arrays = [ops.convert_to_numpy(variable) for variable in _variables(trainer)]
    np.savez(file, *arrays, *progress.best, history=np.array(json.dumps(progress.history)))


def restore(file: Path, trainer: keras.Model) -> Progress:
    """Puts back what `save` wrote, into a trainer built in the same way; its network is its last layer.

    Raises:
        UsageError: the file is damaged, or does not belong to such a trainer.
    """
    variables = _variables(trainer)
    try:
        with file.open("rb") as opened, np.load(opened) as arrays:  # which leaves what it opens itself open
            history = json.loads(str(arrays["history"]))
            values = [arrays[name] for name in arrays if name != "history"]
        best = values[len(variables) :]
        _check_shapes(best, trainer.layers[-1].weights)
        for variable, value in zip(variables, values[: len(variables)], strict=True):
            variable.assign(value)
    except Exception as error:  # damaged archives make NumPy raise nearly anything
        raise UsageError(
            f"{file}: cannot be continued from: {error}; delete it to train from the first epoch."
        ) from error
    return Progress(history, best)


def _check_shapes(weights: Weights, like: Sequence[keras.Variable]) -> None:
    if [value.shape for value in weights] != [tuple(variable.shape) for variable in like]:
        raise ValueError("its best network is another one")


def _variables(trainer: keras.Model) -> list[keras.Variable]:
    return [*trainer.variables, *trainer.optimizer.variables]
