"""Files that a stop leaves whole: the old one or the new one, never a part."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from chexscore.errors import UsageError

__all__ = ["replace", "restore", "save"]


def replace(target: Path, write: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Calls `write` with a path beside the target, and gives the file its name when it is complete."""
    partial = target.with_name(f"partial-{target.name}")
    write(partial, *arguments, **options)
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, target)


def save(file: Path, trainer: keras.Model, epoch: int) -> None:
    """Writes all variables of a trainer, its optimizer and its random layers, and the epochs done."""
    values = [ops.convert_to_numpy(variable) for variable in _variables(trainer)]
    np.savez(file, *values, epoch=np.int64(epoch))


def restore(file: Path, trainer: keras.Model) -> int:
    """Puts back what `save` wrote, into a trainer built in the same way.

    Returns:
        The epochs done.

    Raises:
        UsageError: the file is damaged, or does not belong to such a trainer.
    """
    variables = _variables(trainer)
    try:
        with np.load(file) as arrays:
            values = [arrays[name] for name in arrays if name != "epoch"]
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
            return int(arrays["epoch"])
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{file}: cannot be continued from: {error}; delete it to train from the first epoch."
        ) from error


def _variables(trainer: keras.Model) -> list[keras.Variable]:
    return [*trainer.variables, *trainer.optimizer.variables]
